"""What each command can do here, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reparam.environment.asking import NOT_TRIED, WORKS
from reparam.environment.packages import BROKEN, CPU, MISSING, Seen
from reparam.environment.surroundings import Surroundings

_CORE = ("numpy", "ml_dtypes", "safetensors", "yaml", "rich", "click", "packaging")
_ONNX = ("onnx", "google.protobuf", "onnx_ir", "onnxruntime")
_FUSE = ("reparam", "fuse")
_CONV = ("paddle", "conv")
_SESSION = ("onnxruntime", f"provider:{CPU}")
_CONVERT = ("paddle2onnx", "convert")


@dataclass(frozen=True)
class Ability:
    """Something that reparam offers, and what it needs.

    Attributes:
        name: the command, as it is typed, and of what.
        modules: that it imports.
        trials: (module, step) that show that it works.
    """

    name: str
    modules: Sequence[str]
    trials: Sequence[tuple[str, str]]


ABILITIES = (
    Ability("fuse, unfuse, inspect and verify checkpoints", _CORE, (_FUSE,)),
    Ability("fuse and inspect ONNX files", (*_CORE, *_ONNX), (_FUSE, ("onnx_ir", "graph"))),
    Ability("verify networks", (*_CORE, "paddle"), (_FUSE, _CONV)),
    Ability(
        "export --onnx",
        (*_CORE, "paddle", "paddle2onnx", *_ONNX),
        (_FUSE, _CONV, _SESSION, _CONVERT, ("paddle2onnx", "interpolation")),
    ),
    Ability("export --paddle", (*_CORE, "paddle"), (_FUSE, _CONV, ("paddle", "inference"))),
    Ability("bench ONNX files", (*_CORE, "onnxruntime"), (_SESSION,)),
)

NEEDED = frozenset(module for ability in ABILITIES for module in ability.modules)
"""The modules without which something does not work."""


@dataclass(frozen=True)
class Judged:
    """Whether something that reparam offers works here; ``because`` says why not."""

    name: str
    works: bool
    because: str = ""


def judge(ability: Ability, here: Surroundings) -> Judged:
    """Return whether an ability is here.

    What was tried counts. Of what was not, packages have to be there, to import, and to be of the
    versions that reparam asks for.
    """
    reasons = [*_packages(ability, here), *_trials(ability, here)]
    return Judged(ability.name, not reasons, "; ".join(reasons))


def _packages(ability: Ability, here: Surroundings) -> list[str]:
    seen = [here.seen[module] for module in ability.modules]
    missing = [one.name for one in seen if one.state == MISSING]
    broken = [one for one in seen if one.state == BROKEN]
    reasons = [f"{_called(one)} cannot be imported: {one.found}" for one in broken]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        reasons.insert(0, f"{', '.join(missing)} {verb} not installed")
    return reasons


def _trials(ability: Ability, here: Surroundings) -> list[str]:
    reasons: list[str] = []
    untried = set()
    for module, step in ability.trials:
        seen = here.seen[module]
        if seen.state_of(step) == NOT_TRIED:
            untried.add(module)
        if seen.state_of(step) != WORKS and (failed := seen.failed()):
            reasons.append(f"{_called(seen)}: {failed.found}")
    if untried or reasons:
        reasons += _versions(ability, here)
    return list(dict.fromkeys(reasons))


def _versions(ability: Ability, here: Surroundings) -> list[str]:
    """Return what is of another version than is asked for, of what was not seen to work."""
    works = {
        module
        for module, _ in ability.trials
        if all(here.seen[module].state_of(s) == WORKS for m, s in ability.trials if m == module)
    }
    found = [unmet for module in ability.modules if (unmet := here.unmet_of(module))
             and module not in works and unmet.found]  # fmt: skip
    return [f"{u.found.name} is {u.found.version}, needs {u.versions}" for u in found if u.found]


def _called(seen: Seen) -> str:
    return f"{seen.name} {seen.version}".strip()
