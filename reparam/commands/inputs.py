"""Files that a user names: which are meant, and what to say of a name that is none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from reparam.adapters.static_models import is_static
from reparam.checkpoint.opening import ENDINGS
from reparam.errors import CheckpointError
from reparam.files import is_url

_ANYTHING = ".bin"  # an ending of many other files too
_PATTERN = frozenset("*?[")
_NEAR = 0.75  # of difflib: one or two letters of a file name are wrong, not the whole name


class InputPath(click.Path):
    """The path of an input; a name that no file has is refused with the one that may be meant."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        check_name_of(path)
        return path


INPUT = InputPath()


def check_name_of(path: Path) -> None:
    """Refuse a name that no file has, where there is more to say than that.

    Raises:
        CheckpointError: the name is ``-``, a pattern, or nearly that of another file.
    """
    if os.path.lexists(path):
        return
    text = str(path)
    if text == "-":
        raise CheckpointError(
            "standard input is not read",
            why="the name of a file tells its format and where the result goes, and a file is read "
            "in any order",
            hint="save it to a file first; a file that is really called '-' is './-'",
        )
    if is_url(path):
        return  # reading it says that nothing is downloaded
    if _PATTERN & set(text):
        found = list(path.parent.glob(path.name))
        raise CheckpointError(
            f"'{text}' is a pattern, not a file",
            found=f"the shell did not expand it; {_count(found)}",
            hint="leave the quotes out, or name the folder" if found else "",
        )
    near = _nearest(path)
    if near is not None:
        raise CheckpointError(
            f"cannot read '{path}'",
            found="No such file or directory",
            hint=f"did you mean '{near}'?",
        )


def _count(found: Sequence[Path]) -> str:
    if not found:
        return "no file matches it"
    return f"{len(found)} file{'s match' if len(found) > 1 else ' matches'} it"


def _nearest(path: Path) -> Path | None:
    """Return the file or folder beside a missing one whose name is nearest in spelling."""
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return None
    near = get_close_matches(path.name, names, n=1, cutoff=_NEAR)
    return path.with_name(near[0]) if near else None


def is_checkpoint(path: Path) -> bool:
    """Whether the name of ``path`` ends as checkpoints do."""
    return path.name.endswith(ENDINGS)


def the_checkpoint(given: Path | None) -> Path:
    """Return the checkpoint named, or the only one in the folder.

    Raises:
        CheckpointError: none was named and the folder holds none, or several.
    """
    if given is not None:
        return given
    try:
        found = checkpoints_among(Path().iterdir())
    except OSError as error:
        raise CheckpointError(
            "no checkpoint was named, and this folder cannot be read", found=error.strerror or ""
        ) from error
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        "no checkpoint was named" + (", and there are several here" if found else ""),
        found=", ".join(f"'{path}'" for path in found[:8]) or "no checkpoint in this folder",
        hint="name one",
    )


def checkpoints_among(paths: Iterable[Path]) -> list[Path]:
    """Return the checkpoints of a folder, sorted.

    A .pdema file counts where no .pdparams file stands beside it, a .bin file where there is no
    other.
    """
    found = sorted(path for path in paths if is_checkpoint(path))
    found = [p for p in found if p.suffix != ".pdema" or p.with_suffix(".pdparams") not in found]
    return [p for p in found if p.suffix != _ANYTHING] or found


def holds_models(path: Path) -> bool:
    """Whether a path is a folder of files to fuse, and not only that of one static program."""
    if not path.is_dir():
        return False
    found = _models_in(path)
    return len(found) > 1 or not all(map(is_static, found)) or not is_static(path)


def models_of(path: Path) -> list[Path]:
    """Return what can be fused at a path, sorted: itself, or what a folder holds of models.

    Raises:
        CheckpointError: a folder holds nothing.
    """
    if not holds_models(path):
        return [path]
    found = _models_in(path)
    if not found:
        raise CheckpointError(
            f"nothing in the folder '{path}' can be fused",
            found="no checkpoint, no ONNX file and no static program",
            hint="name a file; folders in it are not looked into",
        )
    return found


def _models_in(folder: Path) -> list[Path]:
    """Return the checkpoints, ONNX files and programs in a folder, sorted.

    A program is known by its parameters beside it: a manifest ends in .json as well.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    programs = [
        path
        for path in files
        if path.suffix in (".json", ".pdmodel") and path.with_suffix(".pdiparams") in files
    ]
    graphs = [path for path in files if path.suffix == ".onnx"]
    return sorted((*checkpoints_among(files), *graphs, *programs))
