"""Fusing one file or several: lines, the summary, the JSON object and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reparam.commands.output import as_ours, error_fields, print_error, print_json
from reparam.commands.tables import stdout
from reparam.errors import ReparamError
from reparam.reports import Report

SEVERAL = "fuse_several"
"""The schema of several files: an object with ``files``, each with the fields of one file."""

_FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        verdict: one or two words, for programs.
        done: the verdict with its number, for people.
        output: the file that was written, None if none was.
        fields: of the JSON object, beside the verdict.
        show: prints the whole report.
    """

    verdict: str
    done: str
    output: Path | None
    fields: dict[str, Any]
    show: Callable[[], None]

    def print(self, as_json: bool) -> None:
        """Print the whole report of the only file."""
        if as_json:
            print_json("fuse", self.verdict, self.fields)
        else:
            self.show()


def with_notices(result: Report, notices: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a result, with notices of the command line beside its own."""
    fields = result.to_json()
    return {**fields, "notices": [*fields["notices"], *notices]}


def fuse_several(paths: Sequence[Path], fuse: Callable[[Path], Outcome], as_json: bool) -> int:
    """Fuse files one after the other, print a line for each and a summary; return the exit code.

    What fails is told, and the next file is fused. The exit code is that of the worst failure.

    Args:
        fuse: one file.
    """
    told: list[dict[str, Any]] = []
    code = 0
    for path in paths:
        try:
            outcome = fuse(path)
        except BrokenPipeError:  # nobody reads what is told
            raise
        except (ReparamError, click.ClickException, OSError, MemoryError) as error:
            failure = as_ours(error)
            code = max(code, failure.exit_code)
            print_error(failure, as_json=False)
            told.append({"verdict": _FAILED, "source": path, "error": error_fields(failure)})
            line = f"{path}: {_FAILED}"
        else:
            told.append({"verdict": outcome.verdict, **outcome.fields})
            wrote = f", wrote {outcome.output}" if outcome.output else ", nothing written"
            line = f"{path}: {outcome.done}{wrote}"
        if not as_json:
            stdout().print(line)
    verdicts = Counter(one["verdict"] for one in told)
    if as_json:
        verdict = _FAILED if code else "fused" if verdicts["fused"] else next(iter(verdicts))
        print_json("fuse", verdict, {"files": told}, schema=SEVERAL)
    else:
        counts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
        stdout().print(f"{len(told)} files: {counts}")
    return code
