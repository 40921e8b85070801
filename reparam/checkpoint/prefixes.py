"""Choosing and shortening names: wrappers taken off, one prefix kept, the student of a pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from reparam.checkpoint.layouts import Layout, quoted
from reparam.checkpoint.roles import WRAPPERS, deployed_of, kind_within, role_of
from reparam.errors import PartError

Arrays = dict[str, np.ndarray[Any, Any]]

DEEPEST = 8  # wrappers within wrappers that are looked for


def under(arrays: Arrays, prefix: str, layout: Layout) -> tuple[Arrays, Layout]:
    """Keep what stands under ``prefix``, behind wrappers if need be."""
    dotted = f"{prefix}."
    plain, wrapped = arrays, layout
    while not (kept := {key: a for key, a in plain.items() if key.startswith(dotted)}):
        if (step := _one_unwrapped(plain, wrapped)) is None:
            heads = _heads(plain)
            raise PartError(
                f"nothing in the file stands under '{prefix}'",
                found=f"names that begin with {quoted(heads)}",
                hint=f"--prefix takes one of them, such as --prefix {next(iter(heads))}",
            )
        plain, wrapped = step
    left = tuple(f"{head}.*" for head in _heads(key for key in plain if key not in kept))
    kind = kind_within(prefix.rpartition(".")[2], wrapped.kind)
    layout = replace(wrapped, kind=kind, left_out=wrapped.left_out + left)
    return _without(kept, dotted, layout)


def unwrapped(arrays: Arrays, layout: Layout) -> tuple[Arrays, Layout]:
    """Take off what wrappers put before every key, and choose the student or the average."""
    for _ in range(DEEPEST):
        if (step := _one_unwrapped(arrays, layout)) is None:
            break
        arrays, layout = step
    return arrays, layout


def _one_unwrapped(arrays: Arrays, layout: Layout) -> tuple[Arrays, Layout] | None:
    """Take off one wrapper; None where nothing, or not everything, stands in one."""
    heads = tuple(_heads(arrays))
    shared = len(heads) == 1 and heads[0].lower() in WRAPPERS
    head = heads[0] if shared else deployed_of(heads)
    if head is None:
        return None
    prefix = f"{head}."
    kept = {key: array for key, array in arrays.items() if key.startswith(prefix)}
    if not kept or prefix in kept or head in arrays:
        return None
    others = tuple(other for other in heads if other != head)
    layout = replace(
        layout,
        kind=kind_within(head, layout.kind),
        left_out=layout.left_out + tuple(f"{other}.*" for other in others),
        choices=layout.choices + tuple(other for other in others if role_of(other)),
    )
    return _without(kept, prefix, layout)


def _without(arrays: Arrays, prefix: str, layout: Layout) -> tuple[Arrays, Layout]:
    stripped = {key[len(prefix) :]: array for key, array in arrays.items()}
    return stripped, replace(layout, prefix=layout.prefix + prefix)


def _heads(keys: Iterable[str]) -> dict[str, None]:
    """Return what stands before the first dot of ``keys``, each once, in their order."""
    return dict.fromkeys(key.partition(".")[0] for key in keys)
