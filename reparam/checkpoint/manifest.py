"""The note beside a fused checkpoint that says what it was made of, and how.

``x.deploy.pdparams`` gets ``x.deploy.pdparams.manifest.json``. A state dict has no room for such
a note: every entry of it is taken for a weight.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reparam.checkpoint.files import Checkpoint
from reparam.checkpoint.opening import mapped
from reparam.errors import CheckpointError
from reparam.files import sha256_of
from reparam.reports import Report

SCHEMA = "reparam.manifest/1"


def manifest_path(path: Path) -> Path:
    """Return where the manifest of the checkpoint at ``path`` stands."""
    return path.with_name(f"{path.name}.manifest.json")


def manifest_of(source: Checkpoint, output: Path, sha256: str, report: Report, version: str) -> str:
    """Return the text of the manifest of ``output``, fused from ``source``."""
    note = {
        "schema": SCHEMA,
        "tool_version": version,
        "source": os.path.relpath(source.path, output.parent),
        "source_sha256": source.sha256,
        "sha256": sha256,
        "layout": source.layout.to_json(),
        "report": report.to_json(),
    }
    return json.dumps(note, indent=1) + "\n"


def source_of(checkpoint: Checkpoint) -> tuple[Path, float | None, tuple[str, ...]]:
    """Return the checkpoint that ``checkpoint`` was fused from, the epsilon and the families.

    Raises:
        CheckpointError: there is no usable manifest, or one of the two files is not the one that
            the manifest speaks of.
    """
    path = manifest_path(checkpoint.path)
    what = f"'{checkpoint.path}' is in deploy form and its source is not known"
    if not os.path.lexists(path):
        raise CheckpointError(
            what,
            found=f"no manifest '{path.name}' beside it",
            hint="name both: reparam verify ORIGINAL FUSED",
        )
    try:
        note = _read(path)
        source = checkpoint.path.parent / str(note["source"])
        expected = str(note["source_sha256"])
        own, epsilon = str(note["sha256"]), note["report"]["epsilon"]
        families = tuple(map(str, note["report"].get("families", ())))
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(what, found=f"'{path}' is not a manifest: {error}") from error
    if own != checkpoint.sha256:
        raise CheckpointError(what, found=f"'{path.name}' is the manifest of another file")
    if not source.is_file():
        raise CheckpointError(what, found=f"the manifest names '{source}', which is not there")
    if sha256_of(source) != expected:
        raise CheckpointError(
            what, found=f"'{source}' is not the file that the manifest names: it has changed since"
        )
    return source, epsilon, families


def _read(path: Path) -> dict[str, Any]:
    with mapped(path) as text:
        note: dict[str, Any] = json.loads(text[:].decode())
    return note


def wanted_of(checkpoint: Checkpoint) -> str | None:
    """Return which part of its source ``checkpoint`` was fused from: what ``--prefix`` said.

    To be asked after :func:`source_of`, which checks the manifest.
    """
    wanted = _read(manifest_path(checkpoint.path)).get("layout", {}).get("wanted")
    return wanted if isinstance(wanted, str) else None
