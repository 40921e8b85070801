"""Hashes computed beside the work are those of the bytes, whatever the pieces."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint
from reparam.checkpoint.hashing import FileHash, HashingWriter
from tests.weights import repvgg_arrays, write


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [5, 2_000_000, 3, 1 << 20, (1 << 20) - 1, 3_000_000]]
)
def test_what_is_written_is_hashed(tmp_path, sizes):
    path = tmp_path / "x"
    rng = np.random.default_rng(0)
    with HashingWriter(path) as stream:
        for size in sizes:
            stream.write(rng.bytes(size))
        found = stream.hexdigest()
    contents = path.read_bytes()
    assert len(contents) == sum(sizes)
    assert found == hashlib.sha256(contents).hexdigest() == FileHash(path).hexdigest()


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileHash(tmp_path / "none").hexdigest()


def test_forgotten_pages_are_read_again(tmp_path):
    arrays = repvgg_arrays()
    checkpoint = load_checkpoint(write(tmp_path, arrays))
    for _ in range(2):
        checkpoint.forget_pages()
        assert all(np.array_equal(checkpoint.arrays[key], arrays[key]) for key in arrays)
