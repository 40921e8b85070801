"""The normalisation of an image, made part of the graph: the file takes raw pixels then.

    before:  (image * scale - mean) / std, by hand -- x -- Conv -- y
    after:   image ------------------------------------- Conv ------ y

Written as nodes at the input, for the regions to fold like any other: a Sub of the mean, then a
Conv 1x1 for 1 / std and the order of the channels, or a Mul where what reads the image is no
convolution. A factor and an order of channels always fold. A mean other than zero does not where
the first convolution pads: the border is zero after the normalisation, not before. One Sub stays
at the input then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reparam.conv.operators import Array
from reparam.errors import GraphError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.normalization import METADATA, Normalization

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_PASSED = ("Cast", "Identity", "Transpose")  # what may stand between an input and its image
_RANK = 4


@dataclass
class Normalized:
    """What was put at the input.

    Attributes:
        place: the value that is raw now; the input, or what a Cast or Transpose makes of it.
        nodes: that normalise it, the Sub of the mean first if there is one.
    """

    place: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)


def normalize(
    model: ir.Model, wanted: Normalization, constants: Constants, name: str | None = None
) -> Normalized | None:
    """Put a normalisation at the input; return what, None where the model has this one already.

    Args:
        model: whose image it is.
        wanted: what to do to it.
        constants: of the main graph.
        name: of the input; the only image if None.

    Raises:
        GraphError: which input is meant is not clear, it is read in another form than as floats
            with the channels second, or the model has another normalisation already.
    """
    graph = model.graph
    image = _image(graph, name)
    said = model.metadata_props.get(METADATA)
    text = wanted.as_text(str(image.name))
    if said is not None:
        if said == text:
            return None
        raise GraphError("the file takes raw pixels already", found=f"{METADATA}: {said}")
    place = _place(image, graph, len(wanted.mean))
    found = Normalized(place)
    _write(graph, wanted, constants, found)
    model.metadata_props[METADATA] = text
    return found


def _image(graph: ir.Graph, name: str | None) -> ir.Value:
    images = [
        value
        for value in graph.inputs
        if value.name not in graph.initializers and readers.rank_of(value) == _RANK
    ]
    if name is not None:
        images = [value for value in graph.inputs if value.name == name]
    if len(images) != 1:
        raise GraphError(
            "which input is the image is not clear",
            found=", ".join(f"'{v.name}' {v.shape}" for v in graph.inputs) or "no inputs",
            why=f"one value of {_RANK} axes is normalised",
        )
    return images[0]


def _place(image: ir.Value, graph: ir.Graph, channels: int) -> ir.Value:
    """Return the first value on the way from an input that is an image of floats."""
    value = image
    while not _fits(value, channels):
        uses = [] if value.is_graph_output() else list(value.uses())
        node = uses[0].node if len(uses) == 1 else None
        if node is None or node.op_type not in _PASSED or node.graph is not graph:
            raise GraphError(
                f"the input '{image.name}' is not read as an image that can be normalised",
                found=f"'{value.name}' of {value.dtype}, shape {value.shape}",
                why="that is floats, the channels on the second axis"
                + (f", {channels} of them" if channels > 1 else ""),
            )
        value = node.outputs[0]
    if value.is_graph_output():
        raise GraphError(
            f"'{value.name}' is an output of the graph too, which would be raw pixels then"
        )
    return value


def _fits(value: ir.Value, channels: int) -> bool:
    if value.dtype is None or value.dtype.name not in _FLOATS or readers.rank_of(value) != _RANK:
        return False
    size = readers.size_of(value, 1)
    return size is not None and channels in (1, size)


def _write(graph: ir.Graph, wanted: Normalization, constants: Constants, at: Normalized) -> None:
    """Write the nodes; a convolution gets a factor of its own, so that each can take it in."""
    place, uses = at.place, list(at.place.uses())
    channels = readers.size_of(place, 1)
    assert channels is not None  # it fits
    mean, std = (np.broadcast_to(np.asarray(v), (channels,)) for v in (wanted.mean, wanted.std))
    order = slice(None, None, -1 if wanted.bgr else 1)
    before = _first_reader(graph, place)
    if before is None:
        return  # nothing reads it
    value = place
    if mean.any():
        shift = _vector(constants, place, "mean", (mean / wanted.scale)[order])
        value = _node(graph, at, constants, before, "Sub", value, shift)
    for_all, for_one = _factors(wanted, wanted.scale / std, constants, place)
    shared = None
    for use in uses:
        own = use.node.op_type == "Conv" and use.node.graph is graph
        if for_all is None or for_one is None:
            result = value
        elif own:
            result = _node(graph, at, constants, before, "Conv", value, for_one)
        else:
            operator = "Conv" if wanted.bgr else "Mul"
            shared = shared or _node(graph, at, constants, before, operator, value, for_all)
            result = shared
        use.node.replace_input_with(use.idx, result)


def _factors(
    wanted: Normalization, factor: Array, constants: Constants, place: ir.Value
) -> tuple[ir.Value | None, ir.Value | None]:
    """Return what the channels are multiplied by, for any reader and for a convolution.

    None where nothing is. A convolution gets a convolution: between a Sub and a Mul in a row no
    region starts.
    """
    channels = len(factor)
    if wanted.bgr:
        matrix = np.diag(factor)[:, ::-1].reshape(channels, channels, 1, 1)
        found = _constant(constants, place, "order", matrix)
        return found, found
    if not (factor != 1).any():
        return None, None
    kernel = _constant(constants, place, "kernel", factor.reshape(channels, 1, 1, 1))
    return _vector(constants, place, "scale", factor), kernel


def _first_reader(graph: ir.Graph, value: ir.Value) -> ir.Node | None:
    """Return the first node of the main graph that reads a value, or has one inside that does."""
    ends = {use.node for use in value.uses() if use.node.graph is graph}
    inside = any(use.node.graph is not graph for use in value.uses())
    if inside:  # where it is read does not matter then: before all others is early enough
        made = value.producer()
        following = iter(graph)
        if made is not None:
            for node in following:
                if node is made:
                    break
        return next(following, None)
    return next((node for node in graph if node in ends), None)


def _node(
    graph: ir.Graph, at: Normalized, constants: Constants, before: ir.Node, operator: str,
    value: ir.Value, constant: ir.Value,
) -> ir.Value:  # fmt: skip
    import onnx_ir

    base = f"{at.place.name}.normalize.{operator.lower()}"
    depthwise = operator == "Conv" and readers.size_of(constant, 1) == 1
    groups = {"group": readers.size_of(constant, 0)} if depthwise else {}
    node = onnx_ir.node(
        operator, [value, constant], attributes=groups, name=constants.unused_node(base)
    )
    output = node.outputs[0]
    output.name, output.type = constants.unused(base), at.place.type
    output.shape = None if at.place.shape is None else at.place.shape.copy()
    graph.insert_before(before, node)
    at.nodes.append(node)
    return output


def _vector(constants: Constants, place: ir.Value, what: str, numbers: Array) -> ir.Value:
    return _constant(constants, place, what, np.asarray(numbers).reshape(-1, 1, 1))


def _constant(constants: Constants, place: ir.Value, what: str, numbers: Array) -> ir.Value:
    assert place.dtype is not None  # it fits
    exact = np.array(numbers, np.float64)
    stored = exact.astype(place.dtype.numpy())
    return constants.register(f"{place.name}.normalize.{what}", stored, exact)


def settle(graph: ir.Graph, at: Normalized) -> list[str]:
    """Make what is left of a normalisation one node each; return what to say of it."""
    left = [node for node in at.nodes if node.graph is graph and node.outputs[0].uses()]
    first: dict[str, ir.Node] = {}
    for node in left:
        kept = first.setdefault(node.op_type, node)
        if kept is not node:
            node.outputs[0].replace_all_uses_with(kept.outputs[0])
            graph.remove(node, safe=True)
    said = []
    if "Sub" in first:
        said.append(
            f"one Sub of the mean stays at the input '{at.place.name}': the first convolution "
            "pads with zeros, where no mean but zero can be folded"
            if len(first) == 1
            else f"the mean stays as a Sub at the input '{at.place.name}'"
        )
    rest = [operator for operator in first if operator != "Sub"]
    if rest:
        said.append(
            f"the normalisation stays as {' and '.join(rest)} at the input '{at.place.name}': "
            "what reads it is no convolution that takes it in"
        )
    return said
