"""What is recorded of a detector: random weights that pack small, and one file a case.

Knows NumPy alone, so that it runs in the environment of the original implementation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 127  # of a value, on either side of 0: each is stored in one byte

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One recorded detector; README.md says what the entries are.

    ``runs`` holds for each image the arrays of one run by their names, ``deploy`` the arrays that
    the original's conversion adds.
    """

    about: dict[str, Any]
    state: Arrays
    images: list[np.ndarray]
    runs: list[Arrays]
    deploy: Arrays


def rounded(values: np.ndarray) -> np.ndarray:
    """Return ``values`` in float32, rounded so that they pack small.

    Each output channel of a kernel, and each other array, has at most 255 different values, the
    multiples of a power of two.
    """
    return _unpacked(*_packed(values))


def _packed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 2.0**-100)
    exponents = np.ceil(np.log2(largest / STEPS)).astype(np.int8)
    steps = np.rint(rows / 2.0**exponents).astype(np.int8)
    return steps.reshape(values.shape), exponents.ravel()


def _unpacked(steps: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    factors = (
        2.0 ** exponents.reshape(-1, *[1] * (steps.ndim - 1)) if steps.ndim else 2.0 ** exponents[0]
    )
    return np.asarray(steps * factors, np.float32)


def save(path: Path, case: Case) -> None:
    """Write ``case``; weights and images have to be what ``rounded`` returns."""
    named = {f"state/{key}": value for key, value in case.state.items()}
    named |= {f"image/{i}": value for i, value in enumerate(case.images)}
    packed = {key: _packed(value) for key, value in named.items()}
    for key, (steps, exponents) in packed.items():
        assert np.array_equal(_unpacked(steps, exponents), named[key]), key
    keys = [[key, list(steps.shape)] for key, (steps, _) in packed.items()]
    entries = {f"run{i}/{key}": v for i, run in enumerate(case.runs) for key, v in run.items()}
    entries |= {f"deploy/{key}": value for key, value in case.deploy.items()}
    np.savez_compressed(
        path,
        about=json.dumps({**case.about, "keys": keys}),
        steps=np.concatenate([steps.ravel() for steps, _ in packed.values()]),
        exponents=np.concatenate([exponents for _, exponents in packed.values()]),
        **entries,
    )


def load(path: Path) -> Case:
    """Return a recorded case, keys in the original's order."""
    with np.load(path) as file:
        entries = {key: file[key] for key in file.files}
    about = json.loads(str(entries.pop("about")))
    steps, exponents = entries.pop("steps"), entries.pop("exponents")
    case = Case(about, {}, [], [], {})
    for key, shape in about.pop("keys"):
        size, rows = int(np.prod(shape)), shape[0] if len(shape) > 1 else 1
        value = _unpacked(steps[:size].reshape(shape), exponents[:rows])
        steps, exponents = steps[size:], exponents[rows:]
        kind, _, name = key.partition("/")
        if kind == "state":
            case.state[name] = value
        else:
            case.images.append(value)
    case.runs.extend({} for _ in case.images)
    for key, value in entries.items():
        kind, _, name = key.partition("/")
        (case.deploy if kind == "deploy" else case.runs[int(kind[3:])])[name] = value
    return case
