"""YAML with includes, as PaddleDetection merges them; data only, no tag is ever constructed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reparam.configuration.documents import Opaque, load_yaml, shown
from reparam.configuration.records import Document
from reparam.errors import ConfigurationError
from reparam.inputs import small_text

__all__ = ["Opaque", "read_yaml"]

_BASES = ("_BASE_", "_base_")
_LARGEST_FILE = 1 << 18  # bytes; the largest configuration of PaddleDetection has some 20,000
_MOST_FILES = 64
_TREE = "configs"  # what PaddleDetection and PaddleClas call the folder of all configurations
_LEVELS_UP = 2  # that an include may lead to where there is no such folder


def read_yaml(path: str | Path) -> Document:
    """Return a configuration with its ``_BASE_`` includes merged in.

    Of two files that are included, the later one wins; the including file wins over both. Mappings
    are merged key by key, to any depth; everything else is replaced. Paths are relative to the
    file that names them. They stay in the nearest folder above that is called ``configs``, or
    within two levels above the configuration: a configuration of somebody else must not read
    whatever there is.

    Raises:
        ConfigurationError: a file is missing, unreadable or no such YAML, or includes itself or
            a file elsewhere.
    """
    read: list[Path] = []
    values = _merged(Path(path), (), read, _tree_of(Path(path)))
    return Document(Path(path), values, tuple(read))


def _tree_of(path: Path) -> Path:
    """Return the folder that everything which the configuration at ``path`` includes is in."""
    try:
        os.path.realpath(path)
        folder = Path(os.path.realpath(path.parent))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read '{path}'", found=str(error)) from error
    within = [folder, *folder.parents]
    named = next((parent for parent in within if parent.name == _TREE), None)
    above = [parent for parent in within[: _LEVELS_UP + 1] if parent.name]  # not all of the disk
    return named or (above[-1] if above else folder)


def _merged(
    path: Path, including: tuple[Path, ...], read: list[Path], tree: Path
) -> dict[str, Any]:
    place = Path(os.path.realpath(path))
    if place in including:
        chain = " includes ".join(f"'{file.name}'" for file in (*including, place))
        raise ConfigurationError(
            f"the configuration '{including[0].name}' includes itself", found=chain
        )
    if len(read) >= _MOST_FILES:
        raise ConfigurationError(f"more than {_MOST_FILES} files are included by '{path}'")
    own = load_yaml(path, _text(path, including))
    result: dict[str, Any] = {}
    for base in _bases(own, path):
        included = _included(base, path, tree)
        result = _merge(result, _merged(included, (*including, place), read, tree))
    read.append(path)
    return _merge(result, {key: value for key, value in own.items() if key not in _BASES})


def _included(base: str, path: Path, tree: Path) -> Path:
    """Return the path of what ``path`` includes as ``base``."""
    included = path.parent / os.path.expanduser(base)  # noqa: PTH111 - an unknown user is no error
    try:
        inside = Path(os.path.realpath(included)).is_relative_to(tree)
    except (OSError, ValueError) as error:  # a NUL, or links in a circle
        raise ConfigurationError(
            f"cannot follow what '{path}' includes", found=f"{shown(base)}: {error}"
        ) from error
    if not inside:
        raise ConfigurationError(
            f"'{path}' includes a file outside of '{tree}'",
            found=f"'{included}'",
            why="a configuration that was downloaded must not read other files",
            hint=f"copy it there; if all configurations are below one folder, call it '{_TREE}'",
        )
    return included


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(result.get(key), Mapping) and isinstance(value, Mapping)
        result[key] = _merge(result[key], value) if both else value
    return result


def _bases(values: Mapping[str, Any], path: Path) -> Iterator[str]:
    for key in _BASES:
        named = values.get(key, [])
        for base in [named] if isinstance(named, str) else named or []:
            if not isinstance(base, str) or not base:
                raise ConfigurationError(
                    f"cannot follow '{key}' in '{path}'",
                    found=f"{shown(base)}; needed: the path of a file, or a list of such",
                )
            yield base


def _text(path: Path, including: tuple[Path, ...]) -> str:
    try:
        return small_text(path, _LARGEST_FILE, ConfigurationError)
    except ConfigurationError as error:
        told = error.located(f"cannot read the configuration '{path}'")
        told.why = f"'{including[-1]}' includes it" if including else error.why
        raise told from error
