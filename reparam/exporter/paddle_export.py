"""The Paddle side of an export: a deploy program for Paddle Inference, checked by running it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reparam.adapters.paddle_files import (
    check_parameters,
    open_predictor,
    outputs_in,
    run_predictor,
)
from reparam.adapters.paddle_models import state_of
from reparam.errors import ExportError
from reparam.exporter.checking import check_outputs, check_run
from reparam.exporter.networks import Network
from reparam.exporter.options import FLOAT32, Options
from reparam.exporter.probing import Probe, normal_images, probes_of, takes_small_probes
from reparam.exporter.report import PaddleFiles, Tensor


def make_paddle(
    network: Network,
    options: Options,
    static: tuple[Path, Path],
    files: Sequence[Path],
    probes: list[Probe] | None,
) -> dict[str, Any]:
    """Write a program and its parameters, checked; return what a report says of them.

    Args:
        network: that is exported.
        options: how.
        static: the program and its parameters.
        files: where the parameters and the program go.
        probes: images that an ONNX file was checked with, if one was made.

    Raises:
        ExportError: Paddle Inference does not run the program, or it holds other weights.
        NotEquivalentError: it is another function.
    """
    options.tell("checking the program in Paddle Inference")
    parameters, program = files
    shutil.copyfile(static[0], program)
    shutil.copyfile(static[1], parameters)
    held = check_parameters(program, parameters, network.exported)
    predictor = open_predictor(program, parameters)
    outputs = _outputs(program, predictor, options)
    if probes is None:
        plain = replace(options, precision=FLOAT32)
        probes = probes_of(network, plain, takes_small_probes(network, options))
    worst = check_outputs(
        lambda images: run_predictor(predictor, images),
        [output.name for output in outputs],
        [replace(probe, narrow=None) for probe in probes],
        any_batch=0 in options.open_axes,
    )
    size = options.input_size or network.default_size
    if probes[0].images.shape[2:] != size:
        image = normal_images((options.batch or 1, network.channels, *size))
        check_run(run_predictor(predictor, image), outputs)
    shape = options.shape(network.channels, network.default_size)
    made = PaddleFiles(
        program=options.paddle or program,
        parameters=(options.paddle or program).with_suffix(".pdiparams"),
        file_bytes=program.stat().st_size + parameters.stat().st_size,
        input=Tensor(network.input_name, _named(shape, options), FLOAT32),
        outputs=outputs,
        worst=worst,
    )
    return _told(network, made, held)


def _outputs(program: Path, predictor: Any, options: Options) -> tuple[Tensor, ...]:
    """Return the outputs that the program names, which are those that the predictor gives."""
    outputs = tuple(
        Tensor(name, _named(shape, options), dtype) for name, shape, dtype in outputs_in(program)
    )
    found = predictor.get_output_names()
    if found != [output.name for output in outputs]:
        raise ExportError(
            "the exported program is not the network", found=f"outputs {', '.join(found)}"
        )
    return outputs


def _told(network: Network, made: PaddleFiles, held: Collection[str]) -> dict[str, Any]:
    """Return the fields of a report, those of an ONNX file empty; ``held`` are the parameters."""
    state = state_of(network.exported)
    return {
        "paddle": made,
        "file_bytes": 0,
        "fused_blocks": sum(
            any(name.startswith(f"{prefix}.") for name in held) for prefix in network.fused
        ),
        "input": made.input,
        "outputs": made.outputs,
        "opset": None,
        "ir_version": None,
        "parameters": sum(array.size for key, array in state.items() if key in held),
        "ops_before": {},
        "ops_after": {},
        "repairs": {},
        "worst": made.worst,
    }


def _named(shape: Sequence[int | None], options: Options) -> tuple[int | str, ...]:
    """Return a shape with the names of the open axes of the image in the same places."""
    names = {axis: options.open_axes.get(axis, "?") for axis in range(len(shape))}
    return tuple(names[axis] if size is None else size for axis, size in enumerate(shape))
