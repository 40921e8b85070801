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
from collections.abc import Iterable, Mapping
from pathlib import Path

from reparam.checkpoint.opening import mapped
from reparam.checkpoint.pickle_reader import read_pickle
from reparam.checkpoint.selection import find_weights
from reparam.errors import ReparamError

PDEMA, PDPARAMS = ".pdema", ".pdparams"

_OTHER = {PDEMA: PDPARAMS, PDPARAMS: PDEMA}

_COPY = re.compile(r"(.+)_deepcopy_\d+")
_COMPUTED = re.compile(r"(eager_tmp|generated_tensor)_\d+")
_MOST = 0.9  # of the names have to agree: some buffers have names of their own
_UNKNOWN = (
    "nothing in the files tells which weights are averaged (PaddleDetection keeps the average in "
    ".pdparams since March 2022, and kept it in .pdema before)"
)

Names = Mapping[str, str]


def averaging_notices(path: Path, names: Names, wanted: str | None) -> list[str]:
    """Return what is known about averaged weights in ``path`` and in the file beside it.

    Args:
        names: Paddle's table of parameter names of the file at ``path``.
        wanted: the part of it that is used, as ``--prefix`` said.
    """
    if path.suffix not in _OTHER:
        return []
    beside = path.with_suffix(_OTHER[path.suffix])
    there = beside.is_file()
    if path.suffix == PDPARAMS and not there:
        return []
    others = _names_in(beside, wanted) if there else {}
    head = f"'{beside.name}' stands beside it" if there else f"no '{beside.name}' stands beside it"
    return [f"{head}; {_verdict(path, names, beside, others)}; used: '{path.name}', as named"]


def _verdict(path: Path, names: Names, beside: Path, others: Names) -> str:
    """Return what the two tables of names prove, with the proof."""
    for file, table, other, second in (
        (path, names, beside, others),
        (beside, others, path, names),
    ):
        if _share(_is_copy(table, key, second) for key in table) >= _MOST:
            return (
                f"the averaged weights are in '{other.name}': the parameters in '{file.name}' are "
                "named as copies of its own (..._deepcopy_N), and PaddleDetection's trainer copies "
                "the weights in training before it puts their average into the network"
            )
        if _computed(table) and not _computed(second):
            return (
                f"the averaged weights are in '{file.name}': its parameters are named as computed "
                "values are (eager_tmp_N), not as those of a network in training"
            )
    return _UNKNOWN


def _is_copy(table: Names, key: str, original: Names) -> bool:
    match = _COPY.fullmatch(table[key])
    return match is not None and match[1] == original.get(key)


def _computed(table: Names) -> bool:
    return _share(_COMPUTED.fullmatch(name) for name in table.values()) >= _MOST


def _share(answers: Iterable[object]) -> float:
    found = [bool(answer) for answer in answers]
    return sum(found) / len(found) if found else 0.0


def _names_in(path: Path, wanted: str | None) -> dict[str, str]:
    try:
        return find_weights(read_pickle(memoryview(mapped(path))), wanted).names
    except ReparamError:
        return {}  # nothing is known of it, and it is not the file that was asked for
