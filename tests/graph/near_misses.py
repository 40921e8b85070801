"""Graphs that look like blocks, and must not fuse, or not as far: each guard has one."""

from __future__ import annotations

from tests.graph.cases import Case
from tests.graph.misses_channels import CHANNELS
from tests.graph.misses_positions import POSITIONS
from tests.graph.misses_readers import READERS

NEAR_MISSES: tuple[Case, ...] = (*POSITIONS.cases, *READERS.cases, *CHANNELS.cases)
