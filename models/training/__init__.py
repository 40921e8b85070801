"""Blocks to train with, each one convolution in deploy form (imported as reparam.models.training).

A Layer is built on first use, so importing this needs no paddle.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LATE = {
    "ACBlock": "acb",
    "Contraction": "expansion",
    "DilatedReparamBlock": "dilated",
    "DiverseBranchBlock": "dbb",
    "Expansion": "expansion",
    "LargeKernelBlock": "large_kernel",
    "QARepVGGBlock": "qa_repvgg",
    "RepMixer": "rep_mixer",
    "contract": "expansion",
    "expand": "expansion",
}

__all__ = [
    "ACBlock",
    "Contraction",
    "DilatedReparamBlock",
    "DiverseBranchBlock",
    "Expansion",
    "LargeKernelBlock",
    "QARepVGGBlock",
    "RepMixer",
    "contract",
    "expand",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
