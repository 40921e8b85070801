"""Arrays outside blocks, and factors that fusing folds and leaves in the file as 1 and 0."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.families import FAMILIES
from reparam.equivalence.carried import compare_carried
from reparam.equivalence.records import DIFFERENT, EQUAL
from tests.checkpoint.families.random_blocks import random_block

(LEARNABLE,) = (family for family in FAMILIES if family.name == "LearnableRepLayer")


def verdict(original, candidate):
    matches = find_blocks({key: array.shape for key, array in original.items()}).blocks
    assert len(matches) == 1
    return compare_carried(matches, original, candidate).verdict


@pytest.mark.parametrize("key", ["b.lab.scale", "b.lab.bias"])
def test_a_folded_factor_that_would_be_applied_again_is_another_function(key):
    original = random_block(LEARNABLE, "paddle")
    fused, _ = fuse_arrays(original)
    assert verdict(original, fused) == EQUAL
    assert verdict(original, {**fused, key: original[key]}) == DIFFERENT
    dropped = {name: array for name, array in fused.items() if name != key}
    assert verdict(original, dropped) == EQUAL  # nothing applies it then


def test_an_array_outside_a_block_is_compared_to_the_last_bit():
    original = random_block(LEARNABLE, "paddle") | {"other.weight": np.ones(3, np.float32)}
    fused, _ = fuse_arrays(original)
    assert verdict(original, fused) == EQUAL
    changed = np.nextafter(original["other.weight"], np.float32(2))
    assert verdict(original, {**fused, "other.weight": changed}) == DIFFERENT
