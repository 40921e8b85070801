"""Blocks of a checkpoint: found by :func:`find_blocks`, computed by :func:`block_tree`."""

from __future__ import annotations

from reparam.checkpoint.block_match import BlockMatch, block_tree
from reparam.checkpoint.matching import Found, find_blocks
from reparam.checkpoint.windows import Shapes

__all__ = ["BlockMatch", "Found", "Shapes", "block_tree", "find_blocks"]
