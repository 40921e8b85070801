"""Files that belong together appear together, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam import files
from reparam.errors import OutputError
from reparam.files import whole_files


def write_all(paths: list[Path], force: bool = False, meanwhile: Path | None = None) -> None:
    with whole_files(paths, force) as temporary:
        for path in temporary:
            path.write_text("new")
        if meanwhile is not None:
            meanwhile.write_text("somebody else's")


def test_all_are_put_in_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    paths = [tmp_path / "a.data", tmp_path / "a", other / "b", tmp_path / "unwritten"]
    with whole_files(paths) as temporary:
        assert [path.name for path in temporary] == [path.name for path in paths]
        assert temporary[0].parent == temporary[1].parent != temporary[2].parent
        for path in temporary[:3]:
            path.write_text(path.name)
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths[:3]] == ["a.data", "a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.data", "other"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_none_is_where_the_block_fails(error: BaseException, tmp_path: Path) -> None:
    def write(temporary: list[Path]) -> None:
        temporary[0].write_text("half")
        raise error

    with pytest.raises(type(error)), whole_files([tmp_path / "a", tmp_path / "b"]) as temporary:
        write(temporary)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), whole_files([tmp_path / "a"]):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_first_is_taken_back_where_the_second_cannot_be(
    force: bool, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if force:
        (tmp_path / "a").write_text("old")
    put = files._put_in_place

    def second_fails(temporary: Path, path: Path, force: bool) -> None:
        if path.name == "b":
            raise OSError(13, "Permission denied")
        put(temporary, path, force)

    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(files, "_put_in_place", second_fails)
    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(OutputError, match="Permission denied"):
        write_all(paths, force)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({"a": "old"} if force else {})


def test_what_came_there_meanwhile_stays(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(OutputError, match="exists already"):
        write_all(paths, meanwhile=paths[1])
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"b": "somebody else's"}
