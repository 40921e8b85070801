"""Wrong fusers, on purpose: each is caught by the proof of a region, before anything is swapped."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from reparam.conv.operators import Conv
from reparam.graph import laws, numbers, rules, rules_kernels
from reparam.graph.fusing import fuse_graph
from reparam.graph.numbers import Pointwise
from reparam.graph.records import GraphReport
from tests.graph.builder import GraphBuilder


def network() -> ir.Model:
    """Return a graph in which every law has something to do."""
    g = GraphBuilder(opset=17, seed=3)
    x = g.input("x", (None, 8, 15, 14))
    y = g.relu(g.add(g.bn(g.conv(x, 8, 3, padding=1)), g.bn(g.conv(x, 8, 1)), g.bn(x)))
    y = g.relu(g.bn(g.depthwise(y, 3, padding=1, stride=2, bias=True)))
    y = g.relu(g.sub(g.conv(y, 8, 1, bias=True), g.conv(y, 8, 3, padding=1)))
    y = g.relu(g.concat(g.conv(y, 4, 1, bias=True), g.conv(y, 6, 1, bias=True)))
    y = g.relu(g.add(g.bn(g.conv_transpose(y, 6, 2, stride=2)), np.float32(0.5)))
    y = g.relu(g.conv(g.conv(y, 6, 1, bias=True), 6, 3))
    g.output(g.relu(g.bn(g.gemm(g.flatten(g.global_average_pool(y)), 5))))
    return g.ir()


def report_of(model: ir.Model) -> GraphReport:
    return fuse_graph(model)


def test_the_right_laws_fuse_everything():
    report = report_of(network())
    assert not report.failed
    assert not report.left
    assert report.ops_after == {
        "Conv": 5, "ConvTranspose": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 7,
    }  # fmt: skip


right_scaled, right_summed, right_batch_norm = numbers.scaled, numbers.summed, rules._batch_norm
right_compose, right_convolution = laws.compose, rules_kernels.convolution
right_stack, right_then = laws.Stacking.numbers, numbers.Kept.then


def shift_dropped(part, scale, shift):
    return right_scaled(part, scale, np.zeros_like(shift))


def scale_of_the_next_channel(part, scale, shift):
    return right_scaled(part, np.roll(scale, 1) if scale.ndim else scale, shift)


def difference_taken_for_a_sum(parts, signs):
    return right_summed(parts, (1,) * len(signs))


def first_branch_twice(parts, signs):
    return right_summed([parts[0], *parts[:1], *parts[2:]], signs)


def epsilon_forgotten(node, constants):
    node.attributes.pop("epsilon", None)
    node.attributes.add(ir.AttrFloat32("epsilon", 0.0))
    return right_batch_norm(node, constants)


def kernel_flipped(first, second):
    found = right_compose(first, second)
    return replace(found, weight=found.weight[..., ::-1, ::-1])


def bias_of_the_first_forgotten(first, second):
    return replace(right_compose(first, second), bias=second.bias)


def padding_forgotten(node, constants):
    law = right_convolution(node, constants)

    def make() -> Conv:
        conv = law.make()
        sides = tuple((after, before) for before, after in law.geometry.padding)
        moved = tuple((b + 1, a - 1) if b + a > 1 else (b, a) for b, a in sides)
        return replace(conv, padding=moved)

    geometry = replace(law.geometry, padding=make().padding)
    return replace(law, make=make, geometry=geometry)


def stacked_the_other_way(law, parts):
    conv = right_stack(law, parts)
    return replace(conv, weight=conv.weight[::-1], bias=conv.bias[::-1])


def scaled_along_the_inputs(transposed, scale, shift):
    found = right_then(transposed, np.ones(()), shift)
    factors = np.resize(scale, found.weight.shape[0]).reshape(-1, 1, 1, 1)
    return replace(found, weight=found.weight * factors)


def identity_of_ones(part, channels, axes):
    conv = part.as_conv(channels, axes) if isinstance(part, Pointwise) else part
    return replace(conv, weight=np.ones_like(conv.weight)) if conv is not part else conv


MUTATIONS = {
    "the shift of a BatchNorm dropped": (laws, "scaled", shift_dropped),
    "scaled by the next channel": (laws, "scaled", scale_of_the_next_channel),
    "a difference taken for a sum": (laws, "summed", difference_taken_for_a_sum),
    "one branch twice": (laws, "summed", first_branch_twice),
    "kernel flipped": (laws, "compose", kernel_flipped),
    "bias of the first convolution forgotten": (laws, "compose", bias_of_the_first_forgotten),
    "concatenated the other way": (laws.Stacking, "numbers", stacked_the_other_way),
    "transposed weights scaled along the inputs": (
        numbers.Kept, "then", scaled_along_the_inputs),
    "identity of ones": (numbers, "as_conv", identity_of_ones),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_fuser_is_caught(name, monkeypatch):
    module, attribute, wrong = MUTATIONS[name]
    before = network()
    monkeypatch.setattr(module, attribute, wrong)
    report = report_of(before)
    assert report.failed
    assert all(re.search("off by|foreseen", left.reason) for left in report.failed)


@pytest.mark.parametrize(
    ("operator", "wrong", "module"),
    [("BatchNormalization", epsilon_forgotten, rules.RULES), ("Conv", padding_forgotten, None)],
)
def test_a_wrong_reading_of_a_node_is_caught(operator, wrong, module, monkeypatch):
    model = network()
    if operator == "Conv":
        monkeypatch.setattr(rules, "convolution", wrong)
        assert report_of(model).failed
        return

    # What the rule takes out of the node is given back before the proof looks at it.
    def lying(node, constants):
        kept = node.attributes["epsilon"]
        found = wrong(node, constants)
        node.attributes.add(kept)
        return found

    monkeypatch.setitem(module, operator, lying)
    assert report_of(model).failed


def test_what_failed_stays_as_it_was(monkeypatch):
    model = network()
    before = sorted(node.op_type for node in model.graph)
    monkeypatch.setattr(laws, "scaled", scale_of_the_next_channel)
    monkeypatch.setattr(laws, "summed", first_branch_twice)
    monkeypatch.setattr(laws, "compose", kernel_flipped)
    monkeypatch.setattr(numbers.Kept, "then", scaled_along_the_inputs)
    monkeypatch.setattr(laws.Stacking, "numbers", stacked_the_other_way)
    report = report_of(model)
    assert not report.fused
    assert sorted(node.op_type for node in model.graph) == before
