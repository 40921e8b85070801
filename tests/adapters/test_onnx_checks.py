"""The checks that an ONNX file passes before it is handed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_checks import captured_stderr, check_model, load_strictly
from reparam.adapters.onnx_cleaning import clean_model
from reparam.adapters.onnx_model import (
    Interface,
    Value,
    arrays_of,
    inputs_of,
    interface_of,
    op_counts,
    stamp,
)
from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.errors import ExportError
from tests.adapters.graphs import X_SHAPE, conv, conv_weights, model, node

Y = {"y": (2, 4, 6, 8)}


def good() -> bytes:
    return model([conv("y")], {"weight": conv_weights()["weight"]}, Y)


def stamped(content: bytes) -> onnx.ModelProto:
    proto = onnx.load_model_from_string(content)
    stamp(proto, ("name", "1.2"), {"key": "value"})
    return proto


def test_good_model_passes_and_runs() -> None:
    check_model(good())
    session = load_strictly(good())
    (y,) = run_onnx(session, np.zeros(X_SHAPE, np.float32))
    np.testing.assert_array_equal(y, np.zeros(Y["y"], np.float32))
    assert op_counts(good()) == {"Conv": 1}


def test_interface_of_a_model() -> None:
    made = model(
        [conv("y", ["x", "weight", "bias"])],
        {**conv_weights(), "shape": np.array([1, 2])},
        {"y": ("batch", 4, 6, 8)},
        {"x": ("batch", 3, 6, 8), "bias": (4,)},
    )
    assert interface_of(made) == Interface(
        inputs=(Value("x", ("batch", 3, 6, 8), "float32"),),
        outputs=(Value("y", ("batch", 4, 6, 8), "float32"),),
        opset=17,
        ir_version=8,
        parameters=4 * 3 * 9 + 4,
    )


def test_what_a_model_holds_and_reads() -> None:
    assert list(arrays_of(good())) == ["weight"]
    np.testing.assert_array_equal(arrays_of(good())["weight"], conv_weights()["weight"])
    assert inputs_of(good(), "Conv") == [("x", "weight")]
    assert inputs_of(good(), "Relu") == []


def test_stamp_says_who_made_the_file_and_changes_nothing_else() -> None:
    proto = stamped(good())
    assert [(p.key, p.value) for p in proto.metadata_props] == [("key", "value")]
    assert (proto.producer_name, proto.producer_version) == ("name", "1.2")
    check_model(proto.SerializeToString())
    assert proto.graph == onnx.load_model_from_string(good()).graph


def test_weights_in_other_files_are_not_looked_for() -> None:
    proto = onnx.load_model_from_string(good())
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../secret")
    tensor.ClearField("raw_data")
    with pytest.raises(ExportError, match="other files"):
        arrays_of(proto.SerializeToString())
    with pytest.raises(ExportError, match="other files"):
        clean_model(proto.SerializeToString())


def test_model_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(good())
    assert open_session(path).get_providers() == ["CPUExecutionProvider"]


def test_wrong_shape_that_only_the_full_check_sees_is_refused() -> None:
    wrong = model([conv("y")], {"weight": conv_weights()["weight"]}, {"y": (2, 5, 6, 8)})
    with pytest.raises(ExportError, match="not valid"):
        check_model(wrong)


def test_gather_from_a_scalar_is_refused() -> None:
    """What exported PP-YOLOE heads hold, and onnxruntime since 1.18 does not load."""
    nodes = [node("Gather", ["scalar", "index"], ["g"]), node("Mul", ["x", "g"], ["y"])]
    constants = {"scalar": np.float32(2), "index": np.array(0)}
    wrong = model(nodes, {k: np.asarray(v) for k, v in constants.items()}, {"y": X_SHAPE})
    with pytest.raises(ExportError, match="not valid"):
        check_model(wrong)
    with pytest.raises(ExportError, match="cannot load"):
        load_strictly(wrong)


def test_warning_at_load_is_refused() -> None:
    weights = conv_weights()
    noisy = model([conv("y")], {**weights}, Y)  # nothing reads the bias
    check_model(noisy)
    open_session(good())
    with pytest.raises(ExportError, match="warns about the model") as caught:
        load_strictly(noisy)
    assert "'bias'" in caught.value.found
    assert "\x1b" not in caught.value.found


@pytest.mark.parametrize("content", [b"", b"garbage", good()[:-40]])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ExportError):
        check_model(content)
    with pytest.raises(ExportError, match="cannot load"):
        open_session(content)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot load"):
        open_session(tmp_path / "none.onnx")


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ExportError, match=r"shape \(1, 5\)"):
        run_onnx(open_session(good()), np.zeros((1, 5), np.float32))


def test_two_inputs_are_refused() -> None:
    two = model([node("Add", ["a", "b"], ["y"])], {}, {"y": (1,)}, {"a": (1,), "b": (1,)})
    with pytest.raises(ExportError, match="does not take one image"):
        run_onnx(open_session(two), np.zeros(1, np.float32))


def test_captured_stderr_sees_what_goes_past_python(capfd: pytest.CaptureFixture[str]) -> None:
    with captured_stderr() as lines:
        os.write(2, b"one\ntwo\n")
    os.write(2, b"three\n")
    assert lines == ["one", "two"]
    assert capfd.readouterr().err == "three\n"


def test_captured_stderr_gives_the_descriptor_back_after_an_error() -> None:
    before = os.fstat(2)
    with pytest.raises(ZeroDivisionError), captured_stderr():
        raise ZeroDivisionError
    assert os.path.samestat(before, os.fstat(2))


def test_adapters_import_no_framework() -> None:
    """Importing the package and its modules costs nobody a framework that is not used."""
    names = "closeness converter onnx_bias onnx_checks onnx_cleaning onnx_model onnx_runtime"
    script = (
        "import sys, importlib\n"
        f"for name in '{names} paddle_models static_program'.split():\n"
        "    importlib.import_module('reparam.adapters.' + name)\n"
        "heavy = {'paddle', 'paddle2onnx', 'onnx', 'onnx_ir', 'onnxruntime'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
