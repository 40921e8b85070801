"""What the shapes of a block's arrays say: whether they fit, its channels, groups and kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, prod

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
from reparam.checkpoint.windows import (
    AXES,
    MisfitError,
    Shapes,
    Size,
    check_windows,
    extent_of,
    matrix,
)

_PLANE = 2  # axes of a window that all channels share


@dataclass(frozen=True)
class Geometry:
    """Channels, groups and kernel of the convolution that a block is.

    Attributes:
        outputs: O.
        per_group: I/G.
        groups: None where names and shapes do not tell; the fused weight does not depend on it.
        kernel: of the fused convolution, dilation of branches included.
        known: group count of each stored convolution by the key of its weight, where known.
        stored: elements of all stored kernels, the MACs of the block for one output position.
    """

    outputs: int
    per_group: int
    groups: int | None
    kernel: Size
    known: Mapping[str, int]
    stored: int

    @property
    def weight(self) -> Size:
        """Shape of the fused weight: (O, I/G, KH, KW)."""
        return (self.outputs, self.per_group, *self.kernel)

    @property
    def fused(self) -> int:
        """Elements of the fused kernel, its MACs for one output position."""
        return prod(self.weight)


def geometry_of(term: Term, shapes: Shapes, *, same_groups: bool, spelling: str) -> Geometry:
    """Return the geometry of a resolved term, or say which array does not fit.

    Raises:
        MisfitError: an array has a shape that it cannot have in a block of the family.
    """
    return _Reading(term, shapes, same_groups, spelling).geometry()


class _Reading:
    def __init__(self, term: Term, shapes: Shapes, same_groups: bool, spelling: str) -> None:
        self.term, self.shapes, self.spelling = term, shapes, spelling
        self.same_groups = same_groups
        self.kernels = [leaf for leaf in leaves(term) if isinstance(leaf, Kernel)]
        self.known: dict[str, int] = {}
        self.first: list[Kernel] = []  # convolutions that see the block's input

    def geometry(self) -> Geometry:
        check_windows(self.kernels, self.shapes, self.spelling)
        self.outputs_of_kernels()
        channels = self.channels_in(self.term)
        outputs = self.channels_out(self.term, channels)
        if channels is None and preserves(self.term):
            channels = outputs
        if outputs is None:
            raise MisfitError("no array tells the number of channels")
        self.walk(self.term, channels)
        self.fill_groups()
        groups = self.common_groups()
        window = extent_of(self.term, self.shapes, self.spelling)
        per_group = self.per_group(channels, groups)
        stored = sum(prod(shape) for shape in map(self.shape, self.kernels))
        return Geometry(outputs, per_group, groups, window, self.known, stored)

    def outputs_of_kernels(self) -> None:
        """Check what is one number for each output channel against the weight before it."""
        for kernel in self.kernels:
            if kernel.bias != NEVER:
                self.need(kernel.shift, self.shape(kernel)[:1], flat=True)

    def shape(self, kernel: Kernel) -> Size:
        return matrix(self.shapes[kernel.weight], kernel, self.spelling)

    def need(self, key: str, needed: Size, *, flat: bool = False) -> None:
        found = self.shapes[key]
        fits = (prod(found) == needed[0] and len(found) <= AXES) if not flat else found == needed
        if not fits:
            raise MisfitError(f"'{key}' has the shape {found}; needed: {needed}")

    def channels_in(self, term: Term) -> int | None:
        """Return the input channels of ``term`` where a part that sees the input tells."""
        if isinstance(term, Norm):
            return prod(self.shapes[term.keys[2]])
        if isinstance(term, Scale):
            return self.channels_of_scale(term)
        if isinstance(term, Chain):
            for part in term.parts:
                channels = self.channels_in(part)
                if channels is not None or not preserves(part):
                    return channels
            return None
        if isinstance(term, Sum):
            found = [self.channels_in(part) for part in term.branches]
            told = next((channels for channels in found if channels is not None), None)
            if told is None and any(preserves(part) for part in term.branches):
                return self.channels_out(term, None)
            return told
        if isinstance(term, Kernel) and term.depthwise and not term.expands:
            return self.shape(term)[0]
        return None

    def channels_of_scale(self, scale: Scale) -> int | None:
        sizes = [prod(self.row(key, scale)) for key in (scale.factor, scale.shift) if key]
        return max(sizes) if sizes and max(sizes) > 1 else None

    def row(self, key: str, scale: Scale) -> Size:
        shape = self.shapes[key]
        return shape if scale.row is None else shape[1:]

    def channels_out(self, term: Term, channels: int | None) -> int | None:
        if isinstance(term, Kernel):
            return channels if term.planes else self.shape(term)[0]
        if isinstance(term, Norm):
            return prod(self.shapes[term.keys[2]])
        if isinstance(term, Scale):
            return self.channels_of_scale(term) or channels
        if isinstance(term, Chain):
            for part in term.parts:
                channels = self.channels_out(part, channels)
            return channels
        if isinstance(term, Sum):
            found = [self.channels_out(part, channels) for part in term.branches]
            return next((one for one in found if one is not None), None)
        return channels

    def walk(self, term: Term, channels: int | None, *, first: bool = True) -> int | None:
        """Check every array against the channels that reach it; return those that leave."""
        if isinstance(term, Kernel):
            return self.walk_kernel(term, channels, first)
        if isinstance(term, Norm):
            told = prod(self.shapes[term.keys[2]])
            needed = (told if channels is None else channels,)
            for key in term.keys:
                if key:
                    self.need(key, needed, flat=True)
            return needed[0]
        if isinstance(term, Scale):
            return self.walk_scale(term, channels)
        if isinstance(term, Chain):
            for part in term.parts:
                channels = self.walk(part, channels, first=first)
                first = first and preserves(part)
            return channels
        if isinstance(term, Sum):
            return self.walk_sum(term, channels, first)
        return channels

    def walk_sum(self, term: Sum, channels: int | None, first: bool) -> int | None:
        outputs: int | None = None
        for part in term.branches:
            made = self.walk(part, channels, first=first)
            if outputs is not None and made is not None and made != outputs:
                leaf = next((leaf for leaf in leaves(part) if isinstance(leaf, Kernel)), None)
                what = f"'{leaf.weight}'" if leaf else f"branch '{part.label}'"
                shape = f" has the shape {self.shapes[leaf.weight]} and" if leaf else ""
                raise MisfitError(
                    f"{what}{shape} makes {made} channels; needed: {outputs}, as the first branch"
                )
            outputs = outputs if outputs is not None else made
        return outputs

    def walk_kernel(self, kernel: Kernel, channels: int | None, first: bool) -> int:
        outputs, per_group = self.shape(kernel)[:2]
        if kernel.planes and channels is not None:
            outputs = channels if len(self.shapes[kernel.weight]) == _PLANE else outputs
        if first:
            self.first.append(kernel)
        if channels is not None:
            if channels % per_group or outputs % (channels // per_group):
                raise MisfitError(
                    f"'{kernel.weight}' has the shape {self.shapes[kernel.weight]}, which "
                    f"{channels} input channels do not allow in any number of groups"
                )
            self.known[kernel.weight] = channels // per_group
        if kernel.depthwise and per_group != 1:
            raise MisfitError(
                f"'{kernel.weight}' has the shape {self.shapes[kernel.weight]}; needed: one "
                "input channel for each group"
            )
        one = channels in (None, per_group)
        if (kernel.dense and not one) or (kernel.grouped and one):
            raise MisfitError(
                f"'{kernel.weight}' has the shape {self.shapes[kernel.weight]}; needed: "
                f"{channels} input channels in {'one group' if kernel.dense else 'several groups'}"
            )
        return outputs

    def walk_scale(self, scale: Scale, channels: int | None) -> int | None:
        own = self.channels_of_scale(scale)
        for key in (scale.factor, scale.shift):
            if not key:
                continue
            shape = self.shapes[key]
            row = self.row(key, scale)
            if scale.row is not None and (len(shape) != 2 or shape[0] not in scale.rows):
                counts = " or ".join(map(str, scale.rows))
                raise MisfitError(f"'{key}' has the shape {shape}; needed: {counts} rows")
            needed = channels if channels is not None else own
            allowed = (1,) if scale.scalar else (1, needed)
            if prod(row) not in allowed or len(row) > AXES:
                said = "(1,)" if scale.scalar or needed is None else f"({needed},) or (1,)"
                raise MisfitError(f"'{key}' has the shape {shape}; needed: {said}")
        return channels if channels is not None else own

    def fill_groups(self) -> None:
        """Give every convolution the block's groups where it is known that all have the same."""
        apart = {k.weight for k in self.kernels if k.depthwise or k.planes}
        told = {count for key, count in self.known.items() if key not in apart}
        if self.same_groups and len(told) == 1:
            groups = next(iter(told))
            for kernel in self.kernels:
                if kernel.weight not in apart:
                    self.known.setdefault(kernel.weight, groups)
            self.fill_depthwise(groups)
        widths = {self.shape(kernel)[1] for kernel in self.first if kernel.weight not in self.known}
        if len(widths) > 1:
            first, second = (
                self.first[0],
                next(k for k in self.first if self.shape(k)[1] != self.shape(self.first[0])[1]),
            )
            raise MisfitError(
                f"'{second.weight}' has the shape {self.shapes[second.weight]}; needed: "
                f"{self.shape(first)[1]} input channels for each group, as '{first.weight}' has"
            )

    def fill_depthwise(self, groups: int) -> None:
        """Give those that see the block's input, one group for a channel, its channel count."""
        for kernel in self.first:
            if kernel.depthwise and kernel.weight not in self.known:
                dense = (k for k in self.first if not k.depthwise)
                width = next((self.shape(k)[1] for k in dense), 1)
                self.walk_kernel(kernel, width * groups, first=False)

    def common_groups(self) -> int | None:
        """Return the groups of the fused convolution, None where nothing tells."""
        if any(kernel.weight not in self.known for kernel in self.kernels):
            return None
        counts = list(self.known.values())
        return gcd(*counts) if counts else None

    def per_group(self, channels: int | None, groups: int | None) -> int:
        if channels is not None and groups is not None:
            return channels // groups
        if self.first:
            return self.shape(self.first[0])[1]
        return 1


def preserves(term: Term) -> bool:
    """Return whether a resolved term keeps the number of channels, whatever it is."""
    if isinstance(term, Chain):
        return all(preserves(part) for part in term.parts)
    if isinstance(term, Sum):
        return any(preserves(part) for part in term.branches)
    return isinstance(term, Input | Mean | Norm | Scale)
