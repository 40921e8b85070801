"""Every block of the catalogue that is one convolution in evaluation, in the form of its export."""

from __future__ import annotations

from tests.graph.blocks_graph import GRAPH
from tests.graph.blocks_heads import HEADS
from tests.graph.blocks_kernels import KERNELS
from tests.graph.blocks_mobile import MOBILE
from tests.graph.blocks_repvgg import REPVGG
from tests.graph.cases import Case

BLOCKS: tuple[Case, ...] = (
    *REPVGG.cases, *MOBILE.cases, *KERNELS.cases, *HEADS.cases, *GRAPH.cases,
)  # fmt: skip
