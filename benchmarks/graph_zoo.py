"""Train-time networks of this project as ONNX files, unfused and by way of the fused checkpoint.

For each network ``make`` writes what ``benchmarks.graph_timm`` writes for one of timm:

    NAME.train.onnx   unfused, as paddle2onnx leaves it: weights in Constants, behind Identity
    NAME.plain.onnx   unfused, after the cleaning of ``reparam export``
    NAME.own.onnx     the checkpoint fused, then exported: what the graph has to reach
    NAME.npz          images, and what the unfused network makes of them in float64

with random weights and statistics.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from reparam import create_model, save_checkpoint
from reparam.adapters.converter import convert
from reparam.adapters.static_program import save_static
from reparam.exporter import export
from tests.weights import random_arrays

PREFIX = "zoo_"
SIZE = 96
NETWORKS: dict[str, dict[str, Any]] = {
    "repvgg_a0": {},
    "mobileone_s0": {},
    "pplcnetv2_small": {},
    "pplcnetv3_det": {},
    "cspresnet_s": {"use_large_stem": True, "use_alpha": True},
}
NAMES = tuple(f"{PREFIX}{name}" for name in NETWORKS)


def make(name: str, folder: Path, size: int = SIZE) -> dict[str, Any]:
    """Write the files of one network; return the operators of each."""
    import onnx
    import paddle

    folder.mkdir(parents=True, exist_ok=True)
    short = name.removeprefix(PREFIX)
    network = create_model(short, **NETWORKS[short])
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    arrays = random_arrays(shapes)
    network.set_state_dict({key: paddle.to_tensor(value) for key, value in arrays.items()})
    network.eval()
    files = {form: folder / f"{name}.{form}.onnx" for form in ("train", "plain", "own")}
    with tempfile.TemporaryDirectory(prefix="reparam-graph-zoo-") as scratch:
        shape = (None, 3, size, size)
        static = save_static(network, network.input_name, shape, Path(scratch), straight=True)
        files["train"].write_bytes(convert(*static, opset=17))
        source = Path(scratch) / f"{short}.pdparams"
        save_checkpoint(source, arrays)
        for form, fuse in (("plain", False), ("own", True)):
            export(source, files[form], input_size=(size, size), fuse=fuse, force=True)
    images = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    truth = truth_of(network, images)
    np.savez(folder / f"{name}.npz", images=images,
             **{f"truth_{n}": value for n, value in enumerate(truth)})  # fmt: skip
    counts = {
        form: dict(Counter(node.op_type for node in onnx.load(path).graph.node).most_common())
        for form, path in files.items()
    }
    return {"size": size, "outputs": len(truth), "paddle": paddle.__version__, **counts}


def truth_of(network: Any, images: np.ndarray) -> list[np.ndarray]:
    """Return the outputs in float64; the network is in float64 afterwards."""
    import paddle

    network.to(dtype="float64")
    with paddle.no_grad():
        found = network(paddle.to_tensor(images.astype(np.float64)))
    outputs = list(found) if isinstance(found, (list, tuple)) else [found]
    return [value.numpy() for value in outputs]
