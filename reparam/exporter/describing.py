"""From a network and the options of its export to the contract of the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from reparam.adapters.head_model import OWN
from reparam.adapters.onnx_model import Interface
from reparam.detection import Preprocessing
from reparam.errors import ExportError
from reparam.exporter.contract import Described, infer_cfg, infer_cfg_text
from reparam.exporter.networks import Network
from reparam.exporter.options import Options
from reparam.exporter.raw_pixels import preset_of
from reparam.exporter.report import Tensor
from reparam.normalization import PRESETS

NOT_KNOWN = (
    "no {} is written: it is not known how the images of this detector are normalised. "
    "--fold-normalize ppyoloe (or ppyoloe+) says it, or the training configuration (-c)"
)


def describe(network: Network, options: Options) -> Described:
    """Return what is known of a file before it is made; its inputs and outputs are not."""
    try:
        preset = preset_of(network)
    except ExportError:
        preset = ""  # not known, and that is what the contract says
    about = Described(
        architecture=network.name,
        source_sha256=network.source_sha256,
        size=options.input_size or network.default_size,
        normalization=options.normalization,
        usual=PRESETS.get(preset),
    )
    if network.maps is not None:
        return _of_detector(about, network, options)
    used = network.settings
    number = (used.get("class_num") or used.get("num_classes")) if preset else None
    return replace(about, labels=number)


def _of_detector(about: Described, network: Network, options: Options) -> Described:
    known, usual = options.preprocessing, about.usual
    if known is None and usual is not None:
        known = Preprocessing(_of_channels(usual.mean), _of_channels(usual.std))
    return replace(
        about,
        preprocessing=known,
        assumed=options.preprocessing is None,
        maps=network.maps,
        head=options.head,
        layout=options.compat or OWN,
        selection=options.selection,
        classes=None if options.classes is None else options.classes.names,
    )


def _of_channels(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return numbers * 3 if len(numbers) == 1 else numbers


def with_interface(about: Described, interface: Interface, weights: Iterable[str]) -> Described:
    """Return the same with the inputs and outputs of the file.

    Args:
        interface: of its graph.
        weights: names of inputs that are weights.
    """
    heavy = set(weights)
    inputs = [Tensor.of(value) for value in interface.inputs if value.name not in heavy]
    outputs = [Tensor.of(value) for value in interface.outputs]
    return replace(about, inputs=tuple(inputs), outputs=tuple(outputs))


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
