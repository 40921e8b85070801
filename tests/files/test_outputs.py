"""Files that appear whole or not at all, with and without help from the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reparam import drafts
from reparam.drafts import scratch_folder
from reparam.errors import OutputError
from reparam.files import check_output, whole_file, whole_files, whole_group

NAMELESS = {"unnamed", "neither"}  # systems where a file may have no name
LINKING = {"unnamed", "hidden name"}  # systems where an open file can be given one


@pytest.fixture(params=["unnamed", "hidden name", "no hard links", "neither"], autouse=True)
def system(request, monkeypatch):
    """What the file system can do."""
    if request.param not in NAMELESS:
        monkeypatch.setattr(drafts, "_unnamed", lambda folder: -1)
    if request.param not in LINKING:

        def refuse(*given, **options):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    return request.param


def write(path: Path, text: str = "new", force: bool = False) -> None:
    with whole_file(path, force) as temporary:
        temporary.write_text(text)


def write_pair(first: Path, second: Path, text: str = "new", force: bool = False) -> None:
    with whole_group(first, second, force=force) as temporaries:
        for temporary in temporaries:
            temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhole:
    def test_nothing_is_there_until_the_end(self, tmp_path):
        path = tmp_path / "x"
        with whole_file(path) as temporary:
            temporary.write_text("half")
            assert not path.exists()
        assert path.read_text() == "half"
        assert names(tmp_path) == ["x"]

    def test_without_a_name_nothing_at_all_is_seen(self, tmp_path, system):
        if system not in NAMELESS:
            pytest.skip("here a hidden name is seen")
        with whole_file(tmp_path / "x") as temporary:
            if "/proc/" not in str(temporary):
                pytest.skip("the file system of the tests has no files without a name")
            assert names(tmp_path) == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
    def test_a_failure_leaves_nothing(self, tmp_path, error):
        expected = OutputError if error is OSError else error
        with pytest.raises(expected), whole_group(tmp_path / "x", tmp_path / "y"):
            raise error
        assert names(tmp_path) == []

    def test_a_failure_keeps_what_was_there(self, tmp_path):
        path = tmp_path / "x"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), whole_file(path, force=True) as temporary:
            temporary.write_text(str(1 // 0))
        assert path.read_text() == "old"
        assert names(tmp_path) == ["x"]

    def test_force_replaces_both(self, tmp_path):
        write_pair(tmp_path / "x", tmp_path / "y", "old")
        write_pair(tmp_path / "x", tmp_path / "y", "new", force=True)
        assert {p.read_text() for p in tmp_path.iterdir()} == {"new"}
        assert names(tmp_path) == ["x", "y"]

    def test_permissions_are_those_of_any_new_file(self, tmp_path):
        before = os.umask(0o027)
        try:
            write(tmp_path / "x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640

    def test_a_private_file_stays_private(self, tmp_path):
        (tmp_path / "x").write_text("old")
        (tmp_path / "x").chmod(0o600)
        write(tmp_path / "x", force=True)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600

    @pytest.mark.parametrize("name", ["a b", "模型", "-x", "e\u0301", "n" * 255, "a\nb", ".x.part"])
    def test_any_name(self, tmp_path, name):
        write(tmp_path / name)
        assert names(tmp_path) == [name]

    def test_names_that_cannot_be(self, tmp_path):
        for name in ("n" * 256, "a\0b"):
            with pytest.raises(OutputError, match="cannot write"):
                write(tmp_path / name)

    def test_a_deep_path(self, tmp_path):
        folder = tmp_path.joinpath(*["folder-of-some-length"] * 40)
        folder.mkdir(parents=True)
        write(folder / "x")
        assert names(folder) == ["x"]


class TestNamed:
    """For writers that need the names to be right."""

    def test_names_are_right_and_nothing_is_left(self, tmp_path):
        paths = [tmp_path / "x.data", tmp_path / "x", tmp_path / "not written"]
        with whole_files(paths) as temporaries:
            assert [path.name for path in temporaries] == [path.name for path in paths]
            assert len({path.parent for path in temporaries}) == 1
            temporaries[0].write_text("data")
            temporaries[1].write_text("x.data")
        assert names(tmp_path) == ["x", "x.data"]
        assert (tmp_path / "x.data").read_text() == "data"

    @pytest.mark.parametrize("force", [False, True])
    def test_all_or_none(self, tmp_path, force):
        paths = [tmp_path / "x", tmp_path / "y"]
        if force:
            write_pair(*paths, "old")
        before = {path.name: path.read_text() for path in tmp_path.iterdir()}

        def fail() -> None:
            with whole_files(paths, force) as temporaries:
                temporaries[0].write_text("new")
                raise OSError(errno.ENOSPC, "disk")

        with pytest.raises(OutputError, match="disk"):
            fail()
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
        with whole_files(paths, force) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")
        assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}
        assert names(tmp_path) == ["x", "y"]

    def test_what_appears_meanwhile_is_kept(self, tmp_path):
        def race() -> None:
            with whole_files([tmp_path / "x", tmp_path / "y"]) as temporaries:
                for temporary in temporaries:
                    temporary.write_text("ours")
                (tmp_path / "y").write_text("theirs")

        with pytest.raises(OutputError, match="appeared"):
            race()
        assert names(tmp_path) == ["y"]

    def test_a_folder_of_a_killed_run_is_cleared_and_that_of_a_live_one_is_not(self, tmp_path):
        stale = drafts.hidden_name(tmp_path)
        stale.mkdir()
        (stale / "x").write_text("of a killed run")
        with whole_files([tmp_path / "x"]) as (temporary,):
            temporary.write_text("new")
            write(tmp_path / "y")
        assert names(tmp_path) == ["x", "y"]

    def test_in_two_folders(self, tmp_path):
        (tmp_path / "a").mkdir()
        with whole_files([tmp_path / "a" / "x", tmp_path / "x"]) as temporaries:
            for temporary in temporaries:
                temporary.write_text(temporary.name)
        assert names(tmp_path) == ["a", "x"]
        assert names(tmp_path / "a") == ["x"]


class TestRaces:
    """What another process puts there meanwhile is never replaced, nor mixed with ours."""

    @pytest.mark.parametrize("taken", ["x", "y"])
    def test_one_of_two_appears(self, tmp_path, taken):
        first, second = tmp_path / "x", tmp_path / "y"

        def race() -> None:
            with whole_group(first, second) as temporaries:
                for temporary in temporaries:
                    temporary.write_text("ours")
                (tmp_path / taken).write_text("theirs")

        with pytest.raises(OutputError, match="appeared"):
            race()
        assert names(tmp_path) == [taken]
        assert (tmp_path / taken).read_text() == "theirs"

    def test_the_second_is_never_beside_a_first_of_another_run(self, tmp_path, monkeypatch):
        """Whatever the moment of a crash: old pair, new pair, or one file alone."""
        seen: list[set[str]] = []
        replace = Path.replace

        def watched(self, target):
            done = replace(self, target)
            seen.append({p.read_text() for p in (tmp_path / "x", tmp_path / "y") if p.exists()})
            return done

        write_pair(tmp_path / "x", tmp_path / "y", "old")
        monkeypatch.setattr(Path, "replace", watched)
        write_pair(tmp_path / "x", tmp_path / "y", "new", force=True)
        assert len(seen) == 3
        assert all(len(texts) == 1 for texts in seen)

    def test_a_replacement_that_is_refused_changes_nothing(self, tmp_path, monkeypatch):
        write_pair(tmp_path / "x", tmp_path / "y", "old")
        replace = Path.replace

        def refuse(self, target):
            if Path(target).name == "x":
                raise PermissionError(errno.EPERM, "immutable")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(OutputError, match="immutable"):
            write_pair(tmp_path / "x", tmp_path / "y", "new", force=True)
        assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}
        assert names(tmp_path) == ["x", "y"]

    @pytest.mark.parametrize("links", [True, False])
    def test_the_first_is_put_back_where_the_second_cannot_be(self, tmp_path, monkeypatch, links):
        write_pair(tmp_path / "x", tmp_path / "y", "old")
        replace, failures = Path.replace, iter([True])

        def refuse(self, target):
            if Path(target).name == "y" and next(failures, False):
                raise PermissionError(errno.EPERM, "immutable")
            return replace(self, target)

        def no_links(*_, **__):
            raise PermissionError(errno.EPERM, "no links")

        monkeypatch.setattr(Path, "replace", refuse)
        if not links:
            monkeypatch.setattr(os, "link", no_links)
        with pytest.raises(OutputError, match="immutable"):
            write_pair(tmp_path / "x", tmp_path / "y", "new", force=True)
        assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}
        assert names(tmp_path) == ["x", "y"]

    def test_no_room_for_the_second_name_changes_nothing(self, tmp_path, monkeypatch):
        write_pair(tmp_path / "x", tmp_path / "y", "old")
        show, shown = drafts.Draft.show, []

        def refuse(self):
            shown.append(self)
            if len(set(map(id, shown))) == 2:
                raise OSError(errno.ENOSPC, "no room")
            show(self)

        monkeypatch.setattr(drafts.Draft, "show", refuse)
        with pytest.raises(OutputError, match="no room"):
            write_pair(tmp_path / "x", tmp_path / "y", "new", force=True)
        assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}
        assert names(tmp_path) == ["x", "y"]

    def test_the_lock_of_the_folder_is_waited_for_and_then_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(drafts, "_PATIENCE", 0.05)
        handle = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="keeps the folder locked"):
            write(tmp_path / "x")
        os.close(handle)
        write(tmp_path / "x")

    def test_placing_waits_for_the_lock(self, tmp_path, monkeypatch):
        monkeypatch.setattr(drafts, "_PATIENCE", 0.05)
        handle = os.open(tmp_path, os.O_RDONLY)

        def locked_meanwhile(force: bool) -> None:
            with whole_file(tmp_path / "x", force) as temporary:
                temporary.write_text("new")
                fcntl.flock(handle, fcntl.LOCK_EX)

        for force in (False, True):
            with pytest.raises(OutputError, match="keeps the folder locked"):
                locked_meanwhile(force)
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
        assert names(tmp_path) == []

    def test_ctrl_c_while_placing_waits_until_both_are_there(self, tmp_path, monkeypatch):
        place = drafts.Draft.place

        def interrupted(self, target):
            place(self, target)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(drafts.Draft, "place", interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                write_pair(tmp_path / "x", tmp_path / "y")
        finally:
            signal.signal(signal.SIGINT, before)
        assert names(tmp_path) == ["x", "y"]


class TestStale:
    def test_what_a_killed_run_left_is_cleared(self, tmp_path):
        drafts.hidden_name(tmp_path).write_text("of a killed run")
        write(tmp_path / "x")
        assert names(tmp_path) == ["x"]

    def test_what_a_live_run_writes_is_not(self, tmp_path):
        with whole_file(tmp_path / "x") as temporary:
            temporary.write_text("first")
            write(tmp_path / "y", "second")
        assert (tmp_path / "x").read_text() == "first"
        assert (tmp_path / "y").read_text() == "second"

    def test_what_a_live_run_is_about_to_replace_with_is_not(self, tmp_path, system):
        if system == "neither":
            pytest.skip("the copy that is made here is under the lock of the folder")
        draft = drafts.Draft.empty(tmp_path)
        draft.show()
        assert len(names(tmp_path)) == 1
        drafts.clear_stale(tmp_path)
        assert len(names(tmp_path)) == 1
        draft.discard()
        assert names(tmp_path) == []

    def test_without_locks_it_is_its_age_that_tells(self, tmp_path, monkeypatch):
        monkeypatch.setattr(drafts, "_LOCKS", False)
        monkeypatch.setattr(drafts, "_unnamed", lambda folder: -1)
        young, old = drafts.hidden_name(tmp_path), drafts.hidden_name(tmp_path)
        (old / "inside").mkdir(parents=True)
        young.write_text("of a run that is alive")
        os.utime(old, (0, 0))
        write(tmp_path / "x")
        assert names(tmp_path) == sorted([young.name, "x"])

    def test_files_of_others_are_not(self, tmp_path):
        for name in (".x.part", ".reparam-mine.part", "reparam-0123456789abcdef.part"):
            (tmp_path / name).write_text("mine")
        before = names(tmp_path)
        write(tmp_path / "x")
        assert names(tmp_path) == sorted([*before, "x"])

    def test_a_link_under_such_a_name_is_not_followed(self, tmp_path):
        (tmp_path / "mine").write_text("mine")
        drafts.hidden_name(tmp_path).symlink_to(tmp_path / "mine")
        write(tmp_path / "x")
        assert (tmp_path / "mine").read_text() == "mine"


class TestWhere:
    def test_a_link_is_kept_and_its_file_written(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "link").symlink_to("elsewhere/real")
        write(tmp_path / "link", "first", force=True)
        assert (tmp_path / "elsewhere" / "real").read_text() == "first"
        with pytest.raises(OutputError, match="exists already"):
            write(tmp_path / "link", "second")
        write(tmp_path / "link", "second", force=True)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "real").read_text() == "second"
        assert names(tmp_path / "elsewhere") == ["real"]

    def test_a_link_to_nothing_is_refused(self, tmp_path):
        (tmp_path / "link").symlink_to("nothing")
        with pytest.raises(OutputError, match="a link to a file that does not exist"):
            check_output(tmp_path / "link")
        check_output(tmp_path / "link", force=True)

    def test_a_link_to_itself(self, tmp_path):
        (tmp_path / "link").symlink_to("link")
        for force in (False, True):
            with pytest.raises(OutputError, match="leads nowhere"):
                write(tmp_path / "link", force=force)

    @pytest.mark.parametrize("force", [False, True])
    def test_devices_and_pipes_are_no_files(self, tmp_path, force):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/null")):
            with pytest.raises(OutputError, match="device or a pipe"):
                write(path, force=force)
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

    @pytest.mark.parametrize("url", ["https://x.org/m.pdparams", "s3://bucket/m", "file:///tmp/m"])
    def test_a_url(self, url):
        with pytest.raises(OutputError, match="a URL"):
            check_output(Path(url))

    def test_a_name_with_a_colon_is_no_url(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(Path("epoch:12"))
        assert names(tmp_path) == ["epoch:12"]

    def test_a_folder(self, tmp_path):
        for path in (tmp_path, Path()):
            with pytest.raises(OutputError, match="a folder of that name"):
                check_output(path, force=True)

    def test_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="no folder"):
            check_output(tmp_path / "file" / "x")


class TestScratchFolder:
    def test_a_killed_process_leaves_it_and_the_next_clears_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        code = (
            "import os; from reparam.drafts import scratch_folder\n"
            "with scratch_folder() as folder:\n"
            "    (folder / 'x').touch(); print(folder, flush=True); input()\n"
        )
        command = [sys.executable, "-c", code]
        variables = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        ) as process:
            left = Path(process.stdout.readline().strip())
            with scratch_folder() as mine:
                assert {*tmp_path.iterdir()} == {left.parent, mine.parent}  # of a living process
            process.kill()
        assert [*tmp_path.iterdir()] == [left.parent]
        with scratch_folder() as mine:
            assert [*tmp_path.iterdir()] == [mine.parent]
            with whole_file(mine / "y", force=False) as draft:
                draft.touch()
            assert (mine / "y").exists()
        assert not any(tmp_path.iterdir())

    def test_one_that_was_cleared_before_it_was_locked_is_made_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        opened, real = [], os.open

        def open_late(path, *arguments, **options):
            if Path(path).parent == tmp_path and not opened:
                opened.append(path)
                handle = real(path, *arguments, **options)
                Path(path).rmdir()  # as another run does, that came between
                return handle
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", open_late)
        with scratch_folder() as mine:
            assert opened
            assert mine.is_dir()
