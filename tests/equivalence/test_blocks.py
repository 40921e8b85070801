"""The block stage: right fusions pass, and every wrong one is caught and named."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint import rows as rows_module
from reparam.checkpoint import trees as trees_module
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.families.terms import Kernel, Norm, leaves
from reparam.conv import Conv
from reparam.equivalence.blocks import compare_blocks
from reparam.equivalence.carried import compare_carried
from reparam.equivalence.probes import network_probes, probes
from tests.conv.test_mutations import MUTATIONS
from tests.weights import cspresnet_arrays, repvgg_arrays

NETWORKS = {"cspresnet": cspresnet_arrays, "repvgg": repvgg_arrays}
# What these two networks do not contain: convolution biases, dilation, pooling, sequences; and
# identities in groups, which are made by rows here.
ELSEWHERE = {
    "convolution bias dropped",
    "H and W padding swapped",  # the same on both axes here
    "dilation ignored",
    "border folded through padding",  # no kernel stands behind another one here
    "bias folded through padding",
    "padding of the other axis",
    "pooling excludes padding",
    "pooling does not divide",
    "kernel flipped",
    "inner bias through one tap",
    "identity ignores groups",
    "identity broadcast to dense",
}


def rows_ignoring_groups(rows, wide):
    channels = np.arange(wide[0])[rows]
    weight = np.zeros((len(channels), wide[1], 1, 1))
    weight[np.arange(len(channels)), np.minimum(channels, wide[1] - 1)] = 1
    return Conv.of(weight)


def rows_of_ones(rows, wide):
    return Conv.of(np.ones((len(np.arange(wide[0])[rows]), wide[1], 1, 1)))


def rows_counted_from_the_part(rows, wide):
    weight = np.zeros((len(np.arange(wide[0])[rows]), wide[1], 1, 1))
    weight[np.arange(len(weight)), np.arange(len(weight)) % wide[1]] = 1
    return Conv.of(weight)


def matches_in(arrays):
    return find_blocks({key: array.shape for key, array in arrays.items()}).blocks


def stage(original, candidate, epsilon=None):
    return compare_blocks(matches_in(original), original, candidate, epsilon)


@contextmanager
def mutated(name):
    module, attribute, wrong = MUTATIONS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, attribute, wrong)
        yield


@pytest.mark.parametrize("network", NETWORKS)
def test_a_right_fusion_passes(network):
    arrays = NETWORKS[network]()
    found = stage(arrays, fuse_arrays(arrays)[0])
    assert found.verdict == "equal"
    assert all(block.distance <= block.bound for block in found.blocks)
    assert len(found.blocks) == len(matches_in(arrays))


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - ELSEWHERE))
def test_a_wrong_law_cannot_pass(name):
    verdicts = []
    for make in NETWORKS.values():
        arrays = make()
        if name == "alpha 0 taken for absent":
            zeros = {k: np.zeros_like(a) for k, a in arrays.items() if k.endswith("alpha")}
            arrays |= zeros
        with mutated(name):
            wrong, _ = fuse_arrays(arrays)
        verdicts.append(stage(arrays, wrong).verdict)
    assert "different" in verdicts


@pytest.mark.parametrize("wrong", [rows_ignoring_groups, rows_of_ones, rows_counted_from_the_part])
def test_a_wrong_identity_cannot_pass(wrong, monkeypatch):
    arrays = repvgg_arrays()
    monkeypatch.setattr(rows_module, "_PART", 500)  # several parts even in small blocks
    assert stage(arrays, fuse_arrays(arrays)[0]).verdict == "equal"
    with monkeypatch.context() as patch:
        patch.setattr(trees_module, "rows_of_identity", wrong)
        fused, _ = fuse_arrays(arrays)
    assert stage(arrays, fused).verdict == "different"


def test_another_epsilon_is_another_function():
    arrays = repvgg_arrays()
    fused, _ = fuse_arrays(arrays, epsilon=1e-3)
    assert stage(arrays, fused).verdict == "different"
    assert stage(arrays, fused, epsilon=1e-3).verdict == "equal"


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_single_weight_that_is_off_is_caught_and_placed(data):
    arrays = cspresnet_arrays()
    fused, report = fuse_arrays(arrays)
    block = data.draw(st.sampled_from(report.fused))
    key = data.draw(st.sampled_from(block.keys))
    values = fused[key].copy()
    place = data.draw(st.integers(0, values.size - 1))
    values.reshape(-1)[place] += 1e-3 * np.abs(values).max()  # 1e4 roundings of float32
    found = stage(arrays, {**fused, key: values})
    wrong = [b for b in found.blocks if b.verdict == "different"]
    assert [b.where for b in wrong] == [block.where]
    channel = np.unravel_index(place, values.shape)[0]
    assert wrong[0].index[1] == channel
    assert f"channel {channel}" in wrong[0].reason


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda fused, key: {k: a for k, a in fused.items() if k != key}, "is missing"),
        (lambda fused, key: {**fused, key: fused[key][:, :1]}, "needed"),
        (lambda fused, key: {**fused, key: fused[key] * np.nan}, "not finite"),
        (lambda fused, key: {**fused, key: fused[key].transpose(1, 0, 2, 3)}, "off by"),
        (lambda fused, key: {**fused, key: fused[key][..., ::-1]}, "off by"),
    ],
)
def test_spoiled_candidates(spoil, said):
    arrays = cspresnet_arrays()
    fused, report = fuse_arrays(arrays)
    found = stage(arrays, spoil(fused, report.fused[1].keys[0]))
    (wrong,) = [b for b in found.blocks if b.verdict == "different"]
    assert wrong.where == report.fused[1].where
    assert said in wrong.reason


class TestCertificates:
    """Beside the probes: every weight against the exact one, and a bound for every input."""

    @pytest.mark.parametrize("network", NETWORKS)
    def test_a_fusion_rounded_once(self, network):
        arrays = NETWORKS[network]()
        found = stage(arrays, fuse_arrays(arrays)[0])
        for block in found.blocks:
            assert 0 < block.certificate.c < 1e-5
            assert block.certificate.roundings <= 1
            assert block.certificate.dtype == "float32"
        assert found.worst_certified.certificate.roundings == max(
            block.certificate.roundings for block in found.blocks
        )

    def test_it_follows_what_is_wrong(self):
        arrays = repvgg_arrays()
        fused, report = fuse_arrays(arrays)
        weight, bias = report.fused[2].keys
        wrong = {**fused, weight: fused[weight] + np.float32(1), bias: fused[bias] - np.float32(2)}
        found = stage(arrays, wrong).blocks[2].certificate
        assert found.c == pytest.approx(fused[weight][0].size, rel=1e-4)
        assert found.d == pytest.approx(2, rel=1e-4)

    def test_a_weight_too_little_off_for_any_probe(self, monkeypatch):
        arrays = repvgg_arrays()
        fused, report = fuse_arrays(arrays)
        key = report.fused[3].keys[0]
        values = fused[key].copy()
        place = tuple(map(int, np.unravel_index(np.argmin(np.abs(values)), values.shape)))
        values[place] += np.float32(3e-7)
        (wrong,) = [b for b in stage(arrays, {**fused, key: values}).blocks if b.reason]
        assert wrong.verdict == "different"
        assert (wrong.probe, wrong.index) == ("", place)
        monkeypatch.setattr(rows_module, "_PART", 300)  # in parts: the index is of the whole
        (wrong,) = [b for b in stage(arrays, {**fused, key: values}).blocks if b.reason]
        assert wrong.index == place
        assert f"weight {list(place)}" in wrong.reason

    def test_parts_of_a_block_say_the_same(self, monkeypatch):
        arrays = repvgg_arrays()
        fused, report = fuse_arrays(arrays)
        key = report.fused[5].keys[0]
        fused[key] = fused[key].copy()
        fused[key][13, 2, 0, 1] += np.float32(3e-6)
        whole = stage(arrays, fused).blocks[5]
        monkeypatch.setattr(rows_module, "_PART", 500)
        parts = stage(arrays, fused).blocks[5]
        assert whole.certificate.channel == parts.certificate.channel == 13
        assert whole.certificate.c == pytest.approx(parts.certificate.c, rel=1e-9)
        assert whole.index == parts.index

    def test_both_in_train_time_form(self):
        arrays = repvgg_arrays()
        certificates = [block.certificate for block in stage(arrays, dict(arrays)).blocks]
        assert all(0 < found.c < 1e-11 for found in certificates)
        changed = {**arrays, "stage0.rbr_1x1.bn.bias": arrays["stage0.rbr_1x1.bn.bias"] + 1}
        assert stage(arrays, changed).blocks[0].certificate.d == pytest.approx(1, rel=1e-3)


def fused_in_float32(arrays):
    """What the usual fuser makes: the same algebra, each operation rounded to float32."""
    result = {k: a for k, a in arrays.items() if ".rbr_" not in k}
    for match in matches_in(arrays):
        total, shift = None, None
        for branch in match.term.branches:
            kernels = [leaf for leaf in leaves(branch) if isinstance(leaf, Kernel)]
            (norm,) = (leaf for leaf in leaves(branch) if isinstance(leaf, Norm))
            gamma, beta, mean, variance = (arrays[key] for key in norm.keys)
            scale = gamma / np.sqrt(variance + np.float32(1e-5))
            if kernels:
                kernel = arrays[kernels[0].weight]
            else:
                kernel = np.zeros((*total.shape[:2], 1, 1), np.float32)
                kernel[np.arange(len(total)), np.arange(len(total)) % total.shape[1]] = 1
            own = kernel * scale.reshape(-1, 1, 1, 1)
            if own.shape[2] == 1 and total is not None:
                own = np.pad(own, ((0, 0), (0, 0), (1, 1), (1, 1)))
            total = own if total is None else total + own
            own = beta - mean * gamma / np.sqrt(variance + np.float32(1e-5))
            shift = own if shift is None else shift + own
        assert total.dtype == shift.dtype == np.float32
        result |= {match.weight_key: total, match.bias_key: shift}
    return result


@pytest.mark.parametrize("seed", range(6))
def test_another_fuser_s_float32_is_no_difference(seed):
    arrays = repvgg_arrays(seed, groups={1: 8, 3: 12, 5: 16})  # depthwise, where sums are short
    found = stage(arrays, fused_in_float32(arrays))
    assert found.verdict == "equal", [block.reason for block in found.blocks]
    assert 1 < max(block.certificate.roundings for block in found.blocks) < 8


def test_the_train_time_form_on_both_sides():
    arrays = repvgg_arrays()
    assert stage(arrays, dict(arrays)).verdict == "equal"
    assert stage(arrays, repvgg_arrays(seed=1)).verdict == "different"


def one_bit_off(array):
    return np.nextafter(array, np.float32(9))


class TestDeployWeightsBesideBranches:
    """Some projects leave the branches in the file and run the deploy weights."""

    def candidate(self, factor):
        arrays = repvgg_arrays()
        fused, report = fuse_arrays(arrays)
        key = report.fused[1].keys[0]
        beside = {k: fused[k] for block in report.fused for k in block.keys}
        return arrays, {**arrays, **beside, key: beside[key] * np.float32(factor)}

    def test_right_ones_pass(self):
        arrays, both = self.candidate(1)
        assert stage(arrays, both).verdict == "equal"

    def test_a_wrong_one_is_found_whatever_the_branches_say(self):
        arrays, both = self.candidate(1.001)
        found = stage(arrays, both)
        assert [b.where for b in found.blocks if b.verdict == "different"] == ["stage1.0"]

    def test_half_of_one_is_no_deploy_form(self):
        arrays, both = self.candidate(1)
        del both["stage1.0.rbr_reparam.bias"]
        (wrong,) = [b for b in stage(arrays, both).blocks if b.verdict == "different"]
        assert "rbr_reparam.bias' is missing" in wrong.reason

    def test_a_placeholder_that_both_files_hold_was_never_run(self):
        _, both = self.candidate(1.001)
        assert stage(both, dict(both)).verdict == "equal"


class TestOtherArrays:
    def compare(self, change):
        arrays = repvgg_arrays()
        fused, _ = fuse_arrays(arrays)
        return compare_carried(matches_in(arrays), arrays, change(fused))

    def test_identical(self):
        assert self.compare(lambda fused: fused).verdict == "equal"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda f: {**f, "linear.bias": np.nextafter(f["linear.bias"], np.float32(9))},
                "1 changed",
            ),
            (lambda f: {**f, "linear.bias": f["linear.bias"].astype(np.float64)}, "1 changed"),
            (lambda f: {k: a for k, a in f.items() if k != "linear.bias"}, "1 missing"),
            (lambda f: {**f, "more": np.ones(1)}, "1 unexpected: 'more'"),
        ],
    )
    def test_one_bit_is_enough(self, change, said):
        found = self.compare(change)
        assert found.verdict == "different"
        assert said in found.summary

    def test_minus_zero_is_not_zero(self):
        arrays = {"w": np.array([0.0], np.float32)}
        assert (
            compare_carried((), arrays, {"w": np.array([-0.0], np.float32)}).verdict == "different"
        )


class TestProbes:
    def test_each_brings_out_what_it_is_for(self):
        found = probes(3, (5, 7))
        assert not found["zeros"].any()
        assert (found["ones"] == 1).all()
        assert np.count_nonzero(found["corner impulse"][0, :, 0, 0]) == 3
        assert np.count_nonzero(found["corner impulse"]) == 3
        assert np.count_nonzero(found["centre impulse"][0, :, 2, 3]) == 3
        assert found["normal x 100"].std() > 50
        assert all(x.shape == (1, 3, 5, 7) for x in found.values())

    def test_they_are_the_same_every_time(self):
        first, second = probes(2, (4, 4)), probes(2, (4, 4))
        assert all(np.array_equal(first[name], second[name]) for name in first)

    def test_own_inputs_come_one_by_one(self):
        own = np.ones((2, 3, 8, 8), np.float32)
        names = [name for name, _ in network_probes(3, [(8, 8), (5, 7)], own)]
        assert names[-2:] == ["own input 0", "own input 1"]
        assert "normal 5x7" in names
