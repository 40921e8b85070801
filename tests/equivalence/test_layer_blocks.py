"""Blocks that their own methods converted: a right one passes, whatever its size; no wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reparam.adapters.foreign_converting import convert
from reparam.adapters.foreign_running import feed
from reparam.adapters.paddle_models import import_paddle
from reparam.equivalence.layer_blocks import NOT_REACHED
from reparam.equivalence.layer_proving import compare_layer_blocks
from tests.own_network import MISTAKES, Block, Branch, build, randomised

SIZE = (12, 10)


def compared(layer, converted=None, channels: int = 3, paths=None):
    """Return the stage that compares a Layer with what its methods make of it."""
    conversion = convert(layer)
    if paths is None:
        paths = [done.where.replace("(root)", "") for done in conversion.converted]
    x = np.random.default_rng(1).normal(size=(1, channels, *SIZE)).astype(np.float32)
    return compare_layer_blocks(feed(layer, x.shape), converted or conversion.layer, paths, x)


@given(
    inputs=st.sampled_from([1, 3, 4, 8]),
    multiple=st.integers(1, 3),
    stride=st.integers(1, 2),
    grouped=st.booleans(),
    attention=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_right_conversions_pass(inputs, multiple, stride, grouped, attention, scale, seed):
    groups = inputs if grouped else 1
    layer = randomised(
        Block(inputs, inputs * multiple, stride=stride, groups=groups, attention=attention), seed
    )
    for tensor in layer.state_dict().values():
        if len(tensor.shape) == 4:
            tensor.set_value(tensor * scale)
    stage = compared(layer, channels=inputs)
    assert stage.verdict == "equal", stage.summary
    assert stage.worst_block.distance <= 0.7 * stage.worst_block.bound  # not by a hair


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("seed", [0])
def test_wrong_conversions_are_caught(mistake, seed):
    layer = randomised(build(width=16, mistake=mistake, attention=True), seed)
    stage = compared(layer)
    assert stage.verdict == "different"
    (wrong,) = [block for block in stage.blocks if block.verdict == "different"]
    assert wrong.where == "body.0"
    assert stage.summary.startswith("1 of 3 blocks differ, 'body.0' most")
    if mistake not in ("shape", "gone"):
        assert "channel" in wrong.reason
        assert wrong.distance > wrong.bound


def test_right_next_to_wrong():
    """The same network without the mistake is equal: it is the mistake that is seen."""
    assert compared(randomised(build(width=16, attention=True), 0)).verdict == "equal"


def test_training_mode_makes_no_difference():
    layer = randomised(build())
    layer.train()
    stage = compared(layer)
    assert stage.verdict == "equal"
    assert stage.blocks == compared(randomised(build())).blocks


def test_one_wrong_tap_of_one_channel():
    layer = randomised(build())
    converted = convert(layer).layer
    weight = converted.body[0].one.weight.numpy()
    weight[5, 2, 0, 1] *= 1 + 1e-3
    converted.body[0].one.weight.set_value(weight)
    stage = compared(layer, converted)
    (wrong,) = [block for block in stage.blocks if block.verdict == "different"]
    assert wrong.where == "body.0"
    assert wrong.index[1] == 5
    assert "channel 5" in wrong.reason


def test_a_block_that_vanished():
    layer = randomised(build())
    converted = convert(layer).layer
    del converted.body[1]
    stage = compared(layer, converted, paths=["body.1"])
    assert stage.verdict == "different"
    assert stage.blocks[0].reason == "it is gone after the conversion"


class Sum(Block):
    """Takes two tensors and a number."""

    def forward(self, x, other, factor):
        return super().forward(x) + factor * other


class Around(import_paddle().nn.Layer):
    def __init__(self, block, *arguments):
        super().__init__()
        self.block, self.arguments = block, arguments

    def forward(self, x):
        return self.block(x, *(x * a if isinstance(a, float) else a for a in self.arguments))


@pytest.mark.parametrize(("mistake", "verdict"), [(None, "equal"), ("alpha", "different")])
def test_blocks_that_take_several_tensors(mistake, verdict):
    stage = compared(randomised(Around(Sum(3, 3, mistake=mistake), 0.5, 3)))
    assert stage.verdict == verdict
    assert stage.blocks[0].where == "block"


class Pooling(Block):
    """Works at the size of the network's own feature map only."""

    def forward(self, x):
        assert tuple(x.shape[2:]) == SIZE
        return super().forward(x)


@pytest.mark.parametrize(("mistake", "verdict"), [(None, "equal"), ("epsilon", "different")])
def test_blocks_of_one_size(mistake, verdict):
    assert compared(randomised(Around(Pooling(3, 3, mistake=mistake)))).verdict == verdict


class Fixed(Block):
    """Computes in float32 whatever it is given."""

    def forward(self, x):
        return super().forward(x).astype("float32")


class Dead(import_paddle().nn.Layer):
    def __init__(self):
        super().__init__()
        self.used, self.unused = Branch(3, 3, 3, 1, 1), Block(3, 3)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(lambda: Around(Fixed(3, 3)), "fixed precision"), (Dead, NOT_REACHED)],
)
def test_what_cannot_be_compared_is_undecidable(layer, reason):
    stage = compared(randomised(layer()))
    assert stage.verdict == "undecidable"
    assert reason in stage.blocks[0].reason
    assert reason in stage.summary
