"""One YAML file as plain data: a small part of YAML 1.1, with limits on what a text stands for.

Plain scalars are null, true or false, numbers or text. Sexagesimal numbers (``1:30`` is 90) and
dates are text: no configuration means them. YAML's own tags (``!!bool``) are refused, which make
values of what is none. Tags of applications are names without effect.

Source: https://yaml.org/type/, and ``resolver.py`` and ``constructor.py`` of PyYAML 6.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reparam.errors import ConfigurationError

_MOST_VALUES = 20_000  # with every alias written out: a few lines can stand for billions
_LONGEST_SHOWN = 200  # characters
_DEEPEST = 64  # levels
_LONGEST_NUMBER = 18  # digits of an integer; more have no use and could be made to collide as keys
_TAGS = "tag:yaml.org,2002:"
_KINDS = {  # of plain scalars, with the characters that they begin with
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
             "yYnNtTfFoO"),
    "int": (r"[-+]?(0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    "float": (r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?"
              r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)", "-+0123456789."),
    "merge": (r"<<", "<"),
}  # fmt: skip


@dataclass(frozen=True)
class Opaque:
    """A value with a tag of its own, as ``!RandomCrop {}``: only that it is there is known."""

    tag: str


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 80, 80


def shown(value: Any) -> str:
    """Return a value of a configuration for a message, its beginning if it is large."""
    return _Shown().repr(value)[:_LONGEST_SHOWN]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader with the scalars of this module, and limits while it reads."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.levels = self.merged = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        tag = getattr(event, "tag", None) or ""
        if tag.startswith(_TAGS):
            self.refuse(f"the tag !!{tag[len(_TAGS) :][:40]}, which makes a value of text")
        self.nodes += 1
        self.levels += 1
        if self.nodes > _MOST_VALUES:
            self.refuse(f"more than {_MOST_VALUES:,} values")
        if self.levels > _DEEPEST:
            self.refuse(f"more than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        before = len(node.value)
        super().flatten_mapping(node)
        self.merged += max(0, len(node.value) - before)
        if self.merged > _MOST_VALUES:
            raise yaml.YAMLError(f"merges of more than {_MOST_VALUES:,} values")

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > _LONGEST_NUMBER:
            self.refuse(f"a number of {len(node.value):,} digits", node.start_mark)
        number: int = super().construct_yaml_int(node)
        return number

    def refuse(self, problem: str, mark: Any = None) -> None:
        place = mark or self.peek_event().start_mark
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=place)


for _kind, (_pattern, _first) in _KINDS.items():
    # Matched to the very end: $ would leave a newline there.
    _whole = re.compile(rf"(?:{_pattern})\Z")
    _starts = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(f"{_TAGS}{_kind}", _whole, _starts)
_Loader.add_constructor(f"{_TAGS}int", _Loader.construct_yaml_int)
_Loader.add_multi_constructor("!", lambda loader, tag, node: Opaque(f"!{tag}"))  # noqa: ARG005


def load_yaml(path: Path, text: str) -> dict[str, Any]:
    """Return the names and values that ``text``, the contents of ``path``, holds.

    Raises:
        ConfigurationError: it is no YAML, no mapping, or stands for too much.
    """
    try:
        # A subclass of SafeLoader: it makes plain values, and Opaque of what has a tag.
        values = yaml.load(text, Loader=_Loader)  # noqa: S506
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
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES + 1  # for whoever meets it inside itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]
