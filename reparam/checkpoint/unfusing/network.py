"""Blocks in deploy form, told by names and shapes of the train-time network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reparam.checkpoint.blocks import BlockMatch, find_blocks
from reparam.checkpoint.families import Family
from reparam.checkpoint.families.terms import TORCH
from reparam.checkpoint.pairs import find_pairs, folded_in
from reparam.checkpoint.unfusing.outlines import UndecidedError, Wishes, optional_parts, outline_of
from reparam.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

LIKE = "--like FILE, a checkpoint of the train-time network with any weights, decides all of it"


@dataclass(frozen=True, eq=False)
class Target:
    """A block in deploy form, as it will be in train-time form.

    Attributes:
        match: the block as it will be.
        shapes: of the arrays that it will have.
        keys: of those arrays that the result gets; the others are in the file already.
    """

    match: BlockMatch
    shapes: Shapes
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What the user says: see :func:`reparam.checkpoint.unfusing.unfuse_arrays`.

    ``network`` is what a checkpoint of the train-time network, if there is one, was named by.
    """

    families: Sequence[str] = ()
    skip: Sequence[str] = ()
    wishes: Wishes = field(default_factory=Wishes)
    spelling: str | None = None
    network: str = "--like"


def of_network(
    shapes: Shapes, network: Shapes, chosen: Sequence[Family], spared: Callable[[str], bool]
) -> tuple[list[Target], list[str]]:
    """Return the blocks of a train-time network that ``shapes`` holds in deploy form.

    Args:
        spared: which blocks are to be left as they are; they are returned by name.
    """
    blocks = find_blocks(network, chosen).blocks
    pairs, _ = find_pairs(network, {key for match in blocks for key in match.branch_keys})
    _need_blocks([match.family.name for match in blocks], bool(pairs), chosen)
    targets, left = [], []
    for match in (*blocks, *folded_in(pairs, shapes)):
        if spared(match.where):
            left.append(match.where)
        elif _in_deploy_form(match, shapes):
            _need_shape(match, shapes)
            deploy = (match.weight_key, match.bias_key)
            beside = [key for key in deploy if match.has_deploy and key in network]
            keys = dict.fromkeys((*match.branch_keys, *beside))
            targets.append(target_of(match, {key: network[key] for key in keys}, shapes))
    return targets, left


def _need_blocks(there: Sequence[str], pairs: bool, chosen: Sequence[Family]) -> None:
    if not there and not pairs:
        raise CheckpointError(
            "the checkpoint of the network holds no block in train-time form",
            why="its names and shapes are to decide what the blocks become",
            hint="save one of the train-time network: paddle.save(model.state_dict(), "
            "'fresh.pdparams')",
        )
    for family in chosen:
        if family.name not in there:
            raise CheckpointError(
                f"no block of the network is a {family.name}",
                found=", ".join(dict.fromkeys(there)) or "none of a known family",
                why="--family was given",
            )


def target_of(match: BlockMatch, own: Shapes, shapes: Shapes) -> Target:
    """Return the target for a block whose arrays are ``own``; ``shapes`` are those of the file."""
    kept = {key for key in match.neutral_keys if key in shapes}
    return Target(match, own, tuple(key for key in own if key not in kept))


def _in_deploy_form(match: BlockMatch, shapes: Shapes) -> bool:
    deploy = (match.weight_key, match.bias_key)
    shared = {*deploy, *match.counters, *match.neutral_keys}
    branches = [key for key in match.branch_keys if key not in shared]
    missing = [key for key in branches if key not in shapes]
    if not missing:  # a block of one convolution, which may lack what is applied around it
        return not branches and any(key not in shapes for key in match.neutral_keys)
    absent = [key for key in deploy if key not in shapes]
    if not absent and len(missing) == len(branches):
        return True
    raise CheckpointError(
        f"block '{match.where}' ({match.family.name}) is in neither form",
        found=f"'{absent[0] if absent else missing[0]}' is missing",
        why="the train-time network has the block there",
        hint=f"--skip {match.where} leaves it as it is",
    )


def _need_shape(match: BlockMatch, shapes: Shapes) -> None:
    needed = match.geometry.weight
    if match.linear:
        needed = needed[:2] if match.spelling == TORCH else needed[1::-1]
    for key, shape in ((match.weight_key, needed), (match.bias_key, match.geometry.weight[:1])):
        if tuple(shapes[key]) != shape:
            raise CheckpointError(
                f"block '{match.where}' is not the deploy form of this {match.family.name}",
                found=f"'{key}' has the shape {tuple(shapes[key])}; needed: {shape}",
                why="the block of the train-time network fuses to that",
            )


def wished(
    network: Shapes, wishes: Wishes, untold: Collection[str]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return what the user adds to an architecture: parts that a deploy form keeps no trace of.

    Args:
        untold: settings of the architecture that the checkpoint does not tell.

    Returns:
        Names with their shapes, and the parts that such a setting adds and nobody asked for.
    """
    added: dict[str, tuple[int, ...]] = {}
    left_out: list[str] = []
    blocks = find_blocks(network).blocks
    for family in dict.fromkeys(match.family for match in blocks):
        own = [match for match in blocks if match.family is family]
        for part in optional_parts(family):
            arrays = {match: _arrays_of_part(match, part) for match in own}
            if any(key in network for keys in arrays.values() for key in keys):
                continue  # the architecture decides
            answers = {match: wishes.answer(match.where, part)[0] for match in own}
            for match in (match for match in own if answers[match]):
                added |= arrays[match]
            silent = all(answer is None for answer in answers.values())
            if silent and any(name.endswith(part) for name in untold):
                left_out.append(part)
    return added, left_out


def _arrays_of_part(match: BlockMatch, part: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that an optional part adds to a block; none if not told."""
    every = optional_parts(match.family)
    others = [one for one in every if one != part]
    given = (match.family, match.where, match.geometry.weight, match.spelling)
    try:
        there = outline_of(*given, Wishes((part,), others, 1)).shapes
        absent = outline_of(*given, Wishes((), every, 1)).shapes
    except UndecidedError:
        return {}
    return {match.prefix + key: shape for key, shape in there.items() if key not in absent}
