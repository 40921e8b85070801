"""From a checkpoint to an ONNX file that was checked before it got its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reparam.adapters.checkpoint_layers import layer_of
from reparam.adapters.converter import check_opset, convert, need_converter
from reparam.adapters.deploy_layers import deploy_layer_of, recognised_in
from reparam.adapters.onnx_cleaning import Cleaned, clean_model
from reparam.adapters.onnx_model import Value, arrays_of, interface_of, stamped
from reparam.adapters.paddle_models import as_float32, parameter_names
from reparam.adapters.static_program import save_static
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.checkpoint.fusing import need_finite
from reparam.errors import ExportError, OutputError
from reparam.exporter.checking import check_file, check_outputs
from reparam.exporter.report import Difference, ExportReport, Tensor
from reparam.files import check_output, whole_file

CLASSIFIER_SIZE = (224, 224)
BACKBONE_SIZE = (640, 640)


@dataclass(frozen=True)
class _Request:
    """What is to be exported, every default filled in."""

    checkpoint: Checkpoint
    recognised: Any
    settings: dict[str, Any]
    overrides: dict[str, Any]
    size: tuple[int, int]
    batch: int | None
    fuse: bool

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of the input: N (None where open), C, H, W."""
        return (self.batch, int(self.settings.get("in_channels", 3)), *self.size)


def export(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    prefix: str | None = None,
    **options: Any,
) -> ExportReport:
    """Write the checkpoint at a path as an ONNX file; return the report.

    Args:
        checkpoint: a ``.pdparams`` or ``.safetensors`` file.
        output: the file to write; ``x.onnx`` beside ``x.pdparams`` if None.
        prefix: use only the weights under this name or prefix.
        options: as :func:`export_onnx`, which also says what is raised.

    Raises:
        CheckpointError: the file is not a checkpoint.
    """
    loaded = load_checkpoint(checkpoint, prefix=prefix)
    return export_onnx(loaded, Path(output or loaded.path.with_suffix(".onnx")), **options)


def export_onnx(
    checkpoint: Checkpoint,
    output: Path,
    *,
    input_size: tuple[int, int] | None = None,
    batch: int | None = None,
    fuse: bool = True,
    opset: int = 17,
    epsilon: float | None = None,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    timeout: float = 600,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write a checkpoint of a known architecture as an ONNX file, checked; return the report.

    Nothing is at ``output`` until the file is whole, valid, loads in onnxruntime without a
    warning and computes what the network in the checkpoint computes.

    Args:
        checkpoint: in any form; a half-fused one is finished.
        output: the file to write.
        input_size: (H, W); 224 x 224 for a classifier, 640 x 640 for a backbone if None.
        batch: of the input; None leaves that axis open.
        fuse: export the deploy form, every block one convolution and every BatchNorm folded.
            Otherwise the network as it is in the checkpoint, BatchNorms and all: a baseline.
        opset: 11 to 21.
        epsilon: of the BatchNorms, in place of what the family says.
        settings: of the architecture, in place of what was recognised or assumed.
        force: replace a file that is there.
        timeout: seconds for the converter.
        progress: is told each step in a few words.

    Raises:
        UnsupportedModelError: the architecture is unknown, or the settings fit none.
        CheckpointError: keys are missing, unexpected or misshapen, or values are not finite.
        ExportError: the converter failed, or what it wrote did not pass the checks.
        NotEquivalentError: the file would be another function than the checkpoint.
        OutputError: the file cannot be written there.
        MissingDependencyError: a package that exporting needs is not installed.
    """
    tell = progress or (lambda _: None)
    _check_arguments(checkpoint, output, input_size, batch, force)
    check_opset(opset)
    need_converter()
    request = _request(checkpoint, input_size, batch, fuse, epsilon, settings)
    tell(f"building {request.recognised.name}")
    arrays = as_float32(checkpoint.arrays)
    need_finite(arrays)
    original = layer_of(arrays, request.overrides)
    exported, notices = original, _source_notices(checkpoint)
    if fuse:
        exported, report = deploy_layer_of(arrays, request.overrides)
        notices += report.notices
    tell("converting to ONNX")
    cleaned = _converted(exported, request, opset, timeout)
    tell("checking the file against the checkpoint")
    session = check_file(cleaned.model, exported)
    worst = check_outputs(session, interface_of(cleaned.model), original, batch)
    with whole_file(output, force) as temporary:
        temporary.write_bytes(cleaned.model)
    return _report(request, output, cleaned, worst, notices)


def _check_arguments(
    checkpoint: Checkpoint,
    output: Path,
    input_size: tuple[int, int] | None,
    batch: int | None,
    force: bool,
) -> None:
    if output.exists() and checkpoint.path.exists() and output.samefile(checkpoint.path):
        raise OutputError(
            f"cannot write '{output}'", why="it is the checkpoint that is being exported"
        )
    check_output(output, force)
    if min(input_size or (1,)) < 1 or (batch is not None and batch < 1):
        raise ExportError(
            "the input must have at least one pixel and one image",
            found=f"input size {input_size}, batch {batch}",
        )


def _request(
    checkpoint: Checkpoint,
    input_size: tuple[int, int] | None,
    batch: int | None,
    fuse: bool,
    epsilon: float | None,
    settings: Mapping[str, Any] | None,
) -> _Request:
    recognised = recognised_in(checkpoint.arrays)
    overrides = dict(settings or {})
    if epsilon is not None:
        overrides["epsilon"] = epsilon
    used = {**recognised.settings, **recognised.assumed, **overrides}
    classes = used.get("class_num") or used.get("num_classes")
    size = input_size or (CLASSIFIER_SIZE if classes else BACKBONE_SIZE)
    return _Request(checkpoint, recognised, used, overrides, size, batch, fuse)


def _converted(layer: Any, request: _Request, opset: int, timeout: float) -> Cleaned:
    with tempfile.TemporaryDirectory(prefix="reparam-export-") as folder:
        static = save_static(layer, layer.input_name, request.shape, Path(folder))
        raw = convert(*static, opset=opset, timeout=timeout)
    cleaned = clean_model(raw, names=parameter_names(layer))
    metadata = _metadata(request, cleaned.model)
    model = stamped(cleaned.model, ("reparam", version("reparam")), metadata)
    return replace(cleaned, model=model)


def _metadata(request: _Request, model: bytes) -> dict[str, str]:
    """Return what the file says of itself; a reader can find its source by the hash."""
    return {
        "reparam.version": version("reparam"),
        "reparam.architecture": request.recognised.name,
        "reparam.source_sha256": request.checkpoint.sha256,
        "reparam.epsilon": repr(float(request.settings["epsilon"])),
        "reparam.fused_blocks": str(_fused_blocks(request, model)),
    }


def _fused_blocks(request: _Request, model: bytes) -> int:
    """Return the blocks that are one convolution in the file; unneeded stages are not in it."""
    recognised = request.recognised
    prefixes = recognised.blocks if request.fuse else recognised.deployed
    stored = arrays_of(model)
    return sum(any(name.startswith(f"{prefix}.") for name in stored) for prefix in prefixes)


def _report(
    request: _Request,
    output: Path,
    cleaned: Cleaned,
    worst: Difference,
    notices: list[str],
) -> ExportReport:
    recognised, checkpoint = request.recognised, request.checkpoint
    interface = interface_of(cleaned.model)
    assumed = {k: v for k, v in recognised.assumed.items() if k not in request.overrides}
    return ExportReport(
        output=output,
        file_bytes=len(cleaned.model),
        source=checkpoint.path,
        source_sha256=checkpoint.sha256,
        source_form=recognised.form,
        architecture=recognised.name,
        settings=request.settings,
        assumed=assumed,
        epsilon=float(request.settings["epsilon"]),
        blocks=len(recognised.blocks),
        fused_blocks=_fused_blocks(request, cleaned.model),
        input=_tensor(interface.inputs[0]),
        outputs=tuple(_tensor(value) for value in interface.outputs),
        opset=interface.opset,
        ir_version=interface.ir_version,
        parameters=interface.parameters,
        ops_before=cleaned.before,
        ops_after=cleaned.after,
        repairs=cleaned.repairs,
        worst=worst,
        notices=tuple(notices),
    )


def _tensor(value: Value) -> Tensor:
    return Tensor(value.name, value.shape, value.dtype)


def _source_notices(checkpoint: Checkpoint) -> list[str]:
    """Say how the weights were found, and where float32 is not the dtype they are stored in."""
    dtypes = {array.dtype.name for array in checkpoint.arrays.values()}
    said = {
        "float16": "weights of float16 are float32 in the file, with the same values",
        "bfloat16": "weights of bfloat16 are float32 in the file, with the same values",
        "float64": "weights of float64 were rounded to float32",
    }
    return [*checkpoint.layout.notices, *(said[name] for name in said if name in dtypes)]
