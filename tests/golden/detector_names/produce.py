"""Record names and shapes of the state dicts of PaddleDetection's detectors, by building them.

Run with PaddleDetection's repository and what it needs installed, outside this project:

    python tests/golden/detector_names/produce.py PATH_OF_PADDLEDETECTION

Weights are never read: every setting 'pretrained' is emptied, and no host name is resolved.
"""

from __future__ import annotations

import json
import lzma
import os
import socket
import sys
from pathlib import Path

HERE = Path(__file__).parent
CONFIGURATIONS = (HERE / "configurations.txt").read_text(encoding="utf-8").split()
PRETRAINED_BY_DEFAULT = ("SwinTransformer", "FocalNet")


def no_network(*_args, **_options):
    raise OSError("this script reads nothing from a network")


def emptied(values):
    """Take every pretrained weight out of a configuration, in place."""
    for key, value in list(values.items()) if isinstance(values, dict) else ():
        if key == "pretrained" and value:
            values[key] = "" if isinstance(value, str) else False
        else:
            emptied(value)


def shapes_of(path):
    from ppdet.core.workspace import create, load_config

    values = load_config(str(path))
    emptied(values)
    for name in PRETRAINED_BY_DEFAULT:
        if isinstance(values.get(name), dict):
            values[name]["pretrained"] = ""
    network = create(values.architecture)
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def main(repository):
    socket.getaddrinfo = no_network
    sys.path.insert(0, str(repository))
    found = {}
    for name in CONFIGURATIONS:  # each in a process of its own: configurations are global there
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            text = json.dumps(shapes_of(repository / "configs" / f"{name}.yml"))
            with os.fdopen(writing, "w") as pipe:
                pipe.write(text)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found[name] = json.loads(pipe.read())
        os.wait()
    text = json.dumps(found, separators=(",", ":"))
    (HERE / "shapes.json.xz").write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
