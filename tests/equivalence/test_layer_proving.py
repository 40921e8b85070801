"""Methods that are wrong, as those of other projects are: noticed, and right where we take over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reparam.adapters.foreign_fusing as foreign_fusing
from reparam.adapters.foreign_converting import convert
from reparam.adapters.foreign_running import Call, feed, run_block
from reparam.adapters.paddle_models import in_float64, load_arrays, state_of
from reparam.equivalence.layer_proving import compare_layer_blocks, prove
from reparam.errors import NotFusibleError
from tests.faulty_blocks import Block, Whole, WholeWrong, build, returns
from tests.own_network import MISTAKES, randomised
from tests.own_network import build as unknown

X = np.random.default_rng(1).normal(size=(1, 3, 13, 11)).astype(np.float32)


def proved(layer, skip=()):
    return prove(feed(layer, X.shape), X, skip)


def believed(layer):
    """Return how what the methods make compares, when nobody checks them."""
    converted = convert(layer).layer
    return compare_layer_blocks(feed(layer, X.shape), converted, ["block"], X)


def off(network, arrays) -> float:
    """Return how far a block in a deploy form that is right is from the one it was, with arrays."""
    block = network.block
    inputs, outputs, stride, groups = block.geometry
    attention = hasattr(block.se, "squeeze")
    right = Block(inputs, outputs, stride=stride, groups=groups, attention=attention)
    right.convert_to_deploy()
    own = {key.removeprefix("block."): array for key, array in arrays.items()}
    load_arrays(right, {key: own[key] for key in right.state_dict()})
    x = np.random.default_rng(3).normal(size=(2, inputs, 9, 8))
    (truth,) = run_block(in_float64(block), Call((x,), {}), "float64")
    (found,) = run_block(in_float64(right), Call((x,), {}), "float64")
    return float(np.abs(found - truth).max() / max(np.abs(truth).max(), 1e-3))


WRONG = [
    ("Broadcasts", {}),
    ("Broadcasts", {"groups": 2}),
    ("Broadcasts", {"attention": True}),
    ("MergesOne", {"stride": 2, "outputs": 6}),
    ("MergesOne", {"groups": 4, "outputs": 8}),
    ("MergesOne", {"epsilon": 0.1}),
    ("PlaceholderOfOne", {"attention": True}),
]


class TestWrongWeights:
    @pytest.mark.parametrize(("kind", "options"), WRONG)
    def test_ours_are_right_and_theirs_are_not(self, kind, options):
        network = randomised(build(kind, **options))
        result = proved(network)
        (done,) = result.conversion.converted
        assert (done.by, done.runs) == ("reparam", True)
        assert "makes another function of it: off by" in done.problem
        assert result.stage.verdict == "equal"
        assert off(network, result.conversion.arrays) < 1e-6
        assert believed(network).verdict == "different"
        assert off(network, convert(network).arrays) > 1e-3

    def test_the_users_own_deploy_form_runs_them(self):
        network = randomised(build("Broadcasts", attention=True))
        conversion = proved(network).conversion
        assert type(conversion.layer.block).__name__ == "Broadcasts"
        assert conversion.arrays.keys() == convert(network).arrays.keys()
        load_arrays(convert(network).layer, conversion.arrays)

    def test_it_is_told(self):
        (notice,) = proved(randomised(build("Broadcasts"))).notices
        assert notice.startswith("'block': its convert_to_deploy() makes another function of it")
        assert "fused by reparam instead" in notice
        assert "tests.faulty_blocks.Broadcasts" in notice


@given(
    inputs=st.sampled_from([2, 4, 6]),
    multiple=st.sampled_from([1, 1, 2]),
    stride=st.integers(1, 2),
    grouped=st.booleans(),
    attention=st.booleans(),
    epsilon=st.sampled_from([1e-5, 1e-3, 1.0]),
    kind=st.sampled_from(["MergesOne", "Raises"]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ours_is_right(inputs, multiple, stride, grouped, attention, epsilon, kind, seed):
    groups = inputs if grouped else 1
    network = build(kind, inputs, inputs * multiple, stride=stride, groups=groups,
                    attention=attention, epsilon=epsilon)  # fmt: skip
    result = proved(randomised(network, seed))
    (done,) = result.conversion.converted
    assert (done.by, done.runs) == ("reparam", True)
    assert result.checks[0].distance <= 0.7 * result.checks[0].bound  # not by a hair
    assert off(network, result.conversion.arrays) < 1e-5


class TestWrongForm:
    def test_a_dropped_attention_is_named(self):
        network = randomised(build("DropsAttention", attention=True))
        result = proved(network)
        (done,) = result.conversion.converted
        assert (done.by, done.runs) == ("reparam", False)
        assert "its deploy form does not run 'se'" in done.problem
        assert off(network, result.conversion.arrays) < 1e-6
        assert "the weights are right" in result.notices[0]

    def test_the_stage_speaks_of_the_users_form(self):
        result = proved(randomised(build("DropsAttention", attention=True)))
        assert result.stage.verdict == "different"
        assert "does not run 'se'" in result.stage.blocks[0].reason
        assert [check.verdict for check in result.checks] == ["equal"]

    def test_the_layer_that_can_be_run_is_right(self):
        network = randomised(build("DropsAttention", attention=True, outputs=6, stride=2))
        layer = proved(network).conversion.layer
        call = Call((X,), {})
        (truth,), (found,) = (run_block(one, call, "float32") for one in (network, layer))
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
        (wrong,) = run_block(convert(network).layer, call, "float32")
        assert np.abs(wrong - truth).max() > 1e-2 * np.abs(truth).max()

    def test_without_attention_the_same_method_is_right(self):
        (done,) = proved(randomised(build("DropsAttention"))).conversion.converted
        assert (done.by, done.runs, done.problem) == ("method", True, "")

    @pytest.mark.parametrize("outputs", [None, 6])
    def test_a_convolution_of_the_wrong_stride(self, outputs):
        network = randomised(build("StrideOne", stride=2, outputs=outputs))
        result = proved(network)
        (done,) = result.conversion.converted
        assert (done.by, done.runs) == ("reparam", False)
        assert "'rbr_reparam' has stride [1, 1]; its branches have [2, 2]" in done.problem
        assert off(network, result.conversion.arrays) < 1e-6
        assert believed(network).verdict == "different"
        assert "its weights are right" in believed(network).blocks[0].reason

    def test_a_right_stride_is_no_problem(self):
        (done,) = proved(randomised(build("StrideOne", stride=1))).conversion.converted
        assert done.by == "method"


class TestFailures:
    @pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2, "attention": True}])
    def test_a_method_that_fails(self, options):
        network = randomised(build("Raises", **options))
        result = proved(network)
        (done,) = result.conversion.converted
        assert (done.by, done.runs) == ("reparam", True)
        assert "failed: AttributeError: no such thing" in done.problem
        assert off(network, result.conversion.arrays) < 1e-6
        assert "block.rbr_reparam.weight" in done.added
        assert "block.rbr_1x1.bn._mean" in done.replaced

    def test_a_method_that_changes_something_else(self):
        network = randomised(build("Outside"))
        stem = network.stem.weight.numpy()
        result = proved(network)
        (done,) = result.conversion.converted
        assert "changes what is outside the block: 1 arrays, 'stem.weight' first" in done.problem
        assert (result.conversion.layer.stem.weight.numpy() == stem).all()
        assert off(network, result.conversion.arrays) < 1e-6

    def test_what_it_changed_is_judged_again(self):
        """The block that it disturbed is right once it is left in peace."""
        network = randomised(build("Outside", followed=True))
        network.block.__dict__["neighbours"] = (network.next.m.conv,)
        result = proved(network)
        assert [(d.where, d.by) for d in result.conversion.converted] == [
            ("block", "reparam"),
            ("next", "method"),
        ]
        assert result.wrong == ()
        assert result.stage.verdict == "equal"

    def test_a_method_that_needs_arguments(self):
        result = proved(randomised(build("NeedsArguments")))
        assert result.conversion.converted == ()
        (left,) = result.left
        assert (left.where, left.reason) == (
            "block",
            "its switch_to_deploy() needs arguments: device",
        )

    def test_a_failure_where_the_structure_is_not_known(self):
        network = randomised(unknown())
        network.stem.__class__ = type(
            "Broken", (type(network.stem),), {"convert_to_deploy": lambda self: 1 / 0}
        )
        with pytest.raises(NotFusibleError) as caught:
            proved(network)
        assert "block 'stem': its convert_to_deploy() failed" in caught.value.what
        assert "ZeroDivisionError" in caught.value.found
        assert "not one that reparam knows" in caught.value.why
        assert "--skip stem" in caught.value.hint
        assert len(proved(network, ["stem"]).conversion.converted) == 2

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_wrong_method_where_the_structure_is_not_known(self, mistake):
        result = proved(randomised(unknown(width=16, mistake=mistake, attention=True)))
        (wrong,) = result.wrong
        assert wrong.trial.path == "body.0"
        assert "not one that reparam knows" in wrong.reason
        assert result.stage.verdict == "different"
        assert "body.0.wide.conv.weight" in result.conversion.arrays  # left as it was


class TestOurFusionIsNotBelievedEither:
    def test_names_of_a_family_that_it_is_not(self):
        """The names fit, the forward subtracts: neither the method nor we are right."""
        network = randomised(build("Broadcasts"))
        kind = type(network.block)

        def forward(self, x):
            if hasattr(self, "rbr_reparam"):
                return kind.forward(self, x)
            return self.rbr_dense(x) - self.rbr_1x1(x) + self.rbr_identity(x)

        network.block.__class__ = type("Subtracts", (kind,), {"forward": forward})
        (wrong,) = proved(network).wrong
        assert "names of RepVGG, but it computes something else" in wrong.reason

    @pytest.mark.parametrize("spoil", ["weight", "bias", "epsilon"])
    def test_a_wrong_algebra_is_caught(self, spoil, monkeypatch):
        right = foreign_fusing.fuse_rows

        def wrong(match, arrays, epsilon):
            if spoil == "epsilon":
                return right(match, arrays, 1e-3)
            made = right(match, arrays, epsilon)
            array = getattr(made, spoil).copy()
            array.flat[1] *= 1.001
            return made._replace(**{spoil: array})

        monkeypatch.setattr(foreign_fusing, "fuse_rows", wrong)
        result = proved(randomised(build("Broadcasts")))
        assert [one.trial.path for one in result.wrong] == ["block"]
        assert result.conversion.converted == ()


class TestReturnedLayers:
    @pytest.mark.parametrize("kind", ["Returns", "Residual", "ChangesAndReturns"])
    def test_they_stand_in_the_place_of_the_block(self, kind):
        result = proved(randomised(returns(kind)))
        (done,) = result.conversion.converted
        assert (done.where, done.method, done.by) == ("block", "fuse", "method")
        assert type(result.conversion.layer.block).__name__ == "Conv2D"
        assert {"block.weight", "block.bias"} <= set(result.conversion.arrays)
        assert result.stage.verdict == "equal"

    def test_a_forward_that_is_exchanged(self):
        """As ultralytics does: ``self.forward = self.forward_fuse``."""

        class Exchanging(Block):
            def forward_fuse(self, x):
                return self.rbr_reparam(x).clip(0)

            def fuse_convs(self):
                Block.convert_to_deploy(self)
                self.forward = self.forward_fuse

            convert_to_deploy = None

        network = randomised(build())
        network.block = randomised(Exchanging(4))
        (done,) = proved(network).conversion.converted
        assert (done.method, done.by) == ("fuse_convs", "method")

    def test_a_wrong_one(self):
        result = proved(randomised(returns("ReturnsWrong")))
        assert [one.trial.path for one in result.wrong] == ["block"]


class TestWholeNetworks:
    @pytest.mark.parametrize("depth", [1, 3, 12])
    def test_one_that_converts_itself(self, depth):
        result = proved(randomised(Whole(depth)))
        (done,) = result.conversion.converted
        assert (done.where, done.method) == ("(root)", "rep")
        assert result.stage.verdict == "equal"

    def test_one_wrong_block_of_many(self):
        """Roundings of a deep network are large: each block in it is compared by itself."""
        network = randomised(Whole(20))
        converted = convert(network).layer
        weight = converted.body[3].weight.numpy()
        weight[1, 0, 1, 1] *= 1.01
        converted.body[3].weight.set_value(weight)
        stage = compare_layer_blocks(feed(network, X.shape), converted, [""], X)
        assert stage.verdict != "equal"

    def test_one_whose_own_method_is_wrong(self):
        result = proved(randomised(WholeWrong(2)))
        assert [done.where for done in result.conversion.converted] == ["stem", "body.0", "body.1"]
        assert "'(root)': its rep() makes another function of it" in result.notices[0]
        assert "converted one by one" in result.notices[0]
        assert result.stage.verdict == "equal"


def test_nothing_is_changed():
    network = randomised(build("Broadcasts"))
    before = dict(state_of(network))
    proved(network)
    after = state_of(network)
    assert after.keys() == before.keys()
    assert all((after[key] == before[key]).all() for key in before)
