"""Comparing two checkpoints, or a checkpoint and an ONNX file, with the user's own network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters.foreign_converting import as_made, convert, path_of, tried_blocks
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.foreign_parts import is_inside, outermost, shapes_of, sublayer
from reparam.adapters.foreign_running import Fed
from reparam.adapters.paddle_models import (
    as_float32,
    in_float64,
    load_arrays,
    run_layer,
    state_of,
)
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.checkpoint.fusing import listing
from reparam.checkpoint.manifest import source_of, wanted_of
from reparam.equivalence import networks
from reparam.equivalence.carried import WHY as CARRIED
from reparam.equivalence.exported import compare_onnx
from reparam.equivalence.layer_proving import compare_layer_blocks, prove
from reparam.equivalence.layer_reading import layer_as_meant
from reparam.equivalence.loading import candidate_of
from reparam.equivalence.probes import DEFAULT_SIZES, Probing, network_probes, probes
from reparam.equivalence.records import DIFFERENT, EQUAL, Stage, Verification, verdict_of
from reparam.errors import CheckpointError, UnsupportedModelError
from reparam.files import sha256_of

Arrays = Mapping[str, np.ndarray[Any, Any]]

IN_MEMORY = "its own conversion, in memory"


class LayerTruth:
    """The user's network with the original weights, in float32 and in float64.

    Args:
        arrays: its weights, in any form.
        model: which network.
        size: (H, W) of an image that it runs on.
        layer: with the weights loaded, where there is one.

    Raises:
        UnsupportedModelError, CheckpointError, NotFusibleError: as
            :meth:`reparam.adapters.foreign_models.ForeignModel.layer_of` and ``fed``.
    """

    def __init__(
        self, arrays: Arrays, model: ForeignModel, size: tuple[int, int], layer: Any = None
    ) -> None:
        self.model = model
        self.size = size
        self.layer: Fed = model.fed(model.layer_of(arrays) if layer is None else layer, size)
        self.wide = in_float64(self.layer)
        self.channels = self.layer.channels
        self._need_one_answer()

    def _need_one_answer(self) -> None:
        first, second = run_layer(self.layer, self.image), run_layer(self.layer, self.image)
        if not all(np.array_equal(*two, equal_nan=True) for two in zip(first, second, strict=True)):
            raise UnsupportedModelError(
                f"the network of '{self.model.spec}' gives two answers to one image",
                found="other outputs at the second run, in evaluation mode",
                why="what changes by itself cannot be compared with anything",
                hint="a dropout that is always on, or an input that is made up inside?",
            )

    @property
    def image(self) -> np.ndarray[Any, Any]:
        """Return the image on whose way through the network blocks are found."""
        return probes(self.channels, self.size)["normal"].astype(np.float32)

    def compare_network(self, layer: Any, probing: Probing) -> Stage:
        """Run the Layer ``layer``, float32, against this network."""
        fed = self.layer.around(layer)
        sizes = [self.size, *(s for s in probing.sizes[1:] if self._runs_on(s, probing))]
        inputs = network_probes(self.channels, sizes, probing.own_input)
        return networks.compare_run("network", self, lambda x: run_layer(fed, x), inputs)

    def _runs_on(self, size: tuple[int, int], probing: Probing) -> bool:
        """Whether a further size is probed; one that nobody asked for may be no size for it."""
        try:
            self.model.fed(self.layer.network, size)
        except UnsupportedModelError:
            if probing.sizes is not DEFAULT_SIZES:
                raise
            return False
        return True

    def compare_blocks(self, layer: Any, paths: list[str]) -> Stage:
        """Compare the blocks at ``paths`` of ``layer`` with those of this network."""
        return compare_layer_blocks(self.layer, layer, paths, self.image)


def verify_layers(
    first: Checkpoint, candidate: str | Path | None, model: ForeignModel, probing: Probing
) -> Verification:
    """Return whether two files are the same function of the user's own network.

    Args:
        first: the truth.
        candidate: a checkpoint or an ONNX file. None compares a checkpoint with what the
            network's own methods make of it, and one with nothing left to convert with the source
            that its manifest names.

    Raises:
        CheckpointError: a file is unusable or not of this network, or there is nothing to compare.
        UnsupportedModelError: the network cannot be built, or does not run.
        NotFusibleError: a method of the network failed.
    """
    if candidate is not None and Path(candidate).suffix == ".onnx":
        layer, notices = layer_as_meant(first.arrays, model, probing.sizes[0])
        truth = LayerTruth(first.arrays, model, probing.sizes[0], layer)
        _need_channels(truth, probing)
        return _with_onnx(first, Path(candidate), truth, probing, notices)
    truth = LayerTruth(first.arrays, model, probing.sizes[0])
    _need_channels(truth, probing)
    if candidate is None:
        proved = prove(truth.layer, truth.image)
        if proved.stage.blocks:
            stages = [proved.stage]
            stages += _network(truth, proved.conversion.layer, probing, stages)
            return _verification(first, IN_MEMORY, "", model, stages, proved.notices)
        source, *_ = source_of(first)
        first, second = load_checkpoint(source, prefix=wanted_of(first)), first
        truth = LayerTruth(first.arrays, model, truth.size)
    else:
        second = candidate_of(candidate, probing.prefix)
    stages = _checkpoint_stages(first.arrays, second.arrays, truth, probing)
    return _verification(first, str(second.path), second.sha256, model, stages)


def _need_channels(truth: LayerTruth, probing: Probing) -> None:
    own = probing.own_input
    if own is not None and (own.ndim != 4 or own.shape[1] != truth.channels):
        raise CheckpointError(
            "the probe does not fit the network",
            found=f"an array of shape {own.shape}; needed: (N, {truth.channels}, H, W)",
        )


def _checkpoint_stages(
    ours: Arrays, theirs: Arrays, truth: LayerTruth, probing: Probing
) -> list[Stage]:
    network, other = truth.layer.network, truth.model.layer_of(theirs)
    convertible = tried_blocks(network)
    known = dict.fromkeys([*block_paths(network), *block_paths(other)])
    paths = outermost([path for path in known if _form_differs(network, other, path)])
    alike = _alike_in_both_forms(network, other, convertible)
    stages = [_compare_carried(ours, theirs, _units(network, other, paths) + alike)]
    other, first = _read(truth, other, theirs, alike)
    forward = [path for path in (*paths, *alike) if path in convertible and path not in first]
    if forward:
        stages.append(truth.compare_blocks(other, forward))
    backward = [path for path in paths if path not in convertible]
    if backward or first:  # the deploy form was named first
        swapped = LayerTruth(theirs, truth.model, truth.size)
        deployed = _deployed(network, first)
        stages.append(swapped.compare_blocks(deployed, [*backward, *first]))
    return [*stages, *_network(truth, other, probing, stages)]


def _alike_in_both_forms(network: Any, other: Any, convertible: Sequence[str]) -> list[str]:
    """Return blocks whose values differ and whose keys do not tell in which form they are."""
    ours, theirs = state_of(network), state_of(other)
    common = [key for key in ours if key in theirs and is_inside(key, convertible)]
    changed = [key for key in common if ours[key].tobytes() != theirs[key].tobytes()]
    if not changed:
        return []
    converted = convert(network, new_judge=lambda: as_made).converted
    paths = [path_of(done.where) for done in converted if not done.replaced and not done.added]
    same = [path for path in paths if not _form_differs(network, other, path)]
    return [path for path in same if any(is_inside(key, [path]) for key in changed)]


def _read(truth: LayerTruth, other: Any, theirs: Arrays, alike: list[str]) -> tuple[Any, list[str]]:
    """Return ``other`` with the blocks ``alike`` in deploy form, or which the first file has so.

    What differs between two files is then what fusing one of them wrote, and only the deploy form
    computes with it. The other file holds a placeholder there.
    """
    if not alike:
        return other, []
    deployed = _deployed(other, alike)
    if truth.compare_blocks(deployed, alike).verdict != DIFFERENT:
        return deployed, []
    swapped = LayerTruth(theirs, truth.model, truth.size)
    stage = swapped.compare_blocks(_deployed(truth.layer.network, alike), alike)
    return (deployed, []) if stage.verdict == DIFFERENT else (other, alike)


def _deployed(network: Any, paths: list[str]) -> Any:
    """Return a network with blocks in deploy form that have the same keys in it, and its arrays."""
    if not paths:
        return network
    rest = [path for path in block_paths(network) if not is_inside(path, paths)]
    skip = [path for path in rest if not any(is_inside(one, [path]) for one in paths)]
    deployed = convert(network, skip=skip, new_judge=lambda: as_made).layer
    load_arrays(deployed, dict(state_of(network)))
    return deployed


def _form_differs(network: Any, other: Any, path: str) -> bool:
    """Whether a block that is in both networks has other keys in one of them."""
    if sublayer(network, path) is None or sublayer(other, path) is None:
        return False
    return _keys_of(shapes_of(network), path) != _keys_of(shapes_of(other), path)


def _units(network: Any, other: Any, paths: Sequence[str]) -> list[str]:
    """Return the innermost blocks in which the keys of two networks differ, if nowhere else."""
    found: list[str] = []
    before, after = shapes_of(network), shapes_of(other)
    for path in paths:
        inner = [one for one in block_paths(network) if one != path and is_inside(one, [path])]
        inner = outermost([one for one in inner if _form_differs(network, other, one)])
        changed = _keys_of(before, path) ^ _keys_of(after, path)
        covered = bool(inner) and all(is_inside(key, inner) for key in changed)
        found += _units(network, other, inner) if covered else [path]
    return found


def _network(truth: LayerTruth, layer: Any, probing: Probing, before: list[Stage]) -> list[Stage]:
    if not probing.network or any(stage.verdict == DIFFERENT for stage in before):
        return []
    return [truth.compare_network(layer, probing)]


def _with_onnx(
    first: Checkpoint, path: Path, truth: LayerTruth, probing: Probing, notices: tuple[str, ...]
) -> Verification:
    if not path.is_file():
        raise CheckpointError(f"cannot read '{path}'", found="no such file")
    if not probing.network:
        raise CheckpointError(
            f"cannot compare with '{path}' without running the network",
            why="what an ONNX file computes shows only in its outputs",
            hint="leave --no-network out",
        )
    stages = compare_onnx(truth, path, probing)
    return _verification(first, str(path), sha256_of(path), truth.model, [*stages], notices)


def _compare_carried(ours: Arrays, theirs: Arrays, paths: list[str]) -> Stage:
    """Compare what is in no converted block, bit for bit."""
    first, second = as_float32(ours), as_float32(theirs)
    rest = [key for key in first if not is_inside(key, paths)]
    changed = tuple(
        key for key in rest if key not in second or first[key].tobytes() != second[key].tobytes()
    )
    if changed:
        summary = f"{len(changed)} changed: {listing(changed)}"
        return Stage("other arrays", DIFFERENT, summary, CARRIED)
    return Stage("other arrays", EQUAL, f"{len(rest)} arrays identical", CARRIED)


def _keys_of(shapes: Mapping[str, Any], path: str) -> set[str]:
    return {key for key in shapes if is_inside(key, [path])}


def _verification(
    first: Checkpoint,
    candidate: str,
    sha256: str,
    model: ForeignModel,
    stages: list[Stage],
    notices: tuple[str, ...] = (),
) -> Verification:
    return Verification(
        original=str(first.path),
        candidate=candidate,
        original_sha256=first.sha256,
        candidate_sha256=sha256,
        architecture=model.spec,
        epsilon=None,
        verdict=verdict_of(tuple(stages)),
        stages=tuple(stages),
        notices=notices,
    )
