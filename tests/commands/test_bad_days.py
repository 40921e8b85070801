"""Full disks, killed processes, two runs at once: an output is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reparam import fuse
from reparam.checkpoint import load_checkpoint
from tests.commands.processes import (
    MAIN,
    REPARAM,
    contents,
    forked,
    one_error,
    reparam,
    scripted,
)
from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write

NAMED = "from reparam import drafts\ndrafts._unnamed = lambda folder: -1"
TARGET, NOTE = "ckpt.deploy.pdparams", "ckpt.deploy.pdparams.manifest.json"


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return write(folder, repvgg_arrays())


def limited(size: int):
    """Return what lets no file of a new process grow beyond ``size`` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "reparam-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount command: {error}")
    if done.returncode:
        pytest.skip(f"may not mount a file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
    @pytest.mark.parametrize("force", [False, True])
    def test_fuse(self, source, ending, force):
        target = source.with_name(f"x.{ending}")
        if force:
            fuse(source, target)
        before = contents(source.parent)
        done = reparam("fuse", source, "-o", target, *["--force"] * force, preexec_fn=limited(9000))
        one_error(done, f"cannot write '{target}'", "File too large")
        assert contents(source.parent) == before

    def test_fuse_on_a_small_disk(self, small_disk, source):
        big = {"w": np.zeros(70_000, np.float32), **repvgg_arrays()}
        checkpoint = write(source.parent, big, "big.pdparams")
        target = small_disk / "x.pdparams"
        target.write_bytes(b"old")
        one_error(reparam("fuse", checkpoint, "-o", target, "--force"), "No space left on device")
        assert contents(small_disk) == {"x.pdparams": b"old"}
        assert reparam("fuse", source, "-o", target, "--force").returncode == 0
        assert load_checkpoint(target).sha256 == note_of(target)["sha256"]

    @needs_converter
    def test_export(self, source, tmp_path):
        (tmp_path / "temporary").mkdir()
        before = contents(tmp_path)
        done = reparam("export", source, "--onnx", "--input-size", "32",
                       env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
                       preexec_fn=limited(9000))  # fmt: skip
        assert done.returncode == 2, done
        assert done.stderr.count("Error:") == 1
        assert contents(tmp_path) == before

    def test_demo(self, tmp_path):
        done = reparam("demo", "--keep", tmp_path / "kept", preexec_fn=limited(9000))
        assert done.returncode == 2
        assert "File too large" in done.stderr
        assert not list(tmp_path.iterdir())

    def test_the_report_itself(self, source):
        with Path("/dev/full").open("w") as full:
            done = reparam("inspect", source, stdout=full, stderr=subprocess.PIPE,
                           capture_output=False)  # fmt: skip
        assert done.returncode == 2
        assert "No space left" in done.stderr


class TestReadOnly:
    def test_a_file_system(self, small_disk, source):
        before = contents(source.parent)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        for target in (small_disk / "x.pdparams", small_disk / "x.onnx"):
            command = (
                ["fuse", source, "-o"] if target.suffix != ".onnx" else ["export", source, "--onnx"]
            )
            one_error(reparam(*command, target), f"cannot write '{target}'", "read-only")
        assert contents(source.parent) == before

    def test_a_folder(self, source):
        if os.geteuid() == 0:
            pytest.skip("root writes where permissions say no")
        source.parent.chmod(0o555)
        done = reparam("fuse", source)
        source.parent.chmod(0o755)
        one_error(done, "read-only")

    def test_the_working_folder_with_the_output_elsewhere(self, small_disk, source):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        done = reparam("fuse", source, "-o", source.with_name("x.pdparams"), cwd=small_disk)
        assert done.returncode == 0


def note_of(target: Path) -> dict:
    return json.loads(target.with_name(f"{target.name}.manifest.json").read_text())


class TestTwoAtOnce:
    @pytest.mark.parametrize("force", [False, True])
    def test_one_of_them_is_there_whole(self, source, force):
        target = source.with_name("x.pdparams")
        sources = [source, write(source.parent, repvgg_arrays(1), "other.pdparams")]
        hashes = {load_checkpoint(path).sha256 for path in sources}
        for _ in range(2):
            target.unlink(missing_ok=True)
            target.with_name(f"{target.name}.manifest.json").unlink(missing_ok=True)
            runs = [
                subprocess.Popen(
                    [*REPARAM, "fuse", path, "-o", target, *["--force"] * force],
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
                for path in sources
            ]  # fmt: skip
            said = [run.communicate()[1] for run in runs]
            codes = sorted(run.returncode for run in runs)
            assert codes == ([0, 0] if force else [0, 2]), said
            if not force:
                assert any("exists already" in err or "appeared" in err for err in said)
            note = note_of(target)
            assert note["sha256"] == load_checkpoint(target).sha256
            assert note["source_sha256"] in hashes
        assert len(list(source.parent.iterdir())) == 4


class TestKilled:
    """After SIGKILL at any moment: nothing, the old files or the new ones, never a part."""

    def check(self, folder: Path, before: dict[str, bytes], whole: dict[str, bytes]) -> None:
        now = contents(folder)
        target, note = now.get(TARGET), now.get(NOTE)
        assert target in (before.get(TARGET), whole[TARGET])
        if note is not None:  # else it is absent, which the crash may leave
            assert json.loads(note)["sha256"] == hashlib.sha256(target or b"").hexdigest()
        assert now["ckpt.pdparams"] == before["ckpt.pdparams"]

    @pytest.mark.parametrize(
        "names", ["", pytest.param(NAMED, marks=pytest.mark.slow)], ids=["unnamed", "hidden"]
    )
    @pytest.mark.parametrize("force", [False, True])
    def test_at_random_moments(self, tmp_path, names, force):
        source = write(tmp_path, repvgg_arrays(widths=(32, 64, 128, 256)))
        options = ["--force"] * force
        command = [sys.executable, "-c", f"{names}\n{MAIN}", "fuse", source, *options]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        once = time.monotonic() - start  # for the delays alone
        whole = contents(tmp_path)
        moments = random.Random(3)
        for _ in range(3):
            (tmp_path / TARGET).unlink(missing_ok=True)
            (tmp_path / NOTE).unlink(missing_ok=True)
            if force:
                fuse(write(tmp_path, repvgg_arrays(5), "old.pdparams"), tmp_path / TARGET)
                (tmp_path / "old.pdparams").unlink()
            before = contents(tmp_path)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
                time.sleep(once * moments.uniform(0.4, 1.1))
                child.kill()
            self.check(tmp_path, before, whole)
        if not force:
            (tmp_path / TARGET).unlink(missing_ok=True)
            (tmp_path / NOTE).unlink(missing_ok=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert contents(tmp_path) == whole  # what the kills left is cleared, if they left anything

    @pytest.mark.parametrize("names", ["", NAMED], ids=["unnamed", "hidden"])
    @pytest.mark.parametrize("force", [False, True])
    def test_between_any_two_steps_of_the_end(self, source, names, force):
        folder = source.parent
        fuse(source)
        whole = contents(folder)
        for step in range(1, 9):
            (folder / TARGET).unlink(missing_ok=True)
            (folder / NOTE).unlink(missing_ok=True)
            if force:
                fuse(write(folder, repvgg_arrays(5), "old.pdparams"), folder / TARGET)
                (folder / "old.pdparams").unlink()
            before = contents(folder)
            script = (
                f"{names}\nimport os\nfrom pathlib import Path\nleft = {step}\n"
                "def counted(call):\n"
                "    def stopping(*given, **options):\n"
                "        global left\n"
                "        left -= 1\n"
                "        if not left: os.kill(os.getpid(), 9)\n"
                "        return call(*given, **options)\n"
                "    return stopping\n"
                "os.link, Path.replace, Path.unlink, os.open = map(\n"
                "    counted, (os.link, Path.replace, Path.unlink, os.open))\n"
            )
            code = forked(script, "fuse", source, *["--force"] * force)
            self.check(folder, before, whole)
            if not names and not force:
                assert not [name for name in contents(folder) if name.endswith(".part")]
            if code == 0:
                break
        assert step > 4  # there were steps to be killed at


# Stops in the middle of writing weights, and says so.
SLOW_FUSE = """
import time
from reparam.checkpoint import pipeline
def half(path, *given, **options):
    path.write_bytes(b'half')
    print('ready', flush=True)
    time.sleep(60)
pipeline.write_arrays = half
"""
SLOW_EXPORT = """
import sys
from reparam.adapters import converter
from pathlib import Path
converter.CHILD = Path({child!r})
"""


def runs(pid: str) -> bool:
    """Whether a process is there and more than an entry that nobody has collected."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestEnded:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.parametrize("names", ["", NAMED], ids=["unnamed", "hidden"])
    def test_fuse(self, source, number, names):
        self.end(source, number, names + SLOW_FUSE, "fuse", source)

    @needs_converter
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_export(self, source, number, tmp_path):
        child = tmp_path / "child.py"
        child.write_text("import os, time\nprint(os.getpid())\n"
                         f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
                         "os.write(os.open('/proc/%d/fd/1' % os.getppid(), os.O_WRONLY),"
                         " b'ready\\n')\ntime.sleep(60)\n")  # fmt: skip
        (tmp_path / "temporary").mkdir()
        self.end(source, number, SLOW_EXPORT.format(child=str(child)),
                 "export", source, "--onnx", "--input-size", "32",
                 env={**os.environ, "TMPDIR": str(tmp_path / "temporary")})  # fmt: skip
        assert not list((tmp_path / "temporary").iterdir())
        assert not runs((tmp_path / "pid").read_text())

    def end(self, source, number, script, *arguments, **options):
        before = contents(source.parent)
        command = [sys.executable, "-c", script + MAIN, *map(str, arguments)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL), **options
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", child.communicate()
            time.sleep(0.05)  # into the sleep
            child.send_signal(number)
            _, err = child.communicate(timeout=60)
        assert child.returncode == 128 + number, err
        assert "Traceback" not in err
        assert "no half-written file" in err
        assert contents(source.parent) == before

    def test_a_signal_that_is_ignored_stays_ignored(self, source):
        """As under nohup."""
        command = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
        hangup = "from reparam.checkpoint import pipeline\nload = pipeline.load_checkpoint\n"
        script = (
            f"import os, signal\n{command}\n{hangup}"
            "def hung_up(*given, **options):\n"
            "    os.kill(os.getpid(), signal.SIGHUP)\n    return load(*given, **options)\n"
            "pipeline.load_checkpoint = hung_up\n"
        )
        assert scripted(script, "fuse", source).returncode == 0
