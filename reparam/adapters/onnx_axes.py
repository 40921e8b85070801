"""Names for the axes of any size: in the inputs, and in every output axis that follows one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np

from reparam.adapters.onnx_model import import_onnx

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
AXES: Mapping[int, str] = {0: BATCH, 2: HEIGHT, 3: WIDTH}
"""The axes of an image (N, C, H, W) that may be open, and their names."""

_Sizes = Sequence[Sequence[int]]

# Sizes of the axes 0 to 3 in turn: an output axis that follows one follows it in every row.
_PROBED = ((2, 0, 257, 331), (3, 0, 389, 263), (5, 0, 512, 640), (7, 0, 129, 1000))
_EVEN = ((2, 0, 288, 352), (3, 0, 416, 224), (5, 0, 544, 608), (7, 0, 160, 992))
"""Odd multiples of 32, for a graph that only takes multiples of it."""
_STRIDES = tuple(2**n for n in range(8))
_EVERYWHERE = frozenset(
    {"Add", "BatchNormalization", "Cast", "Concat", "Conv", "GlobalAveragePool"}
)
_EVERYWHERE |= {"Gemm", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MatMul", "Mul"}
_EVERYWHERE |= {"ReduceMean", "Relu", "Reshape", "Sigmoid"}
_EVERYWHERE |= {"Clip", "Div", "Exp", "PRelu", "Sub", "Tanh"}
_SHIFTED = frozenset({b"half_pixel", b"asymmetric"})
"""How a Resize finds its positions without asking how many there are."""
_HEAVY = 4096  # bytes; an initializer above it holds weights, which no shape depends on


def name_open_axes(proto: Any, names: Mapping[int, str]) -> None:
    """Name the open axes of the inputs, by position, and every output axis that follows one.

    An output axis that is as long as an input axis gets its name; one that is a power of two
    shorter, rounded up, gets the number behind it (``height_8`` is the height divided by 8). It is
    so if shape inference says it for four different sizes; any other axis keeps its name. Nothing
    is renamed where an axis without a name is open too. A graph that only takes multiples of 32,
    since it joins a map with one that was halved and doubled again, is asked about these.
    """
    inputs = [dims_of(value) for value in proto.graph.input]
    open_axes = {axis for dims in inputs for axis, dim in enumerate(dims) if is_open(dim)}
    if not open_axes or not open_axes <= set(names):
        return
    probed, inferred = _asked(proto)
    for dims in inputs:
        for axis, dim in enumerate(dims):
            if is_open(dim):
                dim.dim_param = names[axis]
    for value, *shapes in zip(proto.graph.output, *inferred, strict=True):
        for dim, *found in zip(dims_of(value), *shapes, strict=False):
            name = _followed(found, probed, {axis: names[axis] for axis in open_axes})
            if name and is_open(dim):
                dim.dim_param = name


def with_open_axes(proto: Any, axes: Mapping[int, str], weights: Collection[str] = ()) -> Any:
    """Return a copy of a model with these axes of its image open, and those of its outputs too.

    Inputs in ``weights`` are no images.
    """
    model = import_onnx().ModelProto()
    model.CopyFrom(proto)
    constants = {tensor.name for tensor in model.graph.initializer} | set(weights)
    for value in model.graph.input:
        for axis, dim in enumerate(dims_of(value)):
            if axis in axes and value.name not in constants:
                dim.dim_param = axes[axis]
    for value in model.graph.output:
        for dim in dims_of(value)[2:]:
            dim.Clear()
    del model.graph.value_info[:]
    return model


def is_free_of_sizes(proto: Any, image: str) -> bool:
    """Whether no node of a graph can depend on how large the image is.

    Every operator has to be one that does the same at every position, or over all of them; the
    target of a Reshape may only copy axes or take what is left, or begin with the batch of the
    input ``image``. A Resize has to have constant scales, whole numbers, and a MaxPool to be
    padded so that a map keeps its size: what is made for one size of image pads nothing.
    """
    graph = proto.graph
    given = {value.name for value in graph.input}
    tensors = {t.name: t for t in graph.initializer if t.name not in given}
    if any(node.domain or not _is_same_everywhere(node, tensors) for node in graph.node):
        return False
    to_array = import_onnx().numpy_helper.to_array
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    constants = {name: to_array(tensors[name]) for name in targets & set(tensors)}
    batch = {dims_of(value)[0].dim_value for value in graph.input if value.name == image}
    return all(
        name in constants and set(constants[name][1:].tolist()) <= {0, -1, 1}
        and int(constants[name][0]) in {0, -1} | batch
        for name in targets
    )  # fmt: skip


def _is_same_everywhere(node: Any, tensors: Mapping[str, Any]) -> bool:
    attributes = {a.name: import_onnx().helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Resize":
        return _is_by_whole_scales(node, attributes, tensors)
    if node.op_type == "MaxPool":
        return len(node.output) == 1 and _keeps_sizes(attributes)
    return node.op_type in _EVERYWHERE


def _is_by_whole_scales(node: Any, attributes: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether a Resize repeats or blends what is around a position in the same way everywhere."""
    given = [*node.input, "", "", ""]
    scales, sizes = given[2:4]
    if sizes or scales not in tensors or "axes" in attributes:
        return False
    if attributes.get("coordinate_transformation_mode", b"half_pixel") not in _SHIFTED:
        return False
    factors = import_onnx().numpy_helper.to_array(tensors[scales]).tolist()
    return factors[:2] == [1, 1] and all(f >= 1 and f == int(f) for f in factors)


def _keeps_sizes(attributes: Any) -> bool:
    """Whether a pool is padded by what its kernel is larger than one position."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [0] * (2 * len(kernel)))
    dilations = attributes.get("dilations", [1] * len(kernel))
    around = zip(kernel, dilations, pads, pads[len(kernel) :], strict=False)
    return all(before + after == d * (k - 1) for k, d, before, after in around)


def dims_of(value: Any) -> list[Any]:
    """Return the axes of an input or output of a graph."""
    return list(value.type.tensor_type.shape.dim)


def is_open(dim: Any) -> bool:
    """Whether an axis may have any size."""
    return not dim.HasField("dim_value")


def _asked(proto: Any) -> tuple[_Sizes, list[list[list[int | None]]]]:
    """Return the sizes of axes that a graph takes, and the shapes of its outputs for each."""
    for probed in (_PROBED, _EVEN):
        try:
            return probed, [_output_shapes(proto, sizes) for sizes in probed]
        except import_onnx().shape_inference.InferenceError:
            continue
    return _PROBED, [_output_shapes(proto, sizes, strict=False) for sizes in _PROBED]


def _followed(found: Sequence[int | None], probed: _Sizes, names: Mapping[int, str]) -> str:
    """Return the name of an axis with these inferred sizes; none where nothing is known."""
    for axis, name in sorted(names.items()):
        for stride in _STRIDES if axis else _STRIDES[:1]:
            if list(found) == [ceil(sizes[axis] / stride) for sizes in probed]:
                return name if stride == 1 else f"{name}_{stride}"
    return ""


def _output_shapes(proto: Any, sizes: Sequence[int], strict: bool = True) -> list[list[int | None]]:
    """Return the shapes of the outputs as inferred for one size of each axis; None is unknown.

    ``strict`` raises where the sizes contradict each other.
    """
    onnx = import_onnx()
    model = _without_weights(proto)
    for value in list(model.graph.input)[: len(proto.graph.input)]:
        for axis, dim in enumerate(dims_of(value)):
            if is_open(dim):
                dim.dim_value = sizes[axis]
    for value in model.graph.output:
        for dim in dims_of(value):
            if is_open(dim):
                dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    return [
        [None if is_open(dim) else dim.dim_value for dim in dims_of(value)]
        for value in inferred.graph.output
    ]


def _without_weights(proto: Any) -> Any:
    """Return a copy whose heavy initializers are inputs of the same type and shape instead."""
    onnx = import_onnx()
    light = onnx.ModelProto()
    light.ir_version = proto.ir_version
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.name = proto.graph.name
    light.graph.node.extend(proto.graph.node)
    light.graph.input.extend(proto.graph.input)
    light.graph.output.extend(proto.graph.output)
    known = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        if int(np.prod(tensor.dims)) * itemsize <= _HEAVY:
            light.graph.initializer.append(tensor)
        elif tensor.name not in known:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
