"""What each command can do here, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reparam.environment.asking import FAILS, WORKS
from reparam.environment.packages import CPU, MISSING, Seen
from reparam.environment.packages import WORKS as IMPORTS
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
    for reason in (*_packages(ability, here), *_trials(ability, here)):
        return Judged(ability.name, False, reason)
    return Judged(ability.name, True)


def _packages(ability: Ability, here: Surroundings) -> list[str]:
    return [
        f"{seen.name} is not installed"
        if seen.state == MISSING
        else f"{seen.name} {seen.version}".strip() + f" cannot be imported: {seen.found}"
        for seen in (here.seen[module] for module in ability.modules)
        if seen.state != IMPORTS
    ]


def _trials(ability: Ability, here: Surroundings) -> list[str]:
    reasons = [
        f"{_called(here.seen[module])}: {here.seen[module].steps[step].found}"
        for module, step in ability.trials
        if here.seen[module].state_of(step) == FAILS
    ]
    tried = {module for module, step in ability.trials if here.seen[module].state_of(step) == WORKS}
    if {module for module, _ in ability.trials} <= tried:
        return reasons
    for module in ability.modules:
        unmet = here.unmet_of(module) if module not in tried else None
        if unmet is not None and unmet.found is not None:
            reasons.append(f"{unmet.found.name} is {unmet.found.version}, needs {unmet.versions}")
    return reasons


def _called(seen: Seen) -> str:
    return f"{seen.name} {seen.version}".strip()
