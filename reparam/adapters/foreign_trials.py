"""What a method made of a block, and what was decided to stand in its place, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reparam.adapters.foreign_fusing import Form, structures_of
from reparam.errors import NotFusibleError

METHOD, REPARAM = "method", "reparam"  # by whom a block was fused


@dataclass(frozen=True)
class Converted:
    """A block that is in deploy form now.

    Attributes:
        where: its path in the network, ``"(root)"`` for the network itself.
        kind: the name of its class.
        method: the method that was called.
        replaced: keys of the network's state dict that went away.
        added: keys that came instead.
        parameters_before: values that are learned, before.
        parameters_after: and after.
        by: ``"method"``, or ``"reparam"`` where what the method made was not used.
        problem: what is wrong with the method; empty if nothing is.
        runs: whether the user's own deploy form is the block, with the arrays that come of this.
    """

    where: str
    kind: str
    method: str
    replaced: tuple[str, ...]
    added: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    by: str = METHOD
    problem: str = ""
    runs: bool = True


@dataclass(frozen=True)
class Trial:
    """What a method made of a block, before anybody believes it.

    Attributes:
        path: of the block in the network.
        kind: the name of its class.
        method: that was called.
        untouched: the block as it was.
        made: Layers that may be meant to stand in its place, likeliest first.
        failure: what the method did instead: ``"failed"``, or what else it must not do.
        detail: of the failure.
    """

    path: str
    kind: str
    method: str
    untouched: Any
    made: tuple[Any, ...]
    failure: str = ""
    detail: str = ""

    @property
    def problem(self) -> str:
        """What is wrong with the method, if that is known before anything is compared."""
        return f"its {self.method}() {self.failure}: {self.detail}" if self.failure else ""

    @property
    def where(self) -> str:
        return self.path or "(root)"


@dataclass(frozen=True)
class Chosen:
    """What is to stand in the place of a block, and how that came about; see Converted."""

    form: Form
    by: str = METHOD
    problem: str = ""


Judge = Callable[[Trial], "Chosen | None"]


def believe(trial: Trial) -> Chosen:
    """Choose what a method made, without a proof; our own fusion where the method failed.

    Raises:
        NotFusibleError: it failed, and nothing is known of the block.
    """
    if trial.made:
        return Chosen(Form(trial.made[0]))
    structure = next(structures_of(trial.untouched), None)
    form = next(structure.forms(), None) if structure else None
    if form is None:
        raise failed(trial)
    return Chosen(form, REPARAM, trial.problem)


def failed(trial: Trial, why: str = "") -> NotFusibleError:
    """Return the error for a method that failed."""
    return NotFusibleError(
        f"cannot convert block '{trial.where}': its {trial.method}() {trial.failure}",
        found=trial.detail,
        why=f"the method is that of {trial.kind}" + (f"; {why}" if why else ""),
        hint=f"--skip {trial.where} leaves that block as it is",
    )
