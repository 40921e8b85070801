"""What the names and shapes of a damaged checkpoint say, each one having a vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from reparam.models.layout import BATCH_NORM_KEYS, Layout, Shape

INDEX = r"(0|[1-9][0-9]{0,2})"  # of a block or stage, in a regular expression for names


def axis(found: Mapping[str, Shape], name: str, index: int, rank: int) -> int | None:
    """Return one axis of ``name``, None where it is not there or not of that rank."""
    shape = found.get(name)
    if shape is None or len(shape) != rank or shape[index] < 1:
        return None
    return shape[index]


def majority(votes: Iterable[int | None], default: int) -> int:
    """Return what most of ``votes`` say; of equals the default or else the earliest.

    A width is stored many times over, so that one wrong key does not decide it.
    """
    cast = Counter(vote for vote in votes if vote is not None)
    most = max(cast.values(), default=0)
    if cast[default] == most:
        return default
    return next(vote for vote, count in cast.items() if count == most)


def outputs(found: Mapping[str, Shape], prefix: str) -> list[int | None]:
    """Return what the keys of a ConvBN say of its output channels."""
    norm = [axis(found, f"{prefix}.bn.{key}", 0, 1) for key in BATCH_NORM_KEYS]
    return [
        axis(found, f"{prefix}.conv.weight", 0, 4),
        axis(found, f"{prefix}.conv.bias", 0, 1),
        *norm,
    ]


def run_length(counts: Mapping[int, int], least: int) -> int:
    """Return how many indices from 0 on, without a gap, have a count of at least ``least``."""
    length = 0
    while counts.get(length, 0) >= least:
        length += 1
    return length


def classes(found: Mapping[str, Shape], layer: str, channels: int, default: int) -> int:
    """Return the classes of a linear layer, ``default`` where ``found`` does not tell.

    Its weight (I, O) is believed before its bias where it fits the network before it.
    """
    fits = axis(found, f"{layer}.weight", 0, 2) == channels
    weight = axis(found, f"{layer}.weight", 1, 2)
    bias = axis(found, f"{layer}.bias", 0, 1)
    votes = [weight, bias] if fits else [bias, weight]
    return next((vote for vote in votes if vote is not None), default)


def markers(count: int) -> tuple[int, ...]:
    """Return sizes, all different, that no kernel, group or number of channels has."""
    return tuple(10**9 + index for index in range(count))


def sizes(found: Mapping[str, Shape], marked: Layout, unknown: Iterable[int]) -> list[int]:
    """Return what ``found`` has most often in the places where ``marked`` has each of ``unknown``.

    Args:
        marked: the layout of a network in which each size to be told is one of :func:`markers`.
        unknown: those markers; one that ``found`` does not tell is 1.
    """
    votes: dict[int, list[int]] = {marker: [] for marker in unknown}
    for name, places in {**marked.shapes(), **marked.shapes(deploy=True)}.items():
        shape = found.get(name, ())
        if len(shape) != len(places):
            continue
        for size, place in zip(shape, places, strict=True):
            if place in votes and size > 0:
                votes[place].append(size)
    return [majority(cast, default=1) for cast in votes.values()]
