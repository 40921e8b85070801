"""Files of weights: read by their contents, written whole or not at all."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.errors import CheckpointError, OutputError, UnsafeCheckpointError
from reparam.files import sha256_of, whole_file
from tests.weights import repvgg_arrays, write


@pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
def test_round_trip(tmp_path, ending):
    arrays = {**repvgg_arrays(), "scalar": np.array(1.5), "int": np.arange(3)}
    path = tmp_path / f"x.{ending}"
    save_checkpoint(path, arrays, names={"int": "buffer_0"}, metadata={"made": "here"})
    found = load_checkpoint(path)
    assert found.format == ending
    assert found.sha256 == sha256_of(path)
    assert sorted(found.arrays) == sorted(arrays)
    for key, array in arrays.items():
        assert found.arrays[key].dtype == array.dtype
        assert found.arrays[key].shape == array.shape
        assert np.array_equal(found.arrays[key], array)
        assert not found.arrays[key].flags.writeable
    assert found.names == ({"int": "buffer_0"} if ending == "pdparams" else {})
    assert found.metadata == ({} if ending == "pdparams" else {"made": "here"})


def test_the_contents_decide_not_the_ending(tmp_path):
    path = write(tmp_path, repvgg_arrays(), "x.safetensors")
    path.rename(tmp_path / "x.pdparams")
    assert load_checkpoint(tmp_path / "x.pdparams").format == "safetensors"


def test_a_safetensors_header_of_any_length(tmp_path):
    """The first byte of its length is that of a pickle for one file in 32."""
    first = set()
    for length in range(1, 260, 4):
        path = tmp_path / f"{length}.safetensors"
        save_checkpoint(path, {"w" * length: np.ones(2)})
        first.add(path.read_bytes()[0])
        assert load_checkpoint(path).format == "safetensors"
    assert 0x80 in first


def test_paddle_loads_what_is_written(tmp_path):
    from reparam.adapters.paddle_models import import_paddle

    paddle = import_paddle()
    arrays = repvgg_arrays()
    path = tmp_path / "x.pdparams"
    save_checkpoint(path, arrays, names={key: f"p_{i}" for i, key in enumerate(arrays)})
    for found in (paddle.load(str(path)), paddle.load(str(path), return_numpy=True)):
        assert sorted(found) == sorted(arrays)
        for key, array in arrays.items():
            assert np.array_equal(np.asarray(found[key]), array)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_writes_is_read(tmp_path, protocol):
    from reparam.adapters.paddle_models import import_paddle

    paddle = import_paddle()
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    paddle.save(layer.state_dict(), str(tmp_path / "x.pdparams"), protocol=protocol)
    found = load_checkpoint(tmp_path / "x.pdparams")
    assert sorted(found.arrays) == sorted(layer.state_dict())
    for key, tensor in layer.state_dict().items():
        assert np.array_equal(found.arrays[key], tensor.numpy())
        assert found.names[key] == tensor.name


class TestBadInput:
    def refused(self, path, *said, error=CheckpointError):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(error) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        for part in said:
            assert part in str(caught.value)
        if before is not None:
            assert path.read_bytes() == before

    def file(self, tmp_path, contents: bytes):
        path = tmp_path / "x.pdparams"
        path.write_bytes(contents)
        return path

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "none.pdparams", "No such file")

    def test_a_folder(self, tmp_path):
        self.refused(tmp_path, "directory")

    def test_empty(self, tmp_path):
        self.refused(self.file(tmp_path, b""), "is empty")

    def test_truncated(self, tmp_path):
        whole = write(tmp_path, repvgg_arrays(), "whole.pdparams").read_bytes()
        self.refused(self.file(tmp_path, whole[: len(whole) // 2]), "truncated or damaged")

    @pytest.mark.parametrize("cut", [4, 40, -10])
    def test_truncated_safetensors(self, tmp_path, cut):
        whole = write(tmp_path, repvgg_arrays(), "whole.safetensors").read_bytes()
        self.refused(self.file(tmp_path, whole[:cut]))

    @pytest.mark.parametrize(
        ("contents", "said"),
        [
            (b"\x08\x07\x12\x07pytorch", "not a checkpoint"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\x1f\x8b\x08\x00", "gzip"),
        ],
    )
    def test_other_formats(self, tmp_path, contents, said):
        self.refused(self.file(tmp_path, contents), said)

    def test_another_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.pdparams", "w") as archive:
            archive.writestr("data.pkl", b"")
        self.refused(tmp_path / "x.pdparams", "torch.save did not write")

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ([1, 2], "no dict"),
            ({}, "no weights"),
            ({"epoch": 3}, "'epoch'"),
            ({"w": np.ones(2), 3: np.ones(2)}, "'3'"),
        ],
    )
    def test_no_weights(self, tmp_path, value, said):
        self.refused(self.file(tmp_path, pickle.dumps(value, protocol=4)), said)

    def test_a_pickle_that_runs_code(self, tmp_path):
        data = b"\x80\x02cposix\nsystem\n" + b"X\x05\x00\x00\x00false\x85R."
        self.refused(self.file(tmp_path, data), "posix.system", error=UnsafeCheckpointError)


class TestOutputs:
    def test_an_existing_file_is_kept(self, tmp_path):
        path = write(tmp_path, repvgg_arrays(0))
        before = path.read_bytes()
        with pytest.raises(OutputError, match="--force"):
            save_checkpoint(path, repvgg_arrays(1))
        assert path.read_bytes() == before
        save_checkpoint(path, repvgg_arrays(1), force=True)
        assert path.read_bytes() != before

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(OutputError, match="no folder"):
            save_checkpoint(tmp_path / "none" / "x.pdparams", repvgg_arrays())

    def test_an_ending_without_a_format(self, tmp_path):
        with pytest.raises(CheckpointError, match="ending"):
            save_checkpoint(tmp_path / "x.bin", repvgg_arrays())

    def test_a_failure_in_the_middle_leaves_nothing(self, tmp_path):
        arrays = {**repvgg_arrays(), "bad": np.array(["text"], dtype=object)}
        for name in ("x.safetensors", "x.pdparams"):
            with pytest.raises(CheckpointError, match="'bad'"):
                save_checkpoint(tmp_path / name, arrays)
        assert not list(tmp_path.iterdir())

    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path):
        path = tmp_path / "x"

        def race() -> None:
            with whole_file(path) as temporary:
                temporary.write_text("ours")
                path.write_text("theirs")

        with pytest.raises(OutputError, match="appeared"):
            race()
        assert path.read_text() == "theirs"
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_a_full_disk_is_an_error_and_leaves_nothing(self, tmp_path):
        script = (
            "import resource, signal, sys\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "from tests.weights import repvgg_arrays, write\n"
            "from pathlib import Path\n"
            "from reparam.errors import OutputError\n"
            "try:\n    write(Path(sys.argv[1]), repvgg_arrays())\n"
            "except OutputError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
        )
        assert "cannot write" in done.stdout, done.stderr
        assert not list(tmp_path.iterdir())

    def test_ctrl_c_leaves_nothing(self, tmp_path):
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom reparam.files import whole_file\n"
            "with whole_file(Path(sys.argv[1])) as temporary:\n"
            "    temporary.write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "x")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not so under nohup
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(0.05)  # into the sleep
            child.send_signal(signal.SIGINT)
            assert child.wait(30) != 0
        assert not list(tmp_path.iterdir())
