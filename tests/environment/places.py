"""Places with a Python of their own, in which chosen packages are real, made up or missing."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import time
import venv
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import reparam

ROOT = Path(__file__).parents[2]
CORE = (
    "numpy", "click", "rich", "markdown-it-py", "mdurl", "pygments", "pyyaml", "ml-dtypes",
    "safetensors", "packaging",
)  # fmt: skip
"""What reparam itself needs, with what that needs."""


class Place:
    """A virtual environment that holds reparam and nothing else, until something is put there."""

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.packages = folder / "lib" / version / "site-packages"
        self._put_reparam()

    def with_real(self, *distributions: str) -> Place:
        """Put packages of this Python there."""
        for name in distributions:
            found = metadata.distribution(name)
            tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
            for top in tops:
                (self.packages / top).symlink_to(Path(str(found.locate_file(top))))
        return self

    def with_fake(
        self,
        module: str,
        version: str = "",
        *,
        distribution: str | None = None,
        code: str = "",
        requires: tuple[str, ...] = (),
    ) -> Place:
        """Put a package there that is nothing but ``code``; without a version, without metadata."""
        package = self.packages / module
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(f"__version__ = {version!r}\n{code}\n")
        if version:
            self.with_metadata(distribution or module, version, requires)
        return self

    def with_metadata(self, name: str, version: str, requires: tuple[str, ...] = ()) -> Place:
        """Put the metadata of a distribution there, and nothing of itself."""
        folder = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        return self

    def doctor(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``reparam doctor`` there; a traceback is a failure whatever is tested."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [self.python, "-m", "reparam", "doctor", *arguments],
            capture_output=True, text=True, timeout=100, env={**kept, **variables},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def _put_reparam(self) -> None:
        package = self.packages / "reparam"
        package.mkdir()
        for entry in Path(str(reparam.__file__)).parent.iterdir():
            (package / entry.name).symlink_to(entry)
        models = Path(str(import_module("reparam.models").__file__)).parent
        if not (package / "models").exists():  # which lie elsewhere in a checkout
            (package / "models").symlink_to(models)
        self.with_metadata("reparam", "0.1.0", asked_for())


def asked_for() -> tuple[str, ...]:
    """Return what setup.cfg asks for, as metadata says it."""
    config: Any = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extra = 'extra == "export"'
    lines = config["options"]["install_requires"].split("\n")
    for line in config["options.extras_require"]["export"].split("\n"):
        name, _, marker = line.partition(";")
        lines.append(f"{name}; {marker} and {extra}" if marker else name and f"{name}; {extra}")
    return tuple(line.strip() for line in lines if line.strip())


def has_ended(process_id: int, seconds: float = 10) -> bool:
    """Whether a process ends soon: one that was killed may still be there for a moment."""
    until = time.monotonic() + seconds
    while _is_running(process_id):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _is_running(process_id: int) -> bool:
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
