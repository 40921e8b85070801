"""A model that has all that the format allows and nothing refuses, and what makes two the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from tests.graph.bad_models import BOOL, FLOAT, INT64, branch, conv, model, relu, value, weight

PAIR = helper.make_tensor_type_proto(FLOAT, [2])


def told(message: Any, key: str = "key") -> Any:
    """Give a message a doc string and metadata; return it."""
    message.doc_string = f"doc of {key}"
    message.metadata_props.add(key=key, value="told")
    return message


def full_model() -> Any:
    """Return the model; its IR version is 10."""
    tensors = [weight(), told(weight("told", 1)), weight("unread", 2)]
    tensors.append(numpy_helper.from_array(np.array([b"a", b"\xff", b""], object), "texts"))
    tensors.append(numpy_helper.from_array(np.float32(0.5), "scale"))
    tensors.append(numpy_helper.from_array(np.uint8(3), "zero"))
    nodes = [
        told(conv(), "node"),
        helper.make_node("Own", ["c"], ["o"], domain="own", overload="two", slope=0.25),
        helper.make_node("Foreign", ["o", "", "texts"], ["f", "", "g"], domain="else", name="f",
                         words=["a", "b"], many=[weight("m0"), weight("m1", 3)], raw=b"\xff\x00",
                         numbers=[1.5], whole=[1, 2], none=helper.make_graph([], "none", [], []),
                         graphs=[_then("g0"), _then("g1")], types=[PAIR, PAIR]),
        helper.make_node("SequenceConstruct", ["f", "f"], ["s"]),
        helper.make_node("Optional", [], ["maybe"], type=PAIR),
        helper.make_node("Constant", [], ["k"], value=weight("", 4)),
        helper.make_node("Add", ["f", "told_sum"], ["y"]),
        helper.make_node("If", ["flag"], ["z"], name="if", then_branch=_then(), else_branch=branch(
            "else", relu("c", "e"), output="e")),
        helper.make_node("Loop", ["trips", "flag", "c"], ["l"], name="loop", body=_body()),
    ]  # fmt: skip
    nodes.insert(6, helper.make_node("ReduceSum", ["told"], ["told_sum"], keepdims=0))
    image = helper.make_tensor_value_info("x", FLOAT, ["n", 3, None, 16])
    image.type.denotation = "IMAGE"
    image.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    inputs = [told(image, "image"), value("flag", BOOL, []), value("trips", INT64, [])]
    outputs = [value(name, FLOAT, ["n", 8, "h", "w"]) for name in ("y", "z", "l")]
    outputs.append(helper.make_tensor_sequence_value_info("s", FLOAT, ["n", None]))
    made = model(
        nodes, tensors, inputs=inputs, outputs=outputs, ir_version=10, functions=[_function()],
        opsets=[helper.make_opsetid("own", 3), helper.make_opsetid("else", 1)],
        producer_name="hand", producer_version="1.2", domain="org.example", model_version=7,
    )  # fmt: skip
    told(made, "model")
    told(made.graph, "graph")
    made.graph.value_info.append(told(value("c", FLOAT, ["n", 8, "h", "w"]), "value"))
    optional = helper.make_optional_type_proto(PAIR)
    made.graph.value_info.append(helper.make_value_info("maybe", optional))
    mostly_zeros = helper.make_sparse_tensor_type_proto(FLOAT, ["n", 2])
    made.graph.value_info.append(helper.make_value_info("g", mostly_zeros))
    for name in ("c", "told"):
        annotation = made.graph.quantization_annotation.add(tensor_name=name)
        for key, where in (("SCALE_TENSOR", "scale"), ("ZERO_POINT_TENSOR", "zero")):
            annotation.quant_parameter_tensor_names.add(key=key, value=where)
    return made


def _then(name: str = "then") -> Any:
    graph = branch(name, helper.make_node("Conv", ["x", "inner"], ["t"]), output="t")
    graph.initializer.append(weight("inner", 5))
    graph.value_info.append(told(value("inner", FLOAT, weight().dims), "inner"))
    return told(graph, "branch")


def _body() -> Any:
    inputs = [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, None)]
    outputs = [value("go2", BOOL, []), value("v2", FLOAT, None)]
    nodes = [relu("v", "v2"), helper.make_node("Identity", ["go"], ["go2"])]
    return helper.make_graph(nodes, "body", inputs, outputs)


def _function() -> Any:
    nodes = [
        helper.make_node("LeakyRelu", ["a"], ["b"]),
        helper.make_node("Constant", [], ["k"], value=weight("", 6)),
        helper.make_node("Identity", ["b"], ["d"]),
    ]
    alpha = nodes[0].attribute.add(name="alpha", ref_attr_name="slope", type=1)
    alpha.doc_string = "of the function"
    made = helper.make_function(
        "own", "Own", ["a"], ["d"], nodes, [helper.make_opsetid("", 17)],
        attributes=["needed"], attribute_protos=[helper.make_attribute("slope", 0.5)],
        doc_string="doc", overload="two", value_info=[value("b", FLOAT, ["n", 8, None, None])],
    )  # fmt: skip
    made.metadata_props.add(key="function", value="told")
    return made


def normal(proto: Any) -> Any:
    """Return a copy in which only what means something is left of the order and of the encoding."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _sort(made)
    return made


def _sort(message: Any) -> None:
    keys = {
        "metadata_props": lambda entry: entry.key,
        "opset_import": lambda entry: entry.domain,
        "value_info": lambda entry: entry.name,
        "quantization_annotation": lambda entry: entry.tensor_name,
        "attribute": lambda entry: getattr(entry, "name", entry),
    }
    if isinstance(message, TensorProto):
        _make_raw(message)
        for field in ("data_location", "external_data"):
            message.ClearField(field)
    for descriptor, content in message.ListFields():
        if content == "":  # said to be empty, or not said at all
            message.ClearField(descriptor.name)
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        if hasattr(content, "ListFields"):
            _sort(content)
            continue
        for entry in content:
            _sort(entry)
        if descriptor.name in keys:
            content.sort(key=keys[descriptor.name])


def _make_raw(tensor: Any) -> None:
    if tensor.data_type == TensorProto.STRING or tensor.HasField("raw_data"):
        return
    tensor.raw_data = ir.serde.deserialize_tensor(tensor).tobytes()
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
