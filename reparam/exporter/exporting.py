"""From a network to files that were checked before they got their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reparam.adapters.converter import Converter, need_converter
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.static_program import save_static
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.detection import NMS, Preprocessing, Selection
from reparam.detection.classes import Classes
from reparam.drafts import scratch_folder
from reparam.exporter.contract import infer_cfg_of
from reparam.exporter.describing import describe, without_infer_cfg
from reparam.exporter.detectors import for_network
from reparam.exporter.layer_networks import network_of_model
from reparam.exporter.networks import Network, network_of
from reparam.exporter.onnx_export import make_onnx
from reparam.exporter.options import FLOAT32, Options, check_request, data_of
from reparam.exporter.paddle_export import make_paddle
from reparam.exporter.probing import Probe
from reparam.exporter.raw_pixels import taking_raw_pixels
from reparam.exporter.report import ExportReport
from reparam.files import whole_files
from reparam.normalization import Normalization


def export(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    prefix: str | None = None,
    fuse: bool = True,
    epsilon: float | None = None,
    settings: Mapping[str, Any] | None = None,
    model: ForeignModel | None = None,
    input_size: tuple[int, int] | None = None,
    batch: int | None = None,
    dynamic: Sequence[str] | None = None,
    opset: int = 17,
    output_names: Sequence[str] | None = None,
    precision: str = FLOAT32,
    keep_io: bool = True,
    external_data: bool = False,
    paddle: str | Path | None = None,
    fold_normalize: str | Normalization | None = None,
    head: str | None = None,
    compat: str | None = None,
    selection: Selection | None = None,
    classes: Classes | None = None,
    preprocessing: Preprocessing | None = None,
    force: bool = False,
    timeout: float = 600,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write the checkpoint at a path as an ONNX file; return the report.

    Args:
        checkpoint: a ``.pdparams``, ``.safetensors`` or ``.pth`` file.
        output: the file to write; ``x.onnx`` beside ``x.pdparams`` if None.
        prefix: use only the weights under this name or prefix.
        fuse, epsilon, settings, model: as :func:`export_onnx`, which also says what is raised.
        input_size, batch, dynamic, opset, output_names, precision, keep_io, external_data, paddle,
            fold_normalize, head, compat, selection, classes, preprocessing, force, timeout,
            progress: fields of :class:`Options`, which says what they mean.

    Raises:
        CheckpointError: the file is not a checkpoint.
    """
    loaded = load_checkpoint(checkpoint, prefix=prefix)
    return export_onnx(
        loaded,
        Path(output or loaded.path.with_suffix(".onnx")),
        fuse=fuse,
        epsilon=epsilon,
        settings=settings,
        model=model,
        input_size=input_size,
        batch=batch,
        dynamic=dynamic,
        opset=opset,
        output_names=output_names,
        precision=precision,
        keep_io=keep_io,
        external_data=external_data,
        paddle=None if paddle is None else Path(paddle),
        fold_normalize=fold_normalize,
        head=head,
        compat=compat,
        selection=selection or Selection(),
        classes=classes,
        preprocessing=preprocessing,
        force=force,
        timeout=timeout,
        progress=progress,
    )


def export_onnx(
    checkpoint: Checkpoint,
    output: Path | None,
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
        output: the file to write; None where only ``paddle`` of the options is wanted.
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
    with _workshop(output, chosen) as workshop:
        chosen.tell("building the network")
        if model is None:
            network = network_of(checkpoint, fuse=fuse, epsilon=epsilon, settings=settings)
        else:
            network = network_of_model(checkpoint, model, fuse=fuse, input_size=chosen.input_size)
        return _export(network, output, chosen, workshop)


def export_network(network: Network, output: Path | None, options: Options) -> ExportReport:
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
    with _workshop(output, options) as workshop:
        return _export(network, output, options, workshop)


@dataclass(frozen=True)
class _Workshop:
    """A folder for the static program, and a converter that is getting ready meanwhile."""

    folder: Path
    converter: Converter | None


@contextmanager
def _workshop(output: Path | None, options: Options) -> Iterator[_Workshop]:
    with scratch_folder() as folder:
        if output is None:
            yield _Workshop(folder, None)
            return
        need_converter()
        inputs = folder / "light.json", folder / "light.pdiparams"
        with Converter(*inputs, opset=options.opset) as converter:
            yield _Workshop(folder, converter)


def _export(
    network: Network, output: Path | None, options: Options, workshop: _Workshop
) -> ExportReport:
    network, options = for_network(network, options, output)
    network, options = taking_raw_pixels(network, options)
    size = options.input_size or network.default_size
    shape = options.shape(network.channels, size)
    paths = _files(output, options, describe(network, options).has_infer_cfg)
    with whole_files(paths, options.force) as files:
        options.tell("converting to ONNX" if output else "tracing the network")
        static = save_static(
            network.exported, network.input_name, shape, workshop.folder, straight=network.any_size
        )
        told: dict[str, Any] = {}
        probes: list[Probe] | None = None
        if workshop.converter is not None and output is not None:
            draft = dict(zip(paths, files, strict=True))
            onnx = draft[output], draft[data_of(output)]
            told, probes = make_onnx(network, options, static, workshop.converter, *onnx)
        if options.paddle is not None:
            told = make_paddle(network, options, static, files[-2:], probes) | told
    if network.maps is not None:
        selected = options.selection if options.head == NMS else None
        told |= {"head": options.head, "compat": options.compat, "selection": selected}
    return _report(network, output, told)


def _files(output: Path | None, options: Options, contract: bool) -> list[Path]:
    """Return what may be written, weights before the files that name them."""
    onnx, paddle = [], options.paddle
    if output is not None:
        onnx = [data_of(output), *([infer_cfg_of(output)] if contract else []), output]
    return onnx + ([] if paddle is None else [paddle.with_suffix(".pdiparams"), paddle])


def _of_program(told: Mapping[str, Any]) -> list[str]:
    """Say what is one operator in the ONNX file alone; the program keeps its layers."""
    fused = len(told.get("fused_regions", ()))
    if told.get("paddle") is None or not fused:
        return []
    return [
        f"the program for Paddle Inference keeps {fused} region(s) that are one operator in the "
        "ONNX file; they were found in its graph, and only there"
    ]


def _report(network: Network, output: Path | None, told: dict[str, Any]) -> ExportReport:
    outside = output is not None and told.get("data_bytes")
    beside = told.pop("contract", False)
    notices = (*network.notices, *told.pop("notices", ()), *_of_program(told))
    if output is not None and not beside:
        notices = (*notices, *without_infer_cfg(network, infer_cfg_of(output)))
    return ExportReport(
        output=output,
        source=network.source,
        source_sha256=network.source_sha256,
        source_form=network.source_form,
        architecture=network.name,
        settings=network.settings,
        assumed=network.assumed,
        epsilon=network.epsilon,
        blocks=len(network.blocks),
        notices=notices,
        data=data_of(output) if output is not None and outside else None,
        contract=infer_cfg_of(output) if output is not None and beside else None,
        **told,
    )
