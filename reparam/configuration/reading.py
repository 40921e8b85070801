"""YAML with includes, as PaddleDetection merges them; data only, no tag is ever constructed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reparam.configuration.records import Document
from reparam.errors import ConfigurationError

_BASES = ("_BASE_", "_base_")
_LARGEST_FILE = 1 << 20  # bytes; the largest configuration of PaddleDetection has some 20,000
_MOST_FILES = 64
_MOST_VALUES = 100_000  # with every alias written out: a few lines can stand for billions


@dataclass(frozen=True)
class Opaque:
    """A value with a tag of its own, as ``!RandomCrop {}``: only that it is there is known."""

    tag: str


def read_yaml(path: str | Path) -> Document:
    """Return a configuration with its ``_BASE_`` includes merged in.

    Of two files that are included, the later one wins; the including file wins over both. Mappings
    are merged key by key, to any depth; everything else is replaced. Paths are relative to the
    file that names them.

    Raises:
        ConfigurationError: a file is missing, unreadable or no such YAML, or includes itself.
    """
    read: list[Path] = []
    values = _merged(Path(path), (), read)
    return Document(Path(path), values, tuple(read))


def _merged(path: Path, including: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    place = path.resolve()
    if place in including:
        chain = " includes ".join(f"'{file.name}'" for file in (*including, place))
        raise ConfigurationError(
            f"the configuration '{including[0].name}' includes itself", found=chain
        )
    if len(read) >= _MOST_FILES:
        raise ConfigurationError(f"more than {_MOST_FILES} files are included by '{path}'")
    own = _load(path, including)
    result: dict[str, Any] = {}
    for base in _bases(own, path):
        folder = path.parent / Path(base).expanduser()
        result = _merge(result, _merged(folder, (*including, place), read))
    read.append(path)
    return _merge(result, {key: value for key, value in own.items() if key not in _BASES})


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
                    found=f"{base!r}; needed: the path of a file, or a list of such",
                )
            yield base


def _load(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    import yaml

    text = _text(path, including)
    try:
        # A subclass of SafeLoader: it makes plain values, and Opaque of what has a tag.
        values = yaml.load(text, Loader=_loader(yaml))  # noqa: S506
        if _count(values, {}) > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES:,} values, with aliases written out")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ConfigurationError(
            f"'{path}' is no configuration", found=f"{problem}{place}", why="it is read as YAML"
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"'{path}' is no configuration",
            found=f"{type(values).__name__}; needed: names and values (YAML)",
        )
    return {str(key): value for key, value in values.items()}


def _count(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are in ``value``, each as often as it is referred to."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES + 1  # for whoever meets it inside itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def _text(path: Path, including: tuple[Path, ...]) -> str:
    what = f"cannot read the configuration '{path}'"
    why = f"'{including[-1]}' includes it" if including else ""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigurationError(what, found=f"more than {_LARGEST_FILE:,} bytes", why=why)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(what, found="bytes that are not UTF-8", why=why) from error
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigurationError(what, found=found or str(error), why=why) from error


def _loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """SafeLoader that keeps only the name of an application's own tag."""

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            if len(node.value) > _MOST_VALUES:
                raise yaml.YAMLError(f"a mapping of more than {_MOST_VALUES:,} values")

    Loader.add_multi_constructor("!", lambda loader, tag, node: Opaque(f"!{tag}"))  # noqa: ARG005
    return Loader
