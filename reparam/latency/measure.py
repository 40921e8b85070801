"""The protocol: every model in every round, in a process of its own, in alternating order."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Sequence

from reparam.environment.machine import usable_cores
from reparam.errors import BenchmarkError, MissingDependencyError
from reparam.latency.environment import read_environment
from reparam.latency.process import Answer, Request, measure_once
from reparam.latency.records import Benchmark, Measurement, ModelUnderTest
from reparam.supervision import Limits

INPUT_SEED = 0


def measure_models(
    models: Sequence[ModelUnderTest],
    *,
    threads: int | None,
    batch: int | None,
    rounds: int,
    seconds: float,
    warm_up: float,
    limits: Limits | None = None,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Return the times of ONNX models on onnxruntime's CPU execution provider.

    In every round each model is loaded, warmed up and timed by a fresh process, one process at a
    time; every other round takes the models in reverse, so that none is always first. Threads do
    not spin, and all graph optimisations are on.

    Args:
        models: the first is the baseline of the comparisons; labels must differ.
        threads: threads inside an operator; None takes the cores this process can really use.
        batch: size of a dynamic axis 0, 1 where None. Other dynamic axes are refused.
        rounds: comparisons get a verdict from 6 rounds on; from 9 on an outlier does not matter.
        seconds: timed running of one process; 5 runs at least, 10,000 at most.
        warm_up: seconds of untimed running before.
        limits: of each process: seconds until it has loaded a model and runs it, and memory.
        progress: is told, in a few words, before each process.

    Raises:
        BenchmarkError: a setting or a file is unusable, or a process did not deliver.
        MissingDependencyError: onnxruntime is not installed.
    """
    _check_settings(threads, batch, rounds, seconds, warm_up)
    _check_models(models)
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependencyError.of("onnxruntime", "bench", "bench")
    request = Request(
        usable_cores() if threads is None else threads,
        batch,
        seconds,
        warm_up,
        INPUT_SEED,
        limits or Limits(),
    )
    digests = [_sha256(model) for model in models]
    load_start = os.getloadavg()
    answers = _measure_rounds(models, request, rounds, progress)
    return Benchmark(
        measurements=tuple(
            _measurement(model, digest, answers[model.label])
            for model, digest in zip(models, digests, strict=True)
        ),
        environment=read_environment(answers[models[0].label][0].onnxruntime, load_start),
        threads=request.threads,
        rounds=rounds,
        seconds=seconds,
        warm_up=warm_up,
        seed=INPUT_SEED,
    )


def _measure_rounds(
    models: Sequence[ModelUnderTest],
    request: Request,
    rounds: int,
    progress: Callable[[str], None] | None,
) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {model.label: [] for model in models}
    for number in range(1, rounds + 1):
        order = models if number % 2 else models[::-1]
        for position, model in enumerate(order, start=1):
            if progress is not None:
                progress(f"round {number} of {rounds}: {model.label}")
            answers[model.label].append(measure_once(model, request, number, position))
    return answers


def _measurement(model: ModelUnderTest, digest: str, answers: Sequence[Answer]) -> Measurement:
    first = answers[0]
    return Measurement(
        model=model,
        sha256=digest,
        inputs=first.inputs,
        providers=first.providers,
        nodes=first.nodes,
        runs=tuple(answer.run for answer in answers),
    )


def _check_settings(
    threads: int | None, batch: int | None, rounds: int, seconds: float, warm_up: float
) -> None:
    for name, count in (("threads", threads), ("batch", batch), ("rounds", rounds)):
        if count is not None and count < 1:
            raise BenchmarkError(f"cannot measure with {count} {name}", found="1 is the least")
    if not (math.isfinite(seconds) and seconds > 0):
        raise BenchmarkError(f"cannot measure for {seconds} seconds", found="no time to measure in")
    if not (math.isfinite(warm_up) and warm_up >= 0):
        raise BenchmarkError(f"cannot warm up for {warm_up} seconds", found="0 is the least")


def _check_models(models: Sequence[ModelUnderTest]) -> None:
    if not models:
        raise BenchmarkError("nothing to measure", hint="name at least one ONNX file")
    labels = [model.label for model in models]
    for label in labels:
        if labels.count(label) > 1:
            raise BenchmarkError(
                f"two models are called '{label}'", why="the report tells them apart by their names"
            )
    for model in models:
        if not model.path.is_file():
            raise BenchmarkError(
                f"cannot measure '{model.label}' ({model.path})",
                found="a folder" if model.path.is_dir() else "no such file",
                hint="name an ONNX file; export writes one",
            )


def _sha256(model: ModelUnderTest) -> str:
    digest = hashlib.sha256()
    try:
        with model.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BenchmarkError(
            f"cannot measure '{model.label}' ({model.path})", found=error.strerror or str(error)
        ) from error
    return digest.hexdigest()
