"""Sizes of images that a detector takes: its levels have to meet again, so multiples alone."""

from __future__ import annotations

from reparam.errors import UnsupportedModelError

Size = tuple[int, int]


def rounded_up(size: Size, multiple: int) -> Size:
    """Return the nearest size (H, W) that is not smaller and of which both are multiples."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def check_size(size: Size, multiple: int) -> None:
    """Refuse a size (H, W) of which one is not a multiple.

    Raises:
        UnsupportedModelError: names the nearest two sizes.
    """
    above = rounded_up(size, multiple)
    if above == size:
        return
    below = tuple(max(side // multiple, 1) * multiple for side in size)
    choices = dict.fromkeys(f"{height}x{width}" for height, width in (below, above))
    raise UnsupportedModelError(
        f"the network cannot take an image of {size[0]}x{size[1]}",
        found=f"H and W have to be multiples of {multiple}",
        why="maps of every other stride are enlarged and joined with the finer ones; otherwise "
        "their sizes do not meet",
        hint=f"--input-size {' or '.join(choices)}",
    )
