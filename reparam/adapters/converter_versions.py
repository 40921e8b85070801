"""Which versions of paddle and paddle2onnx convert together; docs/versions.md has the table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from reparam.errors import MissingDependencyError

Numbers = tuple[int, ...]
PADDLE = ("paddlepaddle", "paddlepaddle-gpu")
CONVERTER = ("paddle2onnx",)
TRIED: dict[tuple[str, ...], tuple[Numbers, Numbers]] = {
    PADDLE: ((3, 0), (3, 4)),
    CONVERTER: ((2, 0, 1), (2, 2)),
}
"""The first version that was tried, and the first after the last one."""
MEND = 'pip install "paddlepaddle>=3.0,<3.4" "paddle2onnx>=2.0.1,<2.2"'


def need_converting_versions() -> None:
    """Refuse versions that are known not to convert, before anything is traced.

    Raises:
        MissingDependencyError: paddle is older than 3.0, whose programs are files of another
            kind, or paddle2onnx older than 2.0.1, which reads no others.
    """
    if any(numbers < first for numbers, first, _ in _known()):
        raise MissingDependencyError(
            "these versions of paddle and paddle2onnx do not convert together",
            found=", ".join(installed_versions()),
            why="a network is converted from a program of paddle 3.0 or newer, by paddle2onnx "
            "2.0.1 or newer",
            hint=MEND,
        )


def hint_of_versions() -> str:
    """Return the pip line that mends a failure where a version is newer than those tried."""
    new = any(numbers >= end for numbers, _, end in _known())
    return f"not tried: {', '.join(installed_versions())}; {MEND}" if new else ""


def installed_versions() -> list[str]:
    """Return what is installed of the two, as ``"paddlepaddle 3.3.1"``."""
    return [" ".join(found) for names in TRIED for found in _found(names)]


def _known() -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Yield what is installed, the first version that was tried, and the first that was not."""
    for names, (first, end) in TRIED.items():
        for _, found in _found(names):
            numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
            if any(numbers):  # 0.0.0 is what a build from source may say
                yield numbers, first, end


def _found(names: tuple[str, ...]) -> list[tuple[str, str]]:
    for name in names:
        with suppress(PackageNotFoundError):
            return [(name, version(name))]
    return []
