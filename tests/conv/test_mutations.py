"""Deliberately wrong laws, each caught by the check that the right laws pass.

A mutation replaces one function that :func:`reparam.conv.fuse` calls. The oracle shares none of
them, so a mutation that goes unnoticed here would go unnoticed in a user's checkpoint too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from reparam.conv import (
    Affine,
    AvgPool,
    BatchNorm,
    Block,
    Conv,
    Parallel,
    Sequential,
    algebra,
    composing,
    fuse,
    geometry,
)
from reparam.conv import block as block_module
from reparam.errors import NotFusibleError
from tests.conv.blocks import (
    diverse_branch_block,
    excess,
    random_conv,
    random_norm,
    repvgg_block,
)


@dataclass(frozen=True)
class Case:
    block: Block
    x: np.ndarray
    verdict: str = "exact"


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(20260101)
    x = rng.normal(size=(2, 6, 7, 9))
    uneven = {"padding": ((2, 0), (0, 1))}
    wide = random_conv(rng, (6, 6, 3, 2), **uneven)
    narrow = random_conv(rng, (6, 6, 1, 1))
    spread = random_conv(rng, (6, 6, 3, 3), padding=2, dilation=2)
    padded = random_conv(rng, (6, 6, 3, 3), padding=1)
    row = Conv.of(rng.normal(size=(6, 6, 1, 3)), padding=(0, 1))
    lifted = random_conv(rng, (6, 6, 1, 3), padding=(0, 1))
    column = random_conv(rng, (6, 6, 3, 1), padding=(1, 0))
    pool = {"kernel": (3, 3), "padding": 1}
    return {
        "dense": Case(repvgg_block(rng), x),
        "two groups": Case(repvgg_block(rng, groups=2), x),
        "depthwise": Case(repvgg_block(rng, groups=6), x),
        "alpha": Case(repvgg_block(rng, alpha=0.37), x),
        "alpha zero": Case(repvgg_block(rng, alpha=0.0), x),
        "diverse branches": Case(diverse_branch_block(rng, 6), x),
        "uneven padding": Case(Parallel({"wide": wide, "narrow": narrow}), x),
        "dilation": Case(Parallel({"spread": spread, "padded": padded}), x),
        "conv with bias, norm": Case(Sequential(padded, random_norm(rng, 6)), x),
        "pooling": Case(AvgPool.of(6, **pool, count_include_pad=True), x),
        "pooling without padding": Case(
            AvgPool.of(6, **pool, count_include_pad=False), x, "refused"
        ),
        "bias before padding": Case(Sequential(narrow, random_norm(rng, 6), padded), x, "refused"),
        "row, then column": Case(Sequential(row, column), x),
        "row with a bias, then column": Case(Sequential(lifted, column), x, "refused"),
        "row, then row": Case(Sequential(row, lifted), x, "refused"),
    }


def verdict(case: Case) -> str:
    try:
        return "exact" if excess(fuse, case.block, case.x) <= 1 else "wrong"
    except NotFusibleError:
        return "refused"


def affine_without_epsilon(norm: BatchNorm) -> Affine:
    scale = norm.gamma / np.sqrt(norm.variance)
    return Affine(scale, norm.beta - norm.mean * scale)


def affine_without_root(norm: BatchNorm) -> Affine:
    scale = norm.gamma / (norm.variance + norm.epsilon)
    return Affine(scale, norm.beta - norm.mean * scale)


def affine_without_mean(norm: BatchNorm) -> Affine:
    return Affine(norm.gamma / np.sqrt(norm.variance + norm.epsilon), norm.beta)


def affine_without_beta(norm: BatchNorm) -> Affine:
    scale = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
    return Affine(scale, -norm.mean * scale)


def affine_of_magnitude(norm: BatchNorm) -> Affine:
    scale = np.abs(norm.gamma) / np.sqrt(norm.variance + norm.epsilon)
    return Affine(scale, norm.beta - norm.mean * scale)


def affine_with_statistics_swapped(norm: BatchNorm) -> Affine:
    scale = norm.gamma / np.sqrt(np.abs(norm.mean) + norm.epsilon)
    return Affine(scale, norm.beta - norm.variance * scale)


right_scale_and_shift = algebra.scale_and_shift


def conv_bias_dropped(conv: Conv, affine: Affine) -> Conv:
    return right_scale_and_shift(replace(conv, bias=np.zeros_like(conv.bias)), affine)


def scaled_on_the_input_axis(conv: Conv, affine: Affine) -> Conv:
    right = right_scale_and_shift(conv, affine)
    if conv.weight.shape[1] != affine.channels:
        return right
    return replace(right, weight=conv.weight * affine.scale.reshape(1, -1, 1, 1))


def alpha_dropped(conv: Conv, affine: Affine) -> Conv:
    is_alpha = np.ptp(affine.scale) == 0 and not affine.shift.any()
    return conv if is_alpha else right_scale_and_shift(conv, affine)


def alpha_zero_taken_for_absent(conv: Conv, affine: Affine) -> Conv:
    return right_scale_and_shift(conv, affine) if affine.scale.any() else conv


right_expand_groups = algebra.expand_groups


def _is_identity(conv: Conv) -> bool:
    return conv.groups == conv.out_channels > 1 and np.count_nonzero(conv.weight) == conv.groups


def identity_ignoring_groups(conv: Conv, groups: int = 1) -> Conv:
    right = right_expand_groups(conv, groups)
    if not _is_identity(conv) or groups == conv.groups:
        return right
    width = right.weight.shape[1]
    weight = np.zeros_like(right.weight)
    for channel in range(conv.out_channels):
        weight[channel, min(channel, width - 1)] = conv.weight[channel, 0]
    return replace(right, weight=weight)


def identity_broadcast(conv: Conv, groups: int = 1) -> Conv:
    right = right_expand_groups(conv, groups)
    if not _is_identity(conv):
        return right
    return replace(right, weight=np.broadcast_to(conv.weight, right.weight.shape))


def kernel_off_centre(part, whole):
    return (..., *(slice(0, size) for size in part.kernel))


def dilation_ignored(part, whole):
    _, *taps = right_place(part, whole)
    sizes = zip(taps, part.kernel, strict=True)
    return (..., *(slice(one.start, one.start + size) for one, size in sizes))


right_place = algebra._place_of
right_add = algebra.add


def axes_swapped(*convs: Conv) -> Conv:
    right = right_add(*convs)
    return replace(right, padding=right.padding[::-1])


def pooling_guard_removed(pool: AvgPool) -> Conv:
    return algebra.Conv.of(
        np.full((pool.channels, 1, *pool.kernel), 1 / pool.taps),
        padding=pool.padding,
        groups=pool.channels,
    )


def pooling_that_forgets_to_divide(pool: AvgPool) -> Conv:
    return algebra.Conv.of(
        np.ones((pool.channels, 1, *pool.kernel)), padding=pool.padding, groups=pool.channels
    )


def no_guard(first, second, zero_bias) -> None:
    return None


right_guard = geometry._need_zero_border


def bias_at_the_border_allowed(first, second, zero_bias) -> None:
    right_guard(first, second, True)


def other_axis_guarded(first, second, zero_bias) -> None:
    right_guard(first, replace(second, padding=second.padding[::-1]), zero_bias)


right_composed = composing._composed


def kernel_flipped(inner: Conv, outer: Conv, shape):
    return right_composed(inner, replace(outer, weight=outer.weight[:, :, ::-1, ::-1]), shape)


def inner_bias_through_one_tap(inner: Conv, outer: Conv, shape):
    weight, _ = right_composed(inner, outer, shape)
    centre = outer.weight[..., outer.kernel[0] // 2, outer.kernel[1] // 2]
    return weight, outer.bias + centre @ inner.bias if inner.groups == 1 else outer.bias


def last_branch_forgotten(*convs: Conv) -> Conv:
    return algebra.add(*convs[:-1]) if len(convs) > 1 else algebra.add(*convs)


MUTATIONS = {
    "epsilon forgotten": (block_module, "affine_of", affine_without_epsilon),
    "square root forgotten": (block_module, "affine_of", affine_without_root),
    "mean forgotten": (block_module, "affine_of", affine_without_mean),
    "beta forgotten": (block_module, "affine_of", affine_without_beta),
    "magnitude of gamma": (block_module, "affine_of", affine_of_magnitude),
    "mean and variance swapped": (block_module, "affine_of", affine_with_statistics_swapped),
    "convolution bias dropped": (block_module, "scale_and_shift", conv_bias_dropped),
    "scale on the input axis": (block_module, "scale_and_shift", scaled_on_the_input_axis),
    "alpha dropped": (block_module, "scale_and_shift", alpha_dropped),
    "alpha 0 taken for absent": (block_module, "scale_and_shift", alpha_zero_taken_for_absent),
    "identity ignores groups": (algebra, "expand_groups", identity_ignoring_groups),
    "identity broadcast to dense": (algebra, "expand_groups", identity_broadcast),
    "kernel padded off centre": (algebra, "_place_of", kernel_off_centre),
    "H and W padding swapped": (block_module, "add", axes_swapped),
    "dilation ignored": (algebra, "_place_of", dilation_ignored),
    "border folded through padding": (geometry, "_need_zero_border", no_guard),
    "bias folded through padding": (geometry, "_need_zero_border", bias_at_the_border_allowed),
    "padding of the other axis": (geometry, "_need_zero_border", other_axis_guarded),
    "pooling excludes padding": (block_module, "average_pool_as_conv", pooling_guard_removed),
    "pooling does not divide": (
        block_module,
        "average_pool_as_conv",
        pooling_that_forgets_to_divide,
    ),
    "kernel flipped": (composing, "_composed", kernel_flipped),
    "inner bias through one tap": (composing, "_composed", inner_bias_through_one_tap),
    "a branch forgotten": (block_module, "add", last_branch_forgotten),
}


def test_the_right_laws_pass_the_check():
    assert {name: verdict(case) for name, case in cases().items()} == {
        name: case.verdict for name, case in cases().items()
    }


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_law_is_caught(name, monkeypatch):
    module, attribute, wrong = MUTATIONS[name]
    monkeypatch.setattr(module, attribute, wrong)
    caught = [label for label, case in cases().items() if verdict(case) == "wrong"]
    assert caught
