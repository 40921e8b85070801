"""PP-YOLOE at its full size: files of ours against paddledet's own model.

    python -m benchmarks.ppyoloe_peers [NAME ...] --peer-python PYTHON [--folder FOLDER]
                                       [--sizes HxW ...] [--heads HEAD ...]

PYTHON is one that has paddledet; it writes a checkpoint of each variant in PaddleDetection's
layout, and what its model makes of batches of 1 and 3 images of two sizes
(``benchmarks.ppyoloe_original``, which also says how the random weights are drawn). --folder keeps
both, and takes those found. Then, with ours alone:

    recognised   by its name, no key missing or left over, as many parameters as published
                 (which counts the statistics of BatchNorms)
    fused        ``reparam fuse``; as many blocks as the variant has, each weight finite
    raw, decoded, nms, paddledetection
                 ``reparam export`` with each head, run by onnxruntime on the same images

Maps, boxes and scores may be as far from paddledet in float64 as paddledet in float32 is, or with
its weights off by one rounding, times 4: of each kind the worst counts, relative to its scale.
Detections have to be the right ones of the very boxes and scores that the same network gives, and
so have those of paddledet's MultiClassNMS of paddledet's (``reparam.detection.certify``). Where a
decision is within rounding the two may differ; how many rows are in both is told, and less than
95 % is wrong.

Prints a JSON line for each variant and head, then a table. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ppyoloe_judging import Arrays, Original, judge_decoded, judge_maps, judge_rows

VARIANTS = {  # blocks that take part in inference
    **dict(zip((f"ppyoloe_{size}" for size in "smlx"), (11, 22, 33, 44), strict=True)),
    "ppyoloe_plus_t": 17,
    **dict(zip((f"ppyoloe_plus_{size}" for size in "smlx"), (11, 22, 33, 44), strict=True)),
}
PARAMETERS = {"ppyoloe_s": 8_105_517, "ppyoloe_plus_s": 8_105_523, "ppyoloe_plus_m": 24_176_441,
              "ppyoloe_plus_l": 54_147_487, "ppyoloe_plus_x": 102_434_565}  # fmt: skip
HEADS = ("raw", "decoded", "nms", "paddledetection")
STRIDES = (32, 16, 8)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--peer-python", default=os.environ.get("REPARAM_PEER_PYTHON"))
    parser.add_argument("--folder", type=Path, help="keep checkpoints here, and take those found")
    parser.add_argument("--sizes", nargs="*", default=[], help="of images; for both at least two")
    parser.add_argument("--heads", nargs="*", default=list(HEADS), choices=HEADS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix="reparam-ppyoloe-peers-") as scratch:
            original = of_peer(name, options.folder or Path(scratch), options)
            for row in examined(name, original, Path(scratch), options.heads):
                rows.append({"benchmark": "ppyoloe_peers", "network": name, **row})
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    return 0 if all(row["right"] for row in rows) else 1


def of_peer(name: str, folder: Path, options: argparse.Namespace) -> Original:
    """Return what the peer computes, made by it where it is not in ``folder``."""
    checkpoint, recorded = folder / f"{name}.pdparams", folder / f"{name}.npz"
    if not recorded.exists():
        if options.peer_python is None:
            sys.exit(f"{recorded} is not there; --peer-python makes it")
        folder.mkdir(parents=True, exist_ok=True)
        command = [options.peer_python, "-m", "benchmarks.ppyoloe_original", name]
        command += [str(folder.resolve()), *options.sizes]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    with np.load(recorded) as file:
        return Original(checkpoint, {key: file[key] for key in file.files})


def examined(name: str, original: Original, scratch: Path, heads: list[str]) -> Any:
    """Yield a row for what the checkpoint is, for fusing it, and for each head."""
    yield recognised(name, original.checkpoint)
    yield fused(name, original.checkpoint, scratch / "fused.pdparams")
    decoded: list[Arrays] = []  # what detections are certified by
    for head in sorted({"decoded", *heads}, key=HEADS.index):
        start = time.perf_counter()
        said = exported(original.checkpoint, scratch / f"{head}.onnx", head)
        row: dict[str, Any] = {
            "step": head,
            "export_seconds": round(time.perf_counter() - start, 1),
        }
        if "failed" in said:
            yield {**row, "right": False, **said}
            continue
        found = run(scratch / f"{head}.onnx", original, scaled=head == "paddledetection")
        (scratch / f"{head}.onnx").unlink()
        if head == "decoded":
            decoded = found
        if head in HEADS[2:] and not decoded:
            yield {**row, "right": False, "failed": "there are no boxes to certify by"}
            continue
        yield {**row, **said, **judged(head, original, found, decoded)}


def judged(head: str, original: Original, found: list[Arrays], decoded: list[Arrays]) -> Any:
    if head == "raw":
        return judge_maps(original, found, STRIDES)
    if head == "decoded":
        return judge_decoded(original, found)
    return judge_rows(original, found, decoded, scaled=head == "paddledetection")


def recognised(name: str, checkpoint: Path) -> dict[str, Any]:
    from reparam import load_checkpoint
    from reparam.architectures import recognise

    arrays = load_checkpoint(checkpoint).arrays
    found = recognise({key: array.shape for key, array in arrays.items()})
    assert found is not None
    aside = {*found.ignored}
    parameters = sum(array.size for key, array in arrays.items() if key not in aside)
    wrong = [*found.missing, *found.unexpected, *found.mismatched, *found.beside]
    published = PARAMETERS.get(name)
    right = found.name == name and not wrong and len(found.blocks) == VARIANTS[name]
    return {
        "step": "recognised",
        "right": right and published in (None, parameters),
        "as": found.name,
        "wrong_keys": len(wrong),
        "ignored_keys": len(aside),
        "blocks": len(found.blocks),
        "parameters": parameters,
        "published": published,
    }


def fused(name: str, checkpoint: Path, output: Path) -> dict[str, Any]:
    from reparam import fuse, load_checkpoint

    start = time.perf_counter()
    report = fuse(checkpoint, output).report
    seconds = time.perf_counter() - start
    arrays = load_checkpoint(output).arrays
    blocks = [block.where for block in report.fused if not block.where.startswith("aux_")]
    left = [key for key in arrays if ".conv2.conv1." in key or key.endswith(".alpha")]
    right = len(blocks) == VARIANTS[name] and not left
    return {
        "step": "fused",
        "right": right and all(bool(np.isfinite(array).all()) for array in arrays.values()),
        "blocks": len(blocks),
        "all_blocks": len(report.fused),
        "seconds": round(seconds, 2),
    }


def exported(checkpoint: Path, output: Path, head: str) -> dict[str, Any]:
    """Export by the command, for any batch and size; return what it says."""
    command = [sys.executable, "-m", "reparam", "export", str(checkpoint), "--onnx", str(output),
               "--dynamic", "batch,height,width", "--input-size", "256", "--json"]  # fmt: skip
    command += ["--compat", head] if head == "paddledetection" else ["--head", head]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip()[-600:] or done.stdout[-600:]}
    said = json.loads(done.stdout)
    return {"verdict": said["verdict"], "bytes": output.stat().st_size}


def run(path: Path, original: Original, scaled: bool) -> list[Arrays]:
    """Return the outputs by name for each of the recorded batches."""
    from reparam.adapters.onnx_runtime import open_session

    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    found = []
    for images, factors in zip(original.images, original.factors, strict=True):
        feed = {"scale_factor": factors} if scaled else {}
        first = next(i.name for i in session.get_inputs() if i.name != "scale_factor")
        found.append(dict(zip(names, session.run(None, {first: images, **feed}), strict=True)))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of Markdown, a line a variant."""
    steps = list(dict.fromkeys(row["step"] for row in rows))
    lines = [f"| network | parameters | {' | '.join(steps)} |", "|---|" + "---|" * (len(steps) + 1)]
    for name in dict.fromkeys(row["network"] for row in rows):
        own = {row["step"]: row for row in rows if row["network"] == name}
        parameters = own.get("recognised", {}).get("parameters", 0)
        cells = [cell(own[step]) if step in own else "" for step in steps]
        lines.append(f"| {name} | {parameters:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    said = "right" if row["right"] else "**wrong**"
    if "of_bound" in row:
        return f"{said}, {row['of_bound']:.2f} of the bound"
    if "rows" in row:
        return f"{said}, {row['matched']} of {row['rows']} rows"
    return f"{said}, {row['blocks']} blocks" if "blocks" in row else said


if __name__ == "__main__":
    sys.exit(main())
