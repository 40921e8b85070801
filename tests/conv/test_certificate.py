"""The certificate: above the exact difference always, close to it, and large for what is wrong.

The exact difference is computed in decimal arithmetic of 120 digits, in which every float is
exact enough and the square root is right to the last of them.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.conv import (
    Affine,
    AvgPool,
    BatchNorm,
    Conv,
    Identity,
    Parallel,
    Sequential,
    fuse,
    rounding,
)
from reparam.conv import certificate as module
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.conv.certificate import certify, channel_bounds, worst_element
from reparam.conv.rounding import round_once
from tests.conv.blocks import diverse_branch_block, random_norm, repvgg_block

DIGITS = 120
DTYPES = ["float32", "float16", "bfloat16", "float64"]
LARGEST = {"bfloat16": 2.0**127}


def dec(values) -> np.ndarray:
    flat = [Decimal(float(value)) for value in np.asarray(values).ravel()]
    return np.array(flat, dtype=object).reshape(np.shape(values))


def exact_affine(part):
    if isinstance(part, Affine):
        return dec(part.scale), dec(part.shift)
    roots = [(Decimal(float(v)) + Decimal(part.epsilon)).sqrt() for v in part.variance]
    scale = dec(part.gamma) / np.array(roots, dtype=object)
    return scale, dec(part.beta) - dec(part.mean) * scale


def exact_fusion(block: Parallel, shape) -> tuple[np.ndarray, np.ndarray]:
    """The one convolution of a sum of chains (kernel, then norms and affines), in decimals."""
    outputs, width = shape[:2]
    weight, bias = dec(np.zeros(shape)), dec(np.zeros(outputs))
    for branch in block.branches.values():
        parts = branch.parts if isinstance(branch, Sequential) else (branch,)
        own_w, own_b = dec(np.zeros(shape)), dec(np.zeros(outputs))
        if isinstance(parts[0], Conv):
            conv, *parts = parts
            inside = tuple(
                slice((big - small) // 2, (big - small) // 2 + small)
                for big, small in zip(shape[2:], conv.kernel, strict=True)
            )
            own_w[(slice(None), slice(None), *inside)] = dec(conv.weight)
            own_b = own_b + dec(conv.bias)
        else:
            centre = tuple(size // 2 for size in shape[2:])
            per_group = outputs // (outputs // width)
            for channel in range(outputs):
                own_w[(channel, channel % per_group, *centre)] = Decimal(1)
        for part in parts:
            if isinstance(part, Identity):
                continue
            scale, shift = exact_affine(part)
            own_w = own_w * scale.reshape(-1, *([1] * (len(shape) - 1)))
            own_b = own_b * scale + shift
        weight, bias = weight + own_w, bias + own_b
    return weight, bias


def as_dtype(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def wide_range(rng, shape, dtype, spread):
    """Numbers of that dtype over ``spread`` decades either way, some of them zero."""
    values = rng.normal(size=shape) * 10.0 ** rng.uniform(-spread, spread, shape)
    with np.errstate(over="ignore", under="ignore"):
        values = np.where(rng.random(shape) < 0.1, 0.0, values).astype(as_dtype(dtype))
    return np.nan_to_num(values.astype(np.float64), posinf=1.0, neginf=-1.0)


@st.composite
def blocks(draw):
    """Re-parameterizable blocks with the numbers of a dtype, from tame to nearly unusable."""
    dtype = draw(st.sampled_from(DTYPES))
    spread = draw(st.sampled_from([0, 1, 1, 4, 30 if dtype != "float16" else 3,
                                   150 if dtype == "float64" else 2]))  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    width = draw(st.integers(1, 3))
    identity = draw(st.booleans())
    outputs = groups * (width if identity else draw(st.integers(1, 2)))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 1), (5, 3)]))

    def norm():
        gamma, beta, mean = (wide_range(rng, outputs, dtype, spread) for _ in range(3))
        variance = np.abs(wide_range(rng, outputs, dtype, spread))
        return BatchNorm(gamma, beta, mean, variance, draw(st.sampled_from([1e-5, 1e-3])))

    def conv(window, bias):
        return Conv.of(
            wide_range(rng, (outputs, width, *window), dtype, spread),
            wide_range(rng, outputs, dtype, spread) if bias else None,
            padding=[size // 2 for size in window],
            groups=groups,
        )

    alpha = draw(st.sampled_from([None, 0.0, 1.0, -0.5, 0.37, 1e-30]))
    factor = [] if alpha is None else [Affine.scalar(float(np.float32(alpha)), outputs)]
    branches = {"wide": Sequential(conv(kernel, draw(st.booleans())), norm())}
    if draw(st.booleans()):
        branches["point"] = Sequential(conv((1, 1), draw(st.booleans())), norm(), *factor)
    if identity:
        branches["identity"] = draw(st.sampled_from([norm(), Identity(outputs)]))
    return Parallel(branches), dtype


def stored_of(block, dtype):
    """The fusion as a checkpoint stores it; huge numbers that a dtype cannot hold become 1."""
    conv = fuse(block)
    limit = LARGEST.get(dtype) or float(np.finfo(dtype).max) / 2
    weight = np.where(np.abs(conv.weight) < limit, conv.weight, 1.0)
    bias = np.where(np.abs(conv.bias) < limit, conv.bias, 1.0)
    return round_once(weight, as_dtype(dtype))[0], round_once(bias, as_dtype(dtype))[0]


def exact_difference(block, weight, bias):
    exact_weight, exact_bias = exact_fusion(block, weight.shape)
    return dec(weight) - exact_weight, dec(bias) - exact_bias


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_it_is_an_upper_bound(drawn):
    block, dtype = drawn
    with localcontext(Context(prec=DIGITS)):
        weight, bias = stored_of(block, dtype)
        off, bias_off = exact_difference(block, weight, bias)
        bounds = channel_bounds(block, fuse(block), weight, bias)
        found = certify(block, weight, bias)
        for channel in range(len(weight)):
            total = sum(abs(value) for value in off[channel].ravel())
            assert total <= Decimal(float(bounds.c[channel]))
            assert abs(bias_off[channel]) <= Decimal(float(bounds.d[channel]))
            assert total <= Decimal(found.c)
            assert abs(bias_off[channel]) <= Decimal(found.d)


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_a_bound_of_a_wrong_weight_is_one_too(drawn):
    block, dtype = drawn
    rng = np.random.default_rng(1)
    with localcontext(Context(prec=DIGITS)):
        weight, bias = stored_of(block, dtype)
        weight, bias = rng.permutation(weight.ravel()).reshape(weight.shape), bias[::-1].copy()
        off, bias_off = exact_difference(block, weight, bias)
        found = certify(block, weight, bias)
        assert max(sum(map(abs, row.ravel())) for row in off) <= Decimal(found.c)
        assert max(map(abs, bias_off)) <= Decimal(found.d)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("alpha", "groups", "identity"),
    [(None, 1, True), (0.37, 2, True), (-2.0, 3, False), (0.0, 1, False)],
)
def test_it_is_attained_by_the_signs_of_the_difference(alpha, groups, identity, dtype):
    """No smaller c is true: at x = the signs of D the two sides are that far apart."""
    block = repvgg_block(np.random.default_rng(5), 6, groups, alpha, identity)
    weight, bias = stored_of(block, dtype)
    found = certify(block, weight, bias)
    with localcontext(Context(prec=DIGITS)):
        exact_weight, exact_bias = exact_fusion(block, weight.shape)
        worst = 0.0
        for channel in range(len(weight)):
            signs = dec(np.sign((dec(weight[channel]) - exact_weight[channel]).astype(float)))
            ours = (dec(weight[channel]) * signs).sum() + dec(bias)[channel]
            theirs = (exact_weight[channel] * signs).sum() + exact_bias[channel]
            worst = max(worst, float(abs(ours - theirs)))
    assert worst <= found.c + found.d
    assert worst >= 0.999 * found.c - found.d


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fusion_rounded_once_is_within_one_rounding(dtype):
    block = repvgg_block(np.random.default_rng(3), 8)
    found = certify(block, *stored_of(block, dtype))
    limit = 1.0 if dtype != "float64" else 20.0  # there the fusing is no finer than the storing
    assert 0 < found.roundings <= limit
    scale = float(np.abs(fuse(block).weight).sum(axis=(1, 2, 3)).max())
    assert found.c < limit * 3 * UNIT_ROUNDOFF[dtype] * scale


def test_values_flushed_to_zero_are_in_it():
    norm = random_norm(np.random.default_rng(0), 2)
    dead = BatchNorm(norm.gamma * [1, 1e-40], norm.beta, norm.mean, norm.variance, 1e-5)
    block = Parallel({"a": Sequential(Conv.of(np.ones((2, 3, 3, 3)), padding=1), dead)})
    weight, bias = stored_of(block, "float32")
    assert not weight[1].any()
    bounds = channel_bounds(block, fuse(block), weight, bias)
    lost = np.abs(fuse(block).weight[1]).sum()
    assert 0 < lost <= bounds.c[1] <= 1.001 * lost
    assert bounds.flushed.tolist() == [0, weight[1].size]
    found = certify(block, weight, bias)
    assert found.flushed == weight[1].size
    assert "27 values flushed to zero" in str(found)
    assert found.roundings <= 1


def small_block(rng):
    """A block whose numbers float16 holds and whose fused weights are mostly subnormal in it."""
    block = repvgg_block(rng, 6, int(rng.choice([1, 2])), float(rng.uniform(-2, 2)))
    scale = 10.0 ** rng.uniform(-6, -2)

    def of(part):
        if isinstance(part, Sequential):
            return Sequential(*(of(inner) for inner in part.parts))
        if not isinstance(part, BatchNorm):
            return part
        return BatchNorm(part.gamma * scale, part.beta * scale, part.mean, part.variance, 1e-5)

    return narrowed(Parallel({name: of(part) for name, part in block.branches.items()}), np.float16)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_float16_holds_small_weights_to_a_rounding(seed):
    block = small_block(np.random.default_rng(seed))
    exact = fuse(block)
    weight, bias = stored_of(block, "float16")
    for stored, value in ((weight, exact.weight), (bias, exact.bias)):
        off = np.abs(stored.astype(np.float64) - value)
        assert (off <= np.maximum(2.0**-11 * np.abs(value), 2.0**-25)).all()
    found = certify(block, weight, bias)
    assert found.roundings <= 1
    assert found.flushed == 0
    misfit = worst_element(block, exact, weight, bias, roundings=1)
    assert misfit.off <= misfit.allowed


def test_flushing_in_float16_is_caught(monkeypatch):
    """The mutation: what is below 6.1e-5 becomes zero. Both judges of a stored weight see it."""
    monkeypatch.setattr(rounding, "FLUSHED", {*rounding.FLUSHED, "float16"})
    block = small_block(np.random.default_rng(7))
    weight, bias = stored_of(block, "float16")
    assert certify(block, weight, bias).roundings > 8
    misfit = worst_element(block, fuse(block), weight, bias, roundings=8)
    assert misfit.off > misfit.allowed


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_what_adds_nothing_is_no_rounding_off(dtype):
    """The enclosure of a bias of zeros is not zero, and is no rounding of what is stored."""
    zeros = np.zeros(2)
    norm = BatchNorm(np.ones(2), zeros, zeros, np.ones(2), epsilon=1e-5)
    block = Sequential(
        Conv.of(np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype("f4"), zeros), norm
    )
    assert certify(block, *stored_of(block, dtype)).roundings <= 1


def test_a_weight_where_there_is_none_is_infinitely_off():
    """A kernel of zeros of a depthwise block allows no error at all."""
    block = Conv.of(np.zeros((2, 1, 3, 3)), np.zeros(2), groups=2)
    weight, bias = stored_of(block, "float32")
    assert worst_element(block, fuse(block), weight, bias, roundings=8).excess == 0
    weight[1, 0, 2, 2] = 1e-3
    misfit = worst_element(block, fuse(block), weight, bias, roundings=8)
    assert (misfit.name, misfit.index, misfit.excess) == ("weight", (1, 0, 2, 2), np.inf)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-5, 1e3))
def test_one_wrong_weight_says_so(seed, error):
    rng = np.random.default_rng(seed)
    block = repvgg_block(rng, 6, int(rng.choice([1, 2])))
    weight, bias = stored_of(block, "float32")
    place = tuple(int(rng.integers(size)) for size in weight.shape)
    weight[place] += np.float32(error)
    found = certify(block, weight, bias)
    assert found.c >= 0.9 * error
    assert found.roundings > 1
    assert found.channel == place[0]
    misfit = worst_element(block, fuse(block), weight, bias, roundings=8)
    assert (misfit.name, misfit.index) == ("weight", place)
    assert misfit.off > misfit.allowed


def test_a_wrong_bias_says_so():
    block = repvgg_block(np.random.default_rng(8), 6)
    weight, bias = stored_of(block, "float32")
    bias[4] += np.float32(0.01)
    found = certify(block, weight, bias)
    assert 0.0099 < found.d < 0.0101
    assert found.channel == 4
    misfit = worst_element(block, fuse(block), weight, bias, roundings=8)
    assert (misfit.name, misfit.index) == ("bias", (4,))
    assert misfit.off > misfit.allowed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float16]))
def test_who_fuses_in_the_dtype_stays_within_eight_roundings(seed, narrow):
    """The usual fuser: everything in the dtype of the checkpoint, one operation after another."""
    rng = np.random.default_rng(seed)
    block = repvgg_block(rng, 6, int(rng.choice([1, 2, 3, 6])), float(rng.normal()))
    if narrow == np.float16 and rng.random() < 0.5:
        block = small_block(rng)  # in which operations before the last lose to underflow, too
    total, shift = None, None
    for branch in block.branches.values():
        parts = branch.parts if isinstance(branch, Sequential) else (branch,)
        kernel = parts[0].weight if isinstance(parts[0], Conv) else None
        norm = next(part for part in parts if isinstance(part, BatchNorm))
        factor = narrow(parts[2].scale[0]) if len(parts) > 2 else narrow(1)
        per_group = fuse(block).weight.shape[1]
        if kernel is None:
            kernel = np.zeros((6, per_group, 1, 1))
            kernel[np.arange(6), np.arange(6) % per_group] = 1
        gamma, beta, mean, variance = (
            v.astype(narrow) for v in (norm.gamma, norm.beta, norm.mean, norm.variance)
        )
        deviation = np.sqrt(variance + narrow(norm.epsilon))
        own = kernel.astype(narrow) * (gamma / deviation).reshape(-1, 1, 1, 1) * factor
        if own.shape[2] == 1:
            own = np.pad(own, ((0, 0), (0, 0), (1, 1), (1, 1)))
        own_shift = (beta - mean * gamma / deviation) * factor
        total = own if total is None else total + own
        shift = own_shift if shift is None else shift + own_shift
    exact = narrowed(block, narrow)
    misfit = worst_element(exact, fuse(exact), total, shift, roundings=8)
    assert misfit.off <= misfit.allowed


def narrowed(block, narrow):
    """The same block with the numbers that a checkpoint of that dtype holds."""

    def of(part):
        if isinstance(part, Sequential):
            return Sequential(*(of(inner) for inner in part.parts))
        if isinstance(part, Conv):
            weight = part.weight.astype(narrow)
            return Conv.of(weight, padding=part.padding, groups=part.groups)
        if isinstance(part, Affine):
            return Affine(part.scale.astype(narrow), part.shift)
        four = (part.gamma, part.beta, part.mean, part.variance)
        return BatchNorm(*(values.astype(narrow) for values in four), part.epsilon)

    return Parallel({name: of(branch) for name, branch in block.branches.items()})


def test_composed_kernels_and_pooling():
    """Kernels after kernels: the bound covers the float64 fusion of the same block by others."""
    rng = np.random.default_rng(11)
    block = diverse_branch_block(rng)
    conv = fuse(block)
    reordered = fuse(Parallel(dict(reversed(block.branches.items()))))
    bounds = channel_bounds(block, conv, reordered.weight, reordered.bias)
    apart = np.abs(conv.weight - reordered.weight).sum(axis=(1, 2, 3))
    assert (apart <= bounds.c).all()
    assert (bounds.c < 1e-10).all()
    pool = AvgPool.of(4, (3, 3), padding=1, count_include_pad=True)
    one = fuse(pool)
    with localcontext(Context(prec=DIGITS)):
        off = sum(abs(v - 1 / Decimal(9)) for v in dec(one.weight[0]).ravel())
        assert 0 < off <= Decimal(certify(pool, one.weight, one.bias).c)


def test_shapes_have_to_be_those_of_the_fusion():
    block = repvgg_block(np.random.default_rng(0), 4)
    weight, bias = stored_of(block, "float32")
    with pytest.raises(ValueError, match="fusion of"):
        certify(block, weight[..., :1], bias)


def test_what_is_not_finite_has_no_bound():
    block = repvgg_block(np.random.default_rng(0), 4)
    weight, bias = stored_of(block, "float32")
    weight[1, 0, 0, 0] = np.nan
    assert certify(block, weight, bias).c == np.inf


MUTATIONS = {
    "the distance left out": ("row_sums", lambda values: np.zeros(len(values))),
    "rounded down": ("_above", lambda values, count: values * (1 - 1e-7)),
    "own error left out": ("_own_error", lambda sums, *_: 0.0 * sums),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_bound_is_caught(name, monkeypatch):
    """What the property test would find, on cases chosen for it."""
    attribute, wrong = MUTATIONS[name]
    monkeypatch.setattr(module, attribute, wrong)
    broken = False
    with localcontext(Context(prec=DIGITS)):
        for seed, dtype in product(range(8), DTYPES):
            block = repvgg_block(np.random.default_rng(seed), 3)
            weight, bias = stored_of(block, dtype)
            off, _ = exact_difference(block, weight, bias)
            bounds = channel_bounds(block, fuse(block), weight, bias)
            broken |= any(
                sum(map(abs, off[o].ravel())) > Decimal(float(bounds.c[o])) for o in range(3)
            )
    assert broken
