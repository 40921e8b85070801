"""What a pair of paddle and paddle2onnx can convert: one case a process, one JSON line at its end.

    python tools/version_cases.py CASE

``version_table.py`` runs it in environments that it makes. The cases called raw use nothing of
this project but this file, so that they say what the packages do by themselves.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "fashion_repvgg.pdparams"
Told = dict[str, Any]


def plain(folder: Path) -> Told:
    """Branches of convolutions that are added, with their BatchNorms."""
    import paddle

    class Block(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.wide = paddle.nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)
            self.narrow = paddle.nn.Conv2D(3, 8, 1, bias_attr=False)
            self.norms = paddle.nn.LayerList([paddle.nn.BatchNorm2D(8) for _ in range(2)])
            self.head = paddle.nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            y = self.norms[0](self.wide(x)) + self.norms[1](self.narrow(x))
            return self.head(paddle.nn.functional.relu(y).mean([2, 3]))

    return _raw(Block(), folder)


def upsampling(folder: Path) -> Told:
    """One convolution, and nearest upsampling by two."""
    import paddle

    class Up(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 8, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return paddle.nn.functional.interpolate(self.conv(x), scale_factor=2.0)

    return _raw(Up(), folder)


def nms(folder: Path) -> Told:
    """Boxes and scores of convolutions, and the suppression that detectors of Paddle end with."""
    import paddle

    class Suppress(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.boxes = paddle.nn.Conv2D(3, 4, 3, padding=1)
            self.scores = paddle.nn.Conv2D(3, 2, 3, padding=1)

        def forward(self, x: Any) -> Any:
            corner = self.boxes(x).flatten(2).transpose([0, 2, 1])
            boxes = paddle.concat([corner[:, :, :2], corner[:, :, :2] + 1.0], axis=-1)
            scores = paddle.nn.functional.sigmoid(self.scores(x).flatten(2))
            found, _, count = paddle._C_ops.multiclass_nms3(
                boxes, scores, None, 0.01, 100, 50, 0.7, True, 1.0, -1
            )
            return found, count

    return _raw(Suppress(), folder, batch=1)


def export(folder: Path) -> Told:
    """``reparam export`` of the example that comes with the package."""
    import reparam.example
    from reparam.exporter import export as export_checkpoint

    source = Path(reparam.example.__file__).with_name(EXAMPLE)
    report = export_checkpoint(source, folder / "x.onnx", input_size=(28, 28))
    return {"detail": f"{report.worst.verdict}, {report.worst.distance:.1e}"}


def detector(folder: Path) -> Told:
    """``reparam export`` of a network with a detector's neck and maps."""
    sys.path.append(str(ROOT))  # behind the installed reparam; here are only the tests' networks
    from reparam.adapters.foreign_models import ForeignModel
    from reparam.exporter import export as export_checkpoint
    from tests.detector_network import weights
    from tests.weights import write

    report = export_checkpoint(
        write(folder, weights()),
        model=ForeignModel("tests.detector_network:build", {}),
        input_size=(32, 40),
    )
    return {"detail": f"{report.worst.verdict}, {report.worst.distance:.1e}"}


CASES: dict[str, Callable[[Path], Told]] = {
    case.__name__: case for case in (plain, upsampling, nms, export, detector)
}


def _raw(layer: Any, folder: Path, batch: int | None = None) -> Told:
    """Convert a Layer by the packages' own means; compare what onnxruntime makes of the file."""
    import paddle
    import paddle2onnx

    rng = np.random.default_rng(0)
    for key, tensor in layer.state_dict().items():
        low, high = (0.2, 3) if key.endswith("_variance") else (-1, 1)
        tensor.set_value(rng.uniform(low, high, tensor.shape).astype(np.float32))
    layer.eval()
    spec = paddle.static.InputSpec([batch, 3, 8, 10], "float32", "x")
    paddle.jit.save(layer, str(folder / "model"), input_spec=[spec])
    files = [str(folder / name) for name in ("model.json", "model.pdiparams")]
    takes = inspect.signature(paddle2onnx.export).parameters
    quiet = {"optimize_tool": None} if "optimize_tool" in takes else {}
    model = paddle2onnx.export(*files, None, opset_version=17, **quiet)
    if not isinstance(model, bytes) or not model:
        raise SystemExit("error: the converter returned no model")
    return _compared(layer, model, rng.normal(size=(batch or 2, 3, 8, 10)).astype(np.float32))


def _compared(layer: Any, model: bytes, image: Any) -> Told:
    import onnx
    import onnxruntime
    import paddle

    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image})
    made = layer(paddle.to_tensor(image))
    expected = [t.numpy() for t in (made if isinstance(made, list | tuple) else [made])]
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            raise SystemExit(f"error: onnxruntime returned {one.shape}, paddle {other.shape}")
        scale = max(float(np.abs(other).max(initial=0)), 1.0)
        worst = max(worst, float(np.abs(one - other).max(initial=0)) / scale)
    if not worst < _ROUNDING:
        raise SystemExit(f"error: onnxruntime is {worst:.1e} away from paddle")
    return {"detail": f"{worst:.1e}"}


_ROUNDING = 1e-5  # 27 products and what follows, in float32, against the largest output


def main(case: str) -> None:
    """Run one case and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="reparam-case-") as folder:
        told = CASES[case](Path(folder))
    print(json.dumps({"case": case, **told}))


if __name__ == "__main__":
    del sys.path[0]  # the folder of this script: no module in it is a package's
    main(*sys.argv[1:])
