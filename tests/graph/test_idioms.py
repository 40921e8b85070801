"""Nodes that the runtime makes one of are left whole, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.graph.constants import Constants
from reparam.graph.fusing import fuse_graph
from reparam.graph.idioms import idioms
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts

CHANNELS = 8
CONSTANTS: dict[str, Any] = {
    "half": 0.5, "one": 1.0, "root": 2**0.5, "inverse": 2**-0.5, "two": 2.0, "three": 3.0,
    "k": 1.702, "cubic": 0.044715, "outer": (2 / np.pi) ** 0.5, "eps": 1e-5,
    "gamma": np.linspace(1, 2, CHANNELS), "beta": np.linspace(1, 3, CHANNELS),
    "column": np.linspace(1, 2, 6).reshape(6, 1), "six": 6.0, "zero": 0.0,
}  # fmt: skip

ERF = "d = Div(x, root); e = Erf(d); a = Add(e, one); "
TANH = (
    "p = Pow(x, three); q = Mul(p, cubic); r = Add(x, q); u = Mul(r, outer); v = Tanh(u); "
    "w = Add(v, one); "
)
CENTRE = "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); "
SPREAD = "p = Pow(d, two); v = ReduceMean<axes=[-1]>(p); s = Add(v, eps); t = Sqrt(s); "
ACROSS = CENTRE.replace("-1", "1") + SPREAD.replace("-1", "1")

WHOLE = {
    "GELU of torch": ("Gelu", ERF + "m = Mul(x, a); z = Mul(m, half)"),
    "GELU, operands the other way": (
        "Gelu",
        "d = Div(x, root); e = Erf(d); a = Add(one, e); m = Mul(a, x); z = Mul(half, m)",
    ),
    "GELU that halves x": ("Gelu", ERF + "h = Mul(x, half); z = Mul(h, a)"),
    "GELU that halves x, one operand for two": ("Gelu", ERF + "h = Mul(half, x); z = Mul(a, h)"),
    "quick GELU": ("QuickGelu", "q = Mul(x, k); s = Sigmoid(q); z = Mul(x, s)"),
    "layer norm": (
        "LayerNormalization",
        CENTRE + SPREAD + "q = Div(d, t); g = Mul(q, gamma); z = Add(g, beta)",
    ),
    "layer norm with two differences": (
        "LayerNormalization",
        CENTRE + "c = Sub(x, m); " + SPREAD + "q = Div(c, t); g = Mul(q, gamma); z = Add(g, beta)",
    ),
    "layer norm without beta": (
        "SimplifiedLayerNormalization",
        CENTRE + SPREAD + "q = Div(d, t); z = Mul(q, gamma)",
    ),
    "RMS norm": (
        "SimplifiedLayerNormalization",
        SPREAD.replace("(d,", "(x,") + "q = Div(x, t); z = Mul(gamma, q)",
    ),
}
"""What the runtime makes of it, and the nodes."""

IN_PARTS = {
    "GELU that multiplies by an inverse": "d = Mul(x, inverse); e = Erf(d); a = Add(e, one); "
    "m = Mul(x, a); z = Mul(m, half)",
    "GELU that divides by two": ERF + "m = Mul(x, a); z = Div(m, two)",
    "GELU that halves the other factor": ERF + "h = Mul(a, half); z = Mul(x, h)",
    "GELU without the half": ERF + "z = Mul(x, a)",
    "GELU with Tanh": TANH + "h = Mul(x, half); z = Mul(h, w)",
    "GELU with Tanh, half last": TANH + "m = Mul(x, w); z = Mul(m, half)",
    "layer norm with a product": CENTRE + SPREAD.replace("Pow(d, two)", "Mul(d, d)")
    + "q = Div(d, t); g = Mul(q, gamma); z = Add(g, beta)",
    "layer norm without gamma": CENTRE + SPREAD + "z = Div(d, t)",
    "layer norm of one gamma": CENTRE + SPREAD + "q = Div(d, t); g = Mul(q, two); z = Add(g, one)",
    "layer norm over the channels": ACROSS
    + "q = Div(d, t); g = Mul(q, column); z = Add(g, column)",
    "layer norm with Reciprocal": CENTRE + SPREAD
    + "r = Reciprocal(t); q = Mul(d, r); g = Mul(q, gamma); z = Add(g, beta)",
    "HardSwish in parts": "p = Add(x, three); q = Clip(p, zero, six); r = Mul(x, q); "
    "z = Div(r, six)",
    "Softplus in parts": "e = Exp(x); p = Add(e, one); z = Log(p)",
}  # fmt: skip


def model_of(body: str) -> onnx.ModelProto:
    """Return the model of some lines, with the constants that they read."""
    lines = body.replace("; ", "\n")
    text = (
        '<ir_version: 8, opset_import: ["": 17]>\n'
        f"g (float[2,6,{CHANNELS}] x) => (float[2,6,{CHANNELS}] z) {{\n{lines}\n}}"
    )
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(read & set(CONSTANTS)):
        array = np.asarray(CONSTANTS[name], dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    return inferred


def frozen(model: onnx.ModelProto) -> dict[str, str]:
    graph = import_onnx_ir().serde.deserialize_model(model).graph
    return {
        node.outputs[0].name or "": name for node, name in idioms(graph, Constants(graph)).items()
    }


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Return the operators that onnxruntime is left with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize("name", WHOLE)
def test_what_the_runtime_makes_one_node_is_frozen(name: str, tmp_path: Path) -> None:
    made, body = WHOLE[name]
    model = model_of(body)
    assert made in optimised(model, tmp_path)
    left = {"m", "d"} if name == "layer norm without beta" else set()  # the difference is no part
    assert set(frozen(model)) == {node.output[0] for node in model.graph.node} - left


@pytest.mark.parametrize("name", IN_PARTS)
def test_what_the_runtime_leaves_in_parts_is_not_frozen(name: str, tmp_path: Path) -> None:
    model = model_of(IN_PARTS[name])
    assert len(optimised(model, tmp_path)) >= len(model.graph.node)
    assert frozen(model) == {}


@pytest.mark.parametrize("name", WHOLE)
def test_a_part_that_something_else_reads_is_no_idiom(name: str) -> None:
    body = WHOLE[name][1]
    inner = "e" if "Erf" in body else "t" if "Sqrt" in body else "s"
    model = model_of(body + f"; extra = Neg({inner})")
    model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, None))
    assert frozen(model) == {}


@pytest.mark.parametrize("wrong", ["one", "root", "half"])
def test_other_numbers_are_no_gelu(wrong: str) -> None:
    model = model_of(WHOLE["GELU of torch"][1])
    for tensor in model.graph.initializer:
        if tensor.name == wrong:
            array = numpy_helper.to_array(tensor) * np.float32(1.01)
            tensor.CopyFrom(numpy_helper.from_array(array, wrong))
    assert frozen(model) == {}


def test_a_gelu_keeps_its_half_and_its_neighbours_fuse() -> None:
    g = GraphBuilder()
    x = g.input("x", (None, 8, 9, 9))
    y = g.gelu(g.bn(g.conv(x, 8, 3)))
    g.output(g.relu(g.bn(g.conv(y, 4, 1))))
    model = g.ir()
    assert fuse_graph(model).ops_after == {
        "Add": 1, "Conv": 2, "Div": 1, "Erf": 1, "Mul": 2, "Relu": 1,
    }  # fmt: skip


def test_the_half_of_another_gelu_goes_into_the_next_convolution() -> None:
    g = GraphBuilder()
    x = g.input("x", (None, 8, 9, 9))
    y = g.conv(x, 8, 3)
    y = g.mul(y, g.add(g.node("Erf", g.mul(y, g.scalar(2**-0.5))), g.scalar(1.0)))
    g.output(g.conv(g.mul(y, g.scalar(0.5)), 4, 1))
    before = op_counts(g.model())
    after = fuse_graph(g.ir()).ops_after
    assert before["Mul"] - after["Mul"] == 1
