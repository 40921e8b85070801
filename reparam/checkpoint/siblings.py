"""Which of two files beside each other holds averaged weights: the evidence, and its limits.

PaddleDetection saves ``x.pdparams`` and ``x.pdema`` when it trains with a moving average (EMA).
Since March 2022 ``.pdparams`` holds the average and ``.pdema`` the weights in training; before, it
was the reverse; so the endings prove nothing. No entry of either file says it. But before it saves,
the trainer takes a copy of the weights in training aside and puts their average into the network;
Paddle names a copied parameter ``conv2d_0.w_0_deepcopy_3`` and a computed one ``eager_tmp_7``, and
the table of names is in the file.

Source: ``engine/trainer.py``, ``engine/callbacks.py``, ``utils/checkpoint.py`` and
``optimizer/ema.py`` of PaddleDetection 2.6; names measured with paddle 3.3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from reparam.checkpoint.opening import mapped
from reparam.checkpoint.pickle_reader import read_pickle
from reparam.checkpoint.selection import find_weights
from reparam.errors import ReparamError

PDEMA, PDPARAMS = ".pdema", ".pdparams"

_COPY, _NETWORK, _COMPUTED = "copy", "network", "computed"
_PATTERNS = {
    _COPY: re.compile(r"(?!.*_deepcopy_.*_deepcopy_).+_deepcopy_\d+"),  # one copy, not one of one
    _NETWORK: re.compile(r"\w+\.[wb]_\d+"),
    _COMPUTED: re.compile(r"(eager_tmp|generated_tensor)_\d+"),
}
_SAID = {
    _COPY: "are those of a copy (..._deepcopy_N), as PaddleDetection's trainer takes of the "
    "weights in training before it puts their average into the network",
    _COMPUTED: "are those of computed values (eager_tmp_N), as an average is",
}


def averaging_notices(path: Path, names: Mapping[str, str]) -> list[str]:
    """Return what is known about averaged weights in ``path`` and in the file beside it.

    Args:
        names: Paddle's table of parameter names of the file at ``path``.
    """
    other = {PDEMA: PDPARAMS, PDPARAMS: PDEMA}.get(path.suffix)
    beside = path.with_suffix(other) if other else None
    there = beside is not None and beside.is_file()
    if beside is None or (path.suffix != PDEMA and not there):
        return []
    kinds = {path.name: _origin(names)}
    if there:
        kinds[beside.name] = _origin(_names_in(beside))
    used = f"used: '{path.name}', as named"
    head = f"'{beside.name}' stands beside it" if there else f"no '{beside.name}' stands beside it"
    return [f"{head}; {_verdict(kinds)}; {used}"]


def _verdict(kinds: Mapping[str, str | None]) -> str:
    for name, kind in kinds.items():
        others = [(other, its) for other, its in kinds.items() if other != name]
        if kind == _COMPUTED and all(its in (_NETWORK, _COPY) for _, its in others):
            return f"'{name}' holds averaged weights: its parameter names {_SAID[_COMPUTED]}"
        if kind == _COPY and all(its == _NETWORK for _, its in others):
            average = "".join(f", so '{other}' holds the averaged ones" for other, _ in others)
            return (
                f"'{name}' holds weights in training: its parameter names {_SAID[_COPY]}{average}"
            )
    return (
        "nothing in them tells which weights are averaged (PaddleDetection keeps the average in "
        ".pdparams since March 2022, and kept it in .pdema before)"
    )


def _origin(names: Mapping[str, str]) -> str | None:
    """Return what parameter names say of where the values came from, None if they do not agree."""
    for origin, pattern in _PATTERNS.items():
        if names and all(pattern.fullmatch(name) for name in names.values()):
            return origin
    return None


def _names_in(path: Path) -> dict[str, str]:
    try:
        return find_weights(read_pickle(mapped(path))).names
    except ReparamError:
        return {}  # nothing is known of it, and it is not the file that was asked for
