"""RepNeXt: depthwise kernels of many shapes, some of them a row and a column one after the other.

Source: Zhao et al. 2024, RepNeXt (arXiv 2406.16004), section 3.2.

A row of taps and the column after it each pad their own axis. That is one padded kernel exactly
because the first has no bias; with strides of 2 the published blocks leave it out.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import NO_NORM, Family
from reparam.checkpoint.families.terms import ALWAYS, NEVER, Chain, Kernel, Sum

_SOURCE = "RepNeXt, model/repnext.py"


def _conv(name: str, *size: int, dilation: int = 1) -> Kernel:
    return Kernel(f"conv_{name}", size, bias=ALWAYS, dilation=dilation)


def _row_then_column(taps: int) -> Chain:
    row = Kernel(f"conv_{taps}_w", (1, taps), bias=NEVER)
    return Chain(row, Kernel(f"conv_{taps}_h", (taps, 1), bias=NEVER), label=f"conv_{taps}_w")


_SMALL = ("conv_3_w", "conv_3_h", "conv_2_2")

SMALL = Family(
    name="RepDWConvS",
    term=Sum(
        _conv("3_3", 3, 3), _conv("3_w", 1, 3), _conv("3_h", 3, 1), _conv("2_2", 2, 2, dilation=2)
    ),
    deploy="conv_3_3",
    epsilon=NO_NORM,
    anchors=_SMALL,
    source=_SOURCE,
)

SMALL_STRIDED = Family(
    name="RepDWConvS-strided",
    term=Sum(_conv("3_3", 3, 3), _row_then_column(3), _conv("2_2", 2, 2, dilation=2)),
    deploy="conv_3_3",
    epsilon=NO_NORM,
    anchors=_SMALL,
    source=_SOURCE,
)

MEDIUM = Family(
    name="RepDWConvM",
    term=Sum(
        _conv("7_7", 7, 7),
        _conv("5_3", 5, 3),
        _conv("3_5", 3, 5),
        _row_then_column(7),
        _row_then_column(5),
    ),
    deploy="conv_7_7",
    epsilon=NO_NORM,
    anchors=("conv_5_3", "conv_3_5", "conv_7_w", "conv_7_h", "conv_5_w", "conv_5_h"),
    source=_SOURCE,
)

FAMILIES = (SMALL, SMALL_STRIDED, MEDIUM)
