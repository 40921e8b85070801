"""What the methods of a user's own blocks made, believed only where it is proved.

A block whose method made another function of it, or failed, is fused by us if its structure is
known; that is proved against the block as it was in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reparam.adapters.foreign_converting import Conversion, convert, path_of
from reparam.adapters.foreign_fusing import (
    WRONG_FORWARD,
    Form,
    Structure,
    no_convolution,
    structures_of,
)
from reparam.adapters.foreign_methods import block_paths, changed_inside, missing_arguments
from reparam.adapters.foreign_parts import is_inside, outermost, sublayer
from reparam.adapters.foreign_running import Fed, calls_of, parts_run
from reparam.adapters.foreign_trials import REPARAM, Chosen, Trial, failed
from reparam.checkpoint import Left
from reparam.conv.operators import Array
from reparam.equivalence.layer_blocks import Prepared, blocks_stage, compare_block, prepare
from reparam.equivalence.records import DIFFERENT, EQUAL, UNDECIDABLE, BlockResult, Stage


@dataclass(frozen=True)
class Wrong:
    """A method that makes another function of a block, where we know no better.

    Attributes:
        trial: what it made.
        result: how that compares.
        reason: why it is not fused by us.
    """

    trial: Trial
    result: BlockResult
    reason: str


@dataclass(frozen=True)
class Proved:
    """A conversion, and what is known of each block of it.

    Attributes:
        conversion: of what was proved, and of nothing else.
        checks: of each converted block, in the order of ``conversion.converted``.
        theirs: how what a method made compares, by block, where it was not used.
        wrong: blocks whose methods are wrong, and that we cannot fuse either.
        unclear: blocks that cannot be compared, and so stay as they were.
        left: what stays as it was, with the reason.
        notices: what else there is to say.
    """

    conversion: Conversion
    checks: tuple[BlockResult, ...]
    theirs: dict[str, BlockResult]
    wrong: tuple[Wrong, ...]
    unclear: tuple[BlockResult, ...]
    left: tuple[Left, ...]
    notices: tuple[str, ...]

    @property
    def stage(self) -> Stage:
        """The blocks of the user's own deploy form, with the arrays that a file holds of it."""
        pairs = zip(self.conversion.converted, self.checks, strict=True)
        results = [
            check if done.runs else replace(self.theirs[done.where], reason=done.problem)
            for done, check in pairs
        ]
        return blocks_stage([*results, *(one.result for one in self.wrong), *self.unclear])


def prove(original: Fed, x: Array, skip: Sequence[str] = ()) -> Proved:
    """Convert a network by its own methods, each block proved before it is used.

    Args:
        original: in float32 and evaluation mode; not changed.
        x: an image that it runs on; blocks are found on the way it takes.
        skip: paths of blocks to leave as they are.

    Raises:
        NotFusibleError: a method failed, and we cannot fuse its block either.
    """
    judges: list[_Judge] = []

    def new_judge() -> _Judge:
        judges.append(_Judge(original, x))
        return judges[-1]

    conversion = convert(original.network, skip, new_judge)
    judge, converted = judges[-1], conversion.converted
    paths = [path_of(done.where) for done in converted]
    notices = [f"'{where}': {reason}" for where, reason in judge.parted.items()]
    return Proved(
        conversion=conversion,
        checks=tuple(judge.checks[done.where] for done in converted),
        theirs=judge.theirs,
        wrong=tuple(judge.wrong),
        unclear=tuple(judge.unclear),
        left=tuple(_left(judge, original.network, [*paths, *skip])),
        notices=(*notices, *_notices(conversion)),
    )


def compare_layer_blocks(original: Fed, converted: Any, paths: Sequence[str], x: Array) -> Stage:
    """Compare the blocks at ``paths`` of two networks that were one before a conversion.

    Args:
        original: before it, in float32 and evaluation mode.
        converted: the Layer after it.
        paths: of blocks in ``original``.
        x: an image that the network runs on; blocks are found on the way it takes.
    """
    judge = _Judge(original, x)
    return blocks_stage([judge.explained(path, sublayer(converted, path)) for path in paths])


class _Judge:
    """Decides what stands in the place of each block, and remembers why.

    Args:
        original: the network before its conversion.
        x: an image that it runs on.
    """

    def __init__(self, original: Fed, x: Array) -> None:
        self.network = original.network
        self.calls = calls_of(original, block_paths(self.network), x)
        self.checks: dict[str, BlockResult] = {}
        self.theirs: dict[str, BlockResult] = {}
        self.wrong: list[Wrong] = []
        self.unclear: list[BlockResult] = []
        self.parted: dict[str, str] = {}
        self.prepared: dict[str, Prepared | BlockResult] = {}

    def __call__(self, trial: Trial) -> Chosen | None:
        """Return what is proved to be the block; None leaves it, and turns to those inside it."""
        results = []
        for made in trial.made:
            results.append(self.compared(trial.path, made))
            if results[-1].verdict == EQUAL:
                self.checks[trial.where] = results[-1]
                return Chosen(Form(made))
        if trial.path not in self.calls:
            results.append(self.compared(trial.path, None))
        unclear = next((result for result in results if result.verdict == UNDECIDABLE), None)
        problem = _problem(trial, results)
        if unclear is None:
            own = self._own(trial, problem)
            if own is not None:
                self.theirs[trial.where] = results[0] if results else self.checks[trial.where]
                return own
        if trial.path in self.calls and any(block_paths(trial.untouched)):
            self.parted[trial.where] = f"{problem}, so the blocks in it were converted one by one"
        elif unclear is not None:
            if not any(is_inside(trial.path, [one.where]) for one in self.unclear):
                reason = f"{problem}, and {unclear.reason}" if trial.failure else unclear.reason
                self.unclear.append(replace(unclear, reason=reason))
        elif results:
            self.wrong.append(Wrong(trial, results[0], _no_better(trial)))
        else:
            raise failed(trial, _no_better(trial))
        return None

    def compared(self, path: str, other: Any) -> BlockResult:
        """Compare the block at ``path`` with another, by the blocks inside it where need be."""
        where, block = path or "(root)", sublayer(self.network, path)
        if path not in self.prepared:  # one is compared several times, and then no more
            self.prepared = {path: prepare(where, block, self.calls.get(path))}
        result = compare_block(self.prepared[path], other)
        if result.verdict != UNDECIDABLE or other is None:
            return result
        parts = [
            self.compared(f"{path}.{inner}".lstrip("."), sublayer(other, inner))
            for inner in changed_inside(block, other)
        ]
        if not parts or any(part.verdict != EQUAL for part in parts):
            return result
        worst = max(parts, key=lambda part: part.distance / part.bound if part.bound else 0.0)
        return replace(worst, where=where)

    def explained(self, path: str, other: Any) -> BlockResult:
        """Compare two blocks; say of one that differs whether only its code is wrong."""
        result = self.compared(path, other)
        if result.verdict != DIFFERENT or other is None:
            return result
        for structure in structures_of(sublayer(self.network, path)):
            held = structure.holding(other)
            for form in held.forms(other) if held else ():
                if form.flaw and self.compared(path, form.layer).verdict == EQUAL:
                    flaw = self._flaw(path, other, structure, form)
                    reason = f"its weights are right, but {flaw}: {result.reason}"
                    return replace(result, reason=reason)
        return result

    def _own(self, trial: Trial, problem: str) -> Chosen | None:
        """Return our own fusion of a block, if it is known and proves to be right."""
        made = trial.made[0] if trial.made else None
        for structure in structures_of(trial.untouched):
            for form in structure.forms(made):
                result = self.compared(trial.path, form.layer)
                if result.verdict == EQUAL:
                    self.checks[trial.where] = result
                    if form.flaw:
                        flaw = self._flaw(trial.path, made, structure, form)
                        problem = f"{problem}; with the right weights too, {flaw}"
                    return Chosen(form, REPARAM, problem)
        return None

    def _flaw(self, path: str, made: Any, structure: Structure, form: Form) -> str:
        """Say why the user's own deploy form is another function with the right weights."""
        if form.flaw != WRONG_FORWARD:
            return form.flaw
        call, consumed = self.calls[path], structure.consumed
        now = parts_run(made, call)
        missing = [
            part
            for part in parts_run(structure.block, call)
            if part not in now and part not in consumed
        ]
        names = ", ".join(f"'{part}'" for part in outermost(missing))
        return f"its deploy form does not run {names}" if names else WRONG_FORWARD


def _problem(trial: Trial, results: Sequence[BlockResult]) -> str:
    if trial.problem:
        return trial.problem
    wrong = next((result for result in results if result.verdict == DIFFERENT), results[0])
    if wrong.verdict == UNDECIDABLE:
        return f"what its {trial.method}() makes cannot be compared: {wrong.reason}"
    return f"its {trial.method}() makes another function of it: {wrong.reason}"


def _no_better(trial: Trial) -> str:
    """Say why a block is not fused by us."""
    families = dict.fromkeys(structure.families for structure in structures_of(trial.untouched))
    if not families:
        return "its structure is not one that reparam knows"
    reason = no_convolution(trial.untouched) or "it computes something else"
    return f"its weights have the names of {' or of '.join(families)}, but {reason}"


def _left(judge: _Judge, network: Any, done: Sequence[str]) -> list[Left]:
    left = [Left(path_of(result.where), result.reason) for result in judge.unclear]
    for path, part in network.named_sublayers(include_self=True):
        missing = missing_arguments(part)
        if missing is not None and not is_inside(path, done):
            method, names = missing
            left.append(Left(path, f"its {method}() needs arguments: {', '.join(names)}"))
    return left


def _notices(conversion: Conversion) -> list[str]:
    """Say which methods were not used, and which classes cannot run what a file holds."""
    others = [done for done in conversion.converted if done.by == REPARAM]
    notices = []
    for runs, told in (
        (True, "fused by reparam instead, and proved; the method is that of"),
        (False, "fused by reparam and proved: the weights are right, but not what comes out when "
                "they are run by"),
    ):  # fmt: skip
        blocks = [done for done in others if done.runs == runs]
        if blocks:
            more = f" ({len(blocks)} blocks like it)" if len(blocks) > 1 else ""
            kinds = ", ".join(dict.fromkeys(done.kind for done in blocks))
            notices.append(f"'{blocks[0].where}'{more}: {blocks[0].problem}; {told} {kinds}")
    return notices
