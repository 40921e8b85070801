"""Random blocks of random geometry, and the one check that every fusion has to pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from reparam.conv import (
    Affine,
    AvgPool,
    BatchNorm,
    Block,
    Conv,
    Identity,
    Parallel,
    Sequential,
    error_bound,
    evaluate,
    fuse,
)

Fuser = Callable[[Block], Conv]


def random_norm(rng: np.random.Generator, channels: int, epsilon: float = 1e-5) -> BatchNorm:
    """A BatchNorm as training leaves it: gamma of both signs, mean not 0, variance not 1."""
    sign = np.where(rng.random(channels) < 0.4, -1.0, 1.0)
    return BatchNorm(
        gamma=sign * rng.uniform(0.3, 2.0, channels),
        beta=rng.normal(size=channels),
        mean=rng.normal(size=channels),
        variance=rng.uniform(0.2, 3.0, channels),
        epsilon=epsilon,
    )


def random_conv(rng: np.random.Generator, shape: tuple[int, ...], **geometry) -> Conv:
    return Conv.of(rng.normal(size=shape), rng.normal(size=shape[0]), **geometry)


def probe_for(conv: Conv, rng: np.random.Generator, batch: int = 2) -> np.ndarray:
    """An input large enough to have a border and an interior, of odd and unequal sizes."""
    sizes = [
        extent + 2 * stride + 3 + axis
        for axis, (extent, stride) in enumerate(zip(conv.extent, conv.stride, strict=True))
    ]
    return rng.normal(size=(batch, conv.in_channels, *sizes))


def excess(fuser: Fuser, block: Block, x: np.ndarray) -> float:
    """How many times the bound the worst output is off; at most 1 for a right fusion.

    An output of another size is wrong without measure. NaN counts as wrong.
    """
    expected, found = evaluate(block, x), evaluate(fuser(block), x)
    if expected.shape != found.shape:
        return np.inf
    ratio = np.abs(found - expected) / np.maximum(error_bound(block, x), np.finfo(float).tiny)
    return np.inf if np.isnan(ratio).any() else float(ratio.max())


@st.composite
def parallel_blocks(draw) -> tuple[Block, np.ndarray]:
    """One to five branches over one geometry: conv-bn, 1x1-bn, identity-bn, identity, pooling.

    Kernels (even and non-square too), stride, dilation, groups and asymmetric padding are free;
    every branch is given the padding that makes its output as large as the others'.
    """
    count = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = groups * draw(st.integers(1, 3))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(count))
    identity = set(stride) == {1} and draw(st.booleans())
    outputs = inputs if identity else groups * draw(st.integers(1, 3))
    before = tuple(draw(st.integers(0, 3)) for _ in range(count))
    shrink = tuple(draw(st.integers(-2, 2)) for _ in range(count)) if not identity else (0,) * count
    branches: dict[str, Block] = {}
    for index in range(draw(st.integers(1, 5))):
        conv = _branch_conv(draw, rng, (outputs, inputs, groups), stride, before, shrink)
        with_norm = draw(st.booleans())
        branches[f"conv{index}"] = (
            Sequential(conv, random_norm(rng, outputs)) if with_norm else conv
        )
    if identity:
        branches["identity"] = draw(st.sampled_from([Identity(inputs), random_norm(rng, inputs)]))
    block = Parallel(branches)
    largest = fuse(block)
    return block, probe_for(largest, rng)


def _branch_conv(draw, rng, channels, stride, before, shrink) -> Conv:
    outputs, inputs, groups = channels
    kernel, dilation, padding = [], [], []
    for axis in range(len(stride)):
        step = draw(st.integers(1, 2))
        # extent - 1 - sum(padding) is the same for all branches of a sum
        taps = draw(st.integers(1, 4))
        if (taps - 1) * step < shrink[axis]:
            taps, step = shrink[axis] + 1, 1
        total = (taps - 1) * step - shrink[axis]
        first = min(before[axis], total)
        kernel.append(taps)
        dilation.append(step)
        padding.append((first, total - first))
    return random_conv(
        rng,
        (outputs, inputs // groups, *kernel),
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
    )


def diverse_branch_block(rng: np.random.Generator, channels: int = 4, size: int = 3) -> Block:
    """The block of arXiv 2103.13425: four branches, two of them sequences that pad with a bias."""
    dense = (channels, channels)

    def norm() -> BatchNorm:
        return random_norm(rng, channels)

    point = Sequential(Conv.of(rng.normal(size=(*dense, 1, 1)), padding=size // 2), norm())
    return Parallel(
        {
            "origin": Sequential(
                Conv.of(rng.normal(size=(*dense, size, size)), padding=size // 2), norm()
            ),
            "1x1": Sequential(Conv.of(rng.normal(size=(*dense, 1, 1))), norm()),
            "1x1_kxk": Sequential(point, Conv.of(rng.normal(size=(*dense, size, size))), norm()),
            "1x1_avg": Sequential(
                Conv.of(rng.normal(size=(*dense, 1, 1)), padding=size // 2),
                norm(),
                AvgPool.of(channels, (size, size), count_include_pad=True),
                norm(),
            ),
        }
    )


def repvgg_block(
    rng: np.random.Generator,
    channels: int = 6,
    groups: int = 1,
    alpha: float | None = None,
    identity: bool = True,
) -> Block:
    """The block of arXiv 2101.03697, with PP-YOLOE's learned factor on the 1x1 branch."""
    per_group = channels // groups
    wide = Conv.of(rng.normal(size=(channels, per_group, 3, 3)), padding=1, groups=groups)
    point = Conv.of(rng.normal(size=(channels, per_group, 1, 1)), groups=groups)
    scaled = [] if alpha is None else [Affine.scalar(alpha, channels)]
    branches: dict[str, Block] = {
        "conv1": Sequential(wide, random_norm(rng, channels)),
        "conv2": Sequential(point, random_norm(rng, channels), *scaled),
    }
    if identity:
        branches["identity"] = random_norm(rng, channels)
    return Parallel(branches)
