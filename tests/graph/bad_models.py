"""ONNX files that must be refused, each made from a good one; and good ones with all that fits in.

Every entry of :data:`BAD` is a function that returns the bytes of a file, and a text that the
refusal has to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
WEIGHT = (8, 3, 4, 4)  # 1536 bytes of float32: heavy
value = helper.make_tensor_value_info


def weight(name: str = "w", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return numpy_helper.from_array(rng.normal(size=WEIGHT).astype(np.float32), name)


def model(
    nodes: Sequence[Any],
    initializers: Sequence[Any] = (),
    *,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    opset: int = 17,
    ir_version: int = 8,
    **more: Any,
) -> Any:
    """Return a model of an image ``x`` and an output ``y``, unless others are given."""
    graph = helper.make_graph(
        list(nodes),
        "by_hand",
        list(inputs) or [value("x", FLOAT, ["n", 3, 16, 16])],
        list(outputs) or [value("y", FLOAT, ["n", 8, "h", "w"])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, **more)


def conv(output: str = "c", inputs: Sequence[str] = ("x", "w")) -> Any:
    return helper.make_node("Conv", list(inputs), [output], name=f"conv_{output}")


def relu(source: str, output: str, name: str = "") -> Any:
    return helper.make_node("Relu", [source], [output], name=name or f"relu_{output}")


def good(**options: Any) -> Any:
    """Return the model of one convolution and a Relu."""
    return model([conv(), relu("c", "y")], [weight()], **options)


def changed(change: Callable[[Any], object], proto: Any = None) -> bytes:
    proto = proto or good()
    change(proto)
    return bytes(proto.SerializeToString())


def outside(location: str, offset: str = "0", length: str | None = None) -> Any:
    """Return the good model with its weight in another file."""
    proto = good()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    where = {"location": location, "offset": offset, "length": length}
    for key, text in where.items():
        if text is not None:
            tensor.external_data.add(key=key, value=text)
    return proto


def with_tensor(**fields: Any) -> bytes:
    """Return the good model with other fields of its weight."""
    proto = good()
    tensor = proto.graph.initializer[0]
    for field, content in fields.items():
        tensor.ClearField(field)
        if isinstance(content, list):
            getattr(tensor, field).extend(content)
        elif content is not None:
            setattr(tensor, field, content)
    return bytes(proto.SerializeToString())


def branch(name: str, *nodes: Any, output: str) -> Any:
    return helper.make_graph(list(nodes), name, [], [value(output, FLOAT, ["n", 8, "h", "w"])])


def with_if(then: Any, other: Any | None = None) -> Any:
    """Return a model whose output is that of an If."""
    other = other or branch("else", helper.make_node("Neg", ["c"], ["e"]), output="e")
    node = helper.make_node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other)
    inputs = [value("x", FLOAT, ["n", 3, 16, 16]), value("flag", BOOL, [])]
    return model([conv(), node], [weight()], inputs=inputs)


def doubled_function() -> bytes:
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [relu("a", "b")], [helper.make_opsetid("", 17)]
    )
    node = helper.make_node("F", ["x"], ["y"], domain="own")
    opsets = [helper.make_opsetid("own", 1)]
    return bytes(model([node], opsets=opsets, functions=[function] * 2).SerializeToString())


def map_typed() -> bytes:
    proto = good()
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    kind = helper.make_sequence_type_proto(kind)
    proto.graph.node.append(helper.make_node("Own", [], ["m"], "of_maps", domain="own", type=kind))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return bytes(proto.SerializeToString())


def opaque() -> bytes:
    proto = good()
    inner = helper.make_graph([], "inner", [], [])
    found = inner.value_info.add(name="c")
    found.type.sequence_type.elem_type.opaque_type.name = "own"
    proto.graph.node.append(helper.make_node("Own", [], ["m"], domain="own", body=inner))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return bytes(proto.SerializeToString())


def sparse() -> Any:
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return helper.make_sparse_tensor(values, indices, list(WEIGHT))


def sparse_constants() -> bytes:
    node = helper.make_node("Own", [], ["w"], name="sparse_ones", domain="own")
    attribute = node.attribute.add(name="many", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.append(sparse())
    opsets = [helper.make_opsetid("own", 1)]
    return bytes(model([node, conv("y")], opsets=opsets).SerializeToString())


def sparse_constant() -> bytes:
    node = helper.make_node("Constant", [], ["w"], name="sparse_one")
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse())
    return bytes(model([node, conv(), relu("c", "y")]).SerializeToString())


def unknown_field() -> bytes:
    """Return a file with a field of a number that no version of the format has."""
    return bytes(good().SerializeToString()) + b"\xa2\x06\x04lost"


def chain_backwards(length: int) -> Any:
    nodes = [relu(f"v{i}", f"v{i + 1}") for i in range(length)][::-1]
    outputs = [value(f"v{length}", FLOAT, ["n"])]
    return model(nodes, inputs=[value("v0", FLOAT, ["n"])], outputs=outputs)


GOOD = bytes(good().SerializeToString())
CIRCLE = [relu("c", "y"), conv("c", ["d", "w"]), relu("c", "e"), relu("e", "d")]
LOOP_INSIDE = branch("then", relu("b", "a"), relu("a", "b"), output="a")

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"this is not a model\n" * 10, "not an ONNX model"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs"),
    "zeros": (lambda: bytes(100), "not an ONNX model"),
    "cut short": (lambda: GOOD[:-100], "not a whole one"),
    "cut in half": (lambda: GOOD[: len(GOOD) // 2], "not a whole one"),
    "no graph": (lambda: changed(lambda m: m.ClearField("graph")), "no graph"),
    "no nodes": (lambda: changed(lambda m: m.graph.ClearField("node")), "without nodes"),
    "short weight": (lambda: with_tensor(raw_data=b"1234"), "4 bytes; needed: 1536"),
    "no weight": (lambda: with_tensor(raw_data=None), "0 numbers; needed: 384"),
    "long weight": (lambda: with_tensor(raw_data=bytes(1540)), "1540 bytes; needed: 1536"),
    "few numbers": (
        lambda: with_tensor(raw_data=None, float_data=[1.0] * 5), "5 numbers; needed: 384"
    ),
    "two weights": (lambda: with_tensor(float_data=[1.0] * 384), "float_data, raw_data"),
    "wrong field": (lambda: with_tensor(raw_data=None, int32_data=[1] * 384), "int32_data"),
    "huge shape": (lambda: with_tensor(dims=[1 << 40, 1 << 40]), "has 1208925819614629"),
    "negative shape": (lambda: with_tensor(dims=[-1, 3, 4, 4]), "shape is (-1, 3, 4, 4)"),
    "no type": (lambda: with_tensor(data_type=0), "type has the number 0"),
    "odd type": (lambda: with_tensor(data_type=99), "type has the number 99"),
    "segment": (
        lambda: changed(lambda m: setattr(m.graph.initializer[0].segment, "end", 9)),
        "part of a larger tensor",
    ),
    "few texts": (
        lambda: with_tensor(data_type=TensorProto.STRING, raw_data=None), "0 texts; needed: 384"
    ),
    "invalid attribute": (
        lambda: changed(
            lambda m: m.graph.node[1].attribute.append(helper.make_attribute("alpha", 1.0))
        ),
        "Unrecognized attribute: alpha",
    ),
    "doubled attribute": (
        lambda: changed(
            lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("group", 1)] * 2)
        ),
        "appeared multiple times",
    ),
    "no opset": (lambda: changed(lambda m: m.ClearField("opset_import")), "specify opset_import"),
    "two opsets": (
        lambda: changed(lambda m: m.opset_import.append(helper.make_opsetid("", 9))),
        "two versions of the operator set ''",
    ),
    "withdrawn operator": (
        lambda: changed(lambda m: setattr(m.graph.node[1], "op_type", "Upsample")), "deprecated"
    ),
    "cycle": (
        lambda: model(CIRCLE, [weight()]).SerializeToString(),
        "3 nodes: node 'conv_c' (Conv) reads from node 'relu_d' (Relu) reads from "
        "node 'relu_e' (Relu) reads from node 'conv_c' (Conv)",
    ),
    "own output": (
        lambda: model([relu("y", "y", "self")]).SerializeToString(),
        "1 node: node 'self' (Relu) reads from node 'self' (Relu)",
    ),
    "cycle inside": (
        lambda: with_if(LOOP_INSIDE).SerializeToString(), "graph 'then' has a cycle"
    ),
    "doubled output": (
        lambda: model([conv("y"), relu("x", "y")], [weight()]).SerializeToString(),
        "node 'relu_y' (Relu) gives 'y', and so does node 'conv_y' (Conv)",
    ),
    "twice in a node": (
        lambda: model(
            [helper.make_node("Split", ["x"], ["y", "y"], axis=1)]
        ).SerializeToString(),
        "the Split that gives 'y', 'y' gives 'y', and so does itself",
    ),
    "output is input": (
        lambda: model([relu("x", "x"), relu("x", "y")]).SerializeToString(),
        "gives 'x', which is an input or initializer",
    ),
    "output is weight": (
        lambda: model([relu("x", "w"), conv("y")], [weight()]).SerializeToString(),
        "gives 'w', which is an input or initializer",
    ),
    "shadow": (
        lambda: with_if(branch("then", relu("x", "c"), output="c")).SerializeToString(),
        "single static assignment",
    ),
    "doubled initializer": (
        lambda: model([conv("y")], [weight(), weight()]).SerializeToString(),
        "two initializers of graph 'by_hand' have the name 'w'",
    ),
    "doubled input": (
        lambda: changed(lambda m: m.graph.input.append(m.graph.input[0])),
        "two inputs of graph 'by_hand' have the name 'x'",
    ),
    "nameless initializer": (
        lambda: model([conv("y")], [weight(), weight("")]).SerializeToString(), "has no name"
    ),
    "lost input": (
        lambda: model([relu("gone", "y")]).SerializeToString(),
        "node 'relu_y' (Relu) reads 'gone', which nothing gives",
    ),
    "lost input inside": (
        lambda: with_if(branch("then", relu("gone", "t"), output="t")).SerializeToString(),
        "reads 'gone', which nothing gives",
    ),
    "lost output": (
        lambda: model([relu("x", "z")]).SerializeToString(),
        "nothing in graph 'by_hand' gives its output 'y'",
    ),
    "outer output": (
        lambda: with_if(branch("then", output="c")).SerializeToString(),
        "nothing in graph 'then' gives its output 'c'",
    ),
    "doubled function": (doubled_function, "two functions 'own::F'"),
    "training": (lambda: changed(lambda m: m.training_info.add()), "training information"),
    "sparse initializer": (
        lambda: changed(lambda m: m.graph.sparse_initializer.append(sparse())),
        "a sparse initializer in 'by_hand'",
    ),
    "sparse constant": (sparse_constant, "a sparse tensor in node 'sparse_one'"),
    "sparse constants": (sparse_constants, "a sparse tensor in node 'sparse_ones'"),
    "opaque": (opaque, "the type of value 'c' is a 'opaque_type'"),
    "map": (map_typed, "the type of an attribute of node 'of_maps' (Own) is a 'map_type'"),
    "unknown field": (unknown_field, "does not know"),
    "not UTF-8": (
        lambda: GOOD.replace(b"relu_y", b"relu\xff\xfe"), "not UTF-8"
    ),
    "absolute": (lambda: outside("/etc/passwd").SerializeToString(), "outside of its folder"),
    "windows drive": (lambda: outside(r"C:\w.bin").SerializeToString(), "outside of its folder"),
    "upwards": (lambda: outside("../w.bin").SerializeToString(), "outside of its folder"),
    "upwards inside": (
        lambda: outside("here/../../w.bin").SerializeToString(), "outside of its folder"
    ),
    "upwards, windows": (
        lambda: outside(r"here\..\..\w.bin").SerializeToString(), "outside of its folder"
    ),
    "no location": (lambda: outside("").SerializeToString(), "no file is named"),
    "NUL": (lambda: outside("w\0.bin").SerializeToString(), "null byte"),
    "location of no text": (
        lambda: outside("gone.bin").SerializeToString().replace(b"gone", b"g\xffne"), "UTF-8"
    ),
    "missing data": (lambda: outside("gone.bin").SerializeToString(), "No such file"),
    "odd offset": (lambda: outside("w.bin", "-4").SerializeToString(), "the offset of its data"),
    "odd length": (lambda: outside("w.bin", "0", "12").SerializeToString(), "12 bytes of 'w.bin'"),
    "beyond the end": (
        lambda: outside("w.bin", "8").SerializeToString(), "has 1536 bytes; needed: 1544"
    ),
    "far beyond": (
        lambda: outside("w.bin", "9" * 19).SerializeToString(), "'w.bin' has 1536 bytes"
    ),
}  # fmt: skip
