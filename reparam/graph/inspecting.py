"""What an ONNX file holds, and what fusing it would save; no weight is read and nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reparam.graph.analysis import Analysis, analyse
from reparam.graph.computing import numbers_of
from reparam.graph.constants import Constants
from reparam.graph.files import Opened, open_model
from reparam.graph.fusing import OLDEST_OPSET, operators_of
from reparam.graph.idioms import left_whole
from reparam.graph.macs import Sizes
from reparam.graph.numbers import Pointwise
from reparam.graph.preparing import prepare
from reparam.graph.reasons import reasons_of
from reparam.graph.records import GraphReport, Options, Swap
from reparam.graph.regions import Region, choose, is_gemm, needs_a_node
from reparam.reports import Report

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOATS = {"FLOAT": "float32", "DOUBLE": "float64"}
_JOINS = ("Add", "Sub", "Sum")


@dataclass(frozen=True)
class Unfused(Swap):
    """A region that one operator could replace; its ``kind`` is the pass that would."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON knows."""
        extent = None if self.extent is None else [str(axis) for axis in self.extent]
        return {**asdict(self), "extent": extent}


@dataclass(frozen=True)
class Refused:
    """A node that looks as if it could be fused, and why it cannot.

    Attributes:
        where: name of the value that it makes.
        operator: of the node.
        reason: in one line.
    """

    where: str
    operator: str
    reason: str


@dataclass(frozen=True)
class First:
    """A graph made ready, and the regions that a first round of fusing would take."""

    analysis: Analysis
    regions: list[Region]


@dataclass(frozen=True, repr=False)
class GraphInspection(Report):
    """What an ONNX file holds.

    Attributes:
        about: interface, operators and metadata, as values that JSON knows.
        unfused: regions, those that save most first.
        refused: nodes that look as if they could be fused.
        notices: what a user should know of the file.
        ready: nodes of each operator once constants and what changes nothing are out of the way.
    """

    about: dict[str, Any]
    unfused: tuple[Unfused, ...]
    refused: tuple[Refused, ...]
    notices: tuple[str, ...]
    ready: Mapping[str, int]

    @property
    def summary(self) -> str:
        nodes = sum(self.about["operators"].values())
        return f"{self.about['path']}: {nodes:,} nodes, {len(self.unfused):,} regions to fuse"

    @property
    def operators_after(self) -> dict[str, int]:
        """How many nodes of each operator there would be, if these regions alone were fused."""
        counts: Counter[str] = Counter(self.ready)
        for one in self.unfused:
            counts.subtract(one.before)
            counts.update(one.after)
        return {name: number for name, number in sorted(counts.items()) if number > 0}

    def to_json(self) -> dict[str, Any]:
        """Return the fields of ``inspect --json``."""
        return {
            **self.about,
            "unfused": [one.to_json() for one in self.unfused],
            "operators_if_fused": self.operators_after,
            "refused": [asdict(one) for one in self.refused],
            "notices": list(self.notices),
        }


def inspect_onnx(path: str | Path) -> GraphInspection:
    """Return what an ONNX file holds, and what fusing it would save at least.

    Fusing goes on after a first round, so it may save more than is told here.

    Raises:
        GraphError: the file cannot be used.
        MissingDependencyError: onnx or onnx-ir is not installed.
    """
    opened = open_model(path)
    about = _about(opened)
    constants = Constants(opened.model.graph)
    if constants.opset < OLDEST_OPSET:
        return GraphInspection(about, (), (), opened.notices, about["operators"])
    first = first_round(opened.model, constants)
    ready = operators_of(opened.model.graph)
    sizes = Sizes()
    unfused = [unfused_of(region, sizes) for region in sorted(first.regions, key=lambda r: -r.gain)]
    return GraphInspection(about, tuple(unfused), tuple(_refused(first)), opened.notices, ready)


def first_round(model: ir.Model, constants: Constants, options: Options | None = None) -> First:
    """Make a graph ready in memory, and return what would be fused first."""
    options = options or Options()
    prepare(model, constants, options, GraphReport(operators_of(model.graph)))
    analysis = analyse(model.graph, constants, left_whole(model.graph, constants))
    return First(analysis, choose(model.graph, analysis, allow_macs=options.allow_macs))


def _about(opened: Opened) -> dict[str, Any]:
    model, graph = opened.model, opened.model.graph
    set_by_callers = set(opened.overridable)
    return {
        "path": str(opened.path),
        "file_bytes": opened.path.stat().st_size,
        "data_bytes": sum(path.stat().st_size for path in opened.data_files),
        "producer": f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        "inputs": [_value(v) for v in graph.inputs if v.name not in set_by_callers],
        "outputs": [_value(v) for v in graph.outputs],
        "opset": int(graph.opset_imports.get("", 0)),
        "ir_version": model.ir_version,
        "parameters": _parameters(graph),
        "operators": operators_of(graph),
        "metadata": dict(model.metadata_props),
    }


def _parameters(graph: ir.Graph) -> int:
    tensors = [value.const_value for value in graph.initializers.values()]
    return sum(int(t.size) for t in tensors if t is not None and t.dtype.is_floating_point())


def _value(value: ir.Value) -> dict[str, Any]:
    dims = [] if value.shape is None else list(value.shape)
    shape = [dim if isinstance(dim, int) else str(dim.value or "") for dim in dims]
    name = value.dtype.name if value.dtype is not None else ""
    return {"name": value.name, "shape": shape, "dtype": _FLOATS.get(name, name.lower())}


def unfused_of(region: Region, sizes: Sizes) -> Unfused:
    """Return a region as a report tells it."""
    geometry = region.form.shaped.geometry
    return Unfused(
        where=str(region.output.name),
        source=str(region.form.source.name),
        kind=region.kind,
        before=dict(Counter(node.op_type for node in region.nodes)),
        after=operators_after(region),
        macs_before=region.before,
        macs_after=region.after,
        extent=sizes.of(region.form.source, region.form.shaped.axis),
        kernel=() if geometry is None else geometry.kernel,
    )


def operators_after(region: Region) -> dict[str, int]:
    """Return what a region would become."""
    form, shaped = region.form, region.form.shaped
    if shaped.opaque is not None:
        kept = next(part.node for part in form.behind() if part.shaped.opaque and part.cost)
        return {} if kept is None else {kept.op_type: 1}
    if shaped.geometry is None:
        numbers = numbers_of(form)  # of one number, or one for each channel
        assert isinstance(numbers, Pointwise)
        made = {"Mul": int((numbers.scale != 1).any()), "Add": int((numbers.shift != 0).any())}
        if not any(made.values()) and needs_a_node(form.source, region.output):
            return {"Identity": 1}
        return {name: number for name, number in made.items() if number}
    if shaped.geometry.kernel:
        return {"Conv": 1}
    if is_gemm(form):
        return {"Gemm": 1}
    return {"MatMul": 1} if shaped.zero_bias else {"MatMul": 1, "Add": 1}


def _refused(first: First) -> Iterator[Refused]:
    """Yield the BatchNorms, and sums of convolutions of one value, that will be left, and why."""
    taken = {node for region in first.regions for node in region.nodes}
    for node in first.analysis.nodes:
        if node not in taken and _is_of_interest(node, first.analysis):
            reason = next(reasons_of(node, first.analysis), "")
            yield Refused(str(node.outputs[0].name), node.op_type, reason)


def _is_of_interest(node: ir.Node, analysis: Analysis) -> bool:
    if node.op_type == "BatchNormalization":
        return True
    refusals = analysis.refusals.get(node, ()) if node.op_type in _JOINS else ()
    values = [value for value in node.inputs if value is not None]
    return any(
        sum(_has_kernel(value, one.source, analysis) for value in values) > 1 for one in refusals
    )


def _has_kernel(value: ir.Value, source: str | None, analysis: Analysis) -> bool:
    return any(
        form.source.name == source and form.shaped.geometry is not None
        for form in analysis.passed(value)
    )
