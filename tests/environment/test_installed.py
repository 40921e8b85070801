"""Versions, names and requirements, read from metadata that is made up."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from reparam.environment.installed import (
    Asked,
    Distribution,
    accepts,
    installed,
    normal,
    requirements_of,
)
from reparam.errors import MissingDependencyError
from tests.environment.places import asked_for


@pytest.mark.parametrize(
    ("versions", "version", "fits"),
    [
        (">=3.3,<3.4", "3.3.1", True),
        (">=3.3,<3.4", "3.4.0", False),
        (">=3.3,<3.4", "3.3.1+cu126", True),
        (">=3.3,<3.4", "3.3.1.post1", True),
        (">=3.3,<3.4", "3.3.0rc1", False),
        (">=2.0", "2.0.2rc3", True),
        ("<=1.17.0", "1.17.0", True),
        (">1.17.0", "1.17.1", True),
        ("", "0.0.0", True),
        ("", "3.0.0.dev20250426", True),
        (">=1", "no version", False),
        ("", "no version", False),
    ],
)
def test_versions(versions, version, fits):
    assert accepts(versions, version) is fits


def test_names():
    assert normal("ML_Dtypes") == normal("ml.dtypes") == "ml-dtypes"


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts metadata where only it is found."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def one(name: str, version: str, *requires: str, folder: str = "") -> None:
        place = tmp_path / f"{folder or name}-{version}.dist-info"
        place.mkdir()
        lines = [f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        (place / "METADATA").write_text("\n".join(lines) + "\n")

    return one


def test_what_is_installed(put, tmp_path):
    put("Lamp_Shade", "1.0")
    (tmp_path / "half-2.0.dist-info").mkdir()  # as a removal leaves it that was cut short
    assert installed() == {"lamp-shade": Distribution("lamp-shade", "1.0")}


def test_markers_and_extras(put):
    put("reparam", "0.1.0", "one>=1,<2", 'two; extra == "export"', 'three; extra == "dev"',
        'four; python_version < "3" and extra == "export"',
        'five>=5; python_version >= "3" and extra == "export"')  # fmt: skip
    put("five", "4.0")
    assert requirements_of("reparam", installed(), {}) == [
        Asked("one", ">=1,<2", None, False),
        Asked("two", "", None, False),
        Asked("five", ">=5", Distribution("five", "4.0"), False),
    ]


def test_the_extras_of_others_do_not_count(put):
    put("lamp", "1.0", "bulb", 'cable; extra == "export"')
    assert [asked.name for asked in requirements_of("lamp", installed(), {}) or ()] == ["bulb"]


def test_another_distribution_of_the_same_package_answers(put):
    put("reparam", "0.1.0", "lamp>=2,<3")
    put("lamp-gpu", "2.5")
    (asked,) = requirements_of("reparam", installed(), {"lamp": ("lamp-gpu",)}) or ()
    assert asked.fits
    assert asked.wanted == "lamp-gpu>=2,<3"
    (asked,) = requirements_of("reparam", installed(), {}) or ()
    assert asked.wanted == "lamp>=2,<3"


def test_without_metadata_nothing_is_known(put):
    put("lamp", "1.0")
    assert requirements_of("reparam", installed(), {}) is None
    assert requirements_of("lamp", installed(), {}) == []


def test_without_packaging(put, monkeypatch):
    put("reparam", "0.1.0", "two>=7")
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    with pytest.raises(MissingDependencyError, match="packaging"):
        accepts(">=1", "1")
    with pytest.raises(MissingDependencyError, match="packaging"):
        requirements_of("reparam", installed(), {})


def test_what_is_made_up_elsewhere_says_what_metadata_of_setup_cfg_says():
    """The tests of the command take it for the metadata of reparam."""
    told = {line.replace(" ", "") for line in metadata.requires("reparam") or ()}
    asked = {line.replace(" ", "") for line in asked_for()}
    names = {line.partition(";")[0].partition(">")[0] for line in asked}
    assert {"numpy", "paddlepaddle", "paddle2onnx", "onnx", "onnxruntime"} <= names
    assert len([line for line in told if 'extra=="export"' in line.replace("'", '"')]) == len(
        [line for line in asked if 'extra=="export"' in line]
    )
