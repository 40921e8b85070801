"""Opens damaged copies of ONNX files and prints what became of them; run in a process of its own.

python -m tests.graph.fuzzing FOLDER COUNT SEED
"""

from __future__ import annotations

import json
import random
import sys
import traceback
from collections import Counter
from pathlib import Path

from reparam.errors import GraphError
from reparam.graph.files import open_model, save_model
from tests.graph.bad_models import (
    branch,
    chain_backwards,
    conv,
    good,
    model,
    outside,
    relu,
    weight,
    with_if,
)
from tests.graph.full_models import full_model


def bases() -> list[bytes]:
    protos = [
        good(),
        full_model(),
        outside("w.bin"),
        chain_backwards(5),
        with_if(branch("then", relu("c", "t"), output="t")),
        model([relu("c", "y"), conv()], [weight()]),
    ]
    return [bytes(proto.SerializeToString()) for proto in protos]


def damaged(base: bytes, chance: random.Random) -> bytes:
    """Return a file with some bytes lost, changed, put in or put twice."""
    data = bytearray(base)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 8])):
        place = chance.randrange(len(data) or 1)
        kind = chance.choice(["flip", "flip", "flip", "byte", "cut", "drop", "add", "copy", "swap"])
        size = chance.choice([1, 1, 2, 5, 40])
        if kind == "flip":
            data[place : place + 1] = bytes([data[place] ^ 1 << chance.randrange(8)])
        elif kind == "byte":
            data[place : place + 1] = bytes([chance.choice([0, 1, 0x7F, 0x80, 0xFF])])
        elif kind == "cut":
            del data[max(place, 1) :]
        elif kind == "drop":
            del data[place : place + size]
        elif kind == "add":
            data[place:place] = bytes(chance.randrange(256) for _ in range(size))
        elif kind == "copy":
            data[place:place] = data[place : place + size]
        else:
            other = chance.randrange(len(data))
            data[place], data[other] = data[other], data[place]
        if not data:
            break
    return bytes(data)


def tried(path: Path) -> str:
    """Open a file, and write what was opened; return what came of it."""
    try:
        opened = open_model(path)
    except GraphError as error:
        return "refused" if str(path) in error.what else "refused without a path"
    path.with_suffix(".new").unlink(missing_ok=True)
    save_model(opened.model, path.with_suffix(".new"), external=False)
    open_model(path.with_suffix(".new"))
    return "opened"


def main(folder: Path, count: int, seed: int) -> None:
    results: Counter[str] = Counter()
    problems = []
    (folder / "w.bin").write_bytes(weight().raw_data)
    found = bases()
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        content = damaged(found[number % len(found)], chance)
        path = folder / "damaged.onnx"
        path.write_bytes(content)
        try:
            results[tried(path)] += 1
        except Exception:  # noqa: BLE001 - any is a finding, and is reported
            problems.append(f"number {number}: {traceback.format_exc()}")
    print(json.dumps({"results": results, "problems": problems[:10], "count": len(problems)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
