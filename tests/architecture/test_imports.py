"""What each package imports, seen in a fresh interpreter."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("paddle", "paddle2onnx", "onnx", "onnx_ir", "onnxruntime")
LIGHT = (
    "reparam",
    "reparam.__main__",
    "reparam.architectures",
    "reparam.checkpoint",
    "reparam.checkpoint.pipeline",
    "reparam.checkpoint.inspection",
    "reparam.commands.doctor",
    "reparam.commands.doctor_report",
    "reparam.commands.fuse",
    "reparam.commands.inspect",
    "reparam.conv",
    "reparam.environment.diagnosis",
    "reparam.equivalence",
    "reparam.example",
    "reparam.graph",
    "reparam.graph.fusing",
    "reparam.latency",
    "reparam.models",
    "reparam.models.recognition",
    "reparam.models.training",
)


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that ``code`` loads."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("module", LIGHT)
def test_no_framework_is_imported_by(module):
    assert not loaded_after(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["fuse", "--help"], ["export", "--help"],
                                       ["verify", "--help"], ["bench", "--help"],
                                       ["doctor", "--help"]])  # fmt: skip
def test_help_imports_no_framework(arguments):
    code = (
        "import reparam.__main__ as cli\ntry:\n"
        f"    cli.main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not loaded_after(code) & set(HEAVY)


def test_the_doctor_itself_imports_what_cannot_be_broken():
    """Packages are imported in processes of their own: one that crashes must not end this one."""
    code = (
        "import reparam.environment.diagnosis, reparam.commands.doctor\n"
        "from reparam.environment.installed import installed, requirements_of\n"
        "assert requirements_of('reparam', installed(), {})"
    )
    third_party = loaded_after(code) - set(sys.stdlib_module_names)
    bare = loaded_after("pass") - set(sys.stdlib_module_names)
    assert third_party - bare <= {"reparam", "packaging", "click"}
    assert not loaded_after("import reparam.commands.doctor_report") & {*HEAVY, "numpy", "rich"}


def test_the_algebra_knows_numpy_only():
    own = {"reparam", "numpy"}
    third_party = loaded_after("import reparam.conv") - set(sys.stdlib_module_names)
    bare = loaded_after("import numpy") - set(sys.stdlib_module_names)
    assert third_party - bare <= own


def test_fusing_a_checkpoint_imports_no_framework(tmp_path):
    code = (
        "from pathlib import Path\nfrom tests.weights import repvgg_arrays, write\n"
        "from reparam import fuse, verify, Probing\n"
        f"source = write(Path({str(tmp_path)!r}), repvgg_arrays())\n"
        "output = fuse(source).output\n"
        "assert verify(source, output, Probing(network=False)).verdict == 'equivalent'"
    )
    assert not loaded_after(code) & set(HEAVY)


def test_public_names_are_there():
    import reparam

    for name in reparam.__all__:
        assert getattr(reparam, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = reparam.nothing_like_that


def test_every_package_is_installed():
    """setup.cfg lists packages by hand, since the models live elsewhere."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "reparam").rglob("__init__.py")
    }
    models = {
        ".".join(("reparam", *path.parent.relative_to(ROOT).parts))
        for path in (ROOT / "models").rglob("__init__.py")
    }
    assert listed == found | models


def test_no_folder_is_named_like_a_package():
    names = {path.name for path in (ROOT / "reparam").iterdir() if path.is_dir()}
    assert not names & {*HEAVY, "numpy", "click", "rich", "safetensors"}


def test_temporary_folders_are_made_in_one_place():
    """The one that locks them, so that the next run clears away what a killed one left."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("reparam/**/*.py")
        if "TemporaryDirectory" in (text := path.read_text()) or "mkdtemp" in text
    }
    assert makers == set()
