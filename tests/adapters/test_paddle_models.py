"""Paddle Layers: loaded strictly, run in the precision asked for, traced quietly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reparam.adapters.paddle_models import (
    import_paddle,
    in_float64,
    load_arrays,
    run_layer,
)
from reparam.adapters.static_program import save_static
from reparam.conv import BatchNorm, Conv, Sequential, error_bound, evaluate
from reparam.errors import CheckpointError, ExportError

EPSILON = float(np.float32(1e-5))  # Paddle keeps it as float32, in float64 arithmetic too
X = np.random.default_rng(3).normal(size=(2, 3, 7, 6))


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Return a 3x3 convolution of 3 to 5 channels and its BatchNorm, well away from a fresh one."""
    rng = np.random.default_rng(seed)
    drawn = {
        "0.weight": rng.normal(size=(5, 3, 3, 3)),
        "1.weight": rng.normal(size=5),
        "1.bias": rng.normal(size=5),
        "1._mean": rng.normal(size=5),
        "1._variance": rng.uniform(0.2, 3, size=5),
    }
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def block(values: dict[str, np.ndarray]) -> Sequential:
    names = ("1.weight", "1.bias", "1._mean", "1._variance")
    conv = Conv.of(values["0.weight"], stride=2, padding=1)
    return Sequential(conv, BatchNorm(*(values[name] for name in names), EPSILON))


@pytest.fixture
def layer() -> Any:
    nn = import_paddle().nn
    conv = nn.Conv2D(3, 5, 3, stride=2, padding=1, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(5, epsilon=EPSILON))


def test_float64_is_float64_arithmetic_in_convolution_and_batch_norm(layer: Any) -> None:
    values = arrays()
    load_arrays(layer, values)
    wide = in_float64(layer)
    assert {str(t.dtype) for t in wide.state_dict().values()} == {"paddle.float64"}
    (y,) = run_layer(wide, X)
    assert y.dtype == np.float64
    tree = block(values)
    assert np.all(np.abs(y - evaluate(tree, X)) <= error_bound(tree, X))


def test_float64_copy_leaves_the_layer_float32(layer: Any) -> None:
    load_arrays(layer, arrays())
    in_float64(layer)
    assert {str(t.dtype) for t in layer.state_dict().values()} == {"paddle.float32"}
    (y,) = run_layer(layer, X.astype(np.float32))
    assert y.dtype == np.float32
    exact = evaluate(block(arrays()), X.astype(np.float32))
    assert 0 < np.abs(y - exact).max() < 1e-4 * np.abs(exact).max()


def test_two_runs_are_the_same_to_the_bit(layer: Any) -> None:
    load_arrays(layer, arrays())
    x = X.astype(np.float32)
    np.testing.assert_array_equal(run_layer(layer, x)[0], run_layer(layer, x)[0])


def test_layer_in_training_runs_on_its_running_statistics(layer: Any) -> None:
    load_arrays(layer, arrays())
    expected = run_layer(layer, X.astype(np.float32))[0]
    layer.train()
    np.testing.assert_array_equal(run_layer(layer, X.astype(np.float32))[0], expected)
    np.testing.assert_array_equal(layer[1]._mean.numpy(), arrays()["1._mean"])


def test_mixed_dtypes_are_refused(layer: Any) -> None:
    with pytest.raises(TypeError, match="a float64 input for a layer of float32"):
        run_layer(layer, X)
    with pytest.raises(TypeError, match="a float32 input for a layer of float64"):
        run_layer(in_float64(layer), X.astype(np.float32))


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_outputs_keep_their_order(kind: str, layer: Any) -> None:
    paddle = import_paddle()

    class Many(paddle.nn.Layer):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            parts = {"b": x, "a": (x + 1, x + 2)}
            values = [parts["b"], *parts["a"]]
            return {"list": values, "tuple": tuple(values), "dict": parts}[kind]

    found = run_layer(Many(), np.zeros((1, 2), np.float32))
    assert [float(y[0, 0]) for y in found] == [0.0, 1.0, 2.0]


DEFECTS = {
    "missing": (lambda a: a.pop("1._mean"), "1 missing: 1._mean"),
    "unexpected": (lambda a: a.update(more=a["1.bias"]), "1 unexpected: more"),
    "another shape": (
        lambda a: a.update({"1.bias": a["1.bias"][:4]}),
        r"1.bias is float32 \(4,\), needs float32 \(5,\)",
    ),
    "another dtype": (
        lambda a: a.update({"1.bias": a["1.bias"].astype(np.float64)}),
        r"1.bias is float64 \(5,\), needs float32 \(5,\)",
    ),
    "many missing": (
        lambda a: [a.pop(k) for k in list(a)[:4]],
        "4 missing: 0.weight, 1.weight, 1.bias and 1 more",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_loaded(name: str, layer: Any) -> None:
    spoil, message = DEFECTS[name]
    values = arrays()
    spoil(values)
    before = {key: t.numpy().copy() for key, t in layer.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_arrays(layer, values)
    for key, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key])


def test_read_only_and_scalar_arrays_load() -> None:
    paddle = import_paddle()

    class Scalar(paddle.nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.factor = self.create_parameter([])

    value = np.array(0.37, np.float32)
    value.flags.writeable = False
    layer = Scalar()
    load_arrays(layer, {"factor": value})
    assert layer.factor.numpy() == value


def test_building_running_and_tracing_are_quiet_and_leave_signals_alone(tmp_path: Path) -> None:
    """In a fresh process: tracing this network makes paddle's C++ warn, and SIGTERM a trace."""
    script = (
        "import signal\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from reparam.adapters.paddle_models import build_layer, run_layer\n"
        "from reparam.adapters.static_program import save_static\n"
        "from reparam.architectures import recognise\n"
        "from tests.adapters.recorded import recorded\n"
        "state = recorded('det_cspresnet_alpha').state\n"
        "found = recognise({name: array.shape for name, array in state.items()})\n"
        "layer = build_layer(found, deploy=True)\n"
        "run_layer(layer, np.zeros((1, 3, 8, 8), np.float32))\n"
        f"save_static(layer, 'image', [None, 3, 8, 8], Path({str(tmp_path)!r}))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "GLOG_minloglevel"},
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")


def test_traced_layer_still_runs(layer: Any, tmp_path: Path, capfd: Any) -> None:
    load_arrays(layer, arrays())
    before = run_layer(layer, X.astype(np.float32))[0]
    capfd.readouterr()
    program, parameters = save_static(layer, "image", [None, 3, 7, 6], tmp_path)
    assert capfd.readouterr() == ("", "")
    assert sorted(tmp_path.iterdir()) == [program, parameters]
    np.testing.assert_array_equal(run_layer(layer, X.astype(np.float32))[0], before)


def test_layer_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"wrote no 'model\.pdiparams'"):
        save_static(import_paddle().nn.ReLU(), "x", [1, 3], tmp_path)


def test_layer_that_cannot_take_the_shape_is_refused(layer: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot trace Sequential") as caught:
        save_static(layer, "image", [1, 3, 7], tmp_path)
    assert "(1, 3, 7)" in caught.value.why
