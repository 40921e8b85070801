"""Files on their way to a name: invisible while they are written, then placed in one step.

Where the system can, a draft has no name at all (``O_TMPFILE``), and a process that is killed
leaves nothing. Elsewhere it has a hidden name, and the next draft in the folder clears it away.
Why, and what a crash can leave: docs/decisions/0006-output-files.md.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be renamed either
    _LOCKS = False
else:
    _LOCKS = True

_HIDDEN = re.compile(r"\.reparam-[0-9a-f]{16}\.part")
_PATIENCE = 10.0  # seconds for the lock of a folder, which is held for microseconds
_STALE = 86400.0  # seconds: without locks, no run of ours takes longer to write a file
_HELD = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Draft:
    """A file on its way; ``path`` is what writers open.

    Args:
        folder: where it will be placed.
        handle: of the open file, or -1.
        hidden: its name, or None if it has none.
    """

    def __init__(self, folder: Path, handle: int, hidden: Path | None) -> None:
        self.folder, self.handle, self.hidden = folder, handle, hidden

    @classmethod
    def empty(cls, folder: Path) -> Draft:
        """Return a new empty file, without a name where the system can."""
        handle = _unnamed(folder)
        return cls(folder, handle, None) if handle >= 0 else cls(folder, *_named(folder))

    @property
    def path(self) -> Path:
        # By number, not "self": a child process has to find it too.
        return self.hidden or Path(f"/proc/{os.getpid()}/fd/{self.handle}")

    def place(self, target: Path) -> None:
        """Give the file the name ``target``.

        Raises:
            FileExistsError: something has that name. It is never replaced.
        """
        try:
            self._link(target)
        except FileExistsError:
            raise
        except OSError as error:
            # A file system without hard links. Other runs of ours wait for the folder's lock.
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            self.replace(target)

    def show(self) -> None:
        """Give the file a hidden name, which is what can replace another."""
        if self.hidden is None:
            path, name = self.path, hidden_name(self.folder)
            try:
                self._link(name)
            except OSError:  # a system that has such files and cannot name them
                self.hidden = name
                shutil.copyfile(path, name)
                shutil.copymode(path, name)
            self.hidden = name

    def replace(self, target: Path) -> None:
        """Put the file where ``target`` is, in one step."""
        self.show()
        if self.hidden is not None:
            self.hidden.replace(target)
            self.hidden = None

    def discard(self) -> None:
        """Remove the hidden name, if there is one; without a name the file is gone."""
        if self.hidden is not None:
            with suppress(FileNotFoundError):
                self.hidden.unlink()
            self.hidden = None
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _link(self, target: Path) -> None:
        if self.hidden is not None:
            hard_link(self.hidden, target)
        else:  # only with a handle does Python call linkat, which follows the name in /proc
            os.link(self.path, target, src_dir_fd=self.handle, follow_symlinks=True)


def hard_link(source: Path, target: Path) -> None:
    """Give a file a second name.

    Raises:
        FileExistsError: something has that name.
        OSError: the system or the file system has no hard links.
    """
    if not hasattr(os, "link"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    os.link(source, target)


def hidden_name(folder: Path) -> Path:
    """Return a new name in ``folder`` that :func:`clear_stale` knows."""
    return folder / f".reparam-{secrets.token_hex(8)}.part"


def _unnamed(folder: Path) -> int:
    """Return the handle of a file without a name, or -1 where there is no such thing."""
    if not hasattr(os, "O_TMPFILE"):  # Linux has it alone
        return -1
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:
        return -1
    if not os.path.exists(f"/proc/{os.getpid()}/fd/{handle}"):  # noqa: PTH110 - and may not raise
        os.close(handle)
        return -1
    _lock(handle)  # it may get a hidden name
    return handle


def _named(folder: Path) -> tuple[int, Path]:
    while True:
        name = hidden_name(folder)
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if not _LOCKS:
            os.close(handle)
            return -1, name
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # another run took it for a stale one before it was locked


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; whether that worked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def hidden_folder(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``folder``, which is removed with all in it.

    To be made while ``folder`` is locked, so that no other run takes it for a stale one.
    """
    path = hidden_name(folder)
    with _locked_folder(path):
        yield path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder for temporary files, which is removed with all in it.

    A killed process leaves it; the next one clears it away.
    """
    folder = Path(tempfile.gettempdir())
    clear_stale(folder)
    path = hidden_name(folder)
    with _locked_folder(path):
        inner = path / "files"  # the lock of a folder is taken by whoever places a file in it
        inner.mkdir()
        yield inner


@contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Make a folder and hold its lock until it is removed with all in it."""
    handle = -1
    try:
        while True:
            path.mkdir(mode=0o700)
            if not _LOCKS:
                break
            with suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                with suppress(OSError):  # a file system that cannot lock; nobody clears there
                    fcntl.flock(handle, fcntl.LOCK_EX)  # waits while another run removes it
                if os.fstat(handle).st_nlink:
                    break
                os.close(handle)
            handle = -1  # another run took it for a stale one before it was locked
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def clear_stale(folder: Path) -> None:
    """Remove hidden files that killed runs left in ``folder``; those of live runs are locked.

    Where nothing can be locked, those of live runs are younger than a day.
    """
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - a large folder is quicker as text
            if _HIDDEN.fullmatch(name):
                with suppress(OSError):
                    _remove_if_stale(folder / name)


def _remove_if_stale(path: Path) -> None:
    if not _LOCKS:
        about = path.lstat()
        if time.time() - about.st_mtime > _STALE:
            _remove(path, about.st_mode)
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _lock(handle):
            _remove(path, os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _remove(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs from placing files in ``folder`` meanwhile.

    A system or a file system that cannot lock folders is used without.

    Raises:
        BlockingIOError: something else holds the lock for ten seconds.
    """
    if not _LOCKS:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _wait_for(handle)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BlockingIOError(
                    errno.EWOULDBLOCK, "another program keeps the folder locked"
                ) from error
            time.sleep(0.002)
        except OSError:
            return
        else:
            return


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and its like wait until the block is done: it must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts the main thread only
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _HELD}
    before = {number: handler for number, handler in before.items() if handler is not None}
    for number in before:  # the others are handled outside of Python, and cannot be put back
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
