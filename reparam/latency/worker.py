"""Measure one ONNX file in a process of its own: a script, started by its path, never imported.

It takes one argument, a JSON object with ``path``, ``threads``, ``batch``, ``seconds``,
``warm_up``, ``seed`` and ``memory``, and prints one line, a JSON object with the raw samples, or
with a ``refusal`` that says why there are none. It imports nothing of this package, so it works
from any kind of installation.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEAST_RUNS = 5
MOST_RUNS = 10_000  # more says nothing new about a median, and the samples are kept

FLOATS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
BYTES = {"tensor(uint8)": "uint8", "tensor(int8)": "int8"}
WIDE = ("int16", "uint16", "int32", "uint32", "int64", "uint64")
INTEGERS = {f"tensor({name})": name for name in WIDE}


class Refusal(Exception):  # noqa: N818 - no error of the program: the answer is that it cannot be done
    """The model cannot be measured as asked; becomes the answer of this process."""

    def __init__(self, found: str, why: str = "", hint: str = "") -> None:
        super().__init__(found)
        self.parts = {"found": found, "why": why, "hint": hint}


def main() -> None:
    """Print the answer to the request in the first argument."""
    request = json.loads(sys.argv[1])
    # Python puts the folder of a script first; the modules there would hide those of the
    # standard library that have the same name.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    try:
        answer = measure(request)
    except Refusal as refusal:
        answer = {"refusal": refusal.parts}
    print(json.dumps(answer))


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return samples (seconds), load time (seconds) and what the runtime says of itself."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Refusal(f"onnxruntime cannot be imported: {first_line(error)}") from error

    limit_memory(request.get("memory"))
    started = time.perf_counter()
    network = load(onnxruntime, request["path"], request["threads"])
    load_seconds = time.perf_counter() - started

    shapes = [(i.name, i.type, input_shape(i, request["batch"])) for i in network.get_inputs()]
    feeds = make_feeds(shapes, request["seed"])

    def call() -> Any:
        return network.run(None, feeds)

    check_outputs(first_call(call), [output.name for output in network.get_outputs()])
    return {
        "process_id": os.getpid(),
        "load_seconds": load_seconds,
        "samples": time_calls(call, request["warm_up"], request["seconds"]),
        "providers": network.get_providers(),
        "threads": network.get_session_options().intra_op_num_threads,
        "nodes": assigned_nodes(network),
        "inputs": [[n, str(feeds[n].dtype), list(feeds[n].shape)] for n, _, _ in shapes],
        "onnxruntime": onnxruntime.__version__,
    }


def limit_memory(memory: int | None) -> None:
    """Limit the bytes that this process may map beyond what libraries have mapped; on Linux."""
    if memory is None or sys.platform != "linux":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = memory + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def load(onnxruntime: Any, path: str, threads: int) -> Any:
    """Return the file loaded on the CPU with stated threads, not spinning, fully optimised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise Refusal(
            first_line(error), hint="check that the file is an ONNX model that onnxruntime can run"
        ) from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of onnxruntime; they share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return (RuntimeError, ValueError, *(kind for kind in own if issubclass(kind, Exception)))


def first_line(error: Exception) -> str:
    """Return the first line of the message that says something."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def input_shape(value: Any, batch: int | None) -> list[int]:
    """Return the shape to feed: a dynamic axis 0 becomes ``batch``, 1 where none was asked for."""
    declared = list(value.shape)
    fixed = [isinstance(size, int) for size in declared]
    shown = "[" + ", ".join("?" if size is None else str(size) for size in declared) + "]"
    if not all(fixed[1:]):
        axes = [f"{i}" for i, known in enumerate(fixed) if i and not known]
        raise Refusal(
            f"input '{value.name}' is {shown}: axis {', '.join(axes)} not fixed",
            why="a time belongs to one input size",
            hint="export the model with a fixed input size",
        )
    if declared and not fixed[0]:
        return [batch or 1, *declared[1:]]
    if len(declared) > 1 and batch not in (None, declared[0]):
        raise Refusal(
            f"input '{value.name}' is {shown}, its batch is fixed; batch {batch} was asked for",
            hint=f"ask for batch {declared[0]}, or export with a dynamic batch axis",
        )
    return declared


def make_feeds(shapes: list[tuple[str, str, list[int]]], seed: int) -> dict[str, Any]:
    """Return seeded input values by name.

    Floats are standard normal. Bytes hold pixels, so they take their whole range. Other integers
    are 1: as an index, a length, a divisor or a mask that is nearly always valid; so is True.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for name, kind, shape in shapes:
        if kind in FLOATS:
            feeds[name] = random.standard_normal(shape).astype(FLOATS[kind])
        elif kind in BYTES:
            limits = np.iinfo(BYTES[kind])
            feeds[name] = random.integers(
                limits.min, limits.max, shape, dtype=BYTES[kind], endpoint=True
            )
        elif kind in INTEGERS:
            feeds[name] = np.ones(shape, INTEGERS[kind])
        elif kind == "tensor(bool)":
            feeds[name] = np.ones(shape, np.bool_)
        else:
            raise Refusal(f"input '{name}' is {kind}, for which there are no values to make up")
    return feeds


def first_call(call: Callable[[], Any]) -> Any:
    """Return the outputs of the first, untimed run."""
    try:
        return call()
    except runtime_errors() as error:
        raise Refusal(
            first_line(error),
            why="the model does not run on made-up input values",
        ) from error


def check_outputs(outputs: list[Any], names: list[str]) -> None:
    """Refuse outputs with NaN or Inf: arithmetic on those can take another time."""
    import numpy as np

    for name, value in zip(names, outputs, strict=True):
        if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
            continue
        bad = int(np.count_nonzero(~np.isfinite(value)))
        if bad:
            raise Refusal(
                f"output '{name}' has {bad} of {value.size} values that are NaN or Inf",
                why="such a network can take another time than a working one",
                hint="check the weights: reparam verify",
            )


def time_calls(call: Callable[[], Any], warm_up: float, seconds: float) -> list[float]:
    """Return the seconds of each run, taken for ``seconds`` after ``warm_up`` seconds of runs."""
    clock = time.perf_counter_ns
    end = clock() + round(warm_up * 1e9)
    while clock() < end:
        call()
    gc.collect()
    gc.disable()
    samples: list[int] = []
    end = clock() + round(seconds * 1e9)
    while len(samples) < LEAST_RUNS or (len(samples) < MOST_RUNS and clock() < end):
        before = clock()
        call()
        samples.append(clock() - before)
    gc.enable()
    return [sample / 1e9 for sample in samples]


def assigned_nodes(network: Any) -> dict[str, dict[str, int]] | None:
    """Return how many nodes of which type each execution provider took; None from
    an onnxruntime too old to tell.
    """
    if not hasattr(network, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, dict[str, int]] = {}
    for part in network.get_provider_graph_assignment_info():
        types = counts.setdefault(part.ep_name, {})
        for node in part.get_nodes():
            types[node.op_type] = types.get(node.op_type, 0) + 1
    return counts


if __name__ == "__main__":
    main()
