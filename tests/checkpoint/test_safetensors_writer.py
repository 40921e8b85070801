"""Files of our own writing, as the safetensors library reads and writes them."""

from __future__ import annotations

import io

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from reparam.checkpoint.safetensors_writer import write_safetensors
from reparam.errors import CheckpointError

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter("__metadata__".__ne__),
    st.sampled_from(DTYPES).flatmap(
        lambda kind: arrays_of.arrays(
            np.dtype(kind), arrays_of.array_shapes(min_dims=0, min_side=0)
        )
    ),
)


def written(arrays, metadata=None) -> bytes:
    stream = io.BytesIO()
    write_safetensors(stream, arrays, metadata or {})
    return stream.getvalue()


@given(ARRAYS, st.booleans())
@settings(deadline=None)
def test_the_library_reads_what_is_written(arrays, transposed):
    if transposed:
        arrays = {key: array.T for key, array in arrays.items()}
    found = load(written(arrays, {"made": "here"}))
    assert sorted(found) == sorted(arrays)
    for key, array in arrays.items():
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


def test_the_library_writes_the_same_bytes():
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 5)}
    arrays["count"] = np.arange(3)
    assert written(arrays, {"made": "here"}) == save(arrays, {"made": "here"})


def test_big_endian_arrays_are_turned():
    array = np.arange(5, dtype=">f4")
    assert np.array_equal(load(written({"w": array}))["w"], array)


@pytest.mark.parametrize("dtype", [np.longdouble, np.complex128])
def test_a_dtype_that_the_format_has_not(dtype):
    with pytest.raises(CheckpointError, match="'w'"):
        written({"w": np.ones(2, dtype)})
