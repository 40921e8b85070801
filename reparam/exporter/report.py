"""What an export did, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """An input or output of the file; a text in the shape names an open axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Difference:
    """The largest difference from the truth, and what it may be.

    Attributes:
        verdict: ``"equal"``, or ``"undecidable"`` where float32 itself is far from the truth.
        distance: largest absolute difference between the file's output and the truth.
        bound: what it may be.
        reference: the same difference for the Paddle layer in float32.
        scale: largest absolute value of the truth.
        output: name of the output.
        index: position in that output.
        batch: images in the probe.
    """

    verdict: str
    distance: float
    bound: float
    reference: float
    scale: float
    output: str
    index: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class ExportReport:
    """An ONNX file that passed its checks, and how it came about.

    Attributes:
        output: where it is.
        file_bytes: its size.
        source: the checkpoint.
        source_sha256: of that file.
        source_form: ``"train-time"``, ``"deploy"`` or ``"mixed"``.
        architecture: as recognised.
        settings: with which the network was built; those in ``assumed`` no checkpoint tells.
        assumed: settings that were neither in the checkpoint nor given.
        epsilon: of the BatchNorms; None where there is not one for all of them.
        blocks: re-parameterizable blocks of the network.
        fused_blocks: those that are one convolution in the file.
        input: of the file.
        outputs: of the file, in order.
        opset: of the file.
        ir_version: of the file.
        parameters: elements of its float weights.
        ops_before: nodes of each operator as the converter wrote them.
        ops_after: the same in the file.
        repairs: what cleaning did, with counts.
        notices: what fusing had to say.
        worst: the worst difference on the probe.
    """

    output: Path
    file_bytes: int
    source: Path
    source_sha256: str
    source_form: str
    architecture: str
    settings: Mapping[str, Any]
    assumed: Mapping[str, Any]
    epsilon: float | None
    blocks: int
    fused_blocks: int
    input: Tensor
    outputs: tuple[Tensor, ...]
    opset: int
    ir_version: int
    parameters: int
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    repairs: Mapping[str, int]
    worst: Difference
    notices: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that JSON knows."""
        plain = asdict(self)
        return {**plain, "output": str(self.output), "source": str(self.source)}
