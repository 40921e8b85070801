"""Joining a head model to the network that makes its maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reparam.adapters.onnx_model import import_onnx
from reparam.errors import ExportError

PREFIX = "head/"
"""Before the names of a head's own nodes and values in a joined model."""


def join(network: Any, head: Any) -> Any:
    """Return the network with the head after it.

        before:  image -- network -- a, b, ...      cls_32, reg_32, ... -- head -- boxes, ...
        after:   image -- network -- cls_32, reg_32, ... -- head -- boxes, ...

    The network's outputs are the head's first inputs, in order, whatever they are called; inside
    they get the head's names for them. Inputs, initializers, metadata and opset of the network
    stay; inputs of the head beyond the maps become inputs of the whole. Nothing given is changed.

    Args:
        network: an ``onnx.ModelProto`` whose outputs are the maps.
        head: what ``build_head`` made.

    Raises:
        ExportError: the two do not fit, or a name that callers see is taken by an input or an
            initializer of the network.
    """
    _require_fit(network, head)
    maps = [value.name for value in head.graph.input][: len(network.graph.output)]
    extra = list(head.graph.input)[len(maps) :]
    seen = {*maps, *(v.name for v in extra), *(v.name for v in head.graph.output)}
    joined = import_onnx().ModelProto()
    joined.CopyFrom(network)
    graph = joined.graph
    fixed = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    if seen & fixed:
        raise ExportError(
            "the head cannot be joined to the network",
            found=f"both have '{min(seen & fixed)}'",
            why="it is an input or an initializer of the network, which keeps its name",
        )
    made = list(graph.output)
    bridges = _name_maps(graph, maps, seen, fixed)
    tail = _prefixed(head.graph, seen)
    taken = set(_names(graph))
    clashes = {n: _unused(n, taken) for n in set(_names(tail)) - seen if n in taken}
    _rename(tail, clashes)
    _settle_batch(tail, made)
    del graph.output[:]
    graph.node.extend([*bridges, *tail.node])
    graph.initializer.extend(tail.initializer)
    graph.input.extend(list(tail.input)[len(maps) :])
    graph.output.extend(tail.output)
    graph.value_info.extend([*list(tail.input)[: len(maps)], *tail.value_info])
    return joined


def with_inner_outputs(model: Any, names: Sequence[str]) -> Any:
    """Return a copy of a model with inner values as further outputs.

    Raises:
        ExportError: no node makes a value of that name.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = {output for node in copy.graph.node for output in node.output}
    unknown = [name for name in names if name not in made]
    if unknown:
        raise ExportError(f"no node of the model makes a value '{unknown[0]}'")
    known = {value.name: value for value in copy.graph.value_info}
    if not known.keys() >= set(names):
        known |= {v.name: v for v in onnx.shape_inference.infer_shapes(copy).graph.value_info}
    outputs = {value.name for value in copy.graph.output}
    copy.graph.output.extend(known[name] for name in names if name not in outputs)
    return copy


def _require_fit(network: Any, head: Any) -> None:
    opsets = [
        {o.domain: o.version for o in model.opset_import}.get("") for model in (network, head)
    ]
    if opsets[0] != opsets[1]:
        raise ExportError(
            "the head cannot be joined to the network", found=f"opsets {opsets[0]} and {opsets[1]}"
        )
    made, read = network.graph.output, head.graph.input
    if len(made) > len(read) or not made:
        raise ExportError(
            "the head cannot be joined to the network",
            found=f"{len(made)} outputs of the network, {len(read)} inputs of the head",
        )
    for output, value in zip(made, read, strict=False):
        types = output.type.tensor_type.elem_type, value.type.tensor_type.elem_type
        if types[0] != types[1]:
            name_of = import_onnx().TensorProto.DataType.Name
            raise ExportError(
                "the head cannot be joined to the network",
                found=f"output '{output.name}' is {name_of(types[0])}; "
                f"'{value.name}' is {name_of(types[1])}",
            )


def _name_maps(graph: Any, maps: Sequence[str], seen: set[str], fixed: set[str]) -> list[Any]:
    """Give the outputs of a network the names of maps; return nodes for those that cannot change.

    An input that is handed out, or a value handed out twice, keeps its name and is copied.
    """
    names: dict[str, str] = {}
    bridges = []
    for output, name in zip(graph.output, maps, strict=True):
        if output.name in fixed or output.name in names:
            source = names.get(output.name, output.name)
            bridges.append(
                import_onnx().helper.make_node("Identity", [source], [name], name=f"{PREFIX}{name}")
            )
        else:
            names[output.name] = name
    taken = set(_names(graph)) | seen
    for other in sorted(set(_names(graph)) & seen - set(names)):
        names[other] = _unused(other, taken)
    del graph.output[:]
    _rename(graph, names)
    return bridges


def _prefixed(graph: Any, seen: set[str]) -> Any:
    tail = import_onnx().GraphProto()
    tail.CopyFrom(graph)
    _rename(tail, {name: f"{PREFIX}{name}" for name in set(_names(tail)) - seen})
    for node in tail.node:
        node.name = f"{PREFIX}{node.name}"
    return tail


def _settle_batch(tail: Any, made: Sequence[Any]) -> None:
    """Give the first axis of the head's values the batch that the network's outputs have."""
    dims = made[0].type.tensor_type.shape.dim
    if not dims or not (dims[0].dim_value or dims[0].dim_param):
        return
    for value in [*tail.input, *tail.output, *tail.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "batch":
                dim.CopyFrom(dims[0])


def _unused(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"


def _names(graph: Any) -> Iterator[str]:
    """Yield the name of every value in a graph and its subgraphs."""
    for part in _graphs(graph):
        yield from (value.name for value in [*part.input, *part.output])
        yield from (tensor.name for tensor in part.initializer)
        for node in part.node:
            yield from (name for name in [*node.input, *node.output] if name)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for part in _graphs(graph):
        for thing in [*part.input, *part.output, *part.value_info, *part.initializer]:
            thing.name = names.get(thing.name, thing.name)
        for node in part.node:
            for values in (node.input, node.output):
                for index, name in enumerate(values):
                    if name in names:
                        values[index] = names[name]


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    yield from _graphs(inner)
