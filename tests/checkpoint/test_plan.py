"""--skip, options without effect, and epsilons of several families."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint import matching as matching_module
from reparam.checkpoint.families import Epsilon
from reparam.checkpoint.families import repvgg as families
from reparam.errors import CheckpointError
from tests.checkpoint.test_fusing import block_arrays
from tests.weights import cspresnet_arrays, repvgg_arrays


def fused_in(arrays, *skip, **options):
    report = fuse_arrays(arrays, skip=skip, **options)[1]
    return [block.where for block in report.fused + report.folded]


def test_a_skipped_block_stays_as_it_is():
    arrays = repvgg_arrays()
    fused, report = fuse_arrays(arrays, skip=["stage1.0", "stage3.*"])
    left = ["stage1.0", "stage3.0", "stage3.1"]
    assert [one.where for one in report.left] == left
    assert all(one.reason == "--skip" for one in report.left)
    for where in left:
        mine = [key for key in arrays if key.startswith(f"{where}.")]
        assert all(fused[key] is arrays[key] for key in mine)
    rest, again = fuse_arrays(fused)
    assert [block.where for block in again.fused] == left  # a later run finishes it
    assert set(rest) == set(repvgg_arrays(deploy=True))


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("stage0", ["stage0"]),
        ("stage?.1", ["stage2.1", "stage3.1"]),
        ("*", ["stage0", "stage1.0", "stage2.0", "stage2.1", "stage3.0", "stage3.1", "stage4.0"]),
    ],
)
def test_patterns(pattern, left):
    everything = set(fused_in(repvgg_arrays()))
    assert everything - set(fused_in(repvgg_arrays(), pattern)) == set(left)


@pytest.mark.parametrize("pattern", ["stage1", "stage3.9", "Stage0", "", "stage2.1.rbr_dense"])
def test_a_name_of_no_block_is_refused_with_what_is_near(pattern):
    with pytest.raises(CheckpointError, match="names no block") as caught:
        fuse_arrays(repvgg_arrays(), skip=[pattern])
    assert "stage" in caught.value.found


def test_a_pair_is_skipped_by_its_name():
    everything = fused_in(cspresnet_arrays(), fold_bn=True)
    assert set(everything) - set(fused_in(cspresnet_arrays(), "stem.*", fold_bn=True)) == {
        where for where in everything if where.startswith("stem.")
    }
    with pytest.raises(CheckpointError):  # pairs are there with --fold-bn only
        fuse_arrays(cspresnet_arrays(), skip=["stem.conv1"])


class TestWithoutEffect:
    def said(self, arrays, **options):
        return [n for n in fuse_arrays(arrays, **options)[1].notices if "no effect" in n]

    def test_skip_of_what_is_fused_already(self):
        (notice,) = self.said(repvgg_arrays(deploy=True), skip=["stage0"])
        assert "in deploy form already" in notice

    def test_epsilon_where_nothing_is_fused(self):
        assert self.said(repvgg_arrays(deploy=True), epsilon=1e-3)
        assert self.said(repvgg_arrays(), epsilon=1e-3, skip=["*"])
        assert not self.said(repvgg_arrays(), epsilon=1e-3)

    def test_folding_where_nothing_is_to_fold(self):
        assert self.said(repvgg_arrays(), fold_bn=True)
        assert not self.said(cspresnet_arrays(), fold_bn=True)


def test_a_mixture_of_families_has_no_one_epsilon(monkeypatch):
    first, second = families.REPVGG, families.PPYOLOE
    other = replace(second, epsilon=Epsilon.of(1e-3, "another paper"))
    monkeypatch.setattr(matching_module, "FAMILIES", (first, other))
    arrays = block_arrays("RepVGG", "a.") | block_arrays("RepVggBlock", "b.")
    _, report = fuse_arrays(arrays)
    assert [(e.family, e.value) for e in report.epsilons] == [
        ("RepVGG", 1e-5),
        ("RepVggBlock", 1e-3),
    ]
    assert report.epsilon is None
    assert report.epsilon_source.endswith("; another paper")
    assert report.to_json()["epsilon"] is None
    _, given = fuse_arrays(arrays, epsilon=1e-4)
    assert (given.epsilon, given.epsilon_source) == (1e-4, "--epsilon")
