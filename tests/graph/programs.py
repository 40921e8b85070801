"""A graph as the calls that build it: what a failing test prints can be pasted into a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.graph.builder import GraphBuilder, Value


@dataclass(frozen=True)
class Call:
    """``targets = g.method(*args, **options)``"""

    targets: tuple[Value, ...]
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.options.items())]
        left = f"{', '.join(self.targets)} = " if self.targets else ""
        return f"{left}g.{self.method}({', '.join(given)})"


class Program:
    """Calls of a GraphBuilder. Values stand by their names in the text, as variables.

    No dataclass: hypothesis would print one in its own way.
    """

    def __init__(self, settings: dict[str, Any], calls: Sequence[Call] = ()) -> None:
        self.settings, self.calls = settings, list(calls)

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.settings.items())
        lines = [f"g = GraphBuilder({given})", *map(repr, self.calls)]
        return "\n" + "\n".join(lines)

    def build(self) -> GraphBuilder:
        """Run the calls; the names of values may be others than when they were recorded."""
        g = GraphBuilder(**self.settings)
        known: dict[str, Any] = {}
        for call in self.calls:
            args = [_found(part, known) for part in call.args]
            options = {key: _found(part, known) for key, part in call.options.items()}
            made = getattr(g, call.method)(*args, **options)
            made = made if isinstance(made, tuple) else (made,)
            known.update(zip(call.targets, made, strict=False))
        return g


class Recorder:
    """A GraphBuilder that writes down every call.

    The values themselves are there as well, so that shapes are known while a graph grows.
    """

    def __init__(self, **settings: Any) -> None:
        self.g = GraphBuilder(**settings)
        self.program = Program(settings)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        made = getattr(self.g, method)(*args, **options)
        targets = made if isinstance(made, tuple) else (() if made is None else (made,))
        self.program.calls.append(Call(targets, method, args, options))
        return made


def _found(part: Any, known: dict[str, Any]) -> Any:
    if isinstance(part, Value):
        return known[part]
    if isinstance(part, list | tuple):
        return type(part)(_found(each, known) for each in part)
    return part
