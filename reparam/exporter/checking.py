"""What an exported file must be before it gets its name: valid, quiet, complete, and equal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.closeness import Closeness, closeness
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_files import weights_in
from reparam.adapters.onnx_model import inputs_of, op_counts
from reparam.adapters.paddle_models import keys_of, state_of
from reparam.errors import ExportError, NotEquivalentError
from reparam.exporter.probing import Probe
from reparam.exporter.report import Difference, Tensor

Array = npt.NDArray[Any]

_OPERATOR_OF = {"Conv": "Conv2D", "BatchNormalization": "BatchNorm2D"}
_LEFT_BY_CONVERTERS = ("Constant", "Identity")


def check_file(
    path: Path,
    header: Any,
    exported: Any,
    weights: Mapping[str, Array] | None = None,
    counted: bool = True,
    made: Collection[str] = (),
) -> Any:
    """Return an onnxruntime session for a file that is valid, complete and loads quietly.

    Args:
        path: of the file.
        header: what :func:`reparam.adapters.onnx_files.read_header` returned for it.
        exported: the Layer that it was made from.
        weights: the values that the file must hold, by key; those of ``exported`` if None.
        counted: whether that Layer calls each of its convolutions and BatchNorms once; one that
            nothing is known of may share them, or compute weights as it runs.
        made: names of weights that fusing the graph computed: no layer has them, and ``weights``
            does. A convolution that reads one stands for those whose weights are gone.

    Raises:
        ExportError: it is not.
    """
    check_model(path)
    state = state_of(exported) if weights is None else weights
    convs = inputs_of(header, "Conv") if counted else []
    names = check_weights(weights_in(path, header), state, convs)
    needed = {
        operator: sum(key in names for key in keys_of(exported, kind, "weight"))
        for operator, kind in _OPERATOR_OF.items()
        if counted
    }
    if counted:
        own = set(keys_of(exported, "Conv2D", "weight"))
        needed["Conv"] += sum(read[1] in made and read[1] not in own for read in convs)
    check_operators(op_counts(header), needed)
    return load_strictly(path)


def check_weights(
    stored: Iterable[tuple[str, Array]],
    state: Mapping[str, Array],
    convs: Sequence[Sequence[str]],
) -> set[str]:
    """Return the names of all constants; refuse weights that are not the Layer's, bit for bit.

    Outputs do not show each of them: what a ReLU holds at zero on the probe is in none.

    Args:
        stored: the constants of the file, with their names.
        state: the state dict of the Layer; a key that the outputs do not need may be absent there.
        convs: what each Conv of the file reads: a value, a weight, and maybe a bias.

    Raises:
        ExportError: names the first that is different or unknown.
    """
    unknown = [name for names in convs for name in names[1:] if name and name not in state]
    found: set[str] = set()
    different = []
    for name, array in stored:
        found.add(name)
        if name in state and not _same_bits(array, state[name]):
            different.append(name)
    for problem, names in (("not in the network", unknown), ("not as in the network", different)):
        if names:
            raise ExportError(
                "the exported graph is not the network",
                found=f"{len(names)} weight(s) {problem}, '{names[0]}' first",
            )
    return found


def _same_bits(one: Array, other: Array) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = f"u{one.dtype.itemsize}"
    return bool(np.array_equal(np.ravel(one).view(bits), np.ravel(other).view(bits)))


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
    run: Callable[[Array], Sequence[Array]],
    names: Sequence[str],
    probes: Sequence[Probe],
    *,
    any_batch: bool,
) -> Difference:
    """Return how close a file comes to the network that was exported.

    The truth is the original in float64, the yardstick its distance from the original in float32,
    or from the exported network in float16 where that is the precision of the file
    (:mod:`reparam.adapters.closeness`); in float32 also what one rounding of every weight does to
    it, where that is more. With an open batch axis the images of a probe are taken
    together, then the first of them alone.

    Args:
        run: the file.
        names: of its outputs.
        probes: images, and what they should become.
        any_batch: whether the batch axis is open.

    Raises:
        NotEquivalentError: the file is another function.
        ExportError: an output is missing or has another shape.
    """
    found: list[Difference] = []
    for probe in probes:
        for images in (len(probe.images), 1) if any_batch else (len(probe.images),):
            outputs = run(probe.images[:images])
            if not len(names) == len(outputs) == len(probe.truth):
                raise ExportError(
                    "the exported graph is not the network",
                    found=f"{len(outputs)} outputs; needed: {len(probe.truth)}",
                )
            yardsticks = probe.reference if probe.narrow is None else probe.narrow
            parts = zip(probe.truth, yardsticks, outputs, strict=True)
            for index, (exact, yardstick, output) in enumerate(parts):
                measured = _measured(probe, index, exact, yardstick, output, images)
                found.append(_difference(measured, names[index], images))
    return _worst(found, "float32" if probes[0].narrow is None else "float16")


def _measured(
    probe: Probe, index: int, exact: Array, yardstick: Array, output: Array, images: int
) -> Closeness:
    """Return how close an output comes; where it seems far, by the longer of two yardsticks.

    The output is of the first ``images`` alone; the yardsticks are of all.
    """
    narrow = None if probe.narrow is None else "float16"
    truth = exact[:images]
    measured = closeness(truth, _at_worst(exact, yardstick, images), output, computed_in=narrow)
    known = np.isfinite(measured.distance) and np.isfinite(measured.floor)
    if measured.verdict != "different" or narrow or not known or probe.shaken is None:
        return measured
    other = closeness(truth, _at_worst(exact, probe.shaken(index), images), output)
    return max(measured, other, key=lambda one: one.bound)


def _at_worst(exact: Array, yardstick: Array, images: int) -> Array:
    """Return the first images with the difference that a yardstick has at its worst image.

    A map of a few numbers is close by luck in one image, and in the next it is not.
    """
    if images >= len(exact) or exact.shape != yardstick.shape:
        return yardstick[:images]
    off = yardstick.astype(np.float64) - exact
    worst = int(np.argmax(np.abs(off).reshape(len(off), -1).max(axis=1)))
    found: Array = exact[:images] + off[worst]
    return found


def check_run(outputs: Sequence[Array], declared: Sequence[Tensor]) -> None:
    """Refuse outputs that are not finite or have not the shapes that a file declares.

    Raises:
        ExportError: names the first.
    """
    for value, output in zip(declared, outputs, strict=True):
        finite = bool(np.isfinite(output).all())
        if finite and value.dtype == output.dtype.name and _fits(output.shape, value.shape):
            continue
        raise ExportError(
            f"output '{value.name}' of the exported file is not as the file says",
            found=f"{output.dtype} {output.shape}{'' if finite else ', with NaN or infinity'}; "
            f"declared: {value.dtype} {value.shape}",
        )


def _fits(found: Sequence[int], declared: Sequence[int | str]) -> bool:
    """Whether a shape is as declared; a text stands for any size."""
    return len(found) == len(declared) and all(
        isinstance(needed, str) or size == needed
        for size, needed in zip(found, declared, strict=True)
    )


def _difference(measured: Closeness, output: str, images: int) -> Difference:
    return Difference(**vars(measured), output=output, batch=images)


def _worst(found: Sequence[Difference], precision: str) -> Difference:
    """Return the difference that is largest for what it may be.

    Raises:
        NotEquivalentError: one is larger than it may be, or there is nothing to compare with.
    """
    lost = next((d for d in found if _overflows(d)), None)
    if lost is not None:
        raise NotEquivalentError(
            f"output '{lost.output}' of the network is not finite on a made-up image",
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
        why=f"{precision} takes the Paddle layer {worst.floor:.3g} from its float64 result",
    )


def _overflows(found: Difference) -> bool:
    """Whether the network overflows in float32; a ReLU may turn the NaN of it into 0 again."""
    return not np.isfinite(found.floor) or found.scale > float(np.finfo(np.float32).max)
