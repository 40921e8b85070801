"""Whatever is wrong with a file of torch.save is one clear refusal, and nothing in it is run."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint
from reparam.errors import CheckpointError, OptimizerStateError, UnsafeCheckpointError
from tests.checkpoint.torch_files import (
    FORMS,
    PROTOCOL,
    Call,
    Name,
    Reference,
    Storage,
    legacy,
    pickled,
    put,
    rebuilt,
    storage,
    tensor,
    tensors,
    typed,
    view,
    zipped,
)


def read(folder: Path, contents: bytes):
    return load_checkpoint(put(folder, contents))


def refused(folder: Path, contents: bytes, *said: str, error=CheckpointError) -> None:
    path = put(folder, contents)
    with pytest.raises(error) as caught:
        load_checkpoint(path).sha256  # noqa: B018 - waits for the check sums
    assert str(path) in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def bomb() -> tuple:
    """Return 2^30 empty tuples in 30 pairs, of which a message would be larger than memory."""
    one = ()
    for _ in range(30):
        one = (one, one)
    return one


class TestTensors:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            (rebuilt("_rebuild_sparse_tensor", Name("torch", "sparse_coo"), ()), "sparse"),
            (rebuilt("_rebuild_qtensor", Storage(b"12", "QInt8", 2), 0, (2,), (1,)), "quantised"),
            (view(Storage(bytes(16), "ComplexFloat", 2), 0, (2,), (1,)), "complex"),
            (typed(np.ones(2, np.uint8), "float8_e4m3fn"), "float8"),
            (rebuilt("_rebuild_meta_tensor_no_storage", Name("torch", "float32"), (2,)), "meta"),
            (view(storage(np.ones(2)), 0, (2,), (1,), {"neg": True}), "negated"),
        ],
    )
    def test_a_weight_that_is_no_plain_array(self, tmp_path, form, bad, said):
        good = tensors({"w": np.ones(2)})
        refused(tmp_path, FORMS[form]({"state_dict": {**good, "bad": bad}}), "'bad'", said)
        refused(tmp_path, FORMS[form]({"state_dict": {"bad": bad}}), "'bad'", said)
        beside = read(tmp_path, FORMS[form]({"state_dict": good, "other": bad}))
        assert list(beside.arrays) == ["w"]

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [
            (0, (5,), (1,)), (1, (4,), (1,)), (4, (), ()), (0, (2, 2), (3, 1)), (0, (2,), (4,)),
            (0, (2**40,), (1,)), (2**70, (1,), (1,)), (0, (2,), (2**62,)),
            (0, (2,) * 20, (9,) * 20),
        ],
    )  # fmt: skip
    def test_a_tensor_that_reaches_outside_its_storage(self, tmp_path, form, offset, size, stride):
        value = {"w": view(storage(np.arange(4.0)), offset, size, stride)}
        refused(tmp_path, FORMS[form](value), "outside its storage")

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [
            (-1, (2,), (1,)), (0, (-1,), (1,)), (3, (2,), (-1,)), (0, (2, 2), (1,)), (0, 2, 1),
            (0, (1,) * 40, (1,) * 40), (0, ("2",), (1,)), (0.5, (2,), (1,)), (None, (), ()),
            (0, (2**62, 2**62), (0, 0)),
        ],
    )  # fmt: skip
    def test_an_impossible_shape(self, tmp_path, form, offset, size, stride):
        value = {"w": view(storage(np.arange(4.0)), offset, size, stride)}
        refused(tmp_path, FORMS[form](value), "impossible shape")

    @pytest.mark.parametrize("form", FORMS)
    def test_a_value_that_stands_for_endless_weights(self, tmp_path, form):
        value = {"w": view(storage(np.ones(1)), 0, (2**30, 2**20), (0, 0))}
        refused(tmp_path, FORMS[form](value), "many times larger than the file")

    @pytest.mark.parametrize(
        "identifier",
        [
            None, "storage", 7, (), ("storage",), [], {},
            ("module", Name("torch", "FloatStorage"), "0", "cpu", 1),
            ("storage", "torch.FloatStorage", "0", "cpu", 1),
            ("storage", Name("torch", "float32"), "0", "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), "0", "cpu", -1),
            ("storage", Name("torch", "FloatStorage"), "0", "cpu", "1"),
            ("storage", Name("torch", "FloatStorage"), "../version", "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), "/etc/passwd", "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), 0, "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), "9" * 1000, "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), bomb(), "cpu", 1),
            (bomb(), Name("torch", "FloatStorage"), "0", "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), "1", "cpu", 1),
            ("storage", Name("torch", "FloatStorage"), "0", "cpu", 2),
            ("storage", Name("torch", "FloatStorage"), "0", "cpu", 2**70),
            ("storage", Name("torch", "FloatStorage"), "0", "cpu", 1, ("1", 0, 2)),
        ],
    )  # fmt: skip
    def test_a_persistent_id_of_the_wrong_form(self, tmp_path, identifier):
        good = Storage(bytes(4), "Float", 1, "0")
        for form in FORMS.values():
            value = {
                "w": view(good, 0, (1,), (1,)),
                "v": view(Reference(identifier), 0, (1,), (1,)),
            }
            refused(tmp_path, form(value))

    @pytest.mark.parametrize("key", ["../x", "/x", "a/b", ".", "", "x" * 50])
    def test_a_storage_with_the_name_of_a_path(self, tmp_path, key):
        for form in FORMS.values():
            held = Storage(bytes(4), "Float", 1, key)
            refused(tmp_path, form({"w": view(held, 0, (1,), (1,))}), "PyTorch does not give")

    def test_a_reference_out_of_a_pdparams_pickle(self, tmp_path):
        refused(tmp_path, b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x000Qs.", "outside")

    def test_a_dict_that_holds_itself(self, tmp_path):
        value: dict = {"state_dict": {}}
        value["state_dict"]["again"] = value
        refused(tmp_path, zipped(value), "no weights")
        value["state_dict"]["deeper"] = tensors({"w": np.ones(2)})
        assert list(read(tmp_path, zipped(value)).arrays) == ["w"]

    def test_the_state_of_an_optimizer(self, tmp_path):
        value = {"state": {0: {"exp_avg": tensor(np.ones(2))}}, "param_groups": [{"lr": 0.1}]}
        refused(tmp_path, zipped(value), "optimizer", error=OptimizerStateError)

    @pytest.mark.parametrize("value", [[1, 2], None, "text"])
    def test_no_dict(self, tmp_path, value):
        refused(tmp_path, zipped(value), "no dict")
        refused(tmp_path, zipped(tensor(np.ones(2))), "no dict")

    def test_a_network_saved_as_a_whole(self, tmp_path):
        value = {"ema": Call(Name("ultralytics.nn.tasks", "DetectionModel"))}
        for form in FORMS.values():
            refused(
                tmp_path, form(value), "'ultralytics.nn.tasks.DetectionModel'", "state_dict()",
                error=UnsafeCheckpointError,
            )  # fmt: skip

    def test_a_plain_pickle_of_tensors(self, tmp_path):
        nested = Call(Name("torch.storage", "_load_from_bytes"), b"\x80\x02.")
        data, _ = pickled({"w": nested}, 2)
        refused(tmp_path, data, "torch.save", error=UnsafeCheckpointError)
        refused(tmp_path, zipped({"w": nested}), "torch.storage._load_from_bytes")


class TestArchives:
    def archive(self, change, **options) -> bytes:
        return zipped(tensors({"w": np.arange(8.0), "v": np.ones(3)}), change=change, **options)

    def test_a_storage_that_is_missing(self, tmp_path):
        contents = self.archive(lambda entries: entries.pop("data/1"))
        refused(tmp_path, contents, "'data/1'", "missing")

    @pytest.mark.parametrize("size", [0, 63, 65])
    def test_a_storage_of_another_size(self, tmp_path, size):
        contents = self.archive(lambda entries: entries.update({"data/0": bytes(size)}))
        refused(tmp_path, contents, f"{size} bytes; needed: 64")

    def test_values_that_do_not_have_their_check_sum(self, tmp_path):
        raw = np.arange(8.0).tobytes()
        contents = self.archive(lambda _: None)
        assert contents.count(raw) == 1
        refused(tmp_path, contents.replace(raw, raw[::-1]), "'archive/data/0'", "check sum")

    def test_a_pickle_that_does_not_have_its_check_sum(self, tmp_path):
        contents = self.archive(lambda _: None)
        refused(tmp_path, contents.replace(b"cpu", b"cpv"), "data.pkl", "check sum")

    @pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_compressed_archive_however_large_its_contents(self, tmp_path, compression):
        def bomb(entries) -> None:
            entries["data/0"] = bytes(10_000_000)

        refused(tmp_path, self.archive(bomb, compression=compression), "compressed")

    def test_every_truncation(self, tmp_path):
        contents = self.archive(lambda _: None)
        for length in range(4, len(contents) - 1, 7):
            refused(tmp_path, contents[:length])

    def test_an_entry_that_is_there_twice(self, tmp_path):
        contents = self.archive(lambda entries: entries.update({"data/2": bytes(24)}))
        refused(tmp_path, contents.replace(b"data/2", b"data/1"), "twice")

    def moved(self, to) -> bytes:
        """An archive whose directory says that the second storage is somewhere else."""
        contents = bytearray(self.archive(lambda _: None))
        row = contents.rindex(b"archive/data/1") - 46
        assert contents[row : row + 4] == b"PK\x01\x02"
        struct.pack_into("<I", contents, row + 42, to(bytes(contents)))
        return bytes(contents)

    def test_entries_that_share_bytes(self, tmp_path):
        contents = self.moved(lambda whole: whole.index(b"archive/data/0") - 30)
        refused(tmp_path, contents, "share bytes")

    @pytest.mark.parametrize("to", [2**31, 17])
    def test_an_entry_that_is_not_where_the_directory_says(self, tmp_path, to):
        refused(tmp_path, self.moved(lambda _: to), "damaged")

    def test_an_encrypted_entry(self, tmp_path):
        contents = bytearray(self.archive(lambda _: None))
        contents[contents.index(b"PK\x01\x02") + 8] |= 1
        refused(tmp_path, bytes(contents), "encrypted")

    def test_a_directory_that_would_fill_the_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("reparam.checkpoint.torch_archive._LARGEST_DIRECTORY", 100)
        refused(tmp_path, self.archive(lambda _: None), "a directory of")

    @pytest.mark.parametrize("order", [b"middle", b"", b"\xff" * 1000])
    def test_an_unknown_byte_order(self, tmp_path, order):
        contents = self.archive(lambda entries: entries.update({"byteorder": order}))
        refused(tmp_path, contents, "byte order")

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"], "TorchScript"),
            (["m/archive_format", "m/models/model.json"], "torch.export"),
            (["a.npy", "b.npy"], "NumPy archive"),
            (["folder/x.pth"], "unpack it and name 'folder/x.pth'"),
            (["data.pkl"], "did not write"),
            (["a/data.pkl", "b/data.pkl"], "did not write"),
            ([], "zip"),
        ],
    )
    def test_other_zip_files(self, tmp_path, names, said):
        with zipfile.ZipFile(tmp_path / "other", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        refused(tmp_path, (tmp_path / "other").read_bytes(), said)


class TestLegacy:
    VALUE = tensors({"w": np.arange(8.0), "v": np.ones(3)})

    def test_every_truncation(self, tmp_path):
        contents = legacy(self.VALUE)
        for length in range(16, len(contents) - 1, 5):
            refused(tmp_path, contents[:length])

    def test_a_count_that_contradicts_the_tensors(self, tmp_path):
        contents = legacy(self.VALUE)
        wrong = contents.replace(struct.pack("<q", 8), struct.pack("<q", 2**40))
        refused(tmp_path, wrong, f"{2**40:,} elements; needed: 8")

    @pytest.mark.parametrize("keys", [[], ["0"], ["0", "0"], ["0", "1", "2"], ["0", 1], "01", None])
    def test_a_list_of_storages_that_does_not_fit(self, tmp_path, keys):
        contents, own = legacy(self.VALUE), pickle.dumps(["0", "1"], 2)
        assert contents.count(own) == 1
        refused(tmp_path, contents.replace(own, pickle.dumps(keys, 2)), "list of storages")

    def test_tensors_of_one_storage_that_contradict_each_other(self, tmp_path):
        one, other = Storage(bytes(8), "Float", 2, "0"), Storage(bytes(8), "Float", 3, "0")
        value = {"w": view(one, 0, (1,), (1,)), "v": view(other, 0, (1,), (1,))}
        refused(tmp_path, legacy(value), "contradict each other")

    def test_another_machine_or_protocol(self, tmp_path):
        contents = legacy(self.VALUE)
        machine = contents.index(b"little_endian")
        place = contents.index(b"\x88", machine)
        wrong = contents[:place] + b"\x89" + contents[place + 1 :]
        refused(tmp_path, wrong, "byte order")
        refused(tmp_path, contents.replace(b"M\xe9\x03.", b"M\xea\x03.", 1), "1002")

    @pytest.mark.parametrize("size", [1, 30, 100_000])
    @pytest.mark.parametrize("made", ["a bomb", "a deep list"])
    def test_a_protocol_that_is_no_number(self, tmp_path, made, size):
        """Each tuple of the bomb holds the one before twice: 2^30 values in 200 bytes."""
        one = b"h\x01h\x01\x86q\x01" if made == "a bomb" else b"]h\x01aq\x01"
        protocol = b"\x80\x02)q\x01" + one * size + b"."
        contents = legacy(self.VALUE)
        own = pickle.dumps(PROTOCOL, 2)
        assert contents.count(own) == 1
        kind = "tuple" if made == "a bomb" else "list"
        refused(tmp_path, contents.replace(own, protocol), f"protocol a value of type {kind}")

    def test_a_protocol_that_is_an_array(self, tmp_path):
        protocol = pickle.dumps(np.array([PROTOCOL] * 2), 2)
        contents = legacy(self.VALUE).replace(pickle.dumps(PROTOCOL, 2), protocol)
        refused(tmp_path, contents, "protocol a value of type ndarray")

    def test_a_part_of_a_storage_that_is_a_storage_itself(self, tmp_path):
        data = legacy({"w": view(storage(np.arange(8.0)), 0, (3,), (1,))})
        whole, part = b"K\x08Nt", b"K\x08X\x01\x00\x00\x001K%cK%c\x87t"
        assert data.count(whole) == 1
        changed = data.replace(whole, part.replace(b"%c", b"\x04", 1).replace(b"%c", b"\x03"))
        assert read(tmp_path, changed).arrays["w"].tolist() == [4, 5, 6]
        outside = data.replace(whole, part.replace(b"%c", b"\x06", 1).replace(b"%c", b"\x03"))
        refused(tmp_path, outside, "not inside it")

    def test_a_tar_file(self, tmp_path):
        refused(tmp_path, b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(500), "tar")


ATTACKS = {
    "os.system": Call(os.system, "touch PWNED"),
    "eval": Call(builtins.eval, "open('PWNED', 'w')"),
    "exec": Call(builtins.exec, "open('PWNED', 'w')"),
    "getattr": Call(builtins.getattr, "text", "upper"),
    "torch.load": Call(Name("torch", "load"), "PWNED"),
    "torch.hub": Call(Name("torch.hub", "load"), "owner/repository"),
    "torch.jit": Call(Name("torch.jit", "load"), "PWNED"),
    "a nested pickle": Call(Name("torch.storage", "_load_from_bytes"), pickle.dumps(1)),
    "pickle.loads": Call(pickle.loads, pickle.dumps(1)),
    "by way of a module": Call(Name("argparse", "_sys.exit"), 1),
    "a method of a record": Call(Name("argparse", "Namespace.__init__")),
    "a method of a type": Call(Name("builtins", "int.from_bytes"), b"1"),
    "a wrapped function": Call(
        Name("torch._tensor", "_rebuild_from_type_v2"), os.system, Name("torch", "Tensor"), ("x",)
    ),
    "a hook": view(storage(np.ones(1)), 0, (1,), (1,), Call(os.system, "touch PWNED")),
    "a storage kind": Storage(b"", "_utils._rebuild_tensor_v2.x", 0),
    "arguments": argparse.Namespace(x=Call(os.system, "touch PWNED")),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_code_is_named_and_never_run(name, form, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = {"state_dict": tensors({"w": np.ones(2)}), "bad": ATTACKS[name]}
    path = put(tmp_path, FORMS[form](value, protocol=protocol))
    with pytest.raises(UnsafeCheckpointError, match="nothing of it was run"):
        load_checkpoint(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
