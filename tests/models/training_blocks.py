"""Blocks to train with, of any geometry, with random weights and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from reparam.models import RepVGGBlock
from reparam.models.training import (
    ACBlock,
    DilatedReparamBlock,
    DiverseBranchBlock,
    LargeKernelBlock,
    QARepVGGBlock,
    RepMixer,
)
from tests.models.helpers import EPSILON, randomise

Settings = dict[str, Any]

TABLE_WIDTHS = {3: [(3, 1)], 5: None, 7: None, 9: None}  # None: the branches of the paper


def _small_dilated(settings: Settings) -> Settings:
    kernel = settings["kernel_size"]
    return {**settings, "dilated": TABLE_WIDTHS.get(kernel, [(1, 1)])}


def _mixer(channels: int, _: int, **settings: Any) -> Any:
    return RepMixer(channels, settings["kernel_size"], layer_scale=0.37, epsilon=EPSILON)


@dataclass(frozen=True)
class Kind:
    """How a block is built, and what of a geometry it can have."""

    build: Callable[..., Any]
    dilates: bool = False
    oblong: bool = True
    only_depthwise: bool = False


KINDS = {
    "repvgg": Kind(RepVGGBlock, dilates=True),
    "acb": Kind(ACBlock, dilates=True),
    "dbb": Kind(DiverseBranchBlock),
    "dbb-wide": Kind(lambda i, o, **s: DiverseBranchBlock(i, o, internal_channels=3 * i, **s)),
    "large-kernel": Kind(lambda i, o, **s: LargeKernelBlock(i, o, small_kernel=1, **s)),
    "large-kernel-alone": Kind(lambda i, o, **s: LargeKernelBlock(i, o, small_kernel=None, **s)),
    "dilated": Kind(lambda i, o, **s: DilatedReparamBlock(i, o, **_small_dilated(s)), oblong=False),
    "qarepvgg1": Kind(lambda i, o, **s: QARepVGGBlock(i, o, version=1, **s), dilates=True),
    "qarepvgg2": Kind(QARepVGGBlock, dilates=True),
    "rep-mixer": Kind(_mixer, only_depthwise=True),
}


@st.composite
def geometries(draw, kind: Kind) -> tuple[int, int, Settings]:
    """Channels in and out, and the settings of a block of that kind."""
    inputs, outputs, groups = draw(
        st.sampled_from([(6, 6, 1), (4, 6, 1), (6, 6, 2), (4, 8, 2), (6, 6, 6), (4, 8, 4)])
    )
    sizes = st.sampled_from([1, 3, 5, 7])
    kernel = draw(st.tuples(sizes, sizes) | sizes if kind.oblong else st.sampled_from([3, 5, 7, 9]))
    settings: Settings = {"kernel_size": kernel}
    if kind.only_depthwise:
        return 6, 6, settings
    settings["stride"] = draw(st.sampled_from([1, 2, (2, 1)]))
    settings["groups"] = groups
    if kind.dilates:
        settings["dilation"] = draw(st.sampled_from([1, 2, (1, 3)]))
    return inputs, outputs, settings


def build(kind: str, inputs: int, outputs: int, settings: Settings, seed: int = 0) -> Any:
    """Return a block without activation, its weights and statistics random, in float64."""
    act = {} if kind == "rep-mixer" else {"act": None, "epsilon": EPSILON}
    block = randomise(KINDS[kind].build(inputs, outputs, **settings, **act), seed)
    return block.to(dtype="float64")


def image_for(block: Any, channels: int, seed: int = 1) -> np.ndarray:
    """Return an image with a border and an interior, whose values float32 holds exactly."""
    geometry = block.geometry if hasattr(block, "geometry") else None
    reach = [13, 13]
    if geometry is not None:
        sides = zip(geometry.kernel, geometry.dilation, strict=True)
        reach = [(k - 1) * d + 1 for k, d in sides]
    x = np.random.default_rng(seed).normal(size=(2, channels, reach[0] + 4, reach[1] + 5))
    return x.astype("float32").astype("float64")
