"""Small trials of packages: each does what a command of reparam does, on next to nothing.

Each takes the module that was imported, returns what is worth telling, and raises whatever the
package raises. They run in processes of their own, by ``child.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reparam.drafts import scratch_folder

CONVOLVED = 9.0  # ones, by a 3x3 kernel of ones
NEWEST_IR = 20  # of ONNX files, far from being there

Told = dict[str, Any]


def try_fuse(_: Any) -> Told:
    """Fuse a packaged checkpoint, and prove its blocks."""
    import reparam

    with scratch_folder() as folder:
        source = Path(str(reparam.__file__)).parent / "example" / "fashion_repvgg.pdparams"
        output = reparam.fuse(source, folder / "fused.pdparams").output
        assert output is not None
        proved = reparam.verify(source, output, reparam.Probing(network=False))
    _need(proved.verdict == "equivalent", f"a fused checkpoint is {proved.verdict}")
    return {}


def try_conv(paddle: Any) -> Told:
    """Convolve on the CPU, and look for GPUs."""
    paddle.set_device("cpu")
    image, kernel = paddle.ones([1, 1, 4, 4]), paddle.ones([1, 1, 3, 3])
    _need_nines(paddle.nn.functional.conv2d(image, kernel).numpy())
    cuda = bool(paddle.is_compiled_with_cuda())
    return {"cuda": cuda, "gpus": int(paddle.device.cuda.device_count()) if cuda else 0}


def try_inference(_: Any) -> Told:
    """Write a network for Paddle Inference and run it there."""
    from reparam.adapters.paddle_files import open_predictor, run_predictor

    with scratch_folder() as folder:
        predictor = open_predictor(*_program(folder, interpolate=False))
        (found,) = run_predictor(predictor, np.ones((1, 1, 4, 4), np.float32))
    _need_nines(found)
    return {}


def try_convert(_: Any) -> Told:
    """Convert a network of one convolution, with paddle2onnx, as ``export`` does."""
    return _converted(interpolate=False)


def try_interpolation(_: Any) -> Told:
    """Convert a network that enlarges its image, which takes a repair on some versions."""
    return _converted(interpolate=True)


def try_graph(_: Any) -> Told:
    """Fuse an ONNX file of one convolution and one BatchNorm, and compare on onnxruntime."""
    from reparam.graph.pipeline import fuse_onnx

    with scratch_folder() as folder:
        source = folder / "model.onnx"
        source.write_bytes(_normalised())
        fused = fuse_onnx(source)
    _need(len(fused.report.fused) == 1, "a BatchNorm behind a convolution was not fused")
    _need(fused.whole.verdict == "equal", f"the fused file is {fused.whole.verdict}")
    return {}


def try_providers(onnxruntime: Any) -> Told:
    """Tell the execution providers that onnxruntime says it has."""
    return {"named": [str(name) for name in onnxruntime.get_available_providers()]}


def try_provider(onnxruntime: Any, name: str) -> Told:
    """Open a session on an execution provider, run it, and tell those it really has."""
    session = onnxruntime.InferenceSession(tiny_onnx(), _quiet(onnxruntime), providers=[name])
    ones = {"x": np.ones((1, 1, 4, 4), np.float32), "w": np.ones((1, 1, 3, 3), np.float32)}
    _need_nines(session.run(None, ones)[0])
    return {"loaded": list(session.get_providers())}


def try_reads(onnxruntime: Any) -> Told:
    """Tell the newest IR version of an ONNX file that onnxruntime opens."""
    from reparam.adapters.onnx_runtime import runtime_errors

    newest = 0
    options = _quiet(onnxruntime, fatal_only=True)
    for version in range(3, NEWEST_IR + 1):
        try:
            onnxruntime.InferenceSession(
                tiny_onnx(version), options, providers=["CPUExecutionProvider"]
            )
        except runtime_errors():
            break
        newest = version
    return {"ir_version": newest}


def tiny_onnx(ir_version: int = 7) -> bytes:
    """Return an ONNX file of one convolution, y = x * w, written without the package onnx.

    Source: onnx.proto, for the numbers of the fields.
    """
    values = {"x": (1, 1, 4, 4), "w": (1, 1, 3, 3), "y": (1, 1, 2, 2)}
    node = _text(1, "x") + _text(1, "w") + _text(2, "y") + _text(4, "Conv")
    graph = _part(1, node) + _text(2, "tiny")
    for field, name in ((11, "x"), (11, "w"), (12, "y")):
        dims = b"".join(_part(1, _number(1, size)) for size in values[name])
        tensor = _number(1, 1) + _part(2, dims)  # 1: float32
        graph += _part(field, _text(1, name) + _part(2, _part(1, tensor)))
    opset = _part(8, _text(1, "") + _number(2, 11))
    return _number(1, ir_version) + _part(7, graph) + opset


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])  # below 128, each is one byte


def _part(field: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([field << 3 | 2]) + length + content


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode())


def _normalised() -> bytes:
    """Return an ONNX file of a 1x1 convolution of 2 channels and a BatchNorm."""
    from reparam.adapters.onnx_model import import_onnx

    onnx = import_onnx()
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    arrays = {"w": np.eye(2).reshape(2, 2, 1, 1) + 1, "gamma": [2, -1], "beta": [1, 0],
              "mean": [0.5, 3], "variance": [1, 4]}  # fmt: skip
    stored = [to_tensor(np.array(a, np.float32), n) for n, a in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *list(arrays)[1:]], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, 4, 4])
        for name in ("x", "y")
    )
    graph = helper.make_graph(nodes, "trial", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def _converted(*, interpolate: bool) -> Told:
    from reparam.adapters.static_models import convert_static, find_static

    with scratch_folder() as folder:
        program, parameters = _program(folder, interpolate=interpolate)
        converted = convert_static(find_static(program, parameters), folder)
    return {"repairs": converted.repairs}


def _program(folder: Path, *, interpolate: bool) -> tuple[Path, Path]:
    """Write a network of a 3x3 convolution of ones as a static program."""
    from reparam.adapters.paddle_models import import_paddle
    from reparam.adapters.static_program import save_static

    paddle = import_paddle()
    ones = paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(1.0))
    layers = [paddle.nn.Conv2D(1, 1, 3, weight_attr=ones, bias_attr=False)]
    if interpolate:
        layers.append(paddle.nn.Upsample(scale_factor=2.0, mode="nearest"))
    return save_static(paddle.nn.Sequential(*layers), "x", [1, 1, 4, 4], folder, straight=True)


def _quiet(onnxruntime: Any, *, fatal_only: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if fatal_only else 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _need_nines(found: Any) -> None:
    found = np.asarray(found)
    same = found.shape == (1, 1, 2, 2) and bool((found == CONVOLVED).all())
    _need(same, f"a convolution gave {found.ravel()[:4].tolist()} in place of {CONVOLVED}")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
