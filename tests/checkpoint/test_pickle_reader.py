"""A checkpoint never runs code, and no bytes make the reader crash or hang."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint.pickle_reader import read_pickle
from reparam.checkpoint.pickle_writer import write_pickle
from reparam.errors import CheckpointError, ReparamError, UnsafeCheckpointError


def read(data: bytes):
    return read_pickle(memoryview(data))


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "float32": rng.normal(size=(2, 3, 1, 1)).astype(np.float32),
        "float16": rng.normal(size=4).astype(np.float16),
        "big-endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(rng.normal(size=(2, 3))),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3)),
        "bool": np.array([True, False]),
        "int64": np.arange(-2, 3),
        "a name with a / and ü": np.ones(1, np.uint8),
    }


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert np.array_equal(found[key], array)
        assert found[key].shape == array.shape


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_pickle_writes_is_read(protocol):
    assert_same(read(pickle.dumps(arrays(), protocol=protocol)), arrays())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_forms_in_which_paddle_writes_tensors(protocol):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = OrderedDict(
        tensor=Call(tuple, ["linear_0.w_0", array]),
        dense=Call(eval, "data", {"data": array}),
        shared=[array, array],
        scalar=np.float32(2.5),
        plain=[1, -2, 2**40, 3.5, None, True, "text"],
    )
    found = read(pickle.dumps(value, protocol=protocol))
    assert found["tensor"][0] == "linear_0.w_0"
    assert np.array_equal(found["tensor"][1], array)
    assert np.array_equal(found["dense"], array)
    assert all(np.array_equal(item, array) for item in found["shared"])
    assert found["scalar"] == 2.5
    assert found["plain"] == [1, -2, 2**40, 3.5, None, True, "text"]


PYTHON_2 = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
    b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89%stb"
)


def test_arrays_of_python_2_whose_bytes_are_text():
    raw = np.array([1.5, -2], np.float32).tobytes()
    for text in (b"U\x08" + raw, b"T\x08\x00\x00\x00" + raw):
        found = read(b"\x80\x02}U\x01w" + PYTHON_2.replace(b"%s", text) + b"s.")
        assert found["w"].tolist() == [1.5, -2]


def test_text_that_is_bytes_is_not_copied_endlessly():
    text = b"T" + struct.pack("<I", 8) + bytes(8)
    many = [PYTHON_2.replace(b"%s", text + b"q\x01" if not i else b"h\x01") for i in range(50)]
    assert len(read(b"\x80\x02](" + b"".join(many) + b"e.")) == 50
    long = PYTHON_2.replace(b"K\x02\x85", b"J" + struct.pack("<i", LONG) + b"\x85")
    text = b"T" + struct.pack("<I", 4 * LONG) + bytes(4 * LONG)
    many = [long.replace(b"%s", text + b"q\x01" if not i else b"h\x01") for i in range(50)]
    with pytest.raises(CheckpointError, match="over and over"):
        read(b"\x80\x02](" + b"".join(many) + b"e.")


def test_other_objects_become_empty_records():
    value = {
        "w": np.ones(2), "args": argparse.Namespace(w=np.ones(2), next=[{1}, frozenset("a")]),
        "path": PurePosixPath("a"), None: 1.5, (1, "a"): Counter("ab"), "d": defaultdict(list, a=1),
    }  # fmt: skip
    for protocol in (2, 3, 4, 5):
        found = read(pickle.dumps(value, protocol=protocol))
        names = ["w", "args", "path", None, "a tuple of 2", "d"]  # a tuple is no name of a weight
        assert [key if key is None else str(key) for key in found] == names
        assert found["w"].tolist() == [1, 1]
        assert found["d"] == {"a": 1}
        others = [item for key, item in found.items() if str(key) in ("args", "path", names[4])]
        assert [type(other).__name__ for other in others] == ["Record"] * 3


def test_arrays_are_views_that_cannot_be_written():
    found = read(pickle.dumps(arrays(), protocol=4))
    with pytest.raises(ValueError, match="read-only"):
        found["float32"][0] = 1


def test_what_is_written_is_read_by_pickle_and_by_us():
    stream = io.BytesIO()
    write_pickle(stream, arrays().items(), {"float32": "conv2d_0.w_0"})
    for found in (pickle.loads(stream.getvalue()), read(stream.getvalue())):
        assert found.pop("StructuredToParameterName@@") == {"float32": "conv2d_0.w_0"}
        assert_same(found, arrays())


def test_written_names_exist_in_numpy_1_and_2():
    stream = io.BytesIO()
    write_pickle(stream, arrays().items(), {})
    assert b"numpy.core.multiarray" in stream.getvalue()
    assert b"numpy._core" not in stream.getvalue()


ATTACKS = {
    "os.system": Call(os.system, "touch PWNED"),
    "subprocess": Call(subprocess.Popen, ["touch", "PWNED"]),
    "exec": Call(builtins.exec, "open('PWNED', 'w')"),
    "eval of code": Call(builtins.eval, "open('PWNED', 'w')", {"data": 1}),
    "getattr": Call(builtins.getattr, "text", "upper"),
    "open": Call(builtins.open, "PWNED", "w"),
    "numpy.load": Call(np.load, "PWNED.npy"),
    "a class": Call(io.StringIO, "text"),
    "nested": {"weights": [({"x": Call(os.system, "touch PWNED")},)]},
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_named_and_never_run(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"weight": np.ones(2), "bad": ATTACKS[name]}, protocol=protocol)
    with pytest.raises(UnsafeCheckpointError, match="nothing of it was run"):
        read(data)
    assert not list(tmp_path.iterdir())


def test_no_import_happens_for_a_name_in_the_file():
    data = b"\x80\x02cantigravity\nfly\n)R."
    with pytest.raises(UnsafeCheckpointError, match=r"antigravity\.fly"):
        read(data)
    assert "antigravity" not in sys.modules


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


DAMAGED = {
    "empty": b"",
    "protocol 0": pickle.dumps({"a": 1}, protocol=0),
    "protocol 9": b"\x80\x09}.",
    "object arrays": pickle.dumps({"a": np.array([{}], dtype=object)}, protocol=4),
    "complex arrays": pickle.dumps({"a": np.ones(2, "c8")}, protocol=4),
    "arrays of text": pickle.dumps({"a": np.array(["x", "y"])}, protocol=4),
    "arrays of bytes": pickle.dumps({"a": np.array([b"x", b"y"])}, protocol=4),
    "arrays of times": pickle.dumps({"a": np.zeros(2, "M8[s]")}, protocol=4),
    "a dtype of several": pickle.dumps({"a": np.ones(1, "f4")}, protocol=2).replace(b"f4", b"2f"),
    "structured arrays": pickle.dumps({"a": np.zeros(2, "i4,f4")}, protocol=4),
    "a name without an end": b"\x80\x02c" + b"x" * 1000,
    "keys that are no names": b"\x80\x02}]K\x01s.",
    "a stack that is too short": b"\x80\x02s.",
    "a memo that is empty": b"\x80\x02h\x07.",
    "a call of a class": b"\x80\x02cnumpy\nndarray\n)R.",
    "an object of no class": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an object of a number": b"\x80\x02K\x01)\x81.",
    "a reference to elsewhere": b"\x80\x02K\x01Q.",
    "items of a set that is a number": b"\x80\x04K\x01(K\x01\x90.",
    "state for a number": b"\x80\x02K\x01)b.",
    "a shape that is no shape": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + text("x") + b"NNNtb.",
    "a negative size": b"\x80\x04cnumpy.core._multiarray\nscalar\n.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_clear_error(name):
    with pytest.raises(CheckpointError):
        read(DAMAGED[name])


def test_every_truncation_is_refused():
    data = pickle.dumps(arrays(), protocol=4)
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            read(data[:length])


def test_deep_nesting_exhausts_nothing():
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert isinstance(read(deep), list)


LONG = 100_000
REPEATED = {
    "a tuple of one list": b"cbuiltins\ntuple\nq\x00](" + b"N" * LONG + b"e\x85q\x01",
    "bytes of one text": b"c_codecs\nencode\nq\x00"
    + text("x" * LONG)
    + text("latin1")
    + b"\x86q\x01",
    "a dict of one list": b"ccollections\nOrderedDict\nq\x00]("
    + b"K\x01N\x86" * LONG
    + b"e\x85q\x01",
    "a dict of one dict": b"ccollections\nOrderedDict\nq\x00}("
    + b"".join(text(f"{chr(i)}{chr(j)}") + b"N" for i in range(33, 127) for j in range(33, 127))
    + b"u\x85q\x01",
}


@pytest.mark.parametrize("name", REPEATED)
def test_what_a_file_holds_once_is_not_copied_endlessly(name):
    """A small file could fill the memory by calling for the same copy again and again."""
    once = b"\x80\x02" + REPEATED[name] + b"h\x00h\x01R."
    read(once)
    with pytest.raises(CheckpointError, match="over and over"):
        read(once[:-1] + b"h\x00h\x01R" * 1000 + b".")


def read_or_refuse(data: bytes) -> str:
    """Any other exception than ours ends the test."""
    try:
        read(data)
    except ReparamError:
        return "refused"
    return "read"


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_files_never_crash(data):
    original = bytearray(pickle.dumps(arrays(), protocol=data.draw(st.sampled_from([2, 4]))))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(original) - 1))
        original[place] = data.draw(st.integers(0, 255))
    assert read_or_refuse(bytes(original)) in ("read", "refused")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(tail):
    assert read_or_refuse(b"\x80\x04" + tail) in ("read", "refused")


def _integer(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


@pytest.mark.parametrize("key", [2**61 - 1, -(2**70), float(2**61), float("nan"), float("inf")])
def test_numbers_whose_hashes_a_file_can_choose_are_no_keys(key):
    written = b"G" + struct.pack(">d", key) if isinstance(key, float) else _integer(key)
    with pytest.raises(CheckpointError, match="keys that are no names"):
        read(b"\x80\x02}" + written + b"Ns.")
    with pytest.raises(CheckpointError, match="keys that are no names"):
        read(b"\x80\x02ccollections\nOrderedDict\n](" + written + b"N\x86e\x85R.")


def test_tuples_as_keys_are_not_compared():
    """Their hashes can be chosen by a file as well; in one that collides, each key is compared."""
    found = read(b"\x80\x02}(" + b"K\x01K\x02\x86N" * 3 + b"u.")
    assert [str(key) for key in found] == ["a tuple of 2"] * 3


def test_an_array_is_put_in_its_places_once():
    """Each of many BUILDs of one placeholder would walk over all the places that it stands in."""
    once = pickle.dumps(np.ones(1), protocol=2)
    state = once[once.index(b"(K\x01") : -2]
    assert once.endswith(state + b"b.")
    again = once[: -len(state) - 2] + b"q\x63h\x63h\x63" + state + b"b0" + state + b"b."
    with pytest.raises(CheckpointError, match="twice"):
        read(again)
