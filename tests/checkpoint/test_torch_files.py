"""Files of torch.save are read as PyTorch reads them, and nothing in them is run."""

from __future__ import annotations

import argparse
import struct
import zlib
from collections import Counter, OrderedDict, defaultdict
from datetime import date
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import load_checkpoint
from reparam.files import sha256_of
from tests.checkpoint.torch_files import (
    FORMS,
    Call,
    Name,
    Storage,
    every_dtype,
    legacy,
    put,
    rebuilt,
    storage,
    tensor,
    tensors,
    typed,
    view,
    zipped,
)


def read(folder: Path, contents: bytes, **options):
    return load_checkpoint(put(folder, contents), **options)


def assert_same(found, expected) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_in_every_protocol(tmp_path, form, protocol):
    found = read(tmp_path, FORMS[form](tensors(every_dtype()), protocol=protocol))
    assert found.format == "torch"
    assert found.sha256 == sha256_of(found.path)
    assert_same(found.arrays, every_dtype())


@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_views_of_the_mapped_file_that_cannot_be_written(tmp_path, form):
    found = read(tmp_path, FORMS[form](tensors({"w": np.arange(6.0), "v": np.ones((2, 3))})))
    start = np.frombuffer(found.pages, np.uint8).__array_interface__["data"][0]
    for array in found.arrays.values():
        assert 0 < array.__array_interface__["data"][0] - start < len(found.pages)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_storages_are_aligned_in_memory(tmp_path):
    found = read(tmp_path, zipped(tensors({"w": np.arange(6.0), "v": np.ones((2, 3))})))
    assert all(array.flags.aligned for array in found.arrays.values())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_view_of_a_shared_storage_is_what_numpy_makes_of_it(tmp_path_factory, data):
    base = np.arange(60, dtype=np.float32)
    held, expected, value = storage(base), {}, {}
    for number in range(data.draw(st.integers(1, 4))):
        axes = data.draw(st.integers(0, 4))
        size = tuple(data.draw(st.integers(0, 4)) for _ in range(axes))
        stride = tuple(data.draw(st.integers(0, 5)) for _ in range(axes))
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        offset = data.draw(st.integers(0, max(0, 59 - reach)))
        value[f"w{number}"] = view(held, offset, size, stride)
        places = np.full(size, offset)
        for axis, step in enumerate(stride):
            places += (np.arange(size[axis]) * step).reshape(-1, *(1,) * (axes - axis - 1))
        expected[f"w{number}"] = base[places]
    form = data.draw(st.sampled_from([zipped, legacy]))
    assert_same(read(tmp_path_factory.mktemp("views"), form(value)).arrays, expected)


@pytest.mark.parametrize("form", FORMS)
def test_what_trainers_save_beside_the_weights_is_left_out(tmp_path, form):
    w = np.ones((2, 2), np.float32)
    value = {
        "epoch": 3,
        "state_dict": tensors({"module.w": w, "module.n": np.array(7)}),
        "state_dict_ema": tensors({"w": 2 * w, "n": np.array(7)}),
        "args": argparse.Namespace(out=PurePosixPath("runs"), day=date(2024, 1, 2), lr=[0.1, None]),
        "found": {1, 2}, "counts": Counter("ab"), "lists": defaultdict(list, a=[1]),
        "optimizer": {"state": {0: {"exp_avg": tensor(w)}}, "param_groups": [{"lr": 0.1}]},
        "rng_state": tensor(np.zeros(5000, np.uint8)), "dtype": Name("torch", "float16"),
        "device": Call(Name("torch", "device"), "cpu"), "size": Call(Name("torch", "Size"), [1, 2]),
        "config": Call(Name("easydict", "EasyDict"), {"w": tensor(w)}),
        "callbacks": {Name("builtins", "int"): {"w": tensor(w)}, None: 1, ("a", 1): 2},
    }  # fmt: skip
    found = read(tmp_path, FORMS[form](value))
    assert_same(found.arrays, {"w": 2 * w, "n": np.array(7)})
    assert found.layout.part == "state_dict_ema"
    assert found.layout.choices == ("state_dict",)
    assert {"args", "optimizer", "config", "rng_state"} <= set(found.layout.left_out)
    assert load_checkpoint(found.path, prefix="state_dict").arrays["w"].max() == 1


def test_mmengine_exchanges_the_average_and_the_weights_in_training(tmp_path):
    value = {
        "meta": {}, "message_hub": {"log": tensor(np.ones(2))},
        "state_dict": tensors({"w": np.ones(2)}),
        "ema_state_dict": tensors({"module.w": np.zeros(2), "steps": np.array(4)}),
    }  # fmt: skip
    found = read(tmp_path, zipped(value))
    assert (found.layout.part, found.layout.kind) == ("state_dict", "averaged weights")
    assert found.arrays["w"].all()
    chosen = load_checkpoint(found.path, prefix="ema_state_dict").layout
    assert chosen.kind == "weights"
    del value["message_hub"]
    assert read(tmp_path, zipped(value)).layout.part == "ema_state_dict"


def test_a_state_dict_with_the_versions_of_its_modules(tmp_path):
    state = OrderedDict(tensors({"w": np.ones(2)}))
    state._metadata = OrderedDict({"": {"version": 1}})
    found = read(tmp_path, zipped(state))
    assert_same(found.arrays, {"w": np.ones(2)})
    assert found.layout.left_out == ()


def test_parameters_and_tensors_with_attributes(tmp_path):
    array, plain = np.arange(4.0), tensor(np.arange(4.0))
    kind, function, arguments = Name("torch", "Tensor"), *plain.call
    value = {
        "parameter": rebuilt("_rebuild_parameter", plain, True, OrderedDict()),
        "with state": rebuilt("_rebuild_parameter_with_state", plain, True, OrderedDict(), {}),
        "attributes": Call(
            Name("torch._tensor", "_rebuild_from_type_v2"), function, kind, arguments, {"note": 1}
        ),
        "old": rebuilt("_rebuild_tensor", storage(array), 0, (4,), (1,)),
    }
    assert_same(read(tmp_path, zipped(value)).arrays, dict.fromkeys(value, array))


@pytest.mark.parametrize("form", FORMS)
def test_uint16_is_uint16_and_not_bfloat16_as_in_paddle(tmp_path, form):
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    assert_same(read(tmp_path, FORMS[form]({"w": typed(array, "uint16")})).arrays, {"w": array})


def test_another_byte_order(tmp_path):
    def big(entries) -> None:
        entries["byteorder"] = b"big"

    array = np.arange(5, dtype=np.int32)
    value = {"w": Storage(array.astype(">i4").tobytes(), "Int", 5)}
    value = {"w": view(value["w"], 0, (5,), (1,)), "v": typed(array.astype(">i4"), "int32")}
    found = read(tmp_path, zipped(value, change=big))
    for key in ("w", "v"):
        assert found.arrays[key].tolist() == [0, 1, 2, 3, 4]


def test_text_of_python_2(tmp_path):
    data = legacy({"weight": tensor(np.ones(2)), "best": np.float64(0.5)})
    for word in (b"weight", b"storage", b"cpu", b"0"):
        modern = b"X" + struct.pack("<I", len(word)) + word
        assert modern in data
        data = data.replace(modern, b"U" + bytes([len(word)]) + word)
    assert_same(read(tmp_path, data).arrays, {"weight": np.ones(2), "best": np.array(0.5)})


def test_check_sums_that_were_not_computed_are_not_compared(tmp_path):
    contents = zipped(tensors({"w": np.arange(8.0)}))
    raw = np.arange(8.0).tobytes()
    without = contents.replace(struct.pack("<I", zlib.crc32(raw)), bytes(4))
    assert without != contents
    found = read(tmp_path, without.replace(raw, bytes(64)))
    assert found.sha256
    assert not found.arrays["w"].any()
