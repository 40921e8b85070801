"""Whole graphs: right fusions are equal, wrong ones different, and what cannot be told is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from reparam.adapters.onnx_model import Value
from reparam.graph import fuse_graph, whole_pair
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.whole import compare
from reparam.graph.whole_inputs import Plan, feeds, shapes
from reparam.graph.whole_pair import new_warnings
from reparam.graph.whole_records import DIFFERENT, EQUAL, NOT_RUN, UNDECIDABLE
from reparam.graph.whole_truth import Truth
from tests.graph.builder import GraphBuilder
from tests.graph.whole_models import OPEN, Written, convolved, pair


def off(by):
    """Return a change of one weight by a share of the largest."""

    def change(conv):
        weight = np.array(conv.weight)
        weight[2, 1, 2, 0] += by * np.abs(weight).max()
        return replace(conv, weight=weight)

    return change


WRONG = off(0.02)


@pytest.mark.parametrize("shape", [OPEN, (None, 3, None, None), (1, 3, 32, 40), (2, 3, 33, "w")])
def test_a_right_fusion_is_equal(tmp_path, shape):
    found = compare(*pair(tmp_path, shape=shape))
    assert found.verdict == EQUAL, found.reason
    assert found.holds
    assert found.truth == "the original in float64"
    assert found.worst is not None
    assert found.worst.distance <= found.worst.bound
    assert len(found.runs) == (2 if shape == (1, 3, 32, 40) else 3)


@pytest.mark.parametrize("shape", [OPEN, (1, 3, 32, 40)])
def test_a_wrong_weight_is_different(tmp_path, shape):
    found = compare(*pair(tmp_path, shape=shape, change=off(3e-5)))
    assert found.verdict == DIFFERENT
    assert not found.holds
    assert "output 'r' is off by" in found.reason
    assert found.worst is not None
    assert found.worst.index[1] == 2


def noisy(monkeypatch, share):
    """Make onnxruntime be off with the fused file, by a share of the largest value."""
    run = whole_pair.run_all

    def other(session, feeds):
        outputs = run(session, feeds)
        if "fused" not in session._model_path:
            return outputs
        largest = max(float(np.abs(y).max()) for y in outputs)
        return [y + y.dtype.type(share * largest) for y in outputs]

    monkeypatch.setattr(whole_pair, "run_all", other)


def test_noise_of_the_runtime_refuses_nothing(tmp_path, monkeypatch):
    """200 roundings in float32, which another order of a long sum can take, are no other graph."""
    noisy(monkeypatch, 200 * 2.0**-24)
    found = compare(*pair(tmp_path))
    assert found.verdict == EQUAL, found.reason
    assert found.worst.runtime > 20 * found.worst.distance


def test_a_runtime_that_computes_something_else_is_told(tmp_path, monkeypatch):
    noisy(monkeypatch, 1e-2)
    found = compare(*pair(tmp_path))
    assert found.verdict == DIFFERENT
    assert "onnxruntime takes output 'r' of the fused graph off by" in found.reason
    assert "though in float64 it is equal" in found.reason


def deep(seed):
    """Blocks with squeeze-excite and one number as the output, off by luck or not at all."""
    g = GraphBuilder(seed=seed)
    y = g.input("x", ("n", 32, 4, 4))
    for _ in range(3):
        z = g.add(g.bn(g.conv(y, 32, 3, padding=1)), g.bn(g.conv(y, 32, 1)), g.bn(y))
        y = g.relu(g.squeeze_excite(z))
    g.output(g.gemm(g.flatten(g.global_average_pool(y)), 1))
    return g.model()


def fused(model, path):
    onnx.save(model, path)
    graph = ir.load(path)
    assert fuse_graph(graph).fused
    ir.save(graph, path.with_suffix(".fused.onnx"))
    return path, path.with_suffix(".fused.onnx")


def test_a_deep_network_with_squeeze_excite_is_equal(tmp_path):
    """And one output channel of a middle layer that is off by 1e-4 is not."""
    one, other = fused(deep(9), tmp_path / "deep.onnx")
    found = compare(one, other)
    assert found.verdict == EQUAL, found.reason

    model = onnx.load(other)
    weight = next(t for t in model.graph.initializer if list(t.dims) == [32, 32, 3, 3])
    array = onnx.numpy_helper.to_array(weight).copy()
    array[5] *= np.float32(1 + 1e-4)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, other)
    assert compare(one, other).verdict == DIFFERENT


def test_a_bound_from_copies_of_a_wrong_graph_finds_it_all_the_same(tmp_path):
    """The copies are as wrong as the graph that they are of; what they add to it is not."""
    found = compare(*pair(tmp_path, change=off(0.5)))
    assert found.verdict == DIFFERENT
    assert found.worst.distance > 1e3 * found.worst.bound


def test_what_is_wrong_at_the_border_alone_is_different(tmp_path):
    def edge(graph, value):
        name = graph.constant("k", np.random.default_rng(1).normal(size=(4, 8, 3, 3)))
        bias = graph.constant("shift", np.full((1, 8, 1, 1), 0.5))
        graph.node("Add", [value, bias], "s")
        graph.node("Conv", ["s", name], "y", pads=[1, 1, 1, 1])
        graph.outputs["y"] = ("float32", (None, 4, None, None))

    def folded(graph, value):
        kernel = np.random.default_rng(1).normal(size=(4, 8, 3, 3)).astype(np.float32)
        name = graph.constant("k", kernel)
        bias = graph.constant("b4", 0.5 * kernel.astype(float).sum(axis=(1, 2, 3)))
        graph.node("Conv", [value, name, bias], "y", pads=[1, 1, 1, 1])
        graph.outputs["y"] = ("float32", (None, 4, None, None))

    one = convolved(False, tail=edge).save(tmp_path / "a.onnx")
    other = convolved(True, tail=folded).save(tmp_path / "b.onnx")
    found = compare(one, other)
    assert found.verdict == DIFFERENT
    assert found.worst is not None
    height, width = found.worst.index[2:]
    assert 0 in (height, width) or found.worst.distance > 1e3 * found.worst.bound


@pytest.mark.parametrize("external", [False, True])
def test_weights_beside_the_file_are_read(tmp_path, external):
    assert compare(*pair(tmp_path, external)).verdict == EQUAL
    assert (tmp_path / "fused.onnx.data").exists() is external
    before = sorted(p.name for p in tmp_path.iterdir())
    assert compare(*pair(tmp_path, external, change=WRONG)).verdict == DIFFERENT
    assert sorted(p.name for p in tmp_path.iterdir()) == before  # nothing is left there


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_dtypes_have_their_own_yardstick(tmp_path, dtype):
    found = compare(*pair(tmp_path, dtype=dtype))
    assert found.verdict == EQUAL, found
    assert bool(found.notes) is (dtype == "bfloat16")
    found = compare(*pair(tmp_path, dtype=dtype, change=off(0.5)))
    assert found.verdict == DIFFERENT, found


def test_a_dtype_that_onnxruntime_has_no_convolution_for_is_not_run(tmp_path):
    found = compare(*pair(tmp_path, dtype="float64"))
    assert found.verdict == NOT_RUN
    assert "Conv" in found.reason


def test_another_interface_is_different(tmp_path):
    one = convolved(False).save(tmp_path / "a.onnx")

    def other(change):
        graph = convolved(True)
        change(graph)
        return compare(one, graph.save(tmp_path / "b.onnx"))

    def renamed(graph):
        graph.outputs["n"] = graph.outputs.pop("r")

    def more(graph):
        graph.outputs["n"] = graph.outputs["r"]

    def fixed(graph):
        graph.inputs["x"] = ("float32", (1, 3, "height", "width"))

    def wider(graph):
        graph.node("Cast", ["r"], "wide", to=11)
        graph.nodes[-2].output[0], graph.nodes[-1].input[0] = "inner", "inner"
        graph.nodes[-1].output[0] = "r"
        graph.outputs["r"] = ("float64", graph.outputs["r"][1])

    for change, text in ((renamed, "outputs"), (more, "outputs"), (fixed, "'x'"), (wider, "'r'")):
        found = other(change)
        assert found.verdict == DIFFERENT
        assert text in found.reason
        assert not found.runs


def test_several_inputs_are_made(tmp_path):
    def both(fused, scale):
        graph = Written(inputs={
            "x": ("float32", OPEN), "y": ("float32", OPEN), "row": ("int64", ("batch",)),
            "flag": ("bool", ()),
        })  # fmt: skip
        graph.constant("a", np.float32(2.0) if not fused else np.float32(2.0 * scale))
        table = graph.constant("table", np.arange(12.0).reshape(4, 3, 1, 1))
        graph.node("Add", ["x", "y"], "s")
        graph.node("Mul", ["s", "a"], "m")
        graph.node("Gather", [table, "row"], "g", axis=0)
        graph.node("Add", ["m", "g"], "t")
        graph.node("Where", ["flag", "t", "m"], "out")
        graph.outputs["out"] = ("float32", ("batch", 3, None, None))
        return graph.save(tmp_path / f"{fused}.onnx")

    assert compare(both(False, 1), both(True, 1)).verdict == EQUAL
    found = compare(both(False, 1), both(True, 1.001))
    assert found.verdict == DIFFERENT
    assert found.runs


def test_what_onnxruntime_does_not_know_is_not_run(tmp_path):
    def custom(graph, value):
        graph.domains["com.example"] = 1
        graph.node("Strange", [value], "y", domain="com.example")
        graph.outputs["y"] = ("float32", None)

    found = compare(*pair(tmp_path, tail=custom))
    assert found.verdict == NOT_RUN
    assert "Strange" in found.reason
    assert found.holds


def test_a_fused_file_that_onnxruntime_does_not_load_is_different(tmp_path):
    one = convolved(False).save(tmp_path / "a.onnx")
    graph = convolved(True)
    graph.constants["fused.w"] = graph.constants["fused.w"][:, :, :, 0]
    found = compare(one, graph.save(tmp_path / "b.onnx"))
    assert found.verdict == DIFFERENT
    assert found.reason


def test_functions_of_the_model_are_written_out_for_the_truth(tmp_path):
    def called(graph, value):
        body = [
            helper.make_node("Sigmoid", ["v"], ["s"]),
            helper.make_node("Mul", ["v", "s"], ["o"]),
        ]
        opsets = [helper.make_opsetid("", 17)]
        graph.functions = [helper.make_function("local", "Silu", ["v"], ["o"], body, opsets)]
        graph.domains["local"] = 1
        graph.node("Silu", [value], "y", domain="local")
        graph.outputs["y"] = ("float32", (None, 8, None, None))

    found = compare(*pair(tmp_path, tail=called))
    assert found.verdict == EQUAL
    assert found.truth == "the original in float64"
    assert compare(*pair(tmp_path, tail=called, change=WRONG)).verdict == DIFFERENT


def test_operators_without_a_rule_are_evaluated_by_onnx(tmp_path):
    def selu(graph, value):
        graph.node("Selu", [value], "y")
        graph.outputs["y"] = ("float32", (None, 8, None, None))

    found = compare(*pair(tmp_path, tail=selu, shape=(1, 3, 8, 8)))
    assert found.verdict == EQUAL, found
    assert "Selu: by onnx" in found.truth


def branching(graph, value):
    """A graph with graphs of its own, which has no float64 truth here."""
    graph.constants["yes"] = np.array(True)
    parts = [
        helper.make_graph([helper.make_node(op, [value], [name])], name, [],
                          [onnx.ValueInfoProto(name=name)])
        for op, name in (("Exp", "e"), ("Abs", "a"))
    ]  # fmt: skip
    graph.node("ReduceSum", [value], "total", keepdims=0)
    graph.constant("zero", np.float32(1e9))
    graph.node("Less", ["total", "zero"], "small")
    graph.node("If", ["small"], "y", then_branch=parts[1], else_branch=parts[0])
    graph.outputs["y"] = ("float32", None)


def test_without_a_truth_the_original_is_held_against_itself(tmp_path):
    found = compare(*pair(tmp_path, tail=branching))
    assert found.verdict == EQUAL, found
    assert "off by one rounding" in found.truth
    assert "If" in found.truth
    assert compare(*pair(tmp_path, tail=branching, change=off(0.01))).verdict == DIFFERENT


def classes(graph, value):
    graph.node("ReduceMean", [value], "average", axes=[2, 3], keepdims=0)
    graph.node("ArgMax", ["average"], "y", axis=1, keepdims=0)
    graph.outputs["y"] = ("int64", None)


def test_integers_are_the_same_or_not(tmp_path):
    assert compare(*pair(tmp_path, tail=classes)).verdict == EQUAL

    def other(conv):
        return replace(conv, bias=np.roll(conv.bias, 3), weight=np.roll(conv.weight, 3, axis=0))

    found = compare(*pair(tmp_path, tail=classes, change=other))
    assert found.verdict == DIFFERENT


def test_differing_integers_of_equal_candidates_are_undecidable(tmp_path):
    """Two channels that are one: which is chosen hangs on the last bit of each."""
    bits = np.array([1.0, 1.0 + 2.0**-23] + [0.0] * 6)

    def choice(flip):
        def tail(graph, value):
            scale = np.tile(bits[::-1] if flip else bits, 1).reshape(1, 8, 1, 1)
            graph.node("ReduceMean", [value], "one", axes=[1], keepdims=1)
            graph.constant("bits", scale if not flip else np.roll(scale, 2, axis=1))
            graph.node("Mul", ["one", "bits"], "candidates")
            graph.node("ArgMax", ["candidates"], "y", axis=1, keepdims=0)
            graph.outputs["y"] = ("int64", None)

        return tail

    one = convolved(False, tail=choice(False)).save(tmp_path / "a.onnx")
    other = convolved(True, tail=choice(True)).save(tmp_path / "b.onnx")
    found = compare(one, other)
    assert found.verdict == UNDECIDABLE, found
    assert "candidates tie" in found.reason
    assert "'candidates'" in found.reason


@pytest.mark.parametrize(
    ("weight", "verdict"), [(0.5 + 2.0**-24, UNDECIDABLE), (0.6, DIFFERENT)]
)  # fmt: skip
def test_a_rounding_that_carries_a_value_over_a_step_is_undecidable(tmp_path, weight, verdict):
    """Ones, halved and rounded to integers: 0.5 becomes 0, and what is one bit more becomes 1."""
    for name, halving in (("a", 0.5), ("b", weight)):
        graph = Written(inputs={"x": ("float32", (2, 1, 8, 8))})
        graph.constant("w", np.full((1, 1, 1, 1), halving))
        graph.node("Conv", ["x", "w"], "c")
        graph.node("QuantizeLinear", ["c", graph.constant("s", np.float32(1))], "q")
        graph.node("DequantizeLinear", ["q", "s"], "y")
        graph.outputs["y"] = ("float32", (2, 1, 8, 8))
        graph.save(tmp_path / f"{name}.onnx")
    found = compare(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.verdict == verdict, found.reason


def test_values_that_are_not_finite_in_the_original_are_left_out(tmp_path):
    def logarithm(graph, value):
        graph.node("Log", [value], "y")  # of what the Relu made 0
        graph.outputs["y"] = ("float32", (None, 8, None, None))

    assert compare(*pair(tmp_path, tail=logarithm)).verdict in (EQUAL, UNDECIDABLE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_in_the_fused_graph_alone_are_different(tmp_path, value):
    def broken(conv):
        return replace(conv)

    one, other = pair(tmp_path, change=broken)
    model = onnx.load(other)
    bias = onnx.numpy_helper.to_array(model.graph.initializer[1]).copy()
    bias[3] = value
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bias, "fused.b"))
    onnx.save(model, other)
    assert compare(one, other).verdict == DIFFERENT


def test_a_chaotic_network_is_undecidable(tmp_path):
    def chaos(graph, value):
        graph.node("ReduceMean", [value], "m", axes=[2, 3], keepdims=1)
        graph.constant("gain", np.float32(1e6))
        for step in range(4):
            graph.node("Mul", ["m" if not step else f"s{step - 1}", "gain"], f"g{step}")
            graph.node("Sin", [f"g{step}"], f"s{step}")
        graph.outputs["s3"] = ("float32", None)

    found = compare(*pair(tmp_path, tail=chaos))
    assert found.verdict == UNDECIDABLE
    assert "prove nothing" in found.reason
    assert found.holds


def test_warnings_of_the_original_are_not_new(tmp_path):
    one, other = pair(tmp_path)
    graph = convolved(True)
    graph.constant("left.over", np.ones(3))
    found = compare(one, graph.save(other))
    assert found.verdict == EQUAL
    assert found.warnings
    assert not found.holds
    graph = convolved(False)
    graph.constant("also.left.over", np.ones(4))
    assert compare(graph.save(one), other).holds


def test_warnings_are_known_by_their_kind():
    old = ["10:00 [W:onnxruntime:, graph.cc:1 Clean] Removing initializer 'a'. Not used."]
    new = ["11:00 [W:onnxruntime:, graph.cc:1 Clean] Removing initializer 'b'. Not used.",
           "11:00 [W:onnxruntime:, graph.cc:2 Merge] Shapes differ for 'b'."]  # fmt: skip
    assert new_warnings(old, new) == (new[1],)


def test_a_graph_that_takes_few_sizes_is_run_on_those(tmp_path):
    def halved(graph, value):
        graph.node("MaxPool", [value], "p", kernel_shape=[2, 2], strides=[2, 2])
        graph.node("ConvTranspose", ["p", graph.constant("up", np.full((8, 8, 2, 2), 0.1))], "u",
                   strides=[2, 2])  # fmt: skip
        graph.node("Add", [value, "u"], "y")
        graph.outputs["y"] = ("float32", (None, 8, None, None))

    found = compare(*pair(tmp_path, tail=halved))
    assert found.verdict == EQUAL, found
    assert not any("65" in run for run in found.runs)
    assert len(found.runs) == 3


def test_the_truth_is_given_up_where_it_takes_too_long(tmp_path):
    path, _ = pair(tmp_path)
    x = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    assert Truth(ir.load(path)).outputs(x)[0].shape == (1, 8, 16, 16)
    with pytest.raises(NotEvaluableError, match="too many"):
        Truth(ir.load(path), most_macs=1000).outputs(x)


def test_the_truth_is_asked_for_sparingly_where_it_takes_long(tmp_path, monkeypatch):
    paths = pair(tmp_path)
    assert len(compare(*paths).runs) == 3
    monkeypatch.setattr("reparam.graph.whole_pair._SLOW", 1000)
    found = compare(*paths)
    assert found.verdict == EQUAL
    assert len(found.runs) == 2
    assert all("normal" in run for run in found.runs)


def test_axes_of_one_name_are_equally_long():
    values = [Value("a", ("n", 3, "h", "w"), "float32"), Value("b", ("n", "w", ""), "float32")]
    found = shapes(values, Plan((64, 96), 16, 2))
    assert found == {"a": (2, 3, 64, 96), "b": (2, 96, 16)}


def test_the_sizes_that_detectors_ask_for_are_those_of_the_image():
    beside = [Value(name, (1, 2), "float32") for name in ("im_shape", "scale_factor")]
    values = [Value("image", ("n", 3, "h", "w"), "float32"), *beside]
    made = feeds(values, Plan((64, 96), 16, 1), "normal", 0)
    assert made["im_shape"].tolist() == [[64, 96]]
    assert made["scale_factor"].tolist() == [[1, 1]]


def test_a_truth_is_refused_at_once_where_an_operator_is_not_of_onnx() -> None:
    import onnx_ir as ir

    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2, 3] x) => (float[2, 3] z) { y = Relu(x) z = com.microsoft.BiasGelu(y, x) }
    """)
    with pytest.raises(NotEvaluableError, match="BiasGelu"):
        Truth(model)
