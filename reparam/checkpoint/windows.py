"""The windows of a block's stored kernels, and whether they are what its family asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from reparam.checkpoint.families.terms import (
    COLUMN,
    ODD,
    POINT,
    ROW,
    SAME,
    SMALLER,
    TORCH,
    WIDE,
    Chain,
    Kernel,
    Mean,
    Sum,
    Term,
    leaves,
)

Shapes = Mapping[str, tuple[int, ...]]
Size = tuple[int, ...]

AXES = 4  # of a convolution's weight
_ONE = (1, 1)
_FORMS = {2: "two axes", 3: "(C, KH, KW)", 4: "(O, I/G, KH, KW)"}


class MisfitError(Exception):
    """An array cannot be what the term says; the text names it.

    ``windows`` says that a kernel has another size than the term asks for.
    """

    def __init__(self, text: str, *, windows: bool = False) -> None:
        super().__init__(text)
        self.windows = windows


def matrix(shape: Size, kernel: Kernel, spelling: str) -> Size:
    """Return the shape of a stored weight as that of a convolution's weight.

    A window that all channels share is given for one of them.
    """
    if kernel.planes:
        return (*((1, *shape)[-3:-2]), 1, *shape[-2:])
    if not kernel.linear:
        return shape
    rows = shape if spelling == TORCH else shape[::-1]
    return (*rows, 1, 1)


def extent_of(term: Term, shapes: Shapes, spelling: str) -> Size:
    """Return the window of a resolved term on its input, dilation included."""
    if isinstance(term, Kernel):
        window = matrix(shapes[term.weight], term, spelling)[2:]
        dilation = int(term.dilation)
        return tuple((size - 1) * dilation + 1 for size in window)
    if isinstance(term, Mean):
        return tuple(shapes[term.like][2:])
    if isinstance(term, Chain | Sum):
        parts = term.parts if isinstance(term, Chain) else term.branches
        extents = [extent_of(part, shapes, spelling) for part in parts if _windowed(part)]
        axes = zip(*extents, strict=True)
        if isinstance(term, Sum):
            return tuple(max(axis) for axis in axes) or _ONE
        return tuple(sum(size - 1 for size in axis) + 1 for axis in axes) or _ONE
    return _ONE


def _windowed(term: Term) -> bool:
    return any(isinstance(leaf, Kernel | Mean) for leaf in leaves(term))


def check_windows(kernels: Sequence[Kernel], shapes: Shapes, spelling: str) -> None:
    """Check the axes and the window of every kernel of a block, in the order of its term.

    Raises:
        MisfitError: one has another window than the term asks for.
    """
    windows = _Windows(kernels, shapes, spelling)
    for kernel in kernels:
        windows.check(kernel)


class _Windows:
    def __init__(self, kernels: Sequence[Kernel], shapes: Shapes, spelling: str) -> None:
        self.kernels, self.shapes, self.spelling = kernels, shapes, spelling

    def shape(self, kernel: Kernel) -> Size:
        return matrix(self.shapes[kernel.weight], kernel, self.spelling)

    def check(self, kernel: Kernel) -> None:
        stored = self.shapes[kernel.weight]
        axes: tuple[int, ...] = (2,) if kernel.linear else (2, 3) if kernel.planes else (AXES,)
        if len(stored) not in axes or 0 in stored:
            needed = " or ".join(_FORMS[count] for count in axes)
            what = f"'{kernel.weight}' has the shape {stored}; needed: {needed}"
            raise MisfitError(what, windows=True)
        window, wanted = self.shape(kernel)[2:], self.window(kernel)
        if isinstance(wanted, str) or window != wanted:
            what = f"'{kernel.weight}' has the shape {stored}; needed: {self.said(kernel)}"
            raise MisfitError(what, windows=True)

    def window(self, kernel: Kernel) -> Size | str:
        """Return the window that ``kernel`` has to have; a text where its own cannot be."""
        own, first = self.shape(kernel)[2:], self.shape(self.kernels[0])[2:]
        odd = all(size % 2 for size in own)
        size = kernel.size
        if isinstance(size, tuple):
            return size
        if size == WIDE:
            wide = next(self.shape(k)[2:] for k in self.kernels if k.size == WIDE)
            return wide if odd and prod(own) > 1 else ""
        if size in (POINT, SAME):
            return (1, 1) if size == POINT else first
        if size == ODD:
            return own if odd else ""
        if size == SMALLER:
            fits = all(mine <= theirs for mine, theirs in zip(own, first, strict=True))
            return own if odd and fits else ""
        if size in (COLUMN, ROW):
            return (first[0], 1) if size == COLUMN else (1, first[1])
        raise ValueError(f"a kernel cannot be '{size}'")

    def said(self, kernel: Kernel) -> str:
        wanted = self.window(kernel)
        if not isinstance(wanted, str):
            return f"a window of {wanted}"
        if kernel.size == WIDE:
            return "(O, I/G, KH, KW) with an odd kernel"
        smaller = " no larger than the first" if kernel.size == SMALLER else ""
        return f"an odd window{smaller}"
