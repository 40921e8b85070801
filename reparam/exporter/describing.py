"""From a network and the options of its export to the contract of the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from reparam.adapters.onnx_model import Interface
from reparam.errors import ExportError
from reparam.exporter.contract import Described, infer_cfg, infer_cfg_text
from reparam.exporter.networks import Network
from reparam.exporter.options import FLOAT16, FLOAT32, Options
from reparam.exporter.raw_pixels import preset_of
from reparam.exporter.report import Tensor
from reparam.graph.normalizing import PRESETS

_OF_CLASSIFIERS = "imagenet"


def describe(network: Network, options: Options) -> Described:
    """Return what is known of a file before it is made; its inputs and outputs are not."""
    try:
        preset = preset_of(network)
    except ExportError:
        preset = ""  # not known, and that is what the contract says
    used = network.settings
    classifies = preset == _OF_CLASSIFIERS
    return Described(
        architecture=network.name,
        source_sha256=network.source_sha256,
        size=options.input_size or network.default_size,
        normalization=options.normalization,
        usual=PRESETS.get(preset),
        labels=(used.get("class_num") or used.get("num_classes")) if classifies else None,
    )


def with_interface(
    about: Described, interface: Interface, weights: Iterable[str], options: Options
) -> Described:
    """Return the same with the inputs and outputs of the file.

    Args:
        interface: of the model in float32, before it was rounded.
        weights: names of its inputs that are weights.
        options: what becomes of its inputs and outputs.
    """
    heavy = set(weights)
    narrow = options.precision == FLOAT16 and not options.keep_io

    def tensor(known: Tensor) -> Tensor:
        return replace(known, dtype=FLOAT16) if narrow and known.dtype == FLOAT32 else known

    images = [Tensor.of(value) for value in interface.inputs if value.name not in heavy]
    outputs = [Tensor.of(value) for value in interface.outputs]
    return replace(about, inputs=tuple(map(tensor, images)), outputs=tuple(map(tensor, outputs)))


def check_described(about: Described, interface: Interface) -> None:
    """Refuse a contract that is of another file.

    Raises:
        ExportError: inputs or outputs of the file are not those of the contract.
    """
    for what, said, values in (
        ("inputs", about.inputs, interface.inputs),
        ("outputs", about.outputs, interface.outputs),
    ):
        found = tuple(Tensor.of(value) for value in values)
        if found != said:
            raise ExportError(
                f"the contract of the file has not its {what}", found=f"{found}; said: {said}"
            )


def write_infer_cfg(about: Described, path: Path) -> bool:
    """Write the file for PaddleDetection's programs, where there is one; return whether."""
    said = infer_cfg(about)
    if said is None:
        return False
    path.write_text(infer_cfg_text(said), encoding="ascii")
    return True
