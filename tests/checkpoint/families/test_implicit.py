"""Implicit vectors around the last convolution of a head, in each spelling."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import block_tree
from reparam.checkpoint.plan import plan_of
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import Block, bound_of

HEADS = {
    "yolov7": ("m.{}", "ia.{}.implicit", "im.{}.implicit"),
    "PaddleYOLO": ("yolo_output.{}", "yolo_output_ia.{}.ia", "yolo_output_im.{}.im"),
    "yolov7u box": ("cv2.{}.2", "", "im2.{}.implicit"),
    "yolov7u class": ("cv3.{}.2", "", "im3.{}.implicit"),
    "PaddleYOLO u box": ("conv_reg.{}.2", "", "im2.{}.im"),
    "PaddleYOLO u class": ("conv_cls.{}.2", "", "im3.{}.im"),
}


def head(project, levels=3, *, before=True, after=True, prefix="model.105.", seed=0):
    """A head of several levels, and what each of them computes."""
    block = Block(seed, prefix=prefix)
    conv, ia, im = HEADS[project]
    forwards = []
    for level in range(levels):
        inputs, outputs = 4 + level, 6
        name = conv.format(level)
        block.add_conv(name, (outputs, inputs, 1, 1), bias=True)
        added, factor = (key.format(level) if key else "" for key in (ia, im))
        if before and added:
            block.add(added, block.rng.normal(size=(1, inputs, 1, 1)))
        if after:
            block.add(factor, block.rng.normal(size=(1, outputs, 1, 1)))

        def forward(x, name=name, added=added, factor=factor):
            y = block.conv(x + block.get(added) if before and added else x, name)
            return block.get(factor) * y if after else y

        forwards.append(forward)
    return block, forwards


def assert_heads_fuse(block, forwards, project):
    fused, report = fuse_arrays(block.arrays)
    conv = HEADS[project][0]
    names = [block.prefix + conv.format(level) for level in range(len(forwards))]
    assert [done.where for done in report.fused] == names
    matches = plan_of({key: one.shape for key, one in block.arrays.items()}).blocks
    for name, match, forward in zip(names, matches, forwards, strict=True):
        weight, bias = (fused[f"{name}.{key}"].astype(np.float64) for key in ("weight", "bias"))
        x = np.random.default_rng(1).normal(size=(2, weight.shape[1], 3, 4))
        found = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x) + bias.reshape(1, -1, 1, 1)
        bound = bound_of(block_tree(match, block.arrays, 0.0), x, (1, 1), 1, 1, [0, 0])
        assert (np.abs(found - forward(paddle.to_tensor(x)).numpy()) <= bound).all()
    return fused


VECTORS = [(project, before, True) for project in HEADS for before in (True, False)]


@pytest.mark.parametrize(
    ("project", "before", "after"), [*VECTORS, ("yolov7", True, False), ("PaddleYOLO", True, False)]
)
def test_heads(project, before, after):
    block, forwards = head(project, before=before, after=after)
    fused = assert_heads_fuse(block, forwards, project)
    assert set(fused) == set(block.arrays)  # a head that applies its vectors keeps them


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(["", "yolo_head.", "a.1.2."]))
def test_any_number_of_levels_anywhere(seed, levels, prefix):
    block, forwards = head("yolov7", levels, prefix=prefix, seed=seed)
    assert_heads_fuse(block, forwards, "yolov7")


@pytest.mark.parametrize("project", HEADS)
def test_the_vectors_stay_as_zeros_and_ones_and_the_head_computes_the_same(project):
    block, forwards = head(project)
    fused, report = fuse_arrays(block.arrays)
    assert any("left in the file as ones and zeros" in notice for notice in report.notices)
    x = paddle.to_tensor(np.random.default_rng(1).normal(size=(1, 4, 3, 3)))
    expected = forwards[0](x).numpy()
    block.arrays = fused
    assert np.allclose(forwards[0](x).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("project", HEADS)
def test_fusing_again_is_a_no_op(project):
    fused, _ = fuse_arrays(head(project)[0].arrays)
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert len(report.already) == 3
    assert all(again[key] is fused[key] for key in fused)


@pytest.mark.parametrize("project", ["yolov7", "PaddleYOLO"])
def test_a_head_has_more_that_stays(project):
    block, forwards = head(project)
    more = {
        "yolov7": ["anchors", "anchor_grid", "m2.0.weight", "m2.0.bias", "m_kpt.0.11.weight"],
        "PaddleYOLO": ["yolo_output_aux.0.weight", "yolo_output_aux.0.bias"],
    }
    for name in more[project]:
        block.add(name, np.ones((2, 2)))
    fused = assert_heads_fuse(block, forwards, project)
    kept = [block.prefix + name for name in more[project]]
    assert all(fused[key] is block.arrays[key] for key in kept)


@pytest.mark.parametrize("key", ["m.1.weight", "m.1.bias"])
def test_a_damaged_head_is_refused(key):
    block, _ = head("yolov7")
    del block.arrays[block.prefix + key]
    with pytest.raises(CheckpointError, match="is not whole") as caught:
        fuse_arrays(block.arrays)
    assert key in caught.value.found


@pytest.mark.parametrize("key", ["ia.1.implicit", "im.1.implicit"])
def test_a_vector_of_another_length_is_refused(key):
    block, _ = head("yolov7")
    block.add(key, np.ones((1, 3, 1, 1)))
    with pytest.raises(CheckpointError) as caught:
        fuse_arrays(block.arrays)
    assert "model.105." in str(caught.value)
