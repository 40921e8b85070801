"""Values of a configuration, each checked to be of its kind, and the refusal of what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reparam.configuration.documents import Opaque, shown
from reparam.configuration.records import Document
from reparam.errors import ConfigurationError

Check = Callable[[Document, str, Any], Any]


def section(values: Any, *names: str) -> Any:
    """Return the section of a section, None where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def scaled(values: list[int], multiplier: float) -> list[int]:
    """Return ``values`` times ``multiplier`` as PaddleDetection rounds them, none under 1."""
    return [max(round(value * multiplier), 1) for value in values]


def classes(document: Document, value: Any) -> int | None:
    return None if value is None else int(number(document, "number of classes", value, whole=True))


def flag(document: Document, key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise bad(document, key, value, "true or false")


def number(document: Document, key: str, value: Any, whole: bool = False) -> float:
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < 1e6:
        return value
    raise bad(document, key, value, "a whole number above 0" if whole else "a number above 0")


def count(document: Document, key: str, value: Any) -> int:
    return int(number(document, key, value, whole=True))


def share(document: Document, key: str, value: Any) -> float:
    """Return a number from 0 to 1, as thresholds are."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise bad(document, key, value, "a number from 0 to 1")


def numbers(document: Document, key: str, value: Any) -> list[int]:
    least = 0 if key == "return_idx" else 1
    whole = isinstance(value, (list, tuple)) and bool(value)
    if whole and all(type(n) is int and least <= n < 1_000_000 for n in value):
        return list(value)
    raise bad(document, key, value, f"a list of whole numbers from {least}")


def activation(document: Document, key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise bad(document, key, value, "the name of an activation")


def module_of(
    document: Document, named: Any, known: str, what: str, why: str, hint: str
) -> dict[str, Any]:
    """Return the settings of a module: those of its section, then those beside its name.

    Args:
        document: the configuration.
        named: its name, or names and values with the name among them.
        known: what it has to be called, and so its section.
        what: it is, in words, with a place for its name.
        why: another is not understood.
        hint: what to do then.

    Raises:
        ConfigurationError: it is another one, or its section is not names and values.
    """
    inline = dict(named) if isinstance(named, Mapping) else {"name": named}
    if inline.get("name") != known:
        name = named.tag if isinstance(named, Opaque) else inline.get("name")
        raise refusal(document, f"{what.format(name)}; known: {known}", why=why, hint=hint)
    written = document.values.get(known)
    if isinstance(written, Opaque) or not isinstance(written or {}, Mapping):
        raise refusal(document, f"the section {known} is not names and values")
    return {**(written or {}), **inline}


def checked(
    document: Document,
    name: str,
    own: Mapping[str, Any],
    defaults: Mapping[str, Any],
    checks: Mapping[str, Check],
) -> dict[str, Any]:
    """Return the settings of the section ``name``, each checked, with defaults for the others.

    Raises:
        ConfigurationError: a setting is unknown, or its value is of another kind.
    """
    unknown = [key for key in own if key not in defaults]
    if unknown:
        raise refusal(
            document,
            f"'{unknown[0]}' in the section {name}",
            why="PaddleDetection ignores a setting that it does not know; here it may be a slip",
            hint=f"known are {', '.join(defaults)}",
        )
    return {key: checks[key](document, key, value) for key, value in {**defaults, **own}.items()}


def bad(document: Document, key: str, value: Any, needed: str) -> ConfigurationError:
    return refusal(document, f"'{key}' is {shown(value)}; needed: {needed}")


def refusal(document: Document, found: str, *, why: str = "", hint: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"the configuration '{document.path}' is not understood", found=found, why=why, hint=hint
    )
