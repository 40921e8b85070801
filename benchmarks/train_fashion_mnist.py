"""Train the two example networks on Fashion-MNIST and measure them before and after fusing.

Prints one JSON line a network: accuracy on all 10,000 test images in train-time form, which is the
baseline, and in deploy form, with the number of predictions that differ. With --out, writes the
checkpoints and test images that `reparam/example/` ships.

    python benchmarks/train_fashion_mnist.py [--network repvgg] [--epochs N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F  # noqa: N812 (the name everyone knows it by)

from reparam.architectures import create_model
from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.example import normalise

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BATCH = 128
PEAK_RATE = 4e-3
WARM_UP = 0.15  # share of all steps
WEIGHT_DECAY = 0.02
SHIFT = 2  # pixels, each way
SEED = 7

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "cspresnet": (
        "cspresnet",
        {
            "layers": [1, 1, 1, 1],
            "channels": [32, 48, 64, 80, 96],
            "use_alpha": True,
            "num_classes": 10,
            "in_channels": 1,
        },
    ),
    "repvgg": (
        "repvgg",
        {
            "num_blocks": [2, 2, 2, 1],
            "width_multiplier": [0.5, 0.375, 0.25, 0.125],
            "class_num": 10,
            "in_channels": 1,
        },
    ),
}


EPOCHS = {"cspresnet": 14, "repvgg": 6}  # of the checkpoints that are shipped


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzipped IDX file: magic number, one size an axis, bytes."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, axes = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != 8:
        sys.exit(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (N, 28, 28) and labels int64 (N,) of ``split``: train or t10k."""
    images = folder / f"{split}-images-idx3-ubyte.gz"
    labels = folder / f"{split}-labels-idx1-ubyte.gz"
    for path in (images, labels):
        if not path.is_file():
            sys.exit(
                f"no Fashion-MNIST at {path}\n"
                "  try: apt-get install dataset-fashion-mnist, or --data with the folder of the "
                "four .gz files"
            )
    return read_idx(images), read_idx(labels).astype(np.int64)


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 images (N, 28, 28), half of them mirrored, each moved by up to SHIFT pixels."""
    border = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))
    padded = np.pad(images, border)
    mirrored = rng.random(len(images)) < 0.5
    padded[mirrored] = padded[mirrored, :, ::-1]
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, len(images)))
    side = np.arange(images.shape[1])
    rows = (down[:, None] + side)[:, :, None]
    columns = (right[:, None] + side)[:, None, :]
    return padded[np.arange(len(images))[:, None, None], rows, columns]


def learning_rate(step: int, steps: int) -> float:
    """Return the rate at ``step``: linear warm-up, then a cosine down to zero."""
    warm_up = max(int(WARM_UP * steps), 1)
    if step < warm_up:
        return PEAK_RATE * (step + 1) / warm_up
    return PEAK_RATE * 0.5 * (1.0 + float(np.cos(np.pi * (step - warm_up) / (steps - warm_up))))


def train(model: Any, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    """Train ``model`` in place with AdamW; neither BatchNorm, biases nor alpha decay."""
    rng = np.random.default_rng(SEED)
    decayed = {p.name for p in model.parameters() if len(p.shape) > 1}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=PEAK_RATE,
        parameters=model.parameters(),
        weight_decay=WEIGHT_DECAY,
        apply_decay_param_fun=lambda name: name in decayed,
    )
    batches = len(images) // BATCH
    model.train()
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        total = 0.0
        for batch in range(batches):
            optimizer.set_lr(learning_rate(epoch * batches + batch, epochs * batches))
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            x = paddle.to_tensor(normalise(augmented(images[chosen], rng)))
            loss = F.cross_entropy(model(x), paddle.to_tensor(labels[chosen]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            total += float(loss)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / batches:.4f}", file=sys.stderr)
    model.eval()


def predictions(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the class that ``model`` gives each of the uint8 ``images``."""
    model.eval()
    found = []
    with paddle.no_grad():
        for start in range(0, len(images), 500):
            x = paddle.to_tensor(normalise(images[start : start + 500]))
            found.append(model(x).numpy().argmax(axis=1))
    return np.concatenate(found)


def parameters(model: Any) -> int:
    """Return the number of trainable parameters."""
    return sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)


def evaluate(path: Path, network: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return what the checkpoint at ``path`` reaches in train-time form and in deploy form."""
    name, settings = NETWORKS[network]
    model = create_model(name, **settings)
    model.set_state_dict(dict(load_checkpoint(path).arrays))
    before, parameters_before = predictions(model, images), parameters(model)
    for layer in model.sublayers():
        if hasattr(layer, "convert_to_deploy"):
            layer.convert_to_deploy()
    after = predictions(model, images)
    return {
        "test_images": len(labels),
        "correct_train_time": int((before == labels).sum()),
        "correct_deploy": int((after == labels).sum()),
        "predictions_changed": int((before != after).sum()),
        "parameters_train_time": parameters_before,
        "parameters_deploy": parameters(model),
        "checkpoint_bytes": path.stat().st_size,
    }


def measure(network: str, folder: Path, data: Path, epochs: int) -> dict[str, Any]:
    """Train ``network``, write its checkpoint into ``folder``, and return the measurement."""
    paddle.seed(SEED)
    name, settings = NETWORKS[network]
    model = create_model(name, **settings)
    begin = time.perf_counter()
    train(model, *read_split(data, "train"), epochs)
    seconds = time.perf_counter() - begin
    path = folder / f"fashion_{network}.pdparams"
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    save_checkpoint(path, arrays, force=True)
    return {
        "benchmark": "train_fashion_mnist",
        "network": network,
        "settings": settings,
        "epochs": epochs,
        "seed": SEED,
        "train_seconds": round(seconds, 1),
        "threads": int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))),
        "paddle": paddle.__version__,
        **evaluate(path, network, *read_split(data, "t10k")),
    }


def main() -> None:
    """Read the command line, train, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the .gz files")
    parser.add_argument("--network", choices=sorted(NETWORKS), help="only this one")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--out", type=Path, help="keep checkpoints and 1,000 test images here")
    arguments = parser.parse_args()
    if arguments.out and not arguments.out.is_dir():
        sys.exit(f"no folder at {arguments.out}")
    images, labels = read_split(arguments.data, "t10k")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        for network in [arguments.network] if arguments.network else NETWORKS:
            line = measure(network, folder, arguments.data, arguments.epochs or EPOCHS[network])
            print(json.dumps(line), flush=True)
    if arguments.out:
        np.savez_compressed(
            arguments.out / "fashion_test_1000.npz",
            images=images[:1000],
            labels=labels[:1000].astype(np.uint8),
        )


if __name__ == "__main__":
    main()
