"""Where a command runs, how its files are called, and who reads what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint
from tests.commands.processes import (
    REPARAM,
    contents,
    one_error,
    reparam,
    run,
    scripted,
    with_environment,
)
from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write

SCRIPT = Path(sys.executable).with_name("reparam")


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path, repvgg_arrays())


class TestNames:
    @pytest.mark.parametrize("command", ["inspect", "fuse", "verify", "export", "bench"])
    def test_a_folder_instead_of_a_file(self, inside, tmp_path, command):
        folder = tmp_path / "x.pdparams"
        folder.mkdir()
        one_error(inside(command, folder), f"'{folder}'")
        assert [path.name for path in tmp_path.rglob("*")] == ["x.pdparams"]

    @pytest.mark.parametrize("url", ["https://example.org/x.pdparams", "s3://bucket/x.pdparams"])
    def test_a_url_as_output(self, inside, source, url):
        before = contents(source.parent)
        one_error(inside("fuse", source, "-o", url, cwd=source.parent), "a URL", "network")
        one_error(inside("export", source, "--onnx", url, cwd=source.parent), "a URL")
        assert contents(source.parent) == before

    @pytest.mark.parametrize("name", ["with space.pdparams", "重参数化.pdparams", "a'b\"c.pdparams",
                                      "new\nline.pdparams", "$(touch x).pdparams"])  # fmt: skip
    def test_odd_names(self, inside, tmp_path, name):
        path = write(tmp_path, repvgg_arrays(), name)
        done = inside("fuse", path.name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(contents(tmp_path)) == 3
        assert inside("verify", path.name, "--no-network", cwd=tmp_path).returncode == 0

    def test_a_name_that_is_no_text(self, source):
        source.rename(source.with_name(os.fsdecode(b"\xff.pdparams")))
        done = run([*map(os.fsencode, [*REPARAM, "fuse"]), b"\xff.pdparams"], cwd=source.parent)
        assert done.returncode == 0, done.stderr
        assert os.fsdecode(b"\xff.deploy.pdparams") in contents(source.parent)

    def test_a_name_that_begins_with_a_dash(self, inside, tmp_path):
        write(tmp_path, repvgg_arrays(), "-x.pdparams")
        one_error(
            inside("fuse", "-x.pdparams", cwd=tmp_path), "No such option", "reparam fuse --help"
        )
        done = inside("fuse", "-o", "-y.pdparams", "--", "-x.pdparams", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "-y.pdparams").exists()
        assert inside("fuse", "./-x.pdparams", cwd=tmp_path).returncode == 0

    @pytest.mark.parametrize("link", [os.link, os.symlink])
    @pytest.mark.parametrize("force", [[], ["--force"]])
    def test_the_input_under_another_name_is_never_the_output(self, inside, source, link, force):
        link(source, source.with_name("x.pdparams"))
        before = contents(source.parent)
        one_error(inside("fuse", source, "-o", source.with_name("x.pdparams"), *force), "the input")
        one_error(inside("export", source, "--onnx", source.with_name("x.pdparams"), *force),
                  "the checkpoint that is being exported")  # fmt: skip
        assert contents(source.parent) == before

    def test_a_link_as_output_is_written_through(self, inside, source, tmp_path):
        (tmp_path / "store").mkdir()
        link = source.with_name("latest.pdparams")
        link.symlink_to("store/one.pdparams")
        assert inside("fuse", source, "-o", link, "--force").returncode == 0
        assert link.is_symlink()
        sha256 = load_checkpoint(tmp_path / "store" / "one.pdparams").sha256
        note = json.loads(link.with_name("latest.pdparams.manifest.json").read_text())
        assert note["sha256"] == sha256


class TestSurroundings:
    def test_a_working_folder_that_is_gone(self, source, tmp_path):
        gone = tmp_path / "gone"
        gone.mkdir()
        command = 'rmdir "$1" && shift && exec "$@"'

        def there(*arguments: object):
            gone.mkdir(exist_ok=True)
            return run(["sh", "-c", command, "sh", str(gone), str(SCRIPT), *map(str, arguments)],
                       cwd=gone)  # fmt: skip

        if not SCRIPT.exists():
            pytest.skip("the console script is not installed")
        one_error(there("fuse"), "no checkpoint")
        one_error(there("fuse", "x.pdparams"), "No such file")
        one_error(there("fuse", source, "-o", "x.pdparams"), "No such file")
        assert there("fuse", source).returncode == 0

    def test_without_home_or_anything_else(self, source):
        assert reparam("fuse", source, env={}).returncode == 0

    def test_another_file_system_than_that_of_temporary_files(self, source):
        other = Path("/dev/shm")
        if not other.is_dir() or other.stat().st_dev == source.stat().st_dev:
            pytest.skip("there is no second file system")
        done = reparam("fuse", source, env=with_environment(TMPDIR=str(other)))
        assert done.returncode == 0

    @needs_converter
    def test_no_place_for_temporary_files(self, source):
        before = contents(source.parent)
        script = "import tempfile\ntempfile.tempdir = '/nowhere'"
        done = scripted(script, "export", source, "--onnx", "--input-size", "32")
        one_error(done, "No such file or directory: '/nowhere")
        assert contents(source.parent) == before


class TestReaders:
    """Of standard output and error: gone, closed, or without the letters."""

    @pytest.mark.parametrize("arguments", [
        ["--help"], ["inspect", "SOURCE"], ["fuse", "--help"],
        ["verify", "SOURCE", "--no-network", "--json"],
    ])  # fmt: skip
    def test_gone(self, source, arguments):
        command = [*REPARAM, *(str(source) if a == "SOURCE" else a for a in arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode == 141

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
    def test_closed(self, source, closed):
        target = source.with_name("x.pdparams")
        command = f'exec "$0" -m reparam fuse "$1" -o "$2" {closed}'
        done = run(["sh", "-c", command, sys.executable, str(source), str(target)])
        assert done.returncode == 0
        assert load_checkpoint(target).arrays  # nothing was printed into it

    @pytest.mark.parametrize("changes", [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ])  # fmt: skip
    def test_without_the_letters(self, tmp_path, changes):
        path = write(tmp_path, {"权重": np.full(2, np.nan, np.float32)}, "模型.pdparams")
        environment = with_environment(**changes)
        done = reparam("inspect", path, env=environment, encoding="ascii")
        assert done.returncode == 0, done.stderr
        assert "\\u6743\\u91cd" in done.stdout or "\\udce6" in done.stdout
        done = reparam("fuse", path, env=environment, encoding="latin-1")
        assert "Error:" in done.stderr
        done = reparam("inspect", path, "--json", env=environment, encoding="ascii")
        assert json.loads(done.stdout)["not_finite"] == ["权重"]
