"""Every operator means what onnxruntime makes of it, to within the evaluator's own bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reparam.conv.bounds import UNIT_ROUNDOFF, gamma
from reparam.errors import ExportError
from reparam.graph.evaluation import Program, evaluate, evaluate_magnitude
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.evaluation_functions import FUNCTIONS
from reparam.graph.evaluation_rules import RULES
from tests.graph.one_node import OneNode, assert_agree
from tests.graph.runtimes import departs

SEEDS = st.integers(0, 2**32 - 1)
OPSETS = st.sampled_from([9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21])
AUTO = st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])


def floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


def run_or_skip(case):
    """Return what the runtime makes of it; geometry that it refuses is no case."""
    try:
        return case.by_runtime()
    except (ExportError, *_refusals()):
        assume(False)


def _refusals():
    from reparam.adapters.onnx_runtime import runtime_errors

    return runtime_errors()


@st.composite
def window_geometry(draw, largest=3):
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return [draw(st.integers(low, high)) for _ in range(axes)]

    kernel, stride, dilation = each(1, largest), each(1, 3), each(1, 2)
    auto = draw(AUTO)
    if auto == "NOTSET":
        padding = {"pads": [draw(st.integers(0, 2)) for _ in range(2 * axes)]}
    else:
        padding = {"auto_pad": auto}
    # larger than the extent, so that a runtime that refuses is seldom met
    spatial = [(k - 1) * d + draw(st.integers(1, 5)) for k, d in zip(kernel, dilation, strict=True)]
    return spatial, kernel, stride, dilation, padding


@settings(max_examples=150, deadline=None)
@given(window_geometry(), SEEDS, st.integers(1, 3), st.booleans(), st.booleans(), OPSETS)
def test_conv(geometry, seed, groups, depthwise, with_bias, opset):
    spatial, kernel, stride, dilation, padding = geometry
    rng, each = np.random.default_rng(seed), 1 if depthwise else 2
    attributes = {"strides": stride, "dilations": dilation, "group": groups, **padding}
    inputs = [floats(rng, 2, groups * each, *spatial), floats(rng, 2 * groups, each, *kernel)]
    inputs += [floats(rng, 2 * groups)] if with_bias else []
    case = OneNode("Conv", inputs, attributes, opset)
    assert_agree(case, run_or_skip(case))


@settings(max_examples=150, deadline=None)
@given(window_geometry(), SEEDS, st.integers(1, 3), st.data(), OPSETS)
def test_conv_transpose(geometry, seed, groups, data, opset):
    spatial, kernel, stride, dilation, padding = geometry
    rng = np.random.default_rng(seed)
    attributes = {"strides": stride, "dilations": dilation, "group": groups, **padding}
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    full = [(n - 1) * s + e for n, s, e in zip(spatial, stride, extent, strict=True)]
    if data.draw(st.booleans()):
        attributes.pop("pads", None)
        attributes["output_shape"] = [n - data.draw(st.integers(0, min(3, n - 1))) for n in full]
    elif "auto_pad" not in attributes:
        larger = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
        attributes["output_padding"] = [data.draw(st.integers(0, n - 1)) for n in larger]
    elif attributes["auto_pad"] != "VALID":
        assume(all(n * s <= f for n, s, f in zip(spatial, stride, full, strict=True)))
    inputs = [floats(rng, 2, 2 * groups, *spatial), floats(rng, 2 * groups, 3, *kernel)]
    case = OneNode("ConvTranspose", [*inputs, floats(rng, 3 * groups)], attributes, opset)
    found = run_or_skip(case)
    assume(found[0].size)
    assert_agree(case, found)


@settings(max_examples=150, deadline=None)
@given(window_geometry(), SEEDS, st.booleans(), st.booleans(), OPSETS)
def test_average_pool(geometry, seed, ceil, include, opset):
    spatial, kernel, stride, dilation, padding = geometry
    attributes = {"strides": stride, "kernel_shape": kernel, "count_include_pad": int(include)}
    attributes |= {"ceil_mode": int(ceil)} if opset >= 10 else {}
    attributes |= {"dilations": dilation} if opset >= 19 and "pads" in padding else {}
    assume(not departs("AveragePool", attributes))
    _check_pool("AveragePool", spatial, attributes, padding, seed, opset)


@settings(max_examples=150, deadline=None)
@given(window_geometry(), SEEDS, st.booleans(), OPSETS)
def test_max_pool(geometry, seed, ceil, opset):
    spatial, kernel, stride, dilation, padding = geometry
    attributes = {"strides": stride, "kernel_shape": kernel}
    attributes |= {"ceil_mode": int(ceil)} if opset >= 10 else {}
    attributes |= {"dilations": dilation} if opset >= 10 and "pads" in padding else {}
    _check_pool("MaxPool", spatial, attributes, padding, seed, opset)


def _check_pool(operator, spatial, attributes, padding, seed, opset):
    kernel, stride = attributes["kernel_shape"], attributes["strides"]
    if "pads" in padding:  # a window of padding alone has no mean
        padding = {
            "pads": [min(p, k - 1) for p, k in zip(padding["pads"], kernel * 2, strict=True)]
        }
    else:  # onnxruntime takes negative padding where windows have gaps between them
        assume(all(k >= s for k, s in zip(kernel, stride, strict=True)))
    rng = np.random.default_rng(seed)
    case = OneNode(operator, [floats(rng, 2, 3, *spatial)], {**attributes, **padding}, opset)
    assert_agree(case, run_or_skip(case))


@pytest.mark.parametrize("opset", [9, 14, 15, 21])
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_batch_normalization(opset, rank):
    rng = np.random.default_rng(rank)
    inputs = [floats(rng, 2, 3, *(4,) * (rank - 2)), *(floats(rng, 3) for _ in range(3))]
    inputs.append(rng.uniform(0.2, 3.0, 3).astype(np.float32))
    case = OneNode("BatchNormalization", inputs, {"epsilon": 1e-3}, opset)
    assert_agree(case, case.by_runtime())


def simple_cases():
    rng = np.random.default_rng(20210101)
    image, column, row = floats(rng, 2, 3, 4, 5), floats(rng, 3, 1, 1), floats(rng, 5)
    a, b, c = floats(rng, 4, 3), floats(rng, 3, 5), floats(rng, 5)
    long = floats(rng, 2, 6, 5)
    cases = {
        "Add": (["Add", [image, column], {}],),
        "Sub": (["Sub", [image, column], {}], ["Sub", [column, image], {}]),
        "Mul": (["Mul", [image, row], {}],),
        "Div": (["Div", [image, np.abs(column) + 0.5], {}],),
        "Neg": (["Neg", [image], {}],),
        "Sum": (["Sum", [image, column, row], {}], ["Sum", [image], {}]),
        "Mean": (["Mean", [image, column, row], {}],),
        "Identity": (["Identity", [image], {}],),
        "Dropout": (["Dropout", [image], {}],),
        "GlobalAveragePool": (["GlobalAveragePool", [image], {}],),
        "Concat": (["Concat", [image, floats(rng, 2, 1, 4, 5)], {"axis": 1}],
                   ["Concat", [image, floats(rng, 2, 3, 4, 2)], {"axis": -1}]),
        "Gather": (["Gather", [image, ints(2, 0, -1)], {"axis": 1}],
                   ["Gather", [image, ints(1).reshape(())], {"axis": 2}],
                   ["Gather", [image, ints(0, 1, 1, 0).reshape(2, 2)], {}]),
        "Reshape": (["Reshape", [image, ints(0, -1)], {}], ["Reshape", [image, ints(0, 0, 20)], {}],
                    ["Reshape", [image, ints(-1)], {}]),
        "Flatten": (["Flatten", [image], {}], ["Flatten", [image], {"axis": 0}],
                    ["Flatten", [image], {"axis": 3}], ["Flatten", [image], {"axis": 4}]),
        "Transpose": (["Transpose", [image], {}], ["Transpose", [image], {"perm": [0, 2, 3, 1]}]),
        "Cast": (["Cast", [image], {"to": 1}], ["Cast", [3 * image], {"to": 7}],
                 ["Cast", [image], {"to": 9}]),
        "MatMul": (["MatMul", [a, b], {}], ["MatMul", [long, floats(rng, 5, 4)], {}],
                   ["MatMul", [long, floats(rng, 2, 5, 4)], {}], ["MatMul", [long, row], {}]),
        "Gemm": (["Gemm", [a, b, c], {}], ["Gemm", [a, b], {}] ,
                 ["Gemm", [a.T.copy(), b.T.copy(), c],
                  {"transA": 1, "transB": 1, "alpha": -0.3, "beta": 0.7}]),
        "Relu": (["Relu", [image], {}],),
        "Sigmoid": (["Sigmoid", [8 * image], {}],),
        "Expand": (["Expand", [column, ints(2, 1, 4, 5)], {}],),
        "Shape": (["Shape", [image], {}],),
        "Size": (["Size", [image], {}],),
        "ScatterND": (["ScatterND", [image, ints(0, 1, 1, 0).reshape(2, 2), floats(rng, 2, 4, 5)],
                       {}],),
    }  # fmt: skip
    return [(name, OneNode(*one)) for name, found in cases.items() for one in found]


def _cases_with_names():
    return [pytest.param(case, id=f"{name}-{at}") for at, (name, case) in enumerate(simple_cases())]


@pytest.mark.parametrize("case", _cases_with_names())
def test_simple_operators(case):
    assert_agree(case, case.by_runtime())


def test_slice_before_opset_10_has_attributes():
    x = floats(np.random.default_rng(0), 2, 6, 7)
    attributes = {"starts": [1, -3], "ends": [100, -1], "axes": [1, 2]}
    case = OneNode("Slice", [x], attributes, 9)
    assert_agree(case, case.by_runtime())
    assert case.by_evaluator()[0][0].shape == (2, 5, 2)
    plain = OneNode("Slice", [x], {"starts": [1], "ends": [2]}, 9)
    assert_agree(plain, plain.by_runtime())


@settings(max_examples=200, deadline=None)
@given(st.data(), SEEDS, st.sampled_from([10, 11, 13, 21]))
def test_slice(data, seed, opset):
    x = floats(np.random.default_rng(seed), 3, 6, 7)
    axes = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    far = st.sampled_from([-(2**63), 2**63 - 1, -(2**31), 2**31 - 1])
    edge = st.one_of(st.integers(-9, 9), far)
    steps = [data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in axes]
    bounds = [ints(*(data.draw(edge) for _ in axes)) for _ in range(2)]
    both = zip(bounds[1], steps, strict=True)
    assume(all(step > 0 or end < 2**31 - 1 for end, step in both))  # see the refusals below
    signed = [axis - 3 if data.draw(st.booleans()) else axis for axis in axes]
    case = OneNode("Slice", [x, *bounds, ints(*signed), ints(*steps)], {}, opset)
    assert_agree(case, case.by_runtime())


@pytest.mark.parametrize(
    ("opset", "sizes", "attributes"),
    [
        (9, None, {"split": [1, 5]}),
        (9, None, {}),
        (11, None, {"split": [4, 2], "axis": -2}),
        (13, ints(1, 5), {}),
        (13, None, {}),
        (18, None, {"num_outputs": 2}),
        (18, ints(6, 0), {}),
    ],
)
def test_split(opset, sizes, attributes):
    x = floats(np.random.default_rng(1), 2, 6, 3)
    inputs = [x] if sizes is None else [x, sizes]
    case = OneNode("Split", inputs, {"axis": 1, **attributes}, opset, outputs=2)
    assert_agree(case, case.by_runtime())


def test_split_into_parts_of_which_the_last_is_smaller():
    x = floats(np.random.default_rng(1), 7, 2)
    case = OneNode("Split", [x], {"num_outputs": 3}, 18, outputs=3)
    assert_agree(case, case.by_runtime())
    assert [value.shape[0] for value in case.by_evaluator()[0]] == [3, 3, 1]


@settings(max_examples=100, deadline=None)
@given(st.data(), SEEDS, st.sampled_from([9, 10, 11, 13, 18, 19, 21]))
def test_pad(data, seed, opset):
    x = floats(np.random.default_rng(seed), 2, 3, 6, 5)
    low = data.draw(st.sampled_from([0, -2]))
    mode = data.draw(st.sampled_from(["constant", "constant", "edge", "reflect"]))
    pads = [0] * 8
    for at in (2, 3, 6, 7) if mode != "constant" else range(8):
        pads[at] = data.draw(st.integers(0 if mode != "constant" or at in (0, 1, 4, 5) else low, 2))
    value = data.draw(st.sampled_from([0.0, 1.5, -2.0]))
    if opset < 11:
        case = OneNode("Pad", [x], {"mode": mode, "pads": pads, "value": value}, opset)
    else:
        inputs = [x, ints(*pads)]
        inputs += [np.array(value, np.float32)] if data.draw(st.booleans()) else []
        case = OneNode("Pad", inputs, {"mode": mode}, opset)
    assert_agree(case, case.by_runtime())


def test_pad_of_some_axes():
    x = floats(np.random.default_rng(2), 2, 3, 4, 5)
    inputs = [x, ints(1, 0, 0, 2), np.array(0.5, np.float32), ints(-1, 2)]
    case = OneNode("Pad", inputs, {}, 18)
    assert_agree(case, case.by_runtime())


@pytest.mark.parametrize("operator", ["Squeeze", "Unsqueeze"])
@pytest.mark.parametrize(("opset", "axes"), [(9, [1, 3]), (11, [1, -1]), (13, [3, 1]), (21, [-1])])
def test_squeeze_and_unsqueeze(operator, opset, axes):
    x = floats(np.random.default_rng(3), 2, 1, 3, 1)
    inputs = [x] if opset < 13 else [x, ints(*axes)]
    case = OneNode(operator, inputs, {"axes": axes} if opset < 13 else {}, opset)
    assert_agree(case, case.by_runtime())


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1], [1], None])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions(operator, keep, axes, opset):
    x = floats(np.random.default_rng(4), 2, 3, 4, 5)
    by_input = opset >= (13 if operator == "ReduceSum" else 18)
    inputs = [x, ints(*axes)] if by_input and axes is not None else [x]
    attributes = {"keepdims": keep}
    attributes |= {"axes": axes} if not by_input and axes is not None else {}
    case = OneNode(operator, inputs, attributes, opset)
    if operator == "ReduceMean":
        assert_agree(case, case.by_runtime())
    else:
        assert_close(case)


@pytest.mark.parametrize("opset", [9, 11, 13])
@pytest.mark.parametrize(
    "limits", [(-0.5, 0.7), (0.3, 0.9), (-0.9, -0.2), (None, 0.1), (0.0, None)]
)
def test_clip(opset, limits):
    x = floats(np.random.default_rng(5), 3, 4)
    names = {n: v for n, v in zip(("min", "max"), limits, strict=True) if v is not None}
    bounds = [None if v is None else np.array(v, np.float32) for v in limits]
    case = (
        OneNode("Clip", [x], names, 9) if opset < 11 else OneNode("Clip", [x, *bounds], {}, opset)
    )
    assert_agree(case, case.by_runtime())


def test_constants_of_every_kind():
    rng = np.random.default_rng(6)
    for attribute, array in (
        ({"value": ir.tensor(floats(rng, 2, 3))}, None),
        ({"value_float": 0.1}, np.float64(np.float32(0.1))),
        ({"value_floats": [0.1, 2.0]}, np.array([np.float32(0.1), 2.0], np.float64)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [1, -2]}, np.array([1, -2])),
    ):
        node = ir.node("Constant", [], attribute)
        expected = attribute["value"].numpy() if array is None else array
        found = evaluate([node], {}, 17)[node.outputs[0]]
        assert np.array_equal(found, expected)
        assert found.dtype in (np.float64, np.int64)


def test_constant_of_shape():
    node = ir.node("ConstantOfShape", [ir.Value(name="s", const_value=ir.tensor(ints(2, 3)))])
    assert np.array_equal(evaluate([node], {}, 17)[node.outputs[0]], np.zeros((2, 3)))
    value = ir.tensor(np.array([-1.5], np.float32))
    node = ir.node("ConstantOfShape", node.inputs, {"value": value})
    assert np.array_equal(evaluate([node], {}, 17)[node.outputs[0]], np.full((2, 3), -1.5))
    assert np.array_equal(evaluate_magnitude([node], {}, 17)[node.outputs[0]], np.full((2, 3), 1.5))


def test_integers_are_divided_towards_zero():
    a, b = ints(7, -7, 7, -7), ints(2, 2, -2, -2)
    case = OneNode("Div", [a, b], {})
    assert_agree(case, case.by_runtime())
    assert case.by_evaluator()[0][0].tolist() == [3, -3, -3, 3]


# What only whole networks have: compared with a tolerance, since they have no magnitudes.

FUNCTION_CASES = {
    "Abs": {}, "Ceil": {}, "Cos": {}, "Elu": {"alpha": 0.7}, "Erf": {}, "Exp": {}, "Floor": {},
    "GlobalMaxPool": {}, "HardSigmoid": {"alpha": 0.3}, "HardSwish": {},
    "LeakyRelu": {"alpha": 0.2}, "Sin": {}, "Softplus": {}, "Tanh": {},
}  # fmt: skip
BINARY = ("Max", "Min", "Equal", "Greater", "Less")
ELSEWHERE = ("ReduceMax", "ReduceMin", "ReduceSum", "Softmax", "LayerNormalization", "PRelu")
ELSEWHERE += ("InstanceNormalization", "Where", "Pow", "Log", "Sqrt", "Reciprocal", "Gelu", "Mish")
ELSEWHERE += ("Swish", "And", "Or", "Not", "Resize", "Upsample")


def assert_close(case, runs=None):
    expected = case.by_runtime() if runs is None else runs
    graph = ir.serde.deserialize_model(case.proto()).graph
    feeds = {value: case.feeds()[value.name] for value in graph.inputs}
    values = evaluate(list(graph), feeds, case.opset)
    for output, found in zip(expected, (values[o] for o in graph.outputs), strict=True):
        assert found.shape == output.shape
        scale = float(np.abs(output.astype(np.float64)).max(initial=1.0))
        assert np.abs(found - output.astype(np.float64)).max(initial=0.0) <= 2e-6 * scale


@pytest.mark.parametrize("operator", FUNCTION_CASES)
def test_functions(operator):
    x = floats(np.random.default_rng(7), 2, 3, 4, 5)
    assert_close(OneNode(operator, [3 * x], FUNCTION_CASES[operator]))


@pytest.mark.parametrize("operator", BINARY)
def test_functions_of_two(operator):
    rng = np.random.default_rng(8)
    x, y = floats(rng, 2, 3, 4).round(1), floats(rng, 3, 4).round(1)
    assert_close(OneNode(operator, [x, y], {}, fed=(0, 1)))


def test_other_functions():
    rng = np.random.default_rng(9)
    x, positive = floats(rng, 2, 3, 4), rng.uniform(0.1, 3, (2, 3, 4)).astype(np.float32)
    truths = rng.random((2, 3, 4)) < 0.5
    cases = [
        OneNode("Softmax", [x], {"axis": 1}, 11), OneNode("Softmax", [x], {"axis": 1}, 13),
        OneNode("Softmax", [x], {}, 11), OneNode("Softmax", [x], {}, 13),
        OneNode("LayerNormalization", [x, floats(rng, 4), floats(rng, 4)], {"epsilon": 1e-3}),
        OneNode("LayerNormalization", [x, floats(rng, 3, 4)], {"axis": 1}),
        OneNode("InstanceNormalization", [x, floats(rng, 3), floats(rng, 3)], {"epsilon": 1e-3}),
        OneNode("PRelu", [x, floats(rng, 3, 1)], {}), OneNode("Where", [truths, x, positive], {}),
        OneNode("Pow", [positive, np.array(1.7, np.float32)], {}), OneNode("Log", [positive], {}),
        OneNode("Sqrt", [positive], {}), OneNode("Reciprocal", [positive], {}),
        OneNode("Gelu", [x], {}, 20), OneNode("Gelu", [x], {"approximate": "tanh"}, 20),
        OneNode("Mish", [x], {}, 18), OneNode("Not", [truths], {}),
        OneNode("And", [truths, ~truths], {}), OneNode("Or", [truths, truths], {}),
    ]  # fmt: skip
    for case in cases:
        assert_close(case)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("how", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.0, 3.0), (0.5, 2.0), (1.5, 0.75)])
@pytest.mark.parametrize("opset", [11, 13, 18, 19])
def test_resize(mode, how, scales, opset):
    x = floats(np.random.default_rng(11), 2, 3, 8, 4)
    attributes = {"mode": mode, "coordinate_transformation_mode": how}
    by_scale = np.array([1.0, 1.0, *scales], np.float32)
    cases = [[x, np.zeros(0, np.float32), by_scale]]
    if mode == "linear" or how in ("half_pixel", "asymmetric"):
        size = ints(2, 3, int(8 * scales[0]), int(4 * scales[1]))
        cases.append([x, np.zeros(0, np.float32), np.zeros(0, np.float32), size])
    for inputs in cases:
        assert_close(OneNode("Resize", inputs, attributes, opset))


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_to_the_nearest(rounding):
    x = floats(np.random.default_rng(12), 1, 2, 5, 7)
    attributes = {"mode": "nearest", "nearest_mode": rounding}
    for how in ("half_pixel", "asymmetric"):
        inputs = [x, None, np.array([1, 1, 2, 3], np.float32)]
        case = {**attributes, "coordinate_transformation_mode": how}
        assert_close(OneNode("Resize", inputs, case, 13))


@pytest.mark.parametrize("how", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("attributes", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
def test_cubic_resize(how, attributes):
    x = floats(np.random.default_rng(14), 1, 2, 8, 5)
    given = {"mode": "cubic", "coordinate_transformation_mode": how, **attributes}
    for scales in ((2.0, 2.0), (0.5, 1.5)):
        inputs = [x, None, np.array([1, 1, *scales], np.float32)]
        assert_close(OneNode("Resize", inputs, given, 13))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_old_opsets(mode):
    inputs = [floats(np.random.default_rng(13), 1, 2, 5, 7), np.array([1, 1, 2, 3], np.float32)]
    assert_close(OneNode("Resize", inputs, {"mode": mode}, 10))
    assert_close(OneNode("Upsample", inputs, {"mode": mode}, 9))


def test_swish_by_its_definition():
    x = np.linspace(-4, 4, 9)
    source = ir.Value(name="x")
    node = ir.node("Swish", [source], {"alpha": 0.5})
    expected = [v / (1 + math.exp(-0.5 * v)) for v in x]
    assert np.allclose(evaluate([node], {source: x}, 24)[node.outputs[0]], expected, atol=1e-14)


def test_every_operator_has_a_test():
    simple = {case.operator for _, case in simple_cases()}
    others = {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "BatchNormalization", "Slice"}
    others |= {"Split", "Pad", "Squeeze", "Unsqueeze", "ReduceMean", "Clip", "Constant"}
    others |= {"ConvInteger", "MatMulInteger"}
    others |= {"ConstantOfShape", *FUNCTION_CASES, *BINARY, *ELSEWHERE}
    assert set(RULES) == simple | others
    assert set(FUNCTIONS) == {*FUNCTION_CASES, *BINARY, *ELSEWHERE}


# The walk itself.


def test_magnitudes_do_not_cancel():
    x, one = ir.Value(name="x"), ir.Value(name="c", const_value=ir.tensor(np.float32([-2.0])))
    scaled = ir.node("Mul", [x, one])
    negated = ir.node("Neg", [scaled.outputs[0]])
    left = ir.node("Sub", [scaled.outputs[0], negated.outputs[0]])
    gone = ir.node("Add", [scaled.outputs[0], negated.outputs[0]])
    nodes, feeds = [scaled, negated, left, gone], {x: np.array([-3.0])}
    values, magnitudes = evaluate(nodes, feeds, 17), evaluate_magnitude(nodes, feeds, 17)
    assert values[gone.outputs[0]] == 0
    assert magnitudes[gone.outputs[0]] == magnitudes[left.outputs[0]] == 12


def test_the_magnitude_of_a_batch_norm_adds_up_its_mean():
    x = ir.Value(name="x")
    arrays = ([-2.0], [-1.0], [3.0], [4.0])
    constants = [ir.Value(name="c", const_value=ir.tensor(np.float32(a))) for a in arrays]
    node = ir.node("BatchNormalization", [x, *constants], {"epsilon": 0.0})
    found = evaluate_magnitude([node], {x: np.full((1, 1), -5.0)}, 17)
    assert found[node.outputs[0]] == (5 + 3) / 2 * 2 + 1


def test_roundings_follow_the_longest_path():
    x = ir.Value(name="x")

    def constant(*shape):
        return ir.Value(name="c", const_value=ir.tensor(np.ones(shape, np.float32)))

    wide = ir.node("Conv", [x, constant(4, 3, 3, 3)], {"pads": [1, 1, 1, 1]})
    norm = ir.node("BatchNormalization", [wide.outputs[0], *(constant(4) for _ in range(4))])
    point = ir.node("Conv", [x, constant(4, 3, 1, 1)])
    total = ir.node("Add", [norm.outputs[0], point.outputs[0]])
    program = Program([wide, norm, point, total], 17)
    values = program.values({x: np.ones((1, 3, 4, 4))})
    assert program.roundings(values)[total.outputs[0]] == (27 + 1) + 6 + 1
    assert program.stored_factors(values)[point.outputs[0]] == 1
    assert program.stored_factors(values)[norm.outputs[0]] == 1 + 4


def test_a_graph_input_with_a_default_is_no_constant():
    value = ir.Value(name="w", const_value=ir.tensor(np.ones(3, np.float32)))
    node = ir.node("Neg", [value])
    ir.Graph([value], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 17})
    with pytest.raises(NotEvaluableError, match="'w' is not known"):
        evaluate([node], {}, 17)
    assert np.array_equal(evaluate([node], {value: np.zeros(3)}, 17)[node.outputs[0]], np.zeros(3))


def test_values_that_nobody_needs_any_more_are_let_go():
    x = ir.Value(name="x")
    first = ir.node("Neg", [x])
    second = ir.node("Relu", [first.outputs[0]])
    third = ir.node("Add", [second.outputs[0], first.outputs[0]])
    program = Program([first, second, third], 17)
    output = third.outputs[0]
    found = program.values({x: np.arange(3.0)}, keep={output})
    assert set(found) == {output}
    assert np.array_equal(found[output], program.values({x: np.arange(3.0)})[output])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_constants_of_every_width_are_read_exactly(dtype):
    import ml_dtypes

    array = np.array([1 / 3, -2.5e-3, 1e4]).astype(getattr(ml_dtypes, dtype, dtype))
    x = ir.Value(name="x")
    node = ir.node("Add", [x, ir.Value(name="c", const_value=ir.tensor(array))])
    found = evaluate([node], {x: np.zeros(3)}, 17)[node.outputs[0]]
    assert np.array_equal(found, array.astype(np.float64))
    assert gamma(2, dtype) > UNIT_ROUNDOFF[dtype]


def test_epsilon_is_the_one_that_a_file_holds():
    x = ir.Value(name="x")
    constants = [ir.Value(name="c", const_value=ir.tensor(np.float32([v]))) for v in (1, 0, 0, 0)]
    node = ir.node("BatchNormalization", [x, *constants], {"epsilon": 1e-5})
    found = evaluate([node], {x: np.ones((1, 1))}, 17)[node.outputs[0]]
    assert found == 1 / np.sqrt(float(np.float32(1e-5)))


X = floats(np.random.default_rng(10), 2, 3, 5, 5)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("NoSuchOperator", [X], {}, "no such operator"),
        ("Conv", [X, X[:, :2]], {}, "channels"),
        ("Conv", [X, floats(np.random.default_rng(0), 1, 3, 9, 9)], {}, "smaller than the kernel"),
        ("BatchNormalization", [X, *(np.ones(3, np.float32),) * 4], {"training_mode": 1}, "train"),
        ("BatchNormalization", [X, *(np.ones(2, np.float32),) * 4], {}, "channels"),
        ("Dropout", [X, np.float32(0.5), np.array(True)], {}, "training"),
        ("Reshape", [X, ints(7, 7)], {}, "to"),
        ("Reshape", [X, ints(2, 3, 0, 5, 0)], {}, "to"),
        ("Split", [X, ints(1, 1)], {"axis": 1}, "into"),
        ("Pad", [X, ints(1, 1)], {}, "pads for"),
        ("Concat", [X, X[:, :, :2]], {"axis": 1}, "Concat"),
        ("Transpose", [X], {"perm": [0, 0, 1, 2]}, "Transpose"),
        ("Add", [X, X[:, :, :2]], {}, "Add"),
        ("Slice", [X, ints(0), ints(2**63 - 1), ints(1), ints(-1)], {}, "runtimes read"),
        ("Gather", [X, ints(9)], {"axis": 1}, "Gather"),

        ("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "SAME_UPPER"},
         "dilation"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(operator, inputs, attributes, reason):
    values = [None if a is None else ir.Value(name="c", const_value=ir.tensor(a)) for a in inputs]
    node = ir.node(operator, values, attributes)
    with pytest.raises(NotEvaluableError, match=reason):
        evaluate([node], {}, 17)


def test_other_domains_and_subgraphs_are_refused():
    x = ir.Value(name="x")
    with pytest.raises(NotEvaluableError, match="no such operator"):
        evaluate([ir.node("Conv", [x], domain="com.example")], {x: X}, 17)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
    with pytest.raises(NotEvaluableError):
        evaluate([ir.node("If", [x], {"then_branch": graph, "else_branch": graph})], {x: X}, 17)


@pytest.mark.parametrize("operator", ["Softmax", "Tanh", "Exp"])
def test_what_is_not_linear_has_values_and_no_magnitude(operator):
    x = ir.Value(name="x")
    node = ir.node(operator, [x])
    assert evaluate([node], {x: X}, 17)[node.outputs[0]].shape == X.shape
    with pytest.raises(NotEvaluableError, match="magnitude"):
        evaluate_magnitude([node], {x: X}, 17)


def test_division_by_what_is_no_constant_has_no_magnitude():
    x = ir.Value(name="x")
    node = ir.node("Div", [x, x])
    with pytest.raises(NotEvaluableError, match="magnitude"):
        evaluate_magnitude([node], {x: X}, 17)


def quantized(rng: np.random.Generator, *shape: int, dtype: str = "uint8") -> Any:
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    return rng.integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("zeros", [(), ("uint8",), ("uint8", "int8")])
@pytest.mark.parametrize("operator", ["ConvInteger", "MatMulInteger"])
def test_products_of_bytes_are_exact_and_wide(operator: str, zeros: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    points = [np.asarray(quantized(rng, 1, dtype=kind))[0] for kind in zeros]
    is_conv = operator == "ConvInteger"
    shapes = ((1, 4, 6, 5), (6, 2, 3, 3)) if is_conv else ((2, 5, 300), (300, 4))
    attributes: dict[str, Any] = {"group": 2, "pads": [1, 1, 0, 2]} if is_conv else {}
    x, weight = quantized(rng, *shapes[0]), quantized(rng, *shapes[1], dtype="int8")
    case = OneNode(operator, [x, weight, *map(np.asarray, points)], attributes)
    graph = ir.serde.deserialize_model(case.proto()).graph
    made = Program(list(graph), 17).values({graph.inputs[0]: x.astype(np.int64)})
    found = made[graph.outputs[0]]
    assert found.dtype == np.int64
    # not onnxruntime: on processors without VNNI it saturates sums of two products in 16 bits
    assert np.array_equal(found, case.by_reference()[0])
