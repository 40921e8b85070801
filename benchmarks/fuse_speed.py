"""``reparam fuse`` against the least a process can do, and against fusing in Paddle.

    python -m benchmarks.fuse_speed [--rounds 5] [--peer-python PYTHON] [NETWORK ...]

Networks: repvgg_b1 (57 M parameters), ppyoloe_plus_l (54 M), repvgg_0.25gb to repvgg_2gb for how
time and memory grow, and family:NAME, 200 MiB of blocks of one family of docs/families.md. Ways,
each in a process of its own, in alternating order:

    floor   unpickle the arrays, pickle as many bytes as the result has
    ours    the command ``reparam fuse``
    today   build the network in Paddle, load, fuse every block eagerly, paddle.save

Today's way uses the classes of paddledet or paddleclas where ``--peer-python`` (or the variable
REPARAM_PEER_PYTHON) names an interpreter that has them, else the models of this project with an
eager fusion written here. Without a peer, PP-YOLOE+ is its backbone and plain arrays up to size.

Prints a JSON line for each measurement, then the medians and their ratios. Memory is the largest
resident set of the process, pages of mapped files included; ratios of it are to the input file.
This script is also what the processes run, so that it imports next to nothing by itself: a child
is charged with the memory of its parent until it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NETWORKS = ("repvgg_b1", "ppyoloe_plus_l")
GROWTH = {"repvgg_0.25gb": 18, "repvgg_0.5gb": 39, "repvgg_1gb": 83, "repvgg_2gb": 170}
B1 = {"num_blocks": [4, 6, 16, 1], "width_multiplier": [2, 2, 2, 4]}
WIDTHS = (128, 256, 512, 2048)  # what these multipliers make
CSPRESNET_L = {"layers": (3, 6, 6, 3), "channels": (64, 128, 256, 512, 1024),
               "use_large_stem": True, "use_alpha": True}  # fmt: skip
PPYOLOE_PARAMETERS = 54_147_487
FAMILY, FAMILY_BYTES = "family:", 200 << 20
USUAL = {"DilatedReparamBlock": (64, 17), "ACNet": (512, 5)}  # channels and window
WAYS = ("floor", "ours", "today")


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK",
                        help=f"of {', '.join((*NETWORKS, *GROWTH))}, family:NAME")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=os.environ.get("REPARAM_PEER_PYTHON"))
    options = parser.parse_args()
    for network in options.networks:
        with tempfile.TemporaryDirectory(prefix="reparam-fuse-speed-") as folder:
            measure(network, Path(folder), options.rounds, options.peer_python)
    return 0


def measure(network: str, folder: Path, rounds: int, peer: str | None) -> None:
    source = folder / "x.pdparams"
    own = [sys.executable, __file__]
    real = peer is not None and network == "ppyoloe_plus_l"
    make = [peer, __file__, "make-peer"] if real else [*own, "make"]
    run([str(part) for part in (*make, network, source)])
    fused = folder / "size.pdparams"
    fuse = [sys.executable, "-m", "reparam", "fuse", str(source)]
    if network.startswith(FAMILY):
        fuse += ["--epsilon", "1e-5", "--family", network.removeprefix(FAMILY)]
    run([*fuse, "-o", str(fused)])
    size = fused.stat().st_size
    today = [peer, __file__, "peer", network] if peer else [*own, "today", network]
    commands = {
        "floor": [*own, "floor", source, folder / "floor.out", size],
        "ours": [*fuse, "-o", folder / "ours.pdparams"],
        "today": [*today, source, folder / "today.pdparams"],
    }
    ways = [way for way in WAYS if way != "today" or network in NETWORKS]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            for left in folder.glob(f"{way}.*"):
                left.unlink()
            result = run([str(part) for part in commands[way]])
            found[way].append(result)
            report(network=network, way=way, round=turn, **result)
    report(network=network, summary=True, peer=peer is not None, **summary(found, source))


def summary(found: dict[str, list[dict[str, float]]], source: Path) -> dict[str, Any]:
    """Return medians, and what the targets are stated in."""
    median = {
        way: {name: statistics.median(result[name] for result in results) for name in results[0]}
        for way, results in found.items()
    }
    file_mib = source.stat().st_size / 2**20
    ours, floor = median["ours"], median["floor"]
    ratios = {
        "seconds, ours / floor": ours["seconds"] / floor["seconds"],
        "cpu seconds, ours / floor": ours["cpu_seconds"] / floor["cpu_seconds"],
        "memory, ours / file": ours["peak_mib"] / file_mib,
        "memory, floor / file": floor["peak_mib"] / file_mib,
        "seconds a GiB, ours": ours["seconds"] / file_mib * 1024,
    }
    if "today" in median:
        ratios["seconds, today / ours"] = median["today"]["seconds"] / ours["seconds"]
        ratios["memory, today / file"] = median["today"]["peak_mib"] / file_mib
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    return {"file_mib": round(file_mib, 1), "medians": median, "ratios": rounded}


def report(**fields: Any) -> None:
    print(json.dumps({"benchmark": "fuse_speed", **fields}), flush=True)


def run(command: list[str]) -> dict[str, float]:
    """Run a command to its end; return its time and the most memory it had."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said.decode()}")
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }


def floor(source: str, output: str, size: str) -> None:
    with open(source, "rb") as stream:  # noqa: PTH123 - nothing that needs importing
        arrays = pickle.load(stream)  # made by this script
    kept, total = {}, 0
    for name, array in arrays.items():
        if total < int(size):
            kept[name] = array
            total += array.nbytes
    with open(output, "wb") as stream:  # noqa: PTH123
        pickle.dump(kept, stream, protocol=4)


def make(network: str, path: str) -> None:
    """Write a checkpoint of random weights."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from reparam.checkpoint import save_checkpoint
    from tests.weights import cspresnet_arrays, random_arrays, repvgg_arrays

    if network.startswith(FAMILY):
        arrays = blocks_of(network.removeprefix(FAMILY))
    elif network == "ppyoloe_plus_l":
        arrays = cspresnet_arrays(**CSPRESNET_L)
        missing = PPYOLOE_PARAMETERS - sum(array.size for array in arrays.values())
        count = missing // (512 * 512 * 9)
        arrays |= random_arrays({f"neck.{n}.weight": (512, 512, 3, 3) for n in range(count)})
    else:
        blocks = (4, 6, GROWTH.get(network, 16), 1)
        arrays = repvgg_arrays(num_blocks=blocks, widths=WIDTHS, groups={}, class_num=1000)
    save_checkpoint(Path(path), arrays)


def blocks_of(name: str) -> dict[str, Any]:
    """Return blocks of a family, most of 512 channels and a window of 3."""
    from reparam.checkpoint.families import FAMILIES
    from tests.checkpoint.families import random_blocks

    family = next(one for one in FAMILIES if one.name == name)
    random_blocks.CHANNELS, window = USUAL.get(name, (512, 3))
    random_blocks.WINDOW = (window, window)
    block = random_blocks.random_block(family, "paddle")
    count = FAMILY_BYTES // sum(array.nbytes for array in block.values())
    return {f"blocks.{n}.{key}": array for n in range(count) for key, array in block.items()}


def today(network: str, source: str, output: str) -> None:
    """Build this project's Layers, load, fuse eagerly with Paddle's operators, save."""
    import paddle

    from reparam import create_model

    if network == "ppyoloe_plus_l":
        model = create_model("cspresnet_l", use_large_stem=True, use_alpha=True)
    else:
        model = create_model("repvgg", **B1)
    state = paddle.load(source)
    model.set_state_dict(state)
    model.eval()
    fused: dict[str, Any] = {}
    gone: list[str] = []
    with paddle.no_grad():
        for prefix, layer in model.named_sublayers():
            if type(layer).__name__ in ("RepVggBlock", "RepVGGBlock"):
                fused |= eager(prefix, layer)
                gone += [f"{prefix}.{part}" for part in ("conv1", "conv2", "alpha", "rbr_")]
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(gone))}
    paddle.save({**kept, **fused}, output)


def eager(prefix: str, layer: Any) -> dict[str, Any]:
    """Return a block's one convolution, computed by Paddle in float32."""
    import paddle

    names = ("rbr_dense", "rbr_1x1") if hasattr(layer, "rbr_dense") else ("conv1", "conv2")
    weight, bias = None, None
    for name in names:
        conv, norm = getattr(layer, name).conv, getattr(layer, name).bn
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        kernel = conv.weight * scale.reshape([-1, 1, 1, 1])
        shift = norm.bias - norm._mean * scale
        if weight is None:
            weight, bias = kernel, shift
        else:
            factor = layer.alpha if getattr(layer, "alpha", None) is not None else 1.0
            weight = weight + factor * paddle.nn.functional.pad(kernel, [1, 1, 1, 1])
            bias = bias + factor * shift
    norm = getattr(layer, "rbr_identity", None)
    if norm is not None:
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        kernel = paddle.diag(scale).reshape([*weight.shape[:2], 1, 1])
        weight = weight + paddle.nn.functional.pad(kernel, [1, 1, 1, 1])
        bias = bias + norm.bias - norm._mean * scale
    deploy = "rbr_reparam" if "rbr_dense" in names else "conv"
    return {f"{prefix}.{deploy}.weight": weight, f"{prefix}.{deploy}.bias": bias}


def peer_parts(network: str) -> dict[str, Any]:
    """Return the parts of a peer's network by the prefix of their weights."""
    if network != "ppyoloe_plus_l":
        from paddleclas.ppcls.arch.backbone.model_zoo.repvgg import RepVGG

        return {"": RepVGG(**B1)}
    from ppdet.modeling.backbones.cspresnet import CSPResNet
    from ppdet.modeling.heads.ppyoloe_head import PPYOLOEHead
    from ppdet.modeling.necks.custom_pan import CustomCSPPAN

    backbone = CSPResNet(use_large_stem=True, use_alpha=True, return_idx=[1, 2, 3])
    neck = CustomCSPPAN(in_channels=[256, 512, 1024], out_channels=[768, 384, 192], stage_num=1,
                        block_num=3, act="swish", spp=True, use_alpha=True)  # fmt: skip
    head = PPYOLOEHead(in_channels=[768, 384, 192], static_assigner=None, assigner=None, nms=None)
    return {"backbone.": backbone, "neck.": neck, "yolo_head.": head}


def peer_state(parts: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{prefix}{key}": value
        for prefix, part in parts.items()
        for key, value in part.state_dict().items()
    }


def make_peer(network: str, path: str) -> None:
    import paddle

    paddle.save(peer_state(peer_parts(network)), path)


def peer(network: str, source: str, output: str) -> None:
    """Build a peer's network, load, call its own conversion on each block, save."""
    import paddle

    parts = peer_parts(network)
    state = paddle.load(source)
    for prefix, part in parts.items():
        mine = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        part.set_state_dict(mine)
        part.eval()
        for layer in list(part.sublayers()):
            convert = getattr(layer, "convert_to_deploy", getattr(layer, "re_parameterize", None))
            if convert is not None:
                convert()
    paddle.save(peer_state(parts), output)


CHILDREN: dict[str, Callable[..., None]] = {
    "floor": floor,
    "make": make,
    "make-peer": make_peer,
    "today": today,
    "peer": peer,
}

if __name__ == "__main__":
    sys.exit(main())
