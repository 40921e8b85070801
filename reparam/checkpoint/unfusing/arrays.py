"""Every deployed block of a checkpoint back in train-time form: the function, not the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reparam.architectures import recognise, train_time_shapes
from reparam.checkpoint.blocks import BlockMatch, Shapes
from reparam.checkpoint.epsilons import GIVEN, epsilon_of, need_epsilons, used_epsilons
from reparam.checkpoint.families import CONV_BN
from reparam.checkpoint.files import Arrays
from reparam.checkpoint.finite import need_finite
from reparam.checkpoint.fusing import need_whole
from reparam.checkpoint.notices import listing
from reparam.checkpoint.report import Epsilon
from reparam.checkpoint.unfusing.block import unfuse_block, without_neutral
from reparam.checkpoint.unfusing.filling import NoRoomError, carrier_of, fixed_keys
from reparam.checkpoint.unfusing.network import LIKE, Asked, Target
from reparam.checkpoint.unfusing.outlines import Wishes
from reparam.checkpoint.unfusing.plan import UnfusePlan, plan_unfusing
from reparam.checkpoint.unfusing.report import MEANING, TRAINING, UnfusedBlock, UnfusionReport
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.errors import CheckpointError, ReparamError, UnsupportedModelError


def unfuse_arrays(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    *,
    like: Mapping[str, np.ndarray[Any, Any]] | None = None,
    epsilon: float | None = None,
    families: Sequence[str] = (),
    have: Sequence[str] = (),
    lack: Sequence[str] = (),
    branches: int | None = None,
    spelling: str | None = "paddle",
    skip: Sequence[str] = (),
) -> tuple[Arrays, UnfusionReport]:
    """Return ``arrays`` with every deployed block in train-time form, and the report.

    The first kernel of a block holds the whole convolution, other branches are zero, BatchNorms
    change nothing. Equivalent in function, and not the original weights. Each block is fused again
    and compared before anything is returned. Arrays outside blocks are the same objects.

    Args:
        like: a state dict of the train-time network, with any weights.
        epsilon: of the BatchNorms, in place of what the family says.
        families: names of families that come first where names and shapes leave it open.
        have, lack: optional parts that blocks have and lack, ``PART`` or ``BLOCK:PART``.
        branches: how many branches a block of a family that counts them has.
        spelling: of the BatchNorms' statistics where nothing tells, ``paddle`` or ``torch``.
        skip: blocks to leave as they are, names or patterns.

    Raises:
        CheckpointError: a block is in neither form, does not fit its family or network, values are
            not finite, or only the user can tell what a block was.
        UnsupportedModelError: a block of that family has no place for the whole convolution.
    """
    asked = Asked(families, skip, Wishes(have, lack, branches), spelling)
    unfusing = Unfusing(arrays, asked, like=like, epsilon=epsilon)
    result = dict(unfusing)
    return result, unfusing.report()


class Unfusing:
    """The train-time form of ``arrays``, made one block at a time as it is iterated over.

    Yields names and arrays in the order of the file, those of a block where its convolution stood.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        asked: Asked,
        *,
        like: Mapping[str, np.ndarray[Any, Any]] | None = None,
        epsilon: float | None = None,
        epsilon_source: str = GIVEN,
    ) -> None:
        self.arrays, self.like = arrays, like
        self.given_epsilon, self.epsilon_source = epsilon, epsilon_source
        shapes = {key: array.shape for key, array in arrays.items()}
        self.recognised = recognise(shapes)
        architecture = None
        if self.recognised is not None and like is None:
            need_whole(self.recognised)
            architecture = train_time_shapes(shapes, asked.wishes.branches)
        self.plan: UnfusePlan = plan_unfusing(
            shapes,
            asked,
            like=None if like is None else {key: array.shape for key, array in like.items()},
            architecture=architecture,
            untold=self._untold(architecture),
        )
        need_epsilons((target.match for target in self.plan.targets), epsilon, shapes)
        self._carriers = {target: _carrier(target) for target in self.plan.targets}
        self._records: dict[Target, UnfusedBlock] = {}
        self._carried = 0

    @property
    def result_keys(self) -> tuple[str, ...]:
        """The names of the result."""
        gone = {key for t in self.plan.targets for key in (t.match.weight_key, t.match.bias_key)}
        made = [key for target in self.plan.targets for key in target.keys]
        return (*(key for key in self.arrays if key not in gone), *made)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        self._records, self._carried = {}, 0
        owner = {
            key: target
            for target in self.plan.targets
            for key in (target.match.weight_key, target.match.bias_key)
        }
        for key, array in self.arrays.items():
            target = owner.get(key)
            if target is None:
                need_finite({key: array})
                self._carried += 1
                yield key, array
            elif target not in self._records:
                yield from self._unfused(target).items()

    def report(self) -> UnfusionReport:
        """Return what was done, once the iteration has ended."""
        plan, known = self.plan, self.recognised
        if len(self._records) < len(plan.targets):
            raise RuntimeError("the report of an unfusing that has not come to its end")
        missing, unexpected = self.differing
        return UnfusionReport(
            architecture=known.name if known else None,
            epsilons=self._epsilons(),
            unfused=tuple(self._records[t] for t in plan.targets if t.match.family is not CONV_BN),
            unfolded=tuple(self._records[t] for t in plan.targets if t.match.family is CONV_BN),
            already=plan.train_time,
            left=plan.left,
            carried=self._carried,
            missing=missing,
            unexpected=unexpected,
            notices=tuple(self._notices()),
        )

    @property
    def differing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that only the train-time network has, and that only the result has."""
        if self.like is None:
            return (), ()
        made, like = dict.fromkeys(self.result_keys), self.like
        return (
            tuple(key for key in like if key not in made),
            tuple(key for key in made if key not in like),
        )

    def names(self, table: Mapping[str, str], like: Mapping[str, str]) -> dict[str, str]:
        """Return Paddle's table of parameter names for the train-time form.

        Args:
            like: the table of the train-time network, which knows all of them. Without it the
                carrier takes over the static name of the convolution's weight.
        """
        if like:
            return {key: like[key] for key in self.result_keys if key in like}
        gone = {key for t in self.plan.targets for key in (t.match.weight_key, t.match.bias_key)}
        kept = {key: name for key, name in table.items() if key in self.arrays and key not in gone}
        for target, carrier in self._carriers.items():
            if target.match.weight_key in table:
                kept[carrier] = table[target.match.weight_key]
        return kept

    def _epsilons(self) -> tuple[Epsilon, ...]:
        used = used_epsilons((t.match for t in self.plan.targets), self.given_epsilon)
        if self.given_epsilon is None:
            return used
        return tuple(replace(epsilon, source=self.epsilon_source) for epsilon in used)

    def _unfused(self, target: Target) -> dict[str, np.ndarray[Any, Any]]:
        whole, keys = target.match, (target.match.weight_key, target.match.bias_key)
        weight, bias = (self.arrays[key] for key in keys)
        need_finite(dict(zip(keys, (weight, bias), strict=True)))
        _need_dtype(whole, weight.dtype)
        match = without_neutral(whole)
        epsilon = epsilon_of(match, self.given_epsilon)
        try:
            fixed = {key: self._fixed(key, whole) for key in fixed_keys(match)}
            made = unfuse_block(match, target.shapes, weight, bias, epsilon, fixed)
        except NoRoomError as error:
            raise _no_room(whole, error) from error
        except ReparamError as error:
            raise error.located(f"cannot unfuse block '{whole.where}': {error.what}") from error
        self._records[target] = UnfusedBlock(
            where=whole.where,
            family=whole.family.name,
            branches=whole.labels,
            kernel=whole.geometry.kernel,
            carrier=made.carrier,
            keys=tuple(made.arrays),
            same=made.same,
            certificate=made.certificate,
        )
        whole_block = {
            **dict(zip(keys, (weight, bias), strict=True)),
            **made.arrays,
            **{
                key: np.full(target.shapes[key], value, weight.dtype)
                for key, value in whole.neutral_keys.items()
            },
        }
        return {key: whole_block[key] for key in target.keys}

    def _fixed(self, key: str, match: BlockMatch) -> np.ndarray[Any, Any]:
        """Return an array that the network makes and never learns, from a checkpoint of it."""
        found = self.arrays.get(key, None if self.like is None else self.like.get(key))
        if found is None:
            raise CheckpointError(f"block '{match.where}' needs '{key}'", hint=LIKE)
        return found

    def _untold(self, architecture: Shapes | None) -> dict[str, Any]:
        """Return settings of the recognised architecture that its deploy form does not tell."""
        whole = None if architecture is None else recognise(architecture)
        if whole is None or self.recognised is None:
            return {}
        told = self.recognised.settings
        return {name: value for name, value in whole.settings.items() if name not in told}

    def _notices(self) -> Iterator[str]:
        yield from self.plan.notices
        if self.plan.targets:
            yield MEANING
            if any(target.match.norms for target in self.plan.targets):
                yield TRAINING
        elif self.given_epsilon is not None and self.epsilon_source == GIVEN:
            yield "--epsilon had no effect: nothing was unfused"
        if self.given_epsilon is None and self.recognised is None:
            families = dict.fromkeys(target.match.family for target in self.plan.targets)
            yield from (family.remark for family in families if family.remark)
        inexact = tuple(block.where for block in self._records.values() if not block.same)
        if inexact:
            yield f"back to within one rounding, not to the last bit: {listing(inexact)}"


def _carrier(target: Target) -> str:
    match = without_neutral(target.match)
    try:
        return carrier_of(match, target.shapes).weight
    except NoRoomError as error:
        raise _no_room(target.match, error) from error


def _no_room(match: BlockMatch, error: NoRoomError) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"cannot unfuse block '{match.where}' ({match.family.name})",
        found=str(error),
        hint=f"--skip {match.where} leaves it as it is",
    )


def _need_dtype(match: BlockMatch, dtype: np.dtype[Any]) -> None:
    if dtype.name not in UNIT_ROUNDOFF:
        raise CheckpointError(
            f"block '{match.where}' has weights of {dtype.name}",
            found="needed: float32, float16, bfloat16 or float64",
            hint="save the checkpoint in float32",
        )
