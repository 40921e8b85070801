"""What is looked at in a parsed ONNX file before any library that trusts it: in Python, once.

onnx's checker and shape inference, onnx-ir and onnxruntime recurse where a file nests, multiply
what it declares in 64 bits, and divide by its strides. What ends them is refused here. All of it
takes time in proportion to the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

from reparam.errors import GraphError
from reparam.graph.files_names import named

NODES = 500_000
"""In one file, functions and subgraphs included; the largest networks that we know of have a tenth.
An empty node takes two bytes in a file and hundreds in the memory of every library."""
ENTRIES = 4_000_000
"""Names, attributes, values and other parts of one file, for the same reason."""
DEPTH = 64
"""Subgraphs in subgraphs, and functions that call functions: libraries recurse, and a thread has
8 MB. Exported networks nest three deep."""
EXPANDED = 1_000_000
"""Nodes once every call of a function is replaced by its body: 30 functions that call the next one
twice are 2^30 nodes in 3 kB."""
AXES = 32
"""Of one tensor; NumPy before version 2 has no more, onnx writes beyond an array at 70."""
ELEMENTS = 1 << 40
"""Of one tensor: as float64 that is 8 TiB, and products of a few such numbers fit in int64."""
EXTENT = 1 << 28
"""A stride, dilation, kernel size, pad or number of groups: more than any axis that is run."""

_ONNX = ("", "ai.onnx")
_POSITIVE = ("strides", "dilations", "kernel_shape", "group")
_SIZED = (*_POSITIVE, "pads", "output_padding", "output_shape")
_MEMORY_OF_ORT = "_ORT_MEM_ADDR_"
_LISTS = ("input", "output", "attribute")
_LIGHT = {"name", "type", "i", "f", "s", "ints", "floats", "doc_string", "ref_attr_name"}
_SHAPES = {"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0}
"""Operators whose output has one axis for each number of an input."""

Key = tuple[str, str, str]


def look(model: Any) -> None:
    """Refuse an ``onnx.ModelProto`` that would crash or starve what reads it next.

    Raises:
        GraphError: functions that call each other in a circle, too deeply or too often; subgraphs
            too deep; too many nodes, parts, axes or elements; a window with a stride of 0 and its
            like; weights at an address in memory.
    """
    count = _Count()
    functions = {_key(function): function for function in model.functions}
    count.add(len(model.functions) + len(model.opset_import) + len(model.metadata_props))
    own: dict[Key | None, int] = {}
    calls: dict[Key | None, list[Key]] = {}
    holders: list[tuple[Key | None, Any]] = [(None, model.graph), *functions.items()]
    for key, holder in holders:
        before = count.nodes
        calls[key] = [
            called for node in _looked_at(holder, count) if (called := _called(node, functions))
        ]
        own[key] = count.nodes - before
    if len(functions) < len(model.functions):  # two of one name: the second is refused by name
        for function in model.functions:
            for _ in _looked_at(function, count):
                pass
    _check_calls(own, calls)


def _looked_at(holder: Any, count: _Count) -> Iterator[Any]:
    """Yield the nodes of a graph or function, and of its subgraphs, after looking at each."""
    waiting = [(holder, 1)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > DEPTH:
            raise _refused(f"subgraphs in subgraphs, more than {DEPTH} deep")
        count.add_nodes(len(graph.node))
        count.add(len(graph.input) + len(graph.output) + len(graph.value_info))
        constants = _look_at_values(graph, count)
        for node in graph.node:
            kind, parts = "", 0
            attributes: Sequence[Any] = ()
            for field, value in node.ListFields():  # all at once: asking for each takes longer
                name = field.name
                if name == "op_type":
                    kind = value
                elif name in _LISTS:
                    parts += len(value)
                    attributes = value if name == "attribute" else attributes
            count.add(parts)
            for attribute in attributes:
                for inner in _look_at_attribute(attribute, node, count):
                    waiting.append((inner, depth + 1))
            if kind in _SHAPES:
                _look_at_shape(node, constants)
            yield node


def _look_at_values(graph: Any, count: _Count) -> dict[str, Any]:
    """Look at the declared values of a graph and its initializers; return those by name."""
    values = [graph.input, graph.output, graph.value_info]
    if isinstance(next(iter(graph.input), None), str):
        values = [graph.value_info]  # a function has names for inputs and outputs
    for value in (value for row in values for value in row if not isinstance(value, str)):
        _look_at_type(value.type, f"value '{value.name}'")
    constants = {}
    initializers: Sequence[Any] = getattr(graph, "initializer", ())
    count.add(len(initializers))
    for tensor in initializers:
        _look_at_tensor(tensor, count)
        constants[tensor.name] = tensor
    return constants


def _look_at_type(found: Any, where: str) -> None:
    while (kind := found.WhichOneof("value")) in ("sequence_type", "optional_type"):
        found = getattr(found, kind).elem_type
    if kind in ("tensor_type", "sparse_tensor_type"):
        dims = getattr(found, kind).shape.dim
        if len(dims) > AXES:
            raise _too_many_axes(where, len(dims))
        _check_elements(where, [dim.dim_value for dim in dims if dim.HasField("dim_value")])


def _look_at_tensor(tensor: Any, count: _Count) -> None:
    if len(tensor.dims) > AXES:
        raise _too_many_axes(f"tensor '{tensor.name}'", len(tensor.dims))
    _check_elements(f"tensor '{tensor.name}'", tensor.dims)
    count.add(len(tensor.external_data) + len(tensor.string_data))
    for entry in tensor.external_data:
        if _MEMORY_OF_ORT in str(entry.value):
            raise _refused(
                f"tensor '{tensor.name}' lies at an address in memory",
                why="onnxruntime would read its own memory there",
            )


def _look_at_attribute(attribute: Any, node: Any, count: _Count) -> Sequence[Any]:
    """Look at one attribute, and return the graphs in it."""
    found = {field.name: value for field, value in attribute.ListFields()}
    if found.get("name") in _SIZED:
        _check_window(node, found)
    if found.keys() <= _LIGHT:
        return ()
    for name in ("strings", "graphs", "tensors", "type_protos"):
        count.add(len(found.get(name, ())))
    for tensor in (*_one(found, "t"), *found.get("tensors", ())):
        _look_at_tensor(tensor, count)
    for type_ in (*_one(found, "tp"), *found.get("type_protos", ())):
        _look_at_type(type_, f"an attribute of {named(node)}")
    return [*_one(found, "g"), *found.get("graphs", ())]


def _one(found: dict[str, Any], name: str) -> tuple[Any, ...]:
    return (found[name],) if name in found else ()


def _check_window(node: Any, found: dict[str, Any]) -> None:
    name = found["name"]
    values = (found.get("i", 0),) if name == "group" else tuple(found.get("ints", ()))
    if not values or node.domain not in _ONNX:
        return
    if len(values) > 2 * AXES:
        raise _refused(f"{named(node)} has {len(values)} numbers as its {name}")
    smallest = 1 if name in _POSITIVE and "ref_attr_name" not in found else -EXTENT
    if min(values) < smallest or max(values) > EXTENT:
        raise _refused(
            f"{named(node)} has {name} {values[0] if name == 'group' else list(values)}",
            why=f"libraries divide by them, and multiply them; {smallest} to {EXTENT} are taken",
        )


def _look_at_shape(node: Any, constants: dict[str, Any]) -> None:
    """Refuse a constant shape of too many axes."""
    at = _SHAPES[node.op_type]
    tensor = constants.get(node.input[at]) if len(node.input) > at else None
    if tensor is not None and len(tensor.dims) == 1 and tensor.dims[0] > AXES:
        raise _too_many_axes(f"the shape that {named(node)} is given", tensor.dims[0])


def _check_elements(where: str, sizes: Iterable[int]) -> None:
    # Sizes of 0 are left out: partial products wrap before the 0 is reached. Negative ones stand
    # for open axes in files of some exporters.
    elements = prod(size for size in sizes if size > 0)
    if elements > ELEMENTS:
        raise _refused(f"{where} has {elements} elements", why=f"more than {ELEMENTS} are refused")


def _check_calls(own: dict[Key | None, int], calls: dict[Key | None, list[Key]]) -> None:
    """Refuse calls in a circle, too deep, or too many once they are expanded."""
    expanded: dict[Key | None, int] = {}
    depths: dict[Key | None, int] = {}
    for start in calls:
        path: list[tuple[Key | None, Iterator[Key]]] = []
        open_: set[Key | None] = set()
        if start not in expanded:
            path.append((start, iter(calls[start])))
            open_.add(start)
        while path:
            key, rest = path[-1]
            called = next((one for one in rest if one not in expanded), None)
            if called in open_ and called is not None:
                raise _refused(
                    f"function '{_text(called)}' calls itself, by way of {len(path)} calls"
                )
            if called is not None:
                path.append((called, iter(calls[called])))
                open_.add(called)
                continue
            path.pop()
            open_.discard(key)
            expanded[key] = own[key] + sum(expanded[one] for one in calls[key])
            depths[key] = 1 + max((depths[one] for one in calls[key]), default=0)
            if depths[key] > DEPTH + 1:
                raise _refused(f"functions that call functions, more than {DEPTH} deep")
            if expanded[key] > EXPANDED:
                raise _refused(
                    "functions that call functions: together more than a million nodes",
                    why=f"runtimes put bodies in the place of calls; {EXPANDED} nodes may come of "
                    "it",
                )


def _called(node: Any, functions: dict[Key, Any]) -> Key | None:
    if not functions:
        return None
    key = (_domain(node.domain), node.op_type, str(getattr(node, "overload", "")))
    return key if key in functions else None


def _key(function: Any) -> Key:
    return _domain(function.domain), function.name, str(getattr(function, "overload", ""))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _text(key: Key) -> str:
    return "::".join(part for part in key[:2] if part)


class _Count:
    """What there is of nodes and of other parts."""

    def __init__(self) -> None:
        self.nodes = self._entries = 0

    def add_nodes(self, number: int) -> None:
        self.nodes += number
        if self.nodes > NODES:
            raise _refused(f"more than {NODES:,} nodes")

    def add(self, number: int) -> None:
        self._entries += number
        if self._entries > ENTRIES:
            raise _refused(f"more than {ENTRIES:,} names, attributes and values")


def _too_many_axes(where: str, found: int) -> GraphError:
    return _refused(f"{where} has {found} axes", why=f"more than {AXES} are refused")


def _refused(found: str, why: str = "what reads it next would crash, or never end") -> GraphError:
    return GraphError("it is not a graph that can be used", found=found, why=why)
