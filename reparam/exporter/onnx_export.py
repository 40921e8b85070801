"""The ONNX side of an export: convert, clean, write, check."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters.converter import Converter
from reparam.adapters.head_model_files import check_joined, cut_at_maps
from reparam.adapters.light_program import lighten
from reparam.adapters.onnx_axes import AXES, is_free_of_sizes, with_open_axes
from reparam.adapters.onnx_cleaning import clean_model
from reparam.adapters.onnx_files import LIMIT, open_beside, read_header, write_model
from reparam.adapters.onnx_model import (
    add_metadata,
    import_onnx,
    interface_of,
    op_counts,
    stamp,
)
from reparam.adapters.onnx_runtime import run_onnx
from reparam.adapters.paddle_models import Array, import_paddle, state_of
from reparam.errors import ExportError
from reparam.exporter.checking import check_file, check_outputs, check_run
from reparam.exporter.contract import Described, as_metadata, infer_cfg_of
from reparam.exporter.describing import (
    check_described,
    describe,
    with_interface,
    write_infer_cfg,
)
from reparam.exporter.detectors import head_metadata, map_names, plan_of, with_head
from reparam.exporter.ending import Ended, end_with_fusing
from reparam.exporter.float16 import Narrow, in_float16
from reparam.exporter.networks import Network
from reparam.exporter.options import FLOAT16, Options
from reparam.exporter.probing import Probe, images_for, probes_of, takes_small_probes
from reparam.exporter.report import Difference, Float16, Tensor
from reparam.normalization import METADATA
from reparam.version import tool_version


@dataclass(frozen=True)
class Checks:
    """What every file of one network has to pass.

    Attributes:
        network: that is exported.
        options: how.
        probes: images, and what the network makes of them.
        small: they are smaller than the image that the file takes.
        made: weights that are of no layer, but were computed from them, by name.
    """

    network: Network
    options: Options
    probes: list[Probe]
    small: bool
    made: Mapping[str, Array] = field(default_factory=dict)

    def passed(
        self, path: Path, weights: Mapping[str, Array] | None = None, bare: bool = False
    ) -> tuple[Difference, Any]:
        """Return how close a file comes to the network, and its header.

        Small images are run on a copy of the file with its axes open, and one image of the file's
        own size on the file itself, whose outputs then have to be finite and of the right shape,
        or, of a detector, what its own maps mean.

        Args:
            path: of the file.
            weights: that it has to hold, by key; those of the network if None.
            bare: it ends at the maps, whatever head is asked for.

        Raises:
            ExportError: the file is not valid, not complete, or does not run.
            NotEquivalentError: it is another function.
        """
        header, exported = read_header(path), self.network.exported
        plan = None if bare else plan_of(self.network, self.options)
        if weights is None:
            weights = ChainMap(dict(self.made), state_of(exported))  # type: ignore[arg-type]
        session = check_file(path, header, exported, weights, self.network.counted, self.made)
        interface = interface_of(header)
        dtype = np.dtype(interface.inputs[0].dtype)
        run, names = session, [value.name for value in interface.outputs]
        graph = header
        if plan is not None:
            names = list(plan.maps.names)
            graph = cut_at_maps(header, names)
        if self.small or plan is not None:
            run = open_beside(with_open_axes(graph, AXES) if self.small else graph, path)
        worst = check_outputs(
            lambda images: run_onnx(run, images.astype(dtype)),
            names,
            self.probes,
            any_batch=0 in self.options.open_axes,
        )
        size = self.options.input_size or self.network.default_size
        shape = (self.options.batch or 1, self.network.channels, *size)
        if plan is not None:
            image = images_for(self.options, shape).astype(dtype)
            check_joined(path, header, plan, image, "an image of its size")
        elif self.small:
            image = images_for(self.options, shape)
            declared = [Tensor.of(value) for value in interface.outputs]
            check_run(run_onnx(session, image.astype(dtype)), declared)
        return worst, header


def make_onnx(
    network: Network,
    options: Options,
    static: tuple[Path, Path],
    converter: Converter,
    path: Path,
    data: Path,
) -> tuple[dict[str, Any], list[Probe]]:
    """Write an ONNX file, checked; return what a report says of it, and the probes.

    Args:
        network: that is exported.
        options: how.
        static: its program and parameters.
        converter: is getting ready; its input is written here.
        path: of the file.
        data: of its weights, if they do not go into it. The contract of a detector's file goes
            beside both.

    Raises:
        ExportError: the converter failed, or what it wrote did not pass the checks.
        NotEquivalentError: the file would be another function than the network.
    """
    light = lighten(static, converter.inputs)
    heavy = light.heavy
    converter.start()
    small = takes_small_probes(network, options)
    probes = probes_of(network, options, small)  # while the converter works
    raw = converter.result(options.timeout)
    options.tell("checking the file against the network")
    cleaned = clean_model(raw, axes=options.open_axes, outputs=map_names(network, options))
    _need_one_image(cleaned.proto, network.input_name, heavy)
    fused = _fused_blocks(network, cleaned.proto, heavy)
    weights = state_of(network.exported).only(sorted(heavy))
    ended = end_with_fusing(
        cleaned.proto, weights, fuse=network.finish, normalization=options.normalization
    )
    if small and not is_free_of_sizes(ended.proto, network.input_name):
        small, probes = False, probes_of(network, options, small=False)
    checks = Checks(network, options, probes, small, ended.made)
    stamp(ended.proto, ("reparam", tool_version()), _metadata(network, options, fused))
    told = _write_and_check(checks, ended, path, data, static[0].parent)
    cleaning = {"ops_before": cleaned.before, "repairs": light.repairs | cleaned.repairs}
    return {**told, **cleaning, "fused_blocks": fused}, probes


def _write_and_check(
    checks: Checks, ended: Ended, path: Path, data: Path, scratch: Path
) -> dict[str, Any]:
    proto, weights = ended.proto, ended.weights
    outside = checks.options.external_data or _bytes_of(proto, weights) > LIMIT
    told: dict[str, Any] = {}
    if checks.options.precision == FLOAT16:
        wide = replace(checks, probes=[replace(p, narrow=None) for p in checks.probes])
        file, beside = scratch / "float32.onnx", scratch / "float32.onnx.data"
        write_model(proto, weights, file, beside if outside else None)
        before, _ = wide.passed(file, bare=True)
        keep = checks.options.keep_io
        headed = plan_of(checks.network, checks.options) is not None  # it computes in float32
        narrow = in_float16(proto, weights, checks.network, checks.probes, file,
                            keep, keep or headed, ended.made)  # fmt: skip
        outside = checks.options.external_data or _bytes_of(narrow.proto, narrow.weights) > LIMIT
        whole, about = _finished(narrow.proto, narrow.weights, checks)
        write_model(whole, narrow.weights, path, data if outside else None)
        worst, header = checks.passed(path, narrow.values)
        told = {"precision": FLOAT16, "float16": _float16(narrow, before)}
    else:
        whole, about = _finished(proto, weights, checks)
        write_model(whole, weights, path, data if outside else None)
        worst, header = checks.passed(path)
    interface = interface_of(header)
    check_described(about, interface)
    return {
        **told,
        "contract": write_infer_cfg(about, infer_cfg_of(path)),
        "file_bytes": path.stat().st_size,
        "data_bytes": data.stat().st_size if outside else 0,
        "input": Tensor.of(interface.inputs[0]),
        "outputs": tuple(Tensor.of(value) for value in interface.outputs),
        "opset": interface.opset,
        "ir_version": interface.ir_version,
        "parameters": interface.parameters,
        "ops_after": op_counts(header),
        "fused_regions": ended.fused,
        "left_regions": ended.left,
        "notices": ended.notices,
        "worst": worst,
    }


def _finished(proto: Any, weights: Mapping[str, Array], checks: Checks) -> tuple[Any, Described]:
    """Return a graph with its head and with its contract, and that contract."""
    whole = with_head(proto, checks.network, checks.options)
    known = describe(checks.network, checks.options)
    about = with_interface(known, interface_of(whole), weights)
    add_metadata(whole, as_metadata(about))
    return whole, about


def _float16(narrow: Narrow, before: Difference) -> Float16:
    return Float16(
        weights=narrow.rounding.values,
        subnormal=narrow.rounding.subnormal,
        zero=narrow.rounding.zero,
        largest=narrow.largest,
        largest_at=narrow.largest_at,
        float32=before,
    )


def _bytes_of(proto: Any, weights: Mapping[str, Array]) -> int:
    return int(proto.ByteSize()) + sum(array.nbytes for array in weights.values())


def _need_one_image(proto: Any, image: str, weights: set[str]) -> None:
    found = {value.name for value in proto.graph.input} - weights
    if found != {image}:
        raise ExportError(
            "the exported graph is not the network",
            found=f"inputs {sorted(found)}; needed: '{image}'",
        )


def _fused_blocks(network: Network, proto: Any, heavy: set[str]) -> int:
    """Return the blocks that are one convolution in the file; unneeded stages are not in it."""
    names = heavy | {tensor.name for tensor in proto.graph.initializer}
    return sum(any(name.startswith(f"{prefix}.") for name in names) for prefix in network.fused)


def _metadata(network: Network, options: Options, fused: int) -> dict[str, str]:
    """Return what the file says of itself; a reader can find its source by the hash."""
    size = options.input_size or network.default_size
    said = {
        "reparam.version": tool_version(),
        "reparam.architecture": network.name,
        "reparam.source_sha256": network.source_sha256,
        "reparam.source_form": network.source_form,
        "reparam.fused_blocks": str(fused),
        "reparam.blocks": " ".join(network.fused),
        "reparam.precision": options.precision,
        "reparam.dynamic_axes": " ".join(options.open_axes.values()),
        "reparam.input_size": "x".join(map(str, size)),
        "reparam.made_with.paddlepaddle": str(import_paddle().__version__),
        "reparam.made_with.paddle2onnx": version("paddle2onnx"),
        "reparam.made_with.onnx": str(import_onnx().__version__),
    }
    said |= head_metadata(network, options)
    if network.epsilon is not None:
        said["reparam.epsilon"] = repr(network.epsilon)
    if options.normalization is not None:
        said[METADATA] = options.normalization.as_text(network.input_name)
    return said
