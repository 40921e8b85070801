"""What is refused by looking at a parsed file, in this process: nothing here may crash it."""

from __future__ import annotations

import onnx
import pytest

from reparam.errors import GraphError
from reparam.graph import looking
from reparam.graph.files import light_model
from reparam.graph.looking import look
from reparam.graph.runnable import need_runnable, too_large
from tests.hostile import onnx_files
from tests.hostile.harness import Case
from tests.hostile.onnx_files import chain, doubling, harmless_chain, model, node, value


@pytest.mark.parametrize("case", onnx_files.REFUSED, ids=lambda case: case.name)
def test_it_is_refused(case: Case, tmp_path):
    with pytest.raises(GraphError) as caught:
        light_model(case.make(tmp_path))
    assert case.says in str(caught.value)


@pytest.mark.parametrize("case", onnx_files.TOO_LARGE, ids=lambda case: case.name)
def test_it_is_not_run(case: Case, tmp_path):
    with pytest.raises(GraphError, match="cannot run"):
        need_runnable(case.make(tmp_path))


@pytest.mark.parametrize(
    "made",
    [chain(looking.DEPTH - 1), doubling(17), onnx_files.strides(1, 1), harmless_chain(3),
     onnx_files.window(pads=[-1, -1, 0, 0]), onnx_files.reshape_to_axes(32)],
    ids=["calls", "many calls", "strides", "a chain", "negative pads", "axes"],
)  # fmt: skip
def test_what_is_within_the_limits_is_not_refused(made):
    look(made)
    assert too_large(made) == ""


def nested(depth: int) -> onnx.ModelProto:
    made = model([node("If", ["x"], ["y"])])
    graph = made.graph
    for _ in range(depth - 1):
        graph.node[0].attribute.add(name="then_branch").g.node.add(op_type="If")
        graph = graph.node[0].attribute[0].g
    return made


def test_subgraphs_in_subgraphs():
    look(nested(looking.DEPTH))
    with pytest.raises(GraphError, match="more than 64 deep"):
        look(nested(looking.DEPTH + 1))


def test_a_call_from_a_subgraph_counts():
    made = onnx_files.calling([onnx_files.function("f0")])
    inner = made.functions[0].node.add(op_type="If").attribute.add(name="then_branch").g
    inner.node.add(op_type="f0", domain=onnx_files.DOMAIN)
    with pytest.raises(GraphError, match="calls itself"):
        look(made)


@pytest.mark.parametrize("field", ["input", "output", "value_info"])
def test_declared_values_have_few_axes_and_elements(field):
    for shape in ([1] * 33, [1 << 30, 1 << 30], [1 << 62, 0, 4]):
        made = harmless_chain(1)
        getattr(made.graph, field).append(value("z", shape))
        with pytest.raises(GraphError, match=r"axes|elements"):
            look(made)


def test_a_tensor_in_an_attribute_is_looked_at():
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1] * 33, [1.0])
    with pytest.raises(GraphError, match="33 axes"):
        look(model([node("Constant", [], ["y"], value=tensor)]))


def test_the_turns_of_a_loop_may_be_a_constant_node():
    made = onnx_files.loop(1 << 40)
    turns = made.graph.initializer.pop()
    made.graph.node.insert(0, node("Constant", [], ["turns"], value=turns))
    assert "turns" in too_large(made)
    made.graph.node[0].CopyFrom(node("Constant", [], ["turns"], value_int=1_000_000))
    assert too_large(made) == ""
