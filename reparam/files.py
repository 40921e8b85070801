"""Output files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from reparam.drafts import (
    Draft,
    clear_stale,
    hard_link,
    hidden_folder,
    hidden_name,
    locked,
    signals_held,
)
from reparam.errors import OutputError

_DEPLOY = re.compile(r"\.deploy(?:-(\d{1,4}))?$")  # of a name without its ending
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has one slash of the two


def deploy_stem(stem: str) -> str:
    """Return the name of a deploy form without its ending: x.deploy of x, x.deploy-2 of that."""
    named = _DEPLOY.search(stem)
    if named is None:
        return f"{stem}.deploy"
    return f"{stem[: named.start()]}.deploy-{int(named[1] or 1) + 1}"


def train_stem(stem: str) -> str:
    """Return the name of a train-time form without its ending: x.train of x.deploy and of x."""
    return f"{_DEPLOY.sub('', stem)}.train"


def check_output(path: Path, force: bool = False) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        OutputError: the folder does not exist or cannot be written to, the path is a folder, a
            device or a URL, or a file or a link is there already and ``force`` is not set.
    """
    _real(path, force)


def is_url(path: Path) -> bool:
    """Whether a path that was given is a URL, which is not looked up: there is no network."""
    return _URL.match(str(path)) is not None


@contextmanager
def whole_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a path to write to; what was written becomes ``path`` when the block ends well.

    Whatever ends the block otherwise, Ctrl-C included, leaves nothing, and a file that was there
    as it was. The path to write to may be of a file without a name: open it, do not rename it.

    Raises:
        OutputError: as :func:`check_output`, or the disk refuses the write.
    """
    with whole_group(path, force=force) as (temporary,):
        yield temporary


@contextmanager
def whole_group(*paths: Path, force: bool = False) -> Iterator[tuple[Path, ...]]:
    """Yield a path to write to for each of ``paths``; all appear together, or none.

    Each may be about those before it: if the machine stops in between, the first may stand
    without the others, but never beside those of another run.

    Raises:
        OutputError: as :func:`whole_file`.
    """
    targets = [_real(path, force) for path in paths]
    drafts: list[Draft] = []
    with _told(paths[0], drafts):
        try:
            for target in targets:
                with locked(target.parent):
                    clear_stale(target.parent)
                drafts.append(Draft.empty(target.parent))
            yield tuple(draft.path for draft in drafts)
            _commit(drafts, targets, force)
        finally:
            for draft in drafts:
                draft.discard()


@contextmanager
def whole_files(paths: Sequence[Path], force: bool = False) -> Iterator[list[Path]]:
    """As :func:`whole_group`, for writers that need the names of the files to be right.

    The paths that are yielded have the same names, in hidden folders beside the files, so that
    files may refer to each other by name. A file that the block does not write is left out. A
    killed process leaves such a folder; the next output there clears it away. Errors speak of the
    last of the files, which is the one that names the others.

    Raises:
        OutputError: as :func:`whole_file`.
    """
    targets = [_real(path, force) for path in paths]
    drafts: list[Draft] = []
    with _told(paths[-1], drafts), ExitStack() as stack:
        folders: dict[Path, Path] = {}
        for path, target in zip(paths, targets, strict=True):
            parent = target.parent
            if parent not in folders:
                with locked(parent):
                    clear_stale(parent)
                    folders[parent] = stack.enter_context(hidden_folder(parent))
            drafts.append(Draft(parent, -1, folders[parent] / path.name))
        yield [draft.path for draft in drafts]
        written = [pair for pair in zip(drafts, targets, strict=True) if pair[0].path.exists()]
        _commit([draft for draft, _ in written], [target for _, target in written], force)


@contextmanager
def _told(path: Path, drafts: Sequence[Draft]) -> Iterator[None]:
    """Turn what the system refuses into an error about ``path``."""
    try:
        yield
    except FileExistsError as error:
        raise OutputError(
            f"'{path}' appeared while it was being made",
            why="nothing is overwritten without being asked",
            hint="--force replaces it",
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write '{path}'", found=error.strerror or str(error)) from error
    except OutputError as error:  # of a writer that knows only the path it was given
        if any(str(draft.path) in error.what for draft in drafts):
            raise error.located(f"cannot write '{path}'") from error
        raise


def _real(path: Path, force: bool) -> Path:
    """Return where the file really goes: a link is kept, and what it points to is written."""
    what = f"cannot write '{path}'"
    if is_url(path):
        raise OutputError(what, found="a URL", why="reparam never uses the network")
    try:
        real = Path(os.path.realpath(path))
        found = real.lstat().st_mode if os.path.lexists(real) else None
        folder = real.parent.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise OutputError(what, found=error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in the name
        raise OutputError(what, found=str(error)) from error
    if found is not None:
        _check_existing(path, found, force)
    elif os.path.islink(path) and not force:  # noqa: PTH114 - a Path may raise
        raise OutputError(
            f"'{path}' is a link to a file that does not exist",
            why="nothing is written through such a link without being asked",
            hint="--force writes where it points, another path leaves it",
        )
    if not folder:
        raise OutputError(
            what,
            found=f"no folder '{path.parent}'",
            hint="create the folder, or write elsewhere with -o",
        )
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise OutputError(
            what,
            found=f"the folder '{path.parent}' is read-only for you",
            hint="write elsewhere with -o",
        )
    return real


def _check_existing(path: Path, mode: int, force: bool) -> None:
    if stat.S_ISDIR(mode):
        raise OutputError(
            f"cannot write '{path}'", found="a folder of that name", hint="name a file"
        )
    if stat.S_ISLNK(mode):
        raise OutputError(f"cannot write '{path}'", found="a link that leads nowhere but to itself")
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write '{path}'", found="a device or a pipe; needed: a file")
    if not force:
        raise OutputError(
            f"'{path}' exists already",
            why="nothing is overwritten without being asked",
            hint="--force replaces it, another path keeps it",
        )


def _commit(drafts: Sequence[Draft], targets: Sequence[Path], force: bool) -> None:
    if force:
        for draft, target in zip(drafts, targets, strict=True):
            _prepare_to_replace(draft, target)
    with signals_held(), ExitStack() as locks:
        for folder in sorted({target.parent for target in targets}):
            locks.enter_context(locked(folder))
        if force:
            _replace(drafts, targets)
        else:
            _place(drafts, targets)


def _prepare_to_replace(draft: Draft, target: Path) -> None:
    """Make sure that what is replaced is not lost to a power cut, nor opened to others."""
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
        draft.path.chmod(mode)
        with draft.path.open("rb+") as stream:
            os.fsync(stream.fileno())


def _place(drafts: Sequence[Draft], targets: Sequence[Path]) -> None:
    placed: list[Path] = []
    try:
        for draft, target in zip(drafts, targets, strict=True):
            draft.place(target)
            placed.append(target)
    except OSError:
        for target in placed:
            target.unlink()
        raise


def _replace(drafts: Sequence[Draft], targets: Sequence[Path]) -> None:
    for draft in drafts:
        draft.show()  # all that needs room on the disk, before anything is touched
    before: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for target in targets[1:]:
            if target.exists():
                before[target] = target.replace(hidden_name(target.parent))
        if len(targets) > 1:
            _keep(targets[0], before)
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
            placed.append(target)
    except OSError:
        _put_back(placed, before)
        raise
    for name in before.values():
        name.unlink(missing_ok=True)


def _put_back(placed: Sequence[Path], before: dict[Path, Path]) -> None:
    for target in placed:
        if target not in before:
            target.unlink()
    for target, name in before.items():
        if target in placed or not target.exists():
            name.replace(target)
        name.unlink(missing_ok=True)


def _keep(target: Path, before: dict[Path, Path]) -> None:
    """Note a second name of ``target``, so that it never lacks its own, and can be put back."""
    if not target.exists():
        return
    before[target] = name = hidden_name(target.parent)
    try:
        hard_link(target, name)
    except OSError:  # a file system without hard links
        shutil.copy2(target, name)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
