"""What an export did, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reparam.adapters.closeness import Closeness
from reparam.adapters.onnx_model import Value
from reparam.detection import Selection
from reparam.graph.records import Fused, Left
from reparam.graph.reporting import region_to_json
from reparam.reports import Report


@dataclass(frozen=True)
class Tensor:
    """An input or output of the file; a text in the shape names an open axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @classmethod
    def of(cls, value: Value) -> Tensor:
        """Return what an ONNX file says of an input or output."""
        return cls(value.name, value.shape, value.dtype)


@dataclass(frozen=True, kw_only=True)
class Difference(Closeness):
    """The largest difference of a file's outputs from the truth, and what it may be.

    Attributes:
        output: name of the output.
        batch: images in the probe.
    """

    output: str
    batch: int


@dataclass(frozen=True)
class Float16:
    """What float16 does to a network that was checked in float32 before.

    Attributes:
        weights: float weights of the file.
        subnormal: those that float16 holds with fewer bits, being below 6.1e-05; they are kept.
        zero: those that were not 0 and are now.
        largest: largest absolute value inside the network on the probes; float16 ends at 65504.
        largest_at: the operator that makes it, and its weight.
        float32: the worst difference of the float32 network that was rounded.
    """

    weights: int
    subnormal: int
    zero: int
    largest: float
    largest_at: str
    float32: Difference


@dataclass(frozen=True)
class PaddleFiles:
    """A program for Paddle Inference and its weights, checked like an ONNX file.

    Attributes:
        program: the ``.json``.
        parameters: the ``.pdiparams``.
        file_bytes: of both.
        input: of the program.
        outputs: of the program, in order.
        worst: the worst difference of Paddle Inference on the probes.
    """

    program: Path
    parameters: Path
    file_bytes: int
    input: Tensor
    outputs: tuple[Tensor, ...]
    worst: Difference


@dataclass(frozen=True, repr=False)
class ExportReport(Report):
    """Files that passed their checks, and how they came about.

    Attributes:
        output: the ONNX file; None where only a program for Paddle Inference was written.
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
        opset: of the ONNX file; None where there is none, and so is ``ir_version``.
        ir_version: of the ONNX file.
        parameters: elements of the float weights.
        ops_before: nodes of each operator as the converter wrote them.
        ops_after: the same in the ONNX file.
        repairs: what cleaning did, with counts.
        worst: the worst difference on the probes.
        notices: what fusing and exporting had to say.
        precision: of weights and arithmetic in the ONNX file.
        data: the file beside the ONNX file that holds its weights, if they are not in it.
        data_bytes: its size.
        contract: the file beside a detector's ONNX file that says how to feed and read it.
        head: of a detector, how its answer leaves the ONNX file.
        compat: whose inputs and outputs it has, if not our own.
        selection: of a detector, which boxes are detections.
        float16: what rounding did, where that is the precision.
        paddle: the program for Paddle Inference, if one was written.
        fused_regions: parts of the ONNX graph, outside of what blocks say, that were proved to be
            one operator and became it.
        left_regions: those that did not, and why.
    """

    output: Path | None
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
    opset: int | None
    ir_version: int | None
    parameters: int
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    repairs: Mapping[str, int]
    worst: Difference
    notices: tuple[str, ...] = field(default=())
    precision: str = "float32"
    data: Path | None = None
    data_bytes: int = 0
    contract: Path | None = None
    head: str | None = None
    compat: str | None = None
    selection: Selection | None = None
    float16: Float16 | None = None
    paddle: PaddleFiles | None = None
    fused_regions: tuple[Fused, ...] = ()
    left_regions: tuple[Left, ...] = ()

    @property
    def summary(self) -> str:
        program = self.paddle.program if self.paddle is not None else None
        files = " and ".join(str(path) for path in (self.output, program) if path is not None)
        return f"{self.architecture} of {self.source}: {self.worst.verdict}, wrote {files}"

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that JSON knows."""
        told = {key: _plain(value) for key, value in asdict(self).items()}
        return {**told, "fused_regions": [region_to_json(one) for one in self.fused_regions]}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value
