"""Comparing two models stage by stage, from the arrays up to what a runtime computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from reparam import supervision
from reparam.adapters.paddle_models import as_float32
from reparam.architectures import recognise
from reparam.checkpoint import Checkpoint, fuse_arrays, load_checkpoint
from reparam.checkpoint.blocks import BlockMatch, find_blocks
from reparam.checkpoint.families import Family
from reparam.checkpoint.families.terms import COUNTER
from reparam.checkpoint.fusing import need_finite
from reparam.checkpoint.manifest import source_of, wanted_of
from reparam.checkpoint.opening import check_input
from reparam.checkpoint.pairs import find_pairs, folded_in
from reparam.checkpoint.plan import families_named
from reparam.detection.sizes import check_size
from reparam.equivalence import networks
from reparam.equivalence.blocks import compare_blocks
from reparam.equivalence.carried import Arrays, compare_carried
from reparam.equivalence.exported import compare_onnx
from reparam.equivalence.layer_verification import verify_layers
from reparam.equivalence.loading import candidate_of
from reparam.equivalence.probes import Probing
from reparam.equivalence.records import DIFFERENT, Stage, Verification, verdict_of
from reparam.errors import CheckpointError, MissingDependencyError
from reparam.files import sha256_of
from reparam.graph.runnable import need_runnable
from reparam.supervision import Limits

IN_MEMORY = "its own fusion, in memory"

_RUN = (np.dtype(np.float32), np.dtype(np.float64))  # weights of networks that are run, in float32


def verify(
    original: str | Path,
    candidate: str | Path | None = None,
    probing: Probing | None = None,
    *,
    limits: Limits | None = None,
) -> Verification:
    """Return whether ``candidate`` is the same function as ``original``, and the evidence.

    Args:
        original: a checkpoint or an ONNX file, the truth.
        candidate: a checkpoint or an ONNX file; of an ONNX file, another one. None
            compares a train-time checkpoint with its own fusion, and a deploy checkpoint with the
            source that its manifest names.
        limits: of the process in which all of it is done where the candidate is an ONNX file.

    Raises:
        GraphError: the process died over an ONNX file, or the file is too large to be run.
        CheckpointError: a file is unusable, or there is nothing to compare with.
        UnsupportedModelError: an ONNX file is to be compared with an unknown architecture.
        MissingDependencyError: the network is to be run and paddle or onnxruntime is missing.
    """
    if ".onnx" not in (Path(original).suffix, Path(candidate or "").suffix):
        return verify_here(original, candidate, probing)
    if candidate is None or Path(candidate).suffix != ".onnx":
        raise CheckpointError(
            f"cannot compare '{original}' with {_named(candidate)}",
            why="an ONNX file is compared with another ONNX file, or with the checkpoint before it",
            hint="reparam verify CHECKPOINT X.onnx, or reparam verify A.onnx B.onnx",
        )
    found: Verification = supervision.supervised(
        "reparam.equivalence.verification:verify_here",
        original,
        candidate,
        probing,
        limits=limits,
        files=(Path(original), Path(candidate)),
        what=f"cannot compare '{candidate}' with '{original}'",
    )
    return found


def verify_here(
    original: str | Path, candidate: str | Path | None = None, probing: Probing | None = None
) -> Verification:
    """Do :func:`verify` in this process."""
    probing = probing or Probing()
    if Path(original).suffix == ".onnx" and candidate is not None:
        from reparam.equivalence.graphs import verify_graphs  # needs onnx-ir, checkpoints do not

        return verify_graphs(Path(original), Path(candidate), probing)
    first = load_checkpoint(original, prefix=probing.prefix)
    need_finite(first.arrays)
    if probing.model is not None:
        return verify_layers(first, candidate, probing.model, probing)
    if candidate is None:
        if find_blocks(first.shapes, families_named(probing.families)).blocks:
            return _with_own_fusion(first, probing)
        source, epsilon, families = source_of(first)
        if probing.epsilon is None:
            probing = replace(probing, epsilon=epsilon)
        probing = replace(probing, families=probing.families or families)
        return _with_checkpoint(load_checkpoint(source, prefix=wanted_of(first)), first, probing)
    if Path(candidate).suffix == ".onnx":
        return _with_onnx(first, Path(candidate), probing)
    return _with_checkpoint(first, candidate_of(candidate, probing.prefix), probing)


def _named(candidate: str | Path | None) -> str:
    return f"'{candidate}'" if candidate is not None else "its own fusion"


def _with_own_fusion(first: Checkpoint, probing: Probing) -> Verification:
    families = probing.families
    fused, _ = fuse_arrays(first.arrays, epsilon=probing.epsilon, families=families)
    stages = _checkpoint_stages(first.arrays, fused, probing)
    return _verification(first, IN_MEMORY, "", probing, stages)


def _with_checkpoint(first: Checkpoint, second: Checkpoint, probing: Probing) -> Verification:
    stages = _checkpoint_stages(first.arrays, second.arrays, probing)
    return _verification(first, str(second.path), second.sha256, probing, stages)


def _with_onnx(first: Checkpoint, path: Path, probing: Probing) -> Verification:
    check_input(path)
    need_runnable(path)
    if not probing.network:
        raise CheckpointError(
            f"cannot compare with '{path}' without running the network",
            why="what an ONNX file computes shows only in its outputs",
            hint="leave --no-network out"
            if recognise(first.shapes)
            else "compare two ONNX files, or two checkpoints: the network is not known here",
        )
    arrays = as_float32(first.arrays)
    original = networks.Original(arrays, probing.overrides)
    _need_channels(original, probing)
    outputs = compare_onnx(original, path, probing)
    weights = networks.find_weights(arrays, path, probing.epsilon)
    return _verification(first, str(path), sha256_of(path), probing, (weights, *outputs))


def _checkpoint_stages(ours: Arrays, theirs: Arrays, probing: Probing) -> tuple[Stage, ...]:
    """Compare names and arrays, blocks, and, if those agree in kind, the networks."""
    chosen = families_named(probing.families)
    matches, swapped = _train_time_in(ours, theirs, chosen), _train_time_in(theirs, ours, chosen)
    first, second = ours, theirs
    if not matches and swapped:  # the deploy form was named first
        matches, first, second = swapped, theirs, ours
    stages = [compare_carried(matches, first, second)]
    if matches:
        stages.append(compare_blocks(matches, first, second, probing.epsilon))
    if any(stage.verdict == DIFFERENT for stage in stages) or not probing.network:
        return tuple(stages)
    if recognise({key: array.shape for key, array in ours.items()}) is None:
        return (*stages, networks.NO_ARCHITECTURE)
    if not (_are_run(ours) and _are_run(theirs)):
        return (*stages, networks.OTHER_DTYPE)
    try:
        original = networks.Original(ours, probing.overrides)
    except MissingDependencyError as error:
        hint = f"{error.hint}, or verify --no-network, which needs none of it"
        raise MissingDependencyError(error.what, hint=hint) from error
    _need_channels(original, probing)
    return (*stages, networks.compare_layers(original, theirs, probing))


def _are_run(arrays: Arrays) -> bool:
    """Whether a network runs on these weights in float32; PyTorch's counters are none."""
    weights = (array for key, array in arrays.items() if key.rpartition(".")[2] != COUNTER)
    return all(array.dtype in _RUN for array in weights)


def _train_time_in(
    ours: Arrays, theirs: Arrays, chosen: tuple[Family, ...]
) -> tuple[BlockMatch, ...]:
    """Return the blocks of ``ours`` in train-time form, and the pairs that ``theirs`` folded."""
    shapes = {key: array.shape for key, array in ours.items()}
    blocks = find_blocks(shapes, chosen).blocks
    pairs, _ = find_pairs(shapes, {key for match in blocks for key in match.branch_keys})
    return blocks + folded_in(pairs, {key: array.shape for key, array in theirs.items()})


def _need_channels(original: networks.Original, probing: Probing) -> None:
    own = probing.own_input
    if own is not None and (own.ndim != 4 or own.shape[1] != original.channels):
        raise CheckpointError(
            "the probe does not fit the network",
            found=f"an array of shape {own.shape}; needed: (N, {original.channels}, H, W)",
        )
    if own is not None:
        check_size((own.shape[2], own.shape[3]), original.multiple)


def _verification(
    first: Checkpoint, candidate: str, sha256: str, probing: Probing, stages: tuple[Stage, ...]
) -> Verification:
    found = recognise(first.shapes)
    blocks = find_blocks(first.shapes, families_named(probing.families)).blocks
    values = {match.epsilon for match in blocks}
    family = values.pop() if len(values) == 1 else None
    return Verification(
        original=str(first.path),
        candidate=candidate,
        original_sha256=first.sha256,
        candidate_sha256=sha256,
        architecture=found.name if found else None,
        epsilon=family if probing.epsilon is None else probing.epsilon,
        verdict=verdict_of(stages),
        stages=stages,
        notices=first.layout.notices,
    )
