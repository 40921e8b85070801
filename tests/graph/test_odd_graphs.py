"""Odd graphs: types that are no tensors, values given out twice, nothing in them, 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.onnx_runtime import open_session
from reparam.errors import ExportError
from reparam.graph.explaining import explain
from reparam.graph.whole_records import Whole
from tests.graph.fusing import fused_file, interface

_HEAD = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> g '
_FOLDED = "c = Conv<pads=[1,1,1,1]>(x, w) y = BatchNormalization(c, s, b, m, v)"


def model(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """Return a graph in onnx's text form, with the weights that it reads.

    Those named s and v, or that begin so, are positive: factors and variances.
    """
    proto = onnx.parser.parse_model(_HEAD + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.uniform(0.5, 2, shape) if name[0] in "sv" else rng.normal(size=shape)
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return proto


def norm(out: int = 3, channels: int = 3, mark: str = "") -> dict[str, tuple[int, ...]]:
    """Return the weights of a 3x3 convolution and the BatchNorm behind it."""
    return {f"w{mark}": (out, channels, 3, 3), **{f"{n}{mark}": (out,) for n in "sbmv"}}


def fused(proto: onnx.ModelProto, folder: Path) -> tuple[Whole, onnx.ModelProto]:
    """Fuse a file; the interface stays to the letter, and onnxruntime loads it if it did."""
    path, target = folder / "odd.onnx", folder / "fused.onnx"
    onnx.save(proto, path)
    found = fused_file(path, target)
    made = onnx.load(target)
    assert interface(made) == interface(proto)
    try:
        open_session(path)
    except ExportError:
        return found, made
    open_session(target)
    return found, made


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def why(folder: Path, name: str) -> str:
    """Return why no region ends at a value of the file that was fused."""
    found = explain(folder / "odd.onnx", name)
    return " ".join(found.reasons)


IMAGE = "float[1,3,8,8]"


@pytest.mark.parametrize(
    "outputs",
    [
        f"{IMAGE} y, {IMAGE} x",
        f"{IMAGE} y, {IMAGE} y",
        f"{IMAGE} y, float[n,3,h,w] y",
        f"{IMAGE} y, float[n,3,h,w] x",
        f"{IMAGE} y, float[3] s",
    ],
    ids=["an input", "twice", "twice, of other axes", "an input, of other axes", "a weight"],
)
def test_an_output_may_be_given_out_before(outputs: str, tmp_path: Path) -> None:
    proto = model(f"({IMAGE} x) => ({outputs}) {{ {_FOLDED} }}", **norm())
    found, made = fused(proto, tmp_path)
    assert (found.verdict, operators(made)) == ("equal", ["Conv"])


def test_an_output_needs_no_type(tmp_path: Path) -> None:
    proto = model(f"({IMAGE} x) => ({IMAGE} y) {{ {_FOLDED} }}", **norm())
    proto.graph.output[0].ClearField("type")
    found, made = fused(proto, tmp_path)
    assert (found.verdict, operators(made)) == ("equal", ["Conv"])


def test_an_output_does_not_become_the_input_that_it_equals(tmp_path: Path) -> None:
    """A BatchNorm that changes nothing, with nothing before it that could take its name."""
    text = "y = BatchNormalization<epsilon=0.0>(x, s, b, b, s)"
    proto = model(f"({IMAGE} x) => ({IMAGE} y) {{ {text} }}")
    for name, array in (("s", np.ones(3, np.float32)), ("b", np.zeros(3, np.float32))):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    assert fused(proto, tmp_path)[0].verdict == "equal"


class TestTypes:
    """What is no tensor keeps its type, declared or not."""

    def test_sequence_of_no_declared_type(self, tmp_path: Path) -> None:
        text = f"""({IMAGE} x) => ({IMAGE} z) {{ {_FOLDED} e = SequenceEmpty() i = Identity(e)
            q = SequenceInsert(i, y) z = ConcatFromSequence<axis=0>(q) }}"""
        found, made = fused(model(text, **norm()), tmp_path)
        assert found.verdict == "equal"
        assert "BatchNormalization" not in operators(made)

    def test_declared_map(self, tmp_path: Path) -> None:
        """As scikit-learn's classifiers end; onnx-ir has no such type."""
        text = """(float[2,3] x) => (float[2,3] y) { p = MatMul(x, w) y = Add(p, b)
            k = ai.onnx.ml.ZipMap<classlabels_int64s=[0,1,2]>(y) }"""
        proto = model(text, w=(3, 3), b=(3,))
        element = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        kind = helper.make_sequence_type_proto(element)
        proto.graph.output.append(helper.make_value_info("k", kind))
        _, made = fused(proto, tmp_path)
        assert operators(made) == ["Gemm", "ZipMap"]

    @pytest.mark.parametrize("kind", ["seq(float[a,3])", "optional(seq(float[2,3]))"])
    def test_input_that_is_no_tensor(self, kind: str, tmp_path: Path) -> None:
        text = f"({kind} q, {IMAGE} x) => ({kind} o, {IMAGE} y) {{ o = Identity(q) {_FOLDED} }}"
        found, made = fused(model(text, **norm()), tmp_path)
        assert operators(made) == ["Identity", "Conv"]
        assert found.verdict == "not run"
        assert "'q'" in found.reason

    def test_texts(self, tmp_path: Path) -> None:
        text = f"(string[n] q, {IMAGE} x) => (string[n] o, {IMAGE} y) {{ o = Identity(q) "
        found, _ = fused(model(text + _FOLDED + "}", **norm()), tmp_path)
        assert found.verdict == "equal"

    @pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2FNUZ", "INT4"])
    def test_outputs_of_a_dtype_that_numpy_lacks(self, kind: str, tmp_path: Path) -> None:
        """The runtime computes them, and its Python binding cannot hand them over."""
        proto = model(f"({IMAGE} x) => () {{ {_FOLDED} }}", **norm())
        number = TensorProto.DataType.Value(kind)
        proto.graph.node.append(helper.make_node("Cast", ["y"], ["o"], to=number))
        proto.graph.output.append(helper.make_tensor_value_info("o", number, [1, 3, 8, 8]))
        proto.opset_import[0].version, proto.ir_version = 21, 10
        found, made = fused(proto, tmp_path)
        assert (found.verdict, operators(made)) == ("not run", ["Conv", "Cast"])


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        (f"(float[1,3,0,8] x) => (float[1,3,0,8] y) {{ {_FOLDED} }}", norm()),
        (f"(float[0,3,8,8] x) => (float[0,3,8,8] y) {{ {_FOLDED} }}", norm()),
        (f"(float[1,0,8,8] x) => (float[1,3,8,8] y) {{ {_FOLDED} }}", norm(3, 0)),
        (f"({IMAGE} x) => (float[1,0,8,8] y) {{ {_FOLDED} }}", norm(0)),
        (
            f"({IMAGE} x) => ({IMAGE} o) {{ {_FOLDED} o = Concat<axis=1>(y, x) }}", norm(0)
        ),
        (
            "(float[4,3] x) => (float[4,2] y) { p = MatMul(x, w) q = Add(p, b) y = MatMul(q, u) }",
            {"w": (3, 0), "b": (0,), "u": (0, 2)},
        ),
    ],
    ids=["no rows", "no images", "no channels", "no channels left", "one of two", "matrices"],
)  # fmt: skip
def test_what_has_no_elements_is_left(text: str, weights: Any, tmp_path: Path) -> None:
    proto = model(text, **weights)
    found, made = fused(proto, tmp_path)
    assert operators(made) == operators(proto)
    assert found.verdict in ("equal", "not run")  # some runtimes refuse to run them


def test_why_what_has_no_elements_is_left(tmp_path: Path) -> None:
    fused(model(f"(float[0,3,8,8] x) => (float[0,3,8,8] y) {{ {_FOLDED} }}", **norm()), tmp_path)
    assert why(tmp_path, "y") == "it has values without elements"


def test_what_draws_numbers_is_not_compared(tmp_path: Path) -> None:
    text = "y = RandomNormalLike(x) c = Conv(y, w) o = BatchNormalization(c, s, b, m, v)"
    found, made = fused(
        model(f"({IMAGE} x) => ({IMAGE[:-4]}6,6] o) {{ {text} }}", **norm()), tmp_path
    )
    assert (found.verdict, len(made.graph.node)) == ("not run", 2)
    assert found.reason == "RandomNormalLike makes other numbers in every run"


class TestQuantized:
    """Regions among QuantizeLinear and DequantizeLinear."""

    BRANCHES = """c = Conv<pads=[1,1,1,1]>({0}, w) n = BatchNormalization(c, s, b, m, v)
        d = Conv({0}, u) {1} = Add(n, d)"""
    BEFORE, AFTER = "q = QuantizeLinear(x, qs) r = DequantizeLinear(q, qs)", (
        "t = QuantizeLinear({0}, qs) y = DequantizeLinear(t, qs)")  # fmt: skip

    def made(self, body: str, folder: Path) -> tuple[Whole, list[str]]:
        proto = model(f"({IMAGE} x) => ({IMAGE} y) {{ {body} }}", **norm(), u=(3, 3, 1, 1))
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "qs"))
        found, made = fused(proto, folder)
        return found, operators(made)

    @pytest.mark.parametrize("between", ["", "k = Relu(a)", "k = Transpose<perm=[0,1,3,2]>(a)"])
    def test_branches_in_between_are_left(self, between: str, tmp_path: Path) -> None:
        """Of one operator there, and not of two, onnxruntime rounds the weights to 8 bits."""
        after = self.AFTER.format("k" if between else "a")
        body = " ".join((self.BEFORE, self.BRANCHES.format("r", "a"), between, after))
        found, left = self.made(body, tmp_path)
        assert found.verdict in ("equal", "undecidable"), found.reason
        assert left.count("Conv") == 2  # the BatchNorm is folded, and the branches stay
        assert "BatchNormalization" not in left
        assert "rounds the weights of one operator" in why(tmp_path, "a")

    def test_one_convolution_in_between_is_folded(self, tmp_path: Path) -> None:
        """onnxruntime makes one operator of both as they are, and rounds its weights so or so."""
        body = _FOLDED.replace("(x,", "(r,").replace("y =", "a =")
        body = " ".join((self.BEFORE, body, self.AFTER.format("a")))
        found, left = self.made(body, tmp_path)
        assert (found.verdict, left.count("Conv")) == ("equal", 1)
        assert "BatchNormalization" not in left

    @pytest.mark.parametrize(
        "body",
        [
            "f = Mul(r, k) c = Conv(f, u) n = BatchNormalization(c, s, b, m, v) a = Relu(n)",
            "c = Conv(r, u) f = Transpose<perm=[0,1,3,2]>(c) a = Mul(f, k)",
        ],
        ids=["down", "up"],
    )
    def test_a_factor_that_keeps_a_convolution_apart_stays(self, body: str, tmp_path: Path) -> None:
        """Moved into the weights, it would leave the convolution where they are rounded."""
        text = " ".join((self.BEFORE, body, self.AFTER.format("a")))
        proto = model(f"({IMAGE} x) => (float[n,c,h,w] y) {{ {text} }}", **norm(), u=(3, 3, 1, 1))
        for name, array in (("qs", 0.05), ("k", [[[[0.3]], [[0.7]], [[1.9]]]])):
            weight = numpy_helper.from_array(np.array(array, np.float32), name)
            proto.graph.initializer.append(weight)
        found, made = fused(proto, tmp_path)
        assert found.verdict == "equal", found.reason
        assert "Mul" in operators(made)

    @pytest.mark.parametrize("side", ["before", "after"])
    def test_branches_at_one_side_are_fused(self, side: str, tmp_path: Path) -> None:
        body = {
            "before": f"{self.BEFORE} {self.BRANCHES.format('r', 'y')}",
            "after": f"{self.BRANCHES.format('x', 'a')} {self.AFTER.format('a')}",
        }
        found, left = self.made(body[side], tmp_path)
        assert (found.verdict, left.count("Conv")) == ("equal", 1)
