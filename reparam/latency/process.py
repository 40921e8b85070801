"""One measurement in one fresh process: starting it, limiting it, understanding its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reparam.drafts import scratch_folder
from reparam.errors import BenchmarkError
from reparam.latency.records import InputTensor, ModelUnderTest, ProcessRun
from reparam.supervision import Limits, child_environment, end_group, signal_name

WORKER = Path(__file__).with_name("worker.py")
CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Request:
    """What every process of a benchmark is asked for; times in seconds."""

    threads: int
    batch: int | None
    seconds: float
    warm_up: float
    seed: int
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Answer:
    """What a process said: its samples, and how the runtime saw the model."""

    run: ProcessRun
    inputs: tuple[InputTensor, ...]
    providers: tuple[str, ...]
    nodes: Mapping[str, Mapping[str, int]] | None
    onnxruntime: str


def measure_once(
    model: ModelUnderTest, request: Request, round_number: int, position: int
) -> Answer:
    """Return what a fresh process measures of ``model``; it has ended when this returns.

    Raises:
        BenchmarkError: the model cannot be loaded or run, the process was killed, took too long
            or gave no answer, or the runtime did not keep to the CPU.
    """
    where = f"cannot measure '{model.label}' ({model.path})"
    # Beyond the running that was asked for: to start, load, and run the few times that are always.
    limit = request.limits.timeout + request.warm_up + request.seconds
    output = _run_worker(where, _argument(model, request), limit)
    try:
        values = json.loads(output.strip().splitlines()[-1])
        if "refusal" in values:
            raise BenchmarkError(where, **values["refusal"])
        answer = _answer(values, round_number, position)
    except (ValueError, LookupError, TypeError) as error:
        raise BenchmarkError(
            where,
            found=f"the measuring process ended without samples: {_last_line(output)!r}",
        ) from error
    if answer.providers != CPU:
        raise BenchmarkError(
            where,
            found=f"onnxruntime runs it on {', '.join(answer.providers) or 'nothing'}",
            why=f"the times would be reported as those of {CPU[0]}",
        )
    return answer


def _argument(model: ModelUnderTest, request: Request) -> str:
    return json.dumps(
        {
            "path": str(model.path.resolve()),
            "threads": request.threads,
            "batch": request.batch,
            "seconds": request.seconds,
            "warm_up": request.warm_up,
            "seed": request.seed,
            "memory": request.limits.memory_for([model.path]),
        }
    )


def _run_worker(where: str, argument: str, limit: float) -> str:
    """Return the standard output of the worker, which does not outlive this call."""
    with (
        scratch_folder() as folder,
        subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, str(WORKER), argument],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=child_environment(os.environ, folder),  # onnxruntime leaves files there
            start_new_session=True,
        ) as process,
    ):
        try:
            output, log = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(
                where,
                found=f"no answer after {limit:.0f} s; the measuring process was ended",
                hint="a smaller input or batch, fewer seconds, or a longer --timeout",
            ) from error
        finally:
            end_group(process)  # does nothing to one that has ended; Ctrl-C comes here too
    if process.returncode < 0:
        raise _killed(where, -process.returncode)
    if process.returncode:
        raise BenchmarkError(
            where,
            found=f"the measuring process failed (exit {process.returncode}): {_last_line(log)}",
        )
    return output


def _killed(where: str, number: int) -> BenchmarkError:
    name = signal_name(number)
    hint = "if memory ran out, a smaller input or batch" if name == "SIGKILL" else ""
    return BenchmarkError(where, found=f"the measuring process was killed by {name}", hint=hint)


def _answer(values: Mapping[str, Any], round_number: int, position: int) -> Answer:
    samples = tuple(float(sample) for sample in values["samples"])
    if not samples:
        raise ValueError("no samples")
    return Answer(
        run=ProcessRun(
            round_number, position, values["process_id"], values["load_seconds"], samples
        ),
        inputs=tuple(InputTensor(n, kind, tuple(shape)) for n, kind, shape in values["inputs"]),
        providers=tuple(values["providers"]),
        nodes=values["nodes"],
        onnxruntime=values["onnxruntime"],
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else "it printed nothing"
