"""From a network to an ONNX file that was checked before it got its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reparam.adapters.converter import check_opset, convert, need_converter
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.onnx_cleaning import Cleaned, clean_model
from reparam.adapters.onnx_model import Value, arrays_of, interface_of, stamped
from reparam.adapters.paddle_models import parameter_names
from reparam.adapters.static_program import save_static
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.errors import ExportError, OutputError
from reparam.exporter.checking import check_file, check_outputs
from reparam.exporter.layer_networks import network_of_model
from reparam.exporter.networks import Network, network_of
from reparam.exporter.report import Difference, ExportReport, Tensor
from reparam.files import check_output, whole_file


@dataclass(frozen=True)
class Options:
    """How to export a network; none of it changes what the network is.

    Attributes:
        input_size: (H, W); the network's own default if None.
        batch: of the input; None leaves that axis open.
        opset: 11 to 21.
        force: replace a file that is there.
        timeout: seconds for the converter.
        progress: is told each step in a few words.
    """

    input_size: tuple[int, int] | None = None
    batch: int | None = None
    opset: int = 17
    force: bool = False
    timeout: float = 600
    progress: Callable[[str], None] | None = None

    def tell(self, step: str) -> None:
        """Pass a step on to ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(step)


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
    fuse: bool = True,
    epsilon: float | None = None,
    settings: Mapping[str, Any] | None = None,
    model: ForeignModel | None = None,
    **options: Any,
) -> ExportReport:
    """Write a checkpoint of a known architecture as an ONNX file, checked; return the report.

    Args:
        checkpoint: in any form; a half-fused one is finished.
        output: the file to write.
        fuse: export the deploy form, every block one convolution and every BatchNorm folded.
            Otherwise the network as it is in the checkpoint, BatchNorms and all: a baseline.
        epsilon: of the BatchNorms, in place of what the family says.
        settings: of the architecture, in place of what was recognised or assumed.
        model: the user's own network, in place of a recognised one.
        options: the fields of :class:`Options`.

    Raises:
        UnsupportedModelError: the architecture is unknown, or the settings fit none.
        CheckpointError: keys are missing, unexpected or misshapen, or values are not finite.
        ExportError, NotEquivalentError, OutputError, MissingDependencyError: as
            :func:`export_network`.
    """
    chosen = Options(**options)
    check_request(checkpoint.path, output, chosen)
    need_converter()
    chosen.tell("building the network")
    if model is None:
        network = network_of(checkpoint, fuse=fuse, epsilon=epsilon, settings=settings)
    else:
        network = network_of_model(checkpoint, model, fuse=fuse, input_size=chosen.input_size)
    return export_network(network, output, chosen)


def export_network(network: Network, output: Path, options: Options) -> ExportReport:
    """Write a network as an ONNX file, checked; return the report.

    Nothing is at ``output`` until the file is whole, valid, loads in onnxruntime without a
    warning and computes what the network computes.

    Raises:
        ExportError: the converter failed, or what it wrote did not pass the checks.
        NotEquivalentError: the file would be another function than the network.
        OutputError: the file cannot be written there.
        MissingDependencyError: a package that exporting needs is not installed.
    """
    check_request(network.source, output, options)
    need_converter()
    options.tell("converting to ONNX")
    cleaned = _converted(network, options)
    options.tell("checking the file against the network")
    session = check_file(cleaned.model, network.exported, network.counted)
    interface = interface_of(cleaned.model)
    worst = check_outputs(session, interface, network.original, options.batch)
    with whole_file(output, options.force) as temporary:
        temporary.write_bytes(cleaned.model)
    return _report(network, output, cleaned, worst)


def check_request(source: Path, output: Path, options: Options) -> None:
    """Refuse, before anything is built, what could not end well.

    Raises:
        ExportError: the input would be empty, or the opset is not one of 11 to 21.
        OutputError: the output cannot be written, or is the source.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise OutputError(
            f"cannot write '{output}'", why="it is the checkpoint that is being exported"
        )
    check_output(output, options.force)
    size, batch = options.input_size, options.batch
    if min(size or (1,)) < 1 or (batch is not None and batch < 1):
        raise ExportError(
            "the input must have at least one pixel and one image",
            found=f"input size {size}, batch {batch}",
        )
    check_opset(options.opset)


def _converted(network: Network, options: Options) -> Cleaned:
    size = options.input_size or network.default_size
    shape = (options.batch, network.channels, *size)
    with tempfile.TemporaryDirectory(prefix="reparam-export-") as folder:
        static = save_static(network.exported, network.input_name, shape, Path(folder))
        raw = convert(*static, opset=options.opset, timeout=options.timeout)
    cleaned = clean_model(raw, names=parameter_names(network.exported))
    metadata = _metadata(network, cleaned.model)
    model = stamped(cleaned.model, ("reparam", version("reparam")), metadata)
    return replace(cleaned, model=model)


def _metadata(network: Network, model: bytes) -> dict[str, str]:
    """Return what the file says of itself; a reader can find its source by the hash."""
    said = {
        "reparam.version": version("reparam"),
        "reparam.architecture": network.name,
        "reparam.source_sha256": network.source_sha256,
        "reparam.fused_blocks": str(_fused_blocks(network, model)),
    }
    if network.epsilon is not None:
        said["reparam.epsilon"] = repr(network.epsilon)
    return said


def _fused_blocks(network: Network, model: bytes) -> int:
    """Return the blocks that are one convolution in the file; unneeded stages are not in it."""
    stored = arrays_of(model)
    return sum(any(name.startswith(f"{prefix}.") for name in stored) for prefix in network.fused)


def _report(network: Network, output: Path, cleaned: Cleaned, worst: Difference) -> ExportReport:
    interface = interface_of(cleaned.model)
    return ExportReport(
        output=output,
        file_bytes=len(cleaned.model),
        source=network.source,
        source_sha256=network.source_sha256,
        source_form=network.source_form,
        architecture=network.name,
        settings=network.settings,
        assumed=network.assumed,
        epsilon=network.epsilon,
        blocks=len(network.blocks),
        fused_blocks=_fused_blocks(network, cleaned.model),
        input=_tensor(interface.inputs[0]),
        outputs=tuple(_tensor(value) for value in interface.outputs),
        opset=interface.opset,
        ir_version=interface.ir_version,
        parameters=interface.parameters,
        ops_before=cleaned.before,
        ops_after=cleaned.after,
        repairs=cleaned.repairs,
        worst=worst,
        notices=network.notices,
    )


def _tensor(value: Value) -> Tensor:
    return Tensor(value.name, value.shape, value.dtype)
