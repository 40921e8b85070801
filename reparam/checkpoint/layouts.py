"""How weights stand in a file, as a record: what reports say about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from reparam.checkpoint.roles import AVERAGED, STUDENT, WEIGHTS

_LISTED = 6  # names in a sentence
_REASONS = {
    AVERAGED: ", the average, which gets deployed",
    STUDENT: ", the student, which gets deployed",
}


@dataclass(frozen=True)
class Layout:
    """How the weights stood in the file.

    Attributes:
        kind: ``weights``, ``averaged weights``, ``student`` or ``quantisation-aware training``.
        part: names of the dicts around the weights, joined by dots; empty if there were none.
        prefix: what was taken off every name, with its trailing dot, or empty.
        left_out: entries that are not used, as the file names them.
        choices: what ``--prefix`` could choose instead.
        wanted: what the user chose with it, None if nothing.
        notices: all of that in sentences.
    """

    kind: str = WEIGHTS
    part: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    wanted: str | None = None
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record without its sentences, which reports carry themselves."""
        record = asdict(self)
        del record["notices"]
        return record


def notices_of(layout: Layout) -> Iterator[str]:
    """Yield what a user should know about ``layout``, in sentences."""
    if layout.part:
        yield f"the weights stand under '{layout.part}' in the file"
    if layout.prefix:
        yield f"'{layout.prefix}' was taken off the names"
    if layout.choices:
        used = ".".join(name for name in (layout.part, layout.prefix.rstrip(".")) if name)
        reason = _REASONS.get(layout.kind, "")
        yield (
            f"several sets of weights are in the file; used: '{used}'{reason}; --prefix"
            f" chooses another: {quoted(layout.choices)}"
        )
    chosen_against = {*layout.choices, *(f"{choice}.*" for choice in layout.choices)}
    others = [name for name in layout.left_out if name not in chosen_against]
    if others:
        yield f"left out: {quoted(others)}"


def quoted(names: Iterable[str]) -> str:
    """Return the first few names in quotes, and how many more there are."""
    names = [name[:80] for name in names]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more
