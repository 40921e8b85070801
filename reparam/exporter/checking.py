"""What an exported file must be before it gets its name: valid, quiet, complete, and equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.closeness import Closeness, closeness
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_model import Interface, arrays_of, inputs_of, op_counts
from reparam.adapters.onnx_runtime import run_onnx
from reparam.adapters.paddle_models import in_float64, keys_of, run_layer, state_of
from reparam.errors import ExportError, NotEquivalentError
from reparam.exporter.report import Difference

Array = npt.NDArray[Any]

_SEED = 20210101
_OPERATOR_OF = {"Conv": "Conv2D", "BatchNormalization": "BatchNorm2D"}
_LEFT_BY_CONVERTERS = ("Constant", "Identity")


def check_file(model: bytes, exported: Any, counted: bool = True) -> Any:
    """Return an onnxruntime session for a file that is valid, complete and loads quietly.

    Args:
        model: the bytes of the file.
        exported: the Layer that it was made from.
        counted: whether that Layer calls each of its convolutions and BatchNorms once; one that
            nothing is known of may share them, or compute weights as it runs.

    Raises:
        ExportError: it is not.
    """
    check_model(model)
    stored = arrays_of(model)
    check_weights(stored, state_of(exported), inputs_of(model, "Conv") if counted else ())
    needed = {
        operator: sum(key in stored for key in keys_of(exported, kind, "weight"))
        for operator, kind in _OPERATOR_OF.items()
        if counted
    }
    check_operators(op_counts(model), needed)
    return load_strictly(model)


def check_weights(
    stored: Mapping[str, Array], state: Mapping[str, Array], convs: Sequence[Sequence[str]]
) -> None:
    """Refuse weights that are not those of the Layer, bit for bit.

    Outputs do not show each of them: what a ReLU holds at zero on the probe is in none.

    Args:
        stored: the constants of the file.
        state: the state dict of the Layer; a key that the outputs do not need may be absent there.
        convs: what each Conv of the file reads: a value, a weight, and maybe a bias.

    Raises:
        ExportError: names the first that is different or unknown.
    """
    unknown = [name for names in convs for name in names[1:] if name and name not in state]
    different = [
        name for name in stored if name in state and stored[name].tobytes() != state[name].tobytes()
    ]
    for problem, names in (("not in the network", unknown), ("not as in the network", different)):
        if names:
            raise ExportError(
                "the exported graph is not the network",
                found=f"{len(names)} weight(s) {problem}, '{names[0]}' first",
            )


def check_operators(found: Mapping[str, int], needed: Mapping[str, int]) -> None:
    """Refuse a graph that has not as many nodes of some operators as the network needs.

    None may be left of those that are only a converter's way of writing.

    Raises:
        ExportError: names the operator and both counts.
    """
    for operator, count in {**needed, **dict.fromkeys(_LEFT_BY_CONVERTERS, 0)}.items():
        if found.get(operator, 0) != count:
            raise ExportError(
                "the exported graph is not the network",
                found=f"{found.get(operator, 0)} {operator} nodes; needed: {count}",
            )


def check_outputs(
    session: Any, interface: Interface, original: Any, batch: int | None
) -> Difference:
    """Return how close the file comes to the network that was exported, on one seeded probe.

    The truth is ``original`` in float64, the yardstick its distance from ``original`` in float32
    (:mod:`reparam.adapters.closeness`). With an open batch axis the probe is two images, then the
    first of them alone.

    Raises:
        NotEquivalentError: the file is another function.
        ExportError: an output is missing or has another shape.
    """
    size = tuple(int(n) for n in interface.inputs[0].shape[1:])
    normal = np.random.default_rng(_SEED).normal(size=(batch or 2, *size))
    probe = normal.astype(np.float32)
    truth = run_layer(in_float64(original), probe.astype(np.float64))
    reference = run_layer(original, probe)
    names = [value.name for value in interface.outputs]
    found: list[Difference] = []
    for images in (batch,) if batch else (2, 1):
        outputs = run_onnx(session, probe[:images])
        if len(outputs) != len(truth):
            raise ExportError(
                "the exported graph is not the network",
                found=f"{len(outputs)} outputs; needed: {len(truth)}",
            )
        parts = zip(names, truth, reference, outputs, strict=True)
        for name, exact, yardstick, output in parts:
            measured = closeness(exact[:images], yardstick[:images], output)
            found.append(_difference(measured, name, images))
    return _worst(found)


def _difference(measured: Closeness, output: str, images: int) -> Difference:
    return Difference(
        verdict=measured.verdict,
        distance=measured.distance,
        bound=measured.bound,
        reference=measured.reference,
        scale=measured.scale,
        output=output,
        index=measured.index,
        batch=images,
    )


def _worst(found: Sequence[Difference]) -> Difference:
    """Return the difference that is largest for what it may be.

    Raises:
        NotEquivalentError: one is larger than it may be, or there is nothing to compare with.
    """
    lost = next((d for d in found if _overflows(d)), None)
    if lost is not None:
        raise NotEquivalentError(
            f"output '{lost.output}' of the network is not finite on a normal image",
            found="NaN or infinity in the checkpoint's own float32 arithmetic, before any fusing",
            why="there is nothing that the exported file could be compared with",
        )
    order = {"different": 2, "undecidable": 1, "equal": 0}
    worst = max(found, key=lambda d: (order[d.verdict], d.distance / d.bound if d.bound else 0.0))
    if worst.verdict != "different":
        return worst
    raise NotEquivalentError(
        f"output '{worst.output}' of the exported file is not that of the network",
        found=f"off by {worst.distance:.3g} at {list(worst.index)} with {worst.batch} image(s); "
        f"allowed: {worst.bound:.3g}",
        why=f"float32 takes the Paddle layer {worst.reference:.3g} from its float64 result",
    )


def _overflows(found: Difference) -> bool:
    """Whether the network overflows in float32; a ReLU may turn the NaN of it into 0 again."""
    return not np.isfinite(found.reference) or found.scale > float(np.finfo(np.float32).max)
