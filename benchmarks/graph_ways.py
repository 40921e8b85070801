"""Ways to take an ONNX file to a smaller one, each in a process of its own.

    floor      load and save it with the IR that the fuser works on
    ours       open, fuse and save as ``reparam fuse`` does, without the run of the whole
    inspect    what ``reparam inspect`` does
    stages     what ``reparam fuse`` does, with the processor seconds of each of its steps
    runtime    onnxruntime: load the file, and run it ten times on zeros
    command    ``reparam fuse``, its checks and the run of both files included
    onnxslim, onnxsim   those tools, in the interpreter of --peer-python

This script is also what the processes run: ``PYTHON graph_ways.py WAY IN OUT`` prints the seconds
of each step, imports apart, as a JSON line. It imports nothing before it knows the way, and who
starts it should hold little: a process is charged with the memory of its parent until it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS = ("onnxslim", "onnxsim")


class Failed(Exception):  # noqa: N818 - a tool's answer to one file, which goes into the table
    """A way did not deliver; the message is the last line that it said."""


def take(
    way: str, source: Path, output: Path, peer: str | None = None, limit: float = 600.0
) -> dict[str, Any]:
    """Send a file one way; return the seconds of each step, and what the process used.

    Raises:
        Failed: the process ended with an error, or was ended after ``limit`` seconds.
    """
    if way == "command":
        command = [sys.executable, "-m", "reparam", "fuse", str(source), "-o", str(output)]
        command += ["--force"]
    else:
        python = peer if way in PEERS else sys.executable
        assert python is not None, f"{way} needs --peer-python"
        command = [python, __file__, way, str(source), str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    deadline = threading.Timer(limit, process.kill)
    deadline.start()
    with process.stdout as stream:
        said = stream.read().decode(errors="replace").strip().splitlines()
    deadline.cancel()
    _, status, used = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{way} ended with {process.returncode}: {said[-1] if said else ''}")
    steps = {} if way == "command" else json.loads(said[-1])
    return {
        **steps,
        "process_seconds": round(elapsed, 3),
        "process_cpu": round(used.ru_utime + used.ru_stime, 3),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }


def nodes_of(path: Path) -> int:
    """Return how many nodes a file has, counted by another process."""
    command = [sys.executable, __file__, "count", str(path)]
    return int(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["nodes"])


def count(path: str) -> dict[str, float]:
    """Count nodes; a Constant is a weight, not a node."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return {"nodes": sum(node.op_type != "Constant" for node in nodes)}


def floor(source: str, output: str) -> dict[str, float]:
    import onnx_ir as ir

    with Clock() as clock:
        model = clock.step("load", lambda: ir.load(source))
        clock.step("save", lambda: ir.save(model, output))
    return clock.seconds


def ours(source: str, output: str) -> dict[str, float]:
    from reparam.graph.files import open_model, save_model
    from reparam.graph.fusing import fuse_graph

    with Clock() as clock:
        opened = clock.step("load", lambda: open_model(source))
        clock.step("work", lambda: fuse_graph(opened.model))
        clock.step("save", lambda: save_model(opened.model, output, force=True))
    return clock.seconds


def inspect(source: str, _: str) -> dict[str, float]:
    from reparam.graph.inspecting import inspect_onnx

    with Clock() as clock:
        clock.step("inspect", lambda: inspect_onnx(source))
    return clock.seconds


def stages(source: str, output: str) -> dict[str, float]:
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    from reparam.graph.pipeline import fuse_onnx

    begun = [("begin", time.process_time())]

    def tell(step: str) -> None:
        begun.append((step.partition(" ")[0], time.process_time()))

    with Clock() as clock:
        fuse_onnx(source, output, force=True, tell=tell)
    ends = [at for _, at in begun[2:]] + [time.process_time()]
    steps = {f"cpu, {name}": round(end - at, 4)
             for (name, at), end in zip(begun[1:], ends, strict=True)}  # fmt: skip
    return clock.seconds | steps


def runtime(source: str, _: str) -> dict[str, float]:
    import numpy as np
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    with Clock() as clock:
        session = clock.step(
            "load",
            lambda: onnxruntime.InferenceSession(source, settings, ["CPUExecutionProvider"]),
        )
        shapes = {one.name: [size if isinstance(size, int) else 1 for size in one.shape]
                  for one in session.get_inputs()}  # fmt: skip
        feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        clock.step("runs", lambda: [session.run(None, feeds) for _ in range(10)])
    return clock.seconds


def imports(*_: str) -> dict[str, float]:
    """Import what ours imports, nothing else: the memory that no file is to blame for."""
    with Clock() as clock:
        import onnx_ir  # noqa: F401

        from reparam.graph.files import open_model  # noqa: F401
        from reparam.graph.fusing import fuse_graph  # noqa: F401
    return clock.seconds


def onnxslim(source: str, output: str) -> dict[str, float]:
    import onnx
    from onnxslim import slim

    with Clock() as clock:
        model = clock.step("load", lambda: onnx.load(source))
        slimmed = clock.step("work", lambda: slim(model))
        clock.step("save", lambda: onnx.save(slimmed, output))
    return clock.seconds


def onnxsim(source: str, output: str) -> dict[str, float]:
    import onnx
    from onnxsim import simplify

    with Clock() as clock:
        model = clock.step("load", lambda: onnx.load(source))
        simplified, _ = clock.step("work", lambda: simplify(model))
        clock.step("save", lambda: onnx.save(simplified, output))
    return clock.seconds


class Clock:
    """Seconds by step, and of all; and of processors, which other work on the machine leaves be."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Clock:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds["seconds"] = round(time.perf_counter() - self._start, 4)
        self.seconds["cpu"] = round(time.process_time() - self._cpu_start, 4)

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.seconds[name] = round(time.perf_counter() - start, 4)
        return result


OWN = (floor, ours, inspect, stages, runtime, imports)
WAYS = {way.__name__: way for way in (*OWN, onnxslim, onnxsim, count)}

if __name__ == "__main__":
    del sys.path[0]  # the folder of this script: its modules are no packages of this process
    print(json.dumps(WAYS[sys.argv[1]](*sys.argv[2:])))
