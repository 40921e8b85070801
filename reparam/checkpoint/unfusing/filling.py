"""One convolution as a block of several branches: which value each array gets.

The first kernel that has room for the whole weight carries it. Every other branch is zero in a way
that lets it learn: its last kernel is zero and all around that kernel is neutral, so that the
gradient reaches the kernel at once; a branch without a kernel has a gamma (or factor) of zero. A
kernel of zeros behind a gamma of zero would never leave zero.

A neutral BatchNorm has gamma 1, beta 0, mean 0 and variance v, which is 1 - epsilon in the dtype
of the weight. Its scale is as near to 1 as it has to be: for epsilon up to 1/2, v lies where
neighbours are u apart (u the unit roundoff), so v + epsilon = 1 + e with |e| <= u/2, and the scale
(1 + e)**-0.5 is 1 + d with |d| <= u/4 (1 + u). A stored value times that is less than u/2 of
itself away from itself, no more than half way to its neighbours: rounded, it is itself again. A
variance of 1 with a gamma of sqrt(1 + epsilon) has no such bound, as gamma is rounded by up to u.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.checkpoint.families.terms import (
    NEVER,
    Chain,
    Input,
    Kernel,
    Mean,
    Norm,
    Scale,
    Sum,
    Term,
    leaves,
)
from reparam.checkpoint.rows import stored_form
from reparam.checkpoint.windows import matrix
from reparam.conv import fuse
from reparam.conv.rounding import round_once

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]

LARGEST_EPSILON = 0.5  # up to which a neutral BatchNorm is as good as exact


class NoRoomError(Exception):
    """No branch of the block can hold the whole convolution; the text says what is in the way."""


class Filling:
    """The arrays of a block in train-time form, made to compute a given convolution."""

    def __init__(
        self,
        match: BlockMatch,
        shapes: Shapes,
        fixed: Mapping[str, Array],
        dtype: np.dtype[Any],
        epsilon: float,
    ) -> None:
        self.match, self.shapes, self.dtype, self.epsilon = match, shapes, dtype, epsilon
        self.carrier = carrier_of(match, shapes)
        self.arrays: dict[str, Array] = dict(fixed)
        self.path: list[Norm | Scale] = []  # what follows the carrier, the nearest first

    def fill(self, weight: Array, bias: Array) -> None:
        """Give every array of the block a value.

        Where the block adds what has no weights, its input or a mean of it, the carrier is the
        convolution less that; where it multiplies by a constant, divided by it.
        """
        term = self.match.term
        self.carry(term)
        place, between = self.place_of_bias()
        if any(isinstance(leaf, Input | Mean) for leaf in leaves(term)):
            rest = fuse(block_tree(self.match, self.arrays, self.epsilon))
            weight, _ = round_once(weight.astype(np.float64) - rest.weight, self.dtype)
        weight = self.divided(weight, self.path)
        self.arrays[self.carrier.weight] = stored_form(self.match, np.ascontiguousarray(weight))
        if place:
            bias = self.divided(bias, between)
            self.arrays[place] = np.ascontiguousarray(bias.reshape(self.shapes[place]))
        elif bias.any():
            raise NoRoomError("nothing in the block can hold a bias")
        for key in self.match.counters:
            self.arrays[key] = np.zeros(self.shapes[key], np.int64)

    def place_of_bias(self) -> tuple[str, list[Norm | Scale]]:
        """Return the key that can hold the bias, empty if none can, and what comes after it."""
        for number, part in enumerate(self.path, 1):
            if isinstance(part, Norm) and part.keys[1]:
                return part.keys[1], self.path[number:]
        if self.carrier.bias != NEVER:
            return self.carrier.shift, self.path
        for number, part in enumerate(self.path, 1):
            key = part.shift if isinstance(part, Scale) and part.row is None else ""
            if key and self.size(key) == self.match.geometry.outputs:
                return key, self.path[number:]
        return "", []

    def divided(self, values: Array, path: Sequence[Norm | Scale]) -> Array:
        """Return ``values`` divided by the constants on ``path``."""
        scales = [part for part in path if isinstance(part, Scale)]
        factor = prod(-part.constant if part.minus else part.constant for part in scales)
        if factor == 1:
            return values
        return round_once(values.astype(np.float64) / factor, self.dtype)[0]

    def size(self, key: str) -> int:
        return prod(self.shapes[key])

    def carry(self, term: Term) -> None:
        """Make everything around the carrier nothing, and note what follows it."""
        if not isinstance(term, Sum | Chain):
            self.zero(term)  # the carrier itself, until its value is known
            return
        before = True
        for part in term.branches if isinstance(term, Sum) else term.parts:
            if any(leaf is self.carrier for leaf in leaves(part)):
                self.carry(part)
                before = False
            elif isinstance(term, Sum):
                self.zero(part)
            else:
                self.neutral(part)
                if not before and isinstance(part, Norm | Scale):
                    self.path.append(part)

    def zero(self, term: Term) -> None:
        """Make ``term`` zero, or neutral where it has nothing that could be zero."""
        if isinstance(term, Kernel):
            if not term.fixed:
                self.put(term.weight, 0)
            self.put(term.shift if term.bias != NEVER else "", 0)
        elif isinstance(term, Norm):
            self.norm(term, 0)
        elif isinstance(term, Scale):
            self.scale(term, 0)
        elif isinstance(term, Sum):
            for branch in term.branches:
                self.zero(branch)
        elif isinstance(term, Chain):
            chosen = _to_be_zero(term)
            for part in term.parts:
                if part is chosen:
                    self.zero(part)
                else:
                    self.neutral(part)

    def neutral(self, term: Term) -> None:
        """Make ``term`` pass its input on, as far as channels and signs allow."""
        if isinstance(term, Kernel):
            self.zero(term)
            if not term.fixed:
                _set_diagonal(self.arrays[term.weight])
        elif isinstance(term, Norm):
            self.norm(term, 1)
        elif isinstance(term, Scale):
            self.scale(term, 1)
        elif isinstance(term, Sum):
            passes = not all(_has_weights(branch) for branch in term.branches)
            for number, branch in enumerate(term.branches):
                if number or passes:
                    self.zero(branch)
                else:
                    self.neutral(branch)
        elif isinstance(term, Chain):
            for part in term.parts:
                self.neutral(part)

    def norm(self, norm: Norm, factor: float) -> None:
        for key, value in zip(norm.keys, (factor, 0, 0, 1 - self.epsilon), strict=True):
            self.put(key, value)

    def scale(self, scale: Scale, factor: float) -> None:
        for key, value in ((scale.factor, factor), (scale.shift, 0)):
            if key and scale.row is not None:
                if key not in self.arrays:
                    self.put(key, 1)
                self.arrays[key][scale.row] = value
            else:
                self.put(key, value)

    def put(self, key: str, value: float) -> None:
        if key:
            self.arrays[key], _ = round_once(np.full(self.shapes[key], float(value)), self.dtype)


def _can_be_nothing(term: Term) -> bool:
    """Return whether a part around the carrier can be exactly nothing, or a known factor."""
    return isinstance(term, Norm) or (isinstance(term, Scale) and term.constant != 0)


def _to_be_zero(chain: Chain) -> Term | None:
    """Return the part of a chain that is made zero: the last kernel, else a gamma or factor."""
    parts = [part for part in reversed(chain.parts) if _has_weights(part)]
    with_kernel = (part for part in parts if any(isinstance(p, Kernel) for p in leaves(part)))
    return next(with_kernel, parts[0] if parts else None)


def _has_weights(term: Term) -> bool:
    """Return whether ``term`` is zero for some choice of its arrays."""
    if isinstance(term, Sum):
        return all(_has_weights(branch) for branch in term.branches)
    if isinstance(term, Chain):
        return any(_has_weights(part) for part in term.parts)
    if isinstance(term, Norm):
        return bool(term.keys[0])
    if isinstance(term, Kernel):
        return not term.fixed
    return isinstance(term, Scale) and bool(term.factor)


def _set_diagonal(weight: Array) -> None:
    """Set one tap of each output channel of a weight of zeros: its own channel, or the nearest."""
    outputs, inputs, *window = weight.shape
    rows = np.arange(outputs)
    place = (rows, rows % inputs, *(size // 2 for size in window))
    weight[place] = 1


def carrier_of(match: BlockMatch, shapes: Shapes) -> Kernel:
    """Return the first kernel of a block that has room for the whole convolution.

    Raises:
        NoRoomError: there is none.
    """

    def within(term: Term) -> Kernel | None:
        if isinstance(term, Kernel):
            shape = matrix(shapes[term.weight], term, match.spelling)
            fits = shape == match.geometry.weight and int(term.dilation) == 1
            return term if fits and not (term.fixed or term.planes) else None
        if isinstance(term, Sum):
            return next((found for part in term.branches if (found := within(part))), None)
        if isinstance(term, Chain):
            found, rest = None, []
            for part in term.parts:
                inside = None if found else within(part)
                found = found or inside
                rest += [] if inside else [part]
            return found if all(map(_can_be_nothing, rest)) else None
        return None

    carrier = within(match.term)
    if carrier is None:
        raise NoRoomError("no branch has a kernel for the whole convolution and nothing around it "
                          "but BatchNorms and factors")  # fmt: skip
    return carrier


def fixed_keys(match: BlockMatch) -> tuple[str, ...]:
    """Return the keys of a block's kernels that no training changes."""
    kernels = (leaf for leaf in leaves(match.term) if isinstance(leaf, Kernel))
    return tuple(kernel.weight for kernel in kernels if kernel.fixed)
