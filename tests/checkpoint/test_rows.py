"""Fusing some output channels at a time: bit for bit what the whole tree gives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import rows as module
from reparam.checkpoint.blocks import block_tree, find_blocks
from reparam.checkpoint.rows import fuse_rows
from reparam.conv import fuse
from reparam.conv.certificate import certify
from reparam.conv.rounding import round_once
from reparam.errors import NotFusibleError
from tests.checkpoint.test_fusing import block_arrays, shapes_of


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_parts_are_the_whole_to_the_last_bit(data):
    family = data.draw(st.sampled_from(["RepVGG", "RepVggBlock"]))
    identity = data.draw(st.booleans())
    per_group, groups = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    outputs = (
        per_group * groups if identity and family == "RepVGG" else data.draw(st.integers(1, 9))
    )
    alpha = data.draw(st.sampled_from([None, 0.37, -2.0, 0.0])) if family != "RepVGG" else None
    arrays = block_arrays(
        family,
        outputs=outputs,
        per_group=per_group,
        kernel=data.draw(st.sampled_from([3, 5])),
        identity=identity,
        alpha=alpha,
        seed=data.draw(st.integers(0, 99)),
    )
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    (match,) = find_blocks(shapes_of(arrays)).blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", data.draw(st.integers(1, 400)))
        made = fuse_rows(match, arrays, 1e-5)
    tree = block_tree(match, arrays, 1e-5)
    whole = fuse(tree)
    weight, tiny = round_once(whole.weight, np.dtype(dtype))
    bias, tiny_bias = round_once(whole.bias, np.dtype(dtype))
    assert made.weight.tobytes() == weight.tobytes()
    assert made.bias.tobytes() == bias.tobytes()
    assert made.certificate.flushed == tiny + tiny_bias
    # Sums of another order differ in their last bits; the certificate is above them all.
    one = certify(tree, weight, bias)
    assert made.certificate.c == pytest.approx(one.c, rel=1e-9)
    assert made.certificate.d == pytest.approx(one.d, rel=1e-9)
    assert made.certificate.roundings == pytest.approx(one.roundings, rel=1e-9)


def test_a_convolution_s_own_bias_is_fused():
    arrays = block_arrays("RepVGG")
    arrays["block.rbr_1x1.conv.bias"] = np.arange(6, dtype=np.float32)
    (match,) = find_blocks(shapes_of(arrays)).blocks
    made = fuse_rows(match, arrays, 1e-5)
    scale = arrays["block.rbr_1x1.bn.weight"] / np.sqrt(
        arrays["block.rbr_1x1.bn._variance"].astype(np.float64) + 1e-5
    )
    del arrays["block.rbr_1x1.conv.bias"]
    (match,) = find_blocks(shapes_of(arrays)).blocks
    without = fuse_rows(match, arrays, 1e-5)
    assert np.allclose(made.bias - without.bias, np.arange(6) * scale, rtol=1e-4)


def test_an_error_in_one_part_is_the_error(monkeypatch):
    arrays = {k: a.astype(np.float16) for k, a in block_arrays("RepVGG").items()}
    arrays["block.rbr_dense.bn.weight"][4] = 60000
    arrays["block.rbr_dense.bn._variance"][4] = 1e-3
    (match,) = find_blocks(shapes_of(arrays)).blocks
    monkeypatch.setattr(module, "_PART", 60)
    with pytest.raises(NotFusibleError, match="float16 holds 65504"):
        fuse_rows(match, arrays, 1e-5)
