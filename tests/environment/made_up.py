"""Surroundings that nobody has, for judging by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reparam.environment.asking import WORKS, Step
from reparam.environment.installed import Asked, Distribution, accepts
from reparam.environment.packages import MISSING, OTHERS, PACKAGES, Provider, Seen
from reparam.environment.surroundings import Cores, Surroundings

HEALTHY = {
    "reparam": "0.1.0", "numpy": "2.4.6", "ml-dtypes": "0.6.0", "safetensors": "0.8.0",
    "pyyaml": "6.0.4", "rich": "15.0.0", "click": "8.5.1", "packaging": "26.3",
    "paddlepaddle": "3.3.1", "paddle2onnx": "2.1.0", "onnx": "1.17.0", "protobuf": "7.36.2",
    "onnx-ir": "1.1.0", "onnxoptimizer": "0.3.13", "onnxruntime": "1.32.0",
}  # fmt: skip
ASKED = {
    "numpy": ">=1.24,<3", "paddlepaddle": ">=3.3,<3.4", "paddle2onnx": ">=2.1,<2.2",
    "onnx": ">=1.16.1,<1.18", "onnx-ir": ">=0.1.12,<2", "onnxruntime": ">=1.18,<2",
}  # fmt: skip
CORES = Cores(8, 8, None, 8, None, {})


def surroundings(
    *,
    versions: Mapping[str, str | None] | None = None,
    python: str = "3.11.7",
    system: str = "Linux",
    seen: Mapping[str, Mapping[str, Any]] | None = None,
    conflicts: Sequence[tuple[str, Asked]] = (),
    cores: Cores = CORES,
    quick: bool = False,
) -> Surroundings:
    """Return a healthy machine with some things changed.

    Args:
        versions: of distributions; None takes one away.
        seen: fields of :class:`Seen` to replace, by module.
    """
    merged = {**HEALTHY, **(versions or {})}
    here = {name: Distribution(name, version) for name, version in merged.items() if version}
    packages = {p.module: _seen(p, here, quick, (seen or {}).get(p.module, {})) for p in PACKAGES}
    asked = [_asked(name, wanted, here) for name, wanted in ASKED.items()]
    return Surroundings(python, system, packages, here, asked, conflicts, cores, quick)


def _seen(package: Any, here: Mapping[str, Distribution], quick: bool, changes: Any) -> Seen:
    found = tuple(here[name] for name in package.distributions if name in here)
    names = ["import", *(() if quick else package.steps)]
    fields = {
        "state": WORKS if found else MISSING,
        "steps": {name: Step(name, WORKS) for name in names} if found else {},
        **changes,
    }
    return Seen(package.module, found, **fields)


def _asked(name: str, versions: str, here: Mapping[str, Distribution]) -> Asked:
    found = next((here[n] for n in (name, *OTHERS[name]) if n in here), None)
    return Asked(name, versions, found, bool(found and accepts(versions, found.version)))


def failing(name: str, found: str, *before: str) -> dict[str, Step]:
    """Return steps of which one fails, after those that work."""
    works = {step: Step(step, WORKS) for step in ("import", *before)}
    return {**works, name: Step(name, "fails", found)}


def provider(name: str, loads: bool) -> Provider:
    return Provider(name, loads, "" if loads else "no library")
