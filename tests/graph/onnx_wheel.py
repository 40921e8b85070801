"""The test models that the onnx wheel has: each is fused, and must do as it did.

Run as a script it judges the models that it is given and prints one JSON line for each.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from reparam.adapters.closeness import closeness
from reparam.adapters.onnx_runtime import import_onnxruntime
from reparam.errors import ReparamError
from reparam.graph.whole_records import DIFFERENT
from tests.graph.fusing import fused_file

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"})
RANDOM |= {"RandomUniform", "RandomUniformLike", "Dropout"}
ROOT = Path(__file__).parents[2]


def models() -> list[Path]:
    """Return the models, in order of their names."""
    return sorted([*DATA.glob("*/*/model.onnx"), *(DATA / "light").glob("*.onnx")])


def name_of(path: Path) -> str:
    return path.parent.name if path.name == "model.onnx" else path.stem


def judge(path: Path) -> str:
    """Fuse a model; return how the result is wrong, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fused.onnx"
        try:
            whole = fused_file(path, target)
        except ReparamError as error:
            return f"refused: {error}"
        except Exception as error:  # noqa: BLE001 - any is a finding
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "reparam" in f.filename]
            return f"traceback: {type(error).__name__}: {error} ({where}; {ours[-1].name})"
        if whole.verdict == DIFFERENT:
            return f"different: {whole.reason}"
        return _compared(path, target)


def _compared(path: Path, target: Path) -> str:
    original, fused = onnx.load(path), onnx.load(target)
    for kind in ("input", "output"):
        if list(getattr(original.graph, kind)) != list(getattr(fused.graph, kind)):
            return f"the {kind}s are others"
    try:
        onnx.checker.check_model(fused, full_check=False)
    except onnx.checker.ValidationError as error:
        return f"the checker: {str(error).splitlines()[0]}"
    random = bool(RANDOM & {node.op_type for node in original.graph.node})
    for feeds, expected in _data(path, original):
        before, why = _run(path, original, feeds)
        if before is None:
            continue
        after, reason = _run(target, fused, feeds, why)
        if after is None:
            return f"does not run any more ({why}): {reason}"
        wanted = before if expected is None else expected
        for one, other, third in zip(wanted, before, after, strict=True):
            differs = _difference(one, other, third, random)
            if differs:
                return f"by {why}: {differs}"
    return ""


def _run(path: Path, model: Any, feeds: dict[str, Any], by: str = "") -> tuple[Any, str]:
    """Return outputs, and what ran them; None and a reason where nothing does."""
    reason = ""
    if by in ("", "onnxruntime"):
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            return session.run(None, feeds), "onnxruntime"
        except Exception as error:  # noqa: BLE001 - then it cannot run it
            reason = str(error).splitlines()[0]
    if by in ("", "reference"):
        try:
            with np.errstate(all="ignore"):
                return ReferenceEvaluator(model).run(None, feeds), "reference"
        except Exception as error:  # noqa: BLE001 - nor can this one
            reason = f"{reason}; {str(error)[:200]}"
    return None, reason


def _difference(wanted: Any, before: Any, after: Any, random: bool) -> str:
    """Return how an output differs that was ``before``, should be ``wanted`` and is ``after``."""
    if isinstance(before, list):
        if not isinstance(after, list) or len(after) != len(before):
            return "a sequence of another length"
        wanted = wanted if isinstance(wanted, list) and len(wanted) == len(before) else before
        found = (_difference(*three, random) for three in zip(wanted, before, after, strict=True))
        return next((one for one in found if one), "")
    if before is None or after is None or isinstance(before, dict):
        return "" if str(before) == str(after) else f"{before!r:.80} became {after!r:.80}"
    a, b = np.asarray(before), np.asarray(after)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype} {a.shape} became {b.dtype} {b.shape}"
    if random or a.size == 0:
        return ""
    if a.dtype.kind != "f":
        return "" if np.array_equal(a, b) else "numbers that are no floats changed"
    if np.array_equal(a, b, equal_nan=True):
        return ""
    lost = ~np.isfinite(a)
    if not np.array_equal(a[lost], b[lost], equal_nan=True):
        return "what is not finite is elsewhere"
    truth = np.asarray(wanted)
    truth = truth if truth.shape == a.shape and np.isfinite(truth[~lost]).all() else a
    a, b, truth = (np.where(lost, 0, x) for x in (a, b, truth))
    found = closeness(truth, a, b)
    return "" if found.verdict != "different" else f"off by {found.distance} of {found.bound}"


def _data(path: Path, model: Any) -> Iterator[tuple[dict[str, Any], list[Any] | None]]:
    """Yield the inputs and expected outputs that are stored with a model."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    if path.name != "model.onnx":
        for value in inputs:  # as onnx's own runner makes them
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            ramp = (np.arange(count).reshape(shape) / count).astype(np.float32)
            yield {value.name: ramp}, None
        return
    for folder in sorted(path.parent.glob("test_data_set_*")):
        feeds = {
            value.name: _read(folder / f"input_{at}.pb", value.type)
            for at, value in enumerate(model.graph.input)
            if (folder / f"input_{at}.pb").exists()
        }
        yield (
            feeds,
            [
                _read(folder / f"output_{at}.pb", value.type)
                for at, value in enumerate(model.graph.output)
            ],
        )


def _read(path: Path, kind: Any) -> Any:
    data = path.read_bytes()
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if which == "optional_type":
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def judge_all(paths: Sequence[Path]) -> dict[str, str]:
    """Judge models in a process beside this one; one that dies is started again behind them."""
    found: dict[str, str] = {}
    left = list(paths)
    while left:
        command = [sys.executable, "-m", "tests.graph.onnx_wheel", *map(str, left)]
        with Popen(command, cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True) as child:
            assert child.stdout is not None
            done = [json.loads(line) for line in child.stdout if line.startswith("{")]
        found.update((one["name"], one["wrong"]) for one in done)
        left = left[len(done) :]
        if left and child.returncode:
            found[name_of(left[0])] = f"the process ended with {child.returncode}"
            del left[0]
    return found


def main(arguments: Iterable[str]) -> None:
    for argument in arguments:
        path = Path(argument)
        print(json.dumps({"name": name_of(path), "wrong": judge(path)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
