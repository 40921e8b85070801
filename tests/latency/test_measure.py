"""The whole protocol on tiny real models; never a word about how fast they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reparam.environment import machine
from reparam.errors import BenchmarkError
from reparam.latency import (
    Benchmark,
    ModelUnderTest,
    measure_models,
    worker,
)

Value = tuple[str, int, Sequence[int | str | None]]


def save(path: Path, nodes: Sequence[Any], inputs: Sequence[Value], **constants: Any) -> Path:
    """Write a model whose output is ``y``."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def relu(path: Path, shape: Sequence[int | str | None], kind: int = TensorProto.FLOAT) -> Path:
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], [("x", kind, shape)])


def run(*paths: Path, rounds: int = 1, **changes: Any) -> Benchmark:
    settings: dict[str, Any] = {"threads": 1, "batch": None, "seconds": 0.01, "warm_up": 0.0}
    models = [ModelUnderTest(path.stem, path) for path in paths]
    return measure_models(models, rounds=rounds, **(settings | changes))


def found(*paths: Path, **changes: Any) -> str:
    with pytest.raises(BenchmarkError) as caught:
        run(*paths, **changes)
    assert caught.value.what == f"cannot measure '{paths[0].stem}' ({paths[0]})"
    return str(caught.value)


def test_every_model_of_every_round_has_a_process_of_its_own(tmp_path: Path) -> None:
    weight = np.ones((2, 3, 3, 3), np.float32)
    conv = [helper.make_node("Conv", ["x", "w"], ["y"])]
    image = ("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    paths = [save(tmp_path / f"{name}.onnx", conv, [image], w=weight) for name in ("one", "two")]
    said: list[str] = []
    result = run(*paths, rounds=3, seconds=0.05, batch=2, progress=said.append)

    assert said == [
        "round 1 of 3: one",
        "round 1 of 3: two",
        "round 2 of 3: two",
        "round 2 of 3: one",
        "round 3 of 3: one",
        "round 3 of 3: two",
    ]
    one, two = result.measurements
    assert [run.position for run in one.runs] == [1, 2, 1]
    assert [run.position for run in two.runs] == [2, 1, 2]
    assert len({run.process_id for run in (*one.runs, *two.runs)}) == 6
    for measurement in result.measurements:
        assert measurement.batch == 2
        assert [str(tensor) for tensor in measurement.inputs] == ["x float32 2x3x8x8"]
        assert measurement.providers == ("CPUExecutionProvider",)
        assert measurement.nodes in (None, {"CPUExecutionProvider": {"Conv": 1}})
        for taken in measurement.runs:
            assert 5 <= len(taken.samples) <= 10_000
            assert all(sample > 0 for sample in taken.samples)
            assert taken.load_seconds > 0
    ((_, comparison),) = result.comparisons
    assert comparison.verdict == "undecided: too few rounds"
    assert one.sha256 == two.sha256


def test_threads_are_those_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "allowed_cores", lambda: [0])
    result = run(relu(tmp_path / "m.onnx", [1, 4]), threads=None)
    assert result.threads == 1
    assert result.environment.usable_cores == 1


def test_five_runs_are_taken_however_short_the_time(tmp_path: Path) -> None:
    (taken,) = run(relu(tmp_path / "m.onnx", [1, 4]), seconds=1e-9).baseline.runs
    assert len(taken.samples) == 5


def test_the_runs_end_at_the_most_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MOST_RUNS", 30)
    calls: list[int] = []
    assert len(worker.time_calls(lambda: calls.append(1), warm_up=0.0, seconds=600.0)) == 30
    assert len(calls) == 30


def test_inputs_of_every_usual_type(tmp_path: Path) -> None:
    """Three kinds of float, pixels, an index into two entries, a length, a divisor and a mask."""
    node = helper.make_node
    nodes = [
        node("Cast", ["half"], ["h"], to=TensorProto.FLOAT),
        node("Cast", ["double"], ["d"], to=TensorProto.FLOAT),
        node("Cast", ["pixels"], ["p"], to=TensorProto.FLOAT),
        node("Gather", ["table", "index"], ["row"]),
        node("Div", ["seven", "divisor"], ["quotient"]),
        node("Cast", ["quotient"], ["q"], to=TensorProto.FLOAT),
        node("Where", ["mask", "h", "d"], ["chosen"]),
        node("Sum", ["chosen", "p", "row", "q"], ["y"]),
    ]
    inputs: list[Value] = [
        ("half", TensorProto.FLOAT16, ["N", 2]),
        ("double", TensorProto.DOUBLE, ["N", 2]),
        ("pixels", TensorProto.UINT8, [1, 2]),
        ("index", TensorProto.INT64, []),
        ("divisor", TensorProto.INT32, [1]),
        ("mask", TensorProto.BOOL, ["N", 2]),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        inputs,
        table=np.ones((2, 2), np.float32),
        seven=np.array([7], np.int32),
    )
    fed = [str(tensor) for tensor in run(path).baseline.inputs]
    assert fed == [
        "half float16 1x2",
        "double float64 1x2",
        "pixels uint8 1x2",
        "index int64 scalar",
        "divisor int32 1",
        "mask bool 1x2",
    ]


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    assert run(relu(tmp_path / "m.onnx", [3, 4])).baseline.batch == 3
    assert run(relu(tmp_path / "m.onnx", [3, 4]), batch=3).baseline.batch == 3


def test_a_fixed_batch_that_contradicts_is_refused(tmp_path: Path) -> None:
    message = found(relu(tmp_path / "m.onnx", [3, 4]), batch=2)
    assert "input 'x' is [3, 4], its batch is fixed; batch 2 was asked for" in message
    assert "ask for batch 3" in message


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        (["N", 3, "H", "W"], "[N, 3, H, W]: axis 2, 3 not fixed"),
        ([1, None], "[1, ?]: axis 1 not fixed"),
    ],
)
def test_other_dynamic_axes_are_refused(
    tmp_path: Path, shape: list[int | str | None], shown: str
) -> None:
    message = found(relu(tmp_path / "m.onnx", shape))
    assert shown in message
    assert "fixed input size" in message


def test_an_input_without_made_up_values_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, [2])],
    )
    assert "input 'x' is tensor(string)" in found(path)


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 50])],
    )
    message = found(path)
    assert "output 'y' has " in message
    assert " of 50 values that are NaN or Inf" in message


def test_what_is_no_model_is_refused_in_one_line_of_the_runtime(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"hello")
    message = found(path)
    assert "Protobuf parsing failed" in message
    assert "Traceback" not in message


def test_a_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 4]), ("shape", TensorProto.INT64, [2])],
    )
    assert "Reshape" in found(path)
