"""The example of CONTRIBUTING.md is code, and does what is said there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from reparam.checkpoint import families
from reparam.checkpoint import matching as matching_module
from reparam.checkpoint.families import terms
from tests.checkpoint.families.harness import Block, assert_fuses

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_record_of_the_example_is_all_that_a_family_needs(monkeypatch):
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
    (code,) = (textwrap.dedent(block) for block in blocks if "Family(" in block)
    scope = {**vars(terms), "Family": families.Family, "Epsilon": families.Epsilon}
    exec(code, scope)  # our own text, not a user's
    monkeypatch.setattr(matching_module, "FAMILIES", (scope["TWO_DEPTHWISE"],))
    block = Block(spelling="torch")
    block.add_conv("large", (6, 1, 7, 7))
    block.add_conv("small", (6, 1, 3, 3))
    block.add_norm("norm", 6)

    def forward(x, stride, dilation):
        large, small = block.conv(x, "large", groups=6), block.conv(x, "small", groups=6)
        return block.norm(large + small + x, "norm")

    once = ((1, 1),)
    fused = assert_fuses(block, forward, family="TwoDepthwise", groups=6, strides=once)
    assert sorted(fused) == ["b.fused.bias", "b.fused.weight"]
