"""The version of this installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """Return the installed version, or ``unknown`` in a checkout that is not installed."""
    try:
        return version("reparam")
    except PackageNotFoundError:
        return "unknown"
