"""Mutated graphs are used or refused, and nothing else happens."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from reparam.errors import NotFusibleError
from reparam.graph.constants import Constants
from reparam.graph.moves_carrying import backward
from tests.graph.networks import repvgg
from tests.hostile.onnx_fuzzing import MUTATIONS, READER, USED, mutants, outcome_of, run

SEED = 20260101


@pytest.mark.parametrize("number", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_are_used_or_refused(number):
    """More, and with other seeds: python -m tests.hostile.onnx_fuzzing 100000 SEED."""
    outcomes, wrong = run(number, SEED)
    assert wrong == []
    assert sum(outcomes.values()) == number
    assert outcomes[READER] <= number / 2  # the others get behind the reader


def test_every_mutation_is_made():
    made = {one for name, _ in mutants(200, SEED) for one in name.partition(": ")[2].split(", ")}
    assert made == {mutate.__name__ for mutate in MUTATIONS}


def test_statistics_of_different_sizes_are_no_scaling():
    model = repvgg()
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    other = next(one for one in norms if sizes[one.input[1]] != sizes[norms[0].input[1]])
    norms[0].input[1] = other.input[1]
    assert outcome_of(model.SerializeToString()) in (USED, READER)


def test_a_size_of_less_than_nothing_is_an_open_one():
    model = repvgg()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = -1
    assert outcome_of(model.SerializeToString()) == USED


def test_a_factor_does_not_pass_into_a_node_without_operands():
    node = ir.Node("", "Optional", [], outputs=[ir.Value(name="none")])
    with pytest.raises(NotFusibleError, match="through Optional"):
        backward(node, {}, Constants(ir.Graph([], [], nodes=[])))


def test_a_text_is_no_number():
    text = ir.Value(name="text", const_value=ir.StringTensor([b"a"], shape=ir.Shape([1])))
    constants = Constants(ir.Graph([], [], nodes=[], initializers=[text]))
    with pytest.raises(NotFusibleError, match="'text' holds no real numbers"):
        constants.exact(text)
