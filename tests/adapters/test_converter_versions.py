"""Versions that do not convert together are named before anything runs, with what mends them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from reparam.adapters import converter, converter_versions
from reparam.adapters.converter_versions import (
    MEND,
    TRIED,
    hint_of_versions,
    installed_versions,
    need_converting_versions,
)
from reparam.errors import MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(converter_versions, "version", version)
    return versions


@pytest.mark.parametrize(
    "versions",
    [
        {"paddlepaddle": "3.0.0", "paddle2onnx": "2.0.1"},
        {"paddlepaddle": "3.3.1", "paddle2onnx": "2.1.0"},
        {"paddlepaddle-gpu": "3.2.0.post126", "paddle2onnx": "2.1.0"},
        {"paddlepaddle": "0.0.0", "paddle2onnx": "2.1.0"},
        {},
    ],
)
def test_versions_that_are_let_through(installed: dict[str, str], versions: dict[str, str]) -> None:
    installed.update(versions)
    need_converting_versions()
    assert hint_of_versions() == ""


@pytest.mark.parametrize(
    "versions",
    [
        {"paddlepaddle": "2.6.2", "paddle2onnx": "2.1.0"},
        {"paddlepaddle-gpu": "2.5.1.post117", "paddle2onnx": "2.1.0"},
        {"paddlepaddle": "3.3.1", "paddle2onnx": "1.3.1"},
        {"paddlepaddle": "3.3.1", "paddle2onnx": "2.0.0a5"},
    ],
)
def test_old_versions_are_named_with_the_line_that_mends_them(
    installed: dict[str, str], versions: dict[str, str]
) -> None:
    installed.update(versions)
    with pytest.raises(MissingDependencyError, match="do not convert together") as caught:
        need_converting_versions()
    assert caught.value.found == ", ".join(f"{name} {v}" for name, v in versions.items())
    assert caught.value.hint == MEND


def test_new_versions_are_let_through_and_named_where_they_fail(installed: dict[str, str]) -> None:
    installed.update({"paddlepaddle": "3.4.0", "paddle2onnx": "2.1.0"})
    need_converting_versions()
    assert installed_versions() == ["paddlepaddle 3.4.0", "paddle2onnx 2.1.0"]
    assert hint_of_versions() == f"not tried: paddlepaddle 3.4.0, paddle2onnx 2.1.0; {MEND}"


def test_an_export_asks(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "has_converter", lambda: True)
    installed.update({"paddlepaddle": "3.3.1", "paddle2onnx": "1.3.1"})
    with pytest.raises(MissingDependencyError, match="do not convert together"):
        converter.need_converter()


def test_the_package_asks_for_what_was_tried() -> None:
    asked = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for (name, *_), (first, end) in TRIED.items():
        wanted = f"{name}>={'.'.join(map(str, first))},<{'.'.join(map(str, end))}"
        assert wanted in asked
        assert f'"{wanted}"' in MEND
