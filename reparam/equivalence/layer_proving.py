"""What the methods of a user's own blocks made, believed only where it is proved.

A block whose method made another function of it, or failed, is fused by us if its structure is
known; that is proved against the block as it was in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reparam.adapters.foreign_fusing import WRONG_FORWARD, Form, Structure, structure_of
from reparam.adapters.foreign_layers import Chosen, Conversion, Trial, convert, failed
from reparam.adapters.foreign_methods import (
    block_paths,
    fingerprint,
    missing_arguments,
    sublayer,
)
from reparam.adapters.foreign_running import Call, Fed, calls_of, parts_run
from reparam.checkpoint import Left
from reparam.conv.operators import Array
from reparam.equivalence.layer_blocks import NOT_REACHED, blocks_stage, compare_block
from reparam.equivalence.records import DIFFERENT, EQUAL, UNDECIDABLE, BlockResult, Stage


@dataclass(frozen=True)
class Wrong:
    """A method that makes another function of a block, and nobody else knows better."""

    trial: Trial
    result: BlockResult
    families: str


@dataclass(frozen=True)
class Proved:
    """A conversion, and what is known of each block of it.

    Attributes:
        conversion: of what was proved, and of nothing else.
        checks: of each converted block, in the order of ``conversion.converted``.
        wrong: blocks whose methods are wrong, and whose structure is not known.
        left: blocks that stay as they were, with the reason.
        notices: what else there is to say.
        theirs: how a method's own result compared, by path, where it was not used.
    """

    conversion: Conversion
    checks: tuple[BlockResult, ...]
    wrong: tuple[Wrong, ...]
    left: tuple[Left, ...]
    notices: tuple[str, ...]
    theirs: dict[str, BlockResult]

    @property
    def stage(self) -> Stage:
        """The blocks of the user's own deploy form, with the arrays that a file holds of it."""
        results = [
            check if done.runs else _not_running(self.theirs[check.where], done.problem)
            for done, check in zip(self.conversion.converted, self.checks, strict=True)
        ]
        return blocks_stage([*results, *(wrong.result for wrong in self.wrong)])


def prove(original: Fed, x: Array, skip: Sequence[str] = ()) -> Proved:
    """Convert a network by its own methods, each block proved before it is used.

    Args:
        original: in float32 and evaluation mode; not changed.
        x: an image that it runs on; blocks are found on the way it takes.
        skip: paths of blocks to leave as they are.

    Raises:
        NotFusibleError: a method failed, and the structure of its block is not known.
    """
    judge = _Judge(original, x)
    conversion = convert(original.network, skip, judge)
    checks = [judge.checks[done.where] for done in conversion.converted]
    done = [one.where for one in conversion.converted]
    left = [one for one in judge.left if not any(_is_under(one.where, path) for path in done)]
    uncallable = _uncallable(original.network, [*done, *skip])
    return Proved(
        conversion=conversion,
        checks=tuple(checks),
        wrong=tuple(judge.wrong.values()),
        left=(*left, *uncallable),
        notices=tuple(dict.fromkeys(judge.notices)),
        theirs=judge.theirs,
    )


def compare_layer_blocks(original: Fed, converted: Any, paths: Sequence[str], x: Array) -> Stage:
    """Compare the blocks at ``paths`` of two networks that were one before a conversion.

    Args:
        original: before it, in float32 and evaluation mode.
        converted: the Layer after it.
        paths: of blocks that are in both.
        x: an image that the network runs on; blocks are found on the way it takes.
    """
    judge = _Judge(original, x)
    results = []
    for path in paths:
        other = sublayer(converted, path)
        result = judge.compared(path, other)
        results.append(judge.explained(path, other, result))
    return blocks_stage(results)


class _Judge:
    """Decides what stands in the place of each block, and remembers why.

    Args:
        original: the network before its conversion.
        x: an image that it runs on.
    """

    def __init__(self, original: Fed, x: Array) -> None:
        self.network = original.network
        self.calls: dict[str, Call] = calls_of(original, block_paths(self.network), x)
        self.checks: dict[str, BlockResult] = {}
        self.theirs: dict[str, BlockResult] = {}
        self.wrong: dict[str, Wrong] = {}
        self.left: list[Left] = []
        self.notices: list[str] = []

    def __call__(self, trial: Trial) -> Chosen | None:
        results = []
        for made in trial.made:
            result = self.compared(trial.path, made)
            if result.verdict == EQUAL:
                self.checks[trial.where] = result
                return Chosen(Form(made))
            results.append(result)
        unclear = next((r for r in results if r.verdict == UNDECIDABLE), None)
        if unclear is None and trial.path not in self.calls:
            unclear = self.compared(trial.path, None)
        if unclear is not None:
            return self._leave(trial, unclear.reason)
        return self._own(trial, results[0] if results else None)

    def compared(self, path: str, other: Any) -> BlockResult:
        """Compare the block at ``path`` with another, by the blocks inside it where need be."""
        where, block = path or "(root)", sublayer(self.network, path)
        result = compare_block(where, block, other, self.calls.get(path))
        inside = _changed_inside(block, other) if result.verdict == UNDECIDABLE else []
        if not inside:
            return result
        parts = [
            self.compared(f"{path}.{inner}".lstrip("."), sublayer(other, inner)) for inner in inside
        ]
        worst = next((part for part in parts if part.verdict != EQUAL), None)
        if worst is not None:
            return result
        worst = max(parts, key=lambda part: part.distance / part.bound if part.bound else 0.0)
        return replace(worst, where=where)

    def explained(self, path: str, other: Any, result: BlockResult) -> BlockResult:
        """Say of a block that differs whether its weights are right and only its code is not."""
        structure = structure_of(sublayer(self.network, path))
        held = structure.holding(other) if structure and other is not None else None
        if result.verdict != DIFFERENT or held is None:
            return result
        for form in held.forms(other):
            if form.flaw and self.compared(path, form.layer).verdict == EQUAL:
                return _not_running(result, f"its weights are right, but {self._flaw(path, other, held, form)}")
        return result

    def _leave(self, trial: Trial, reason: str) -> None:
        if trial.failure:
            reason = f"its {trial.method}() failed ({trial.failure}), and {reason}"
        if any(path for path in block_paths(trial.untouched)) and trial.path in self.calls:
            self.notices.append(_one_by_one(trial, reason))
        elif not any(_is_under(trial.where, one.where) for one in self.left):
            self.left.append(Left(trial.path, reason))

    def _own(self, trial: Trial, theirs: BlockResult | None) -> Chosen | None:
        """Return our own fusion of a block, if it is known and proves to be right."""
        problem = trial.failure and f"its {trial.method}() failed: {trial.failure}"
        if theirs is not None:
            problem = f"its {trial.method}() makes another function of it: {theirs.reason}"
            self.theirs[trial.where] = theirs
        structure = structure_of(trial.untouched)
        made = trial.made[0] if trial.made else None
        for form in structure.forms(made) if structure else ():
            result = self.compared(trial.path, form.layer)
            if result.verdict == EQUAL:
                self.checks[trial.where] = result
                if structure and form.flaw:
                    problem = f"{problem}; {self._flaw(trial.path, made, structure, form)}"
                return Chosen(form, "reparam", problem)
        if any(path for path in block_paths(trial.untouched)):
            self.notices.append(_one_by_one(trial, problem))
            return None
        families = structure.families if structure else ""
        if theirs is None:
            raise failed(trial, _no_better(families))
        self.wrong[trial.path] = Wrong(trial, theirs, families)
        return None

    def _flaw(self, path: str, made: Any, structure: Structure, form: Form) -> str:
        """Say why the user's own deploy form is another function with the right weights."""
        if form.flaw != WRONG_FORWARD:
            return form.flaw
        call = self.calls[path]
        consumed = structure.consumed
        ran = [part for part in parts_run(structure.block, call) if part not in consumed]
        now = parts_run(made, call)
        missing = [part for part in ran if part not in now]
        outer = [p for p in missing if not any(p != q and _is_under(p, q) for q in missing)]
        if not outer:
            return WRONG_FORWARD
        return f"its deploy form does not run {', '.join(map(repr, outer))}"


def _changed_inside(block: Any, other: Any) -> list[str]:
    """Return the nearest blocks inside a block that changed, if nothing beside them did."""
    if other is None:
        return []
    changed = [
        path
        for path in block_paths(block)
        if path and sublayer(other, path) is not None
        and fingerprint(sublayer(block, path)) != fingerprint(sublayer(other, path))
    ]  # fmt: skip
    outer = [p for p in changed if not any(p != q and _is_under(p, q) for q in changed)]
    before, after = fingerprint(block), fingerprint(other)
    different = [
        name[1]
        for name in {**before, **after}
        if name[0] != "setting" and before.get(name) != after.get(name)
    ]
    covered = all(any(_is_under(name, path) for path in outer) for name in different)
    return outer if covered else []


def _uncallable(network: Any, done: Sequence[str]) -> list[Left]:
    found = []
    for path, part in network.named_sublayers(include_self=True):
        missing = missing_arguments(part)
        if missing and not any(_is_under(path, other) for other in done):
            name, needed = missing
            found.append(Left(path, f"its {name}() needs arguments: {', '.join(needed)}"))
    return found


def _not_running(theirs: BlockResult, problem: str) -> BlockResult:
    return replace(theirs, reason=f"{problem}; {theirs.reason}" if theirs.reason not in problem else problem)


def _one_by_one(trial: Trial, reason: str) -> str:
    return f"'{trial.where}': {trial.method}() was not used: {reason}; the blocks in it were converted one by one"


def _no_better(families: str) -> str:
    if families:
        return f"its weights are named like those of a {families}, but it computes something else"
    return "its structure is not one that reparam knows"


def _is_under(path: str, outer: str) -> bool:
    outer = "" if outer == "(root)" else outer
    return not outer or path == outer or path.startswith(f"{outer}.")
