"""Why a node of a graph would be fused, or not: its forms, and the laws that refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reparam.errors import GraphError
from reparam.graph.constants import Constants
from reparam.graph.files import open_model
from reparam.graph.fusing import OLDEST_OPSET, fuse_graph
from reparam.graph.inspecting import First, Unfused, first_round, unfused_of
from reparam.graph.macs import Sizes
from reparam.graph.reasons import form_text, forms_of, reasons_of

if TYPE_CHECKING:
    import onnx_ir as ir

FUSED, LEFT = "fused", "left"

_NAMED = 8  # names in an error
_SEARCHED = 20_000  # names that one which is not there is compared with


@dataclass(frozen=True)
class Explanation:
    """Why a node would be fused or left.

    Attributes:
        name: of the node, or of the value that it makes where it has none.
        operator: of the node; empty where a value is made by none.
        verdict: ``"fused"`` or ``"left"``.
        region: what takes the node in the first round; None if nothing does.
        reasons: one line each, the most telling first.
        inputs: of each value that the node reads, the forms that it could continue.
        outputs: of each value that it makes, what that is known to be.
    """

    name: str
    operator: str
    verdict: str
    region: Unfused | None = None
    reasons: tuple[str, ...] = ()
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of ``inspect --why --json``."""
        region = None if self.region is None else self.region.to_json()
        return {**asdict(self), "region": region}


def explain(path: str | Path, name: str) -> Explanation:
    """Return why a node of an ONNX file would be fused, or would not; nothing is written or run.

    Args:
        name: of a node or a value, or a part of one that no other has.

    Raises:
        GraphError: the file cannot be used, or nothing in it has that name, or several have.
        MissingDependencyError: onnx or onnx-ir is not installed.
    """
    model = open_model(path).model
    made = _named(model, name)
    if isinstance(made, str):
        return Explanation(name, "", LEFT, reasons=(made,))
    title, operator = str(made.name or made.outputs[0].name), made.op_type

    def left(reason: str) -> Explanation:
        return Explanation(title, operator, LEFT, reasons=(reason,))

    if made.graph is not model.graph:
        return left("it is inside a subgraph or a function: those are left whole")
    constants = Constants(model.graph)
    if constants.opset < OLDEST_OPSET:
        return left(
            f"the operator set is {constants.opset}: nothing is fused before {OLDEST_OPSET}"
        )
    first = first_round(model, constants)
    if made not in first.analysis.nodes:
        return left(
            "it is a constant, and becomes an initializer"
            if operator == "Constant"
            else "it is taken out: it is a constant, or nothing reads what it makes"
        )
    found = _explained(title, made, first)
    if found.verdict == LEFT and first.analysis.is_linear(made):
        fuse_graph(model)  # in memory: what the first round leaves, a later one may take
        if made not in set(model.graph):
            reasons = tuple(f"at first: {reason}" for reason in found.reasons)
            return replace(found, verdict=FUSED, reasons=reasons)
    return found


def _explained(title: str, node: ir.Node, first: First) -> Explanation:
    region = next((region for region in first.regions if node in region.nodes), None)
    inputs = {
        str(value.name): forms_of(value, first.analysis)
        for value in node.inputs
        if value is not None and not first.analysis.constants.known(value)
    }
    outputs = {
        str(value.name): tuple(map(form_text, first.analysis.forms.get(value, ())))
        for value in node.outputs
    }
    return Explanation(
        title,
        node.op_type,
        LEFT if region is None else FUSED,
        None if region is None else unfused_of(region, Sizes()),
        () if region is not None else tuple(reasons_of(node, first.analysis)),
        inputs,
        outputs,
    )


def _named(model: ir.Model, name: str) -> ir.Node | str:
    """Return the node that is meant, or what a value is that no node makes.

    Raises:
        GraphError: there is none, or several.
    """
    nodes = list(model.graph.all_nodes())
    exact = [node for node in nodes if node.name == name and name]
    if not exact:
        exact = [node for node in nodes if any(v.name == name for v in node.outputs)]
    if not exact and name in {value.name for value in model.graph.inputs}:
        return "it is an input of the graph: no node makes it"
    if not exact and name in model.graph.initializers:
        return "it is an initializer: no node makes it"
    found = exact or [node for node in nodes if any(name in one for one in _names(node))]
    if len(found) == 1:
        return found[0]
    if found:
        some = [str(node.name or node.outputs[0].name) for node in found]
        raise GraphError(
            f"several nodes are called '{name}'" if exact else
            f"several nodes have '{name}' in their names",
            found=_listed(some),
            hint="name the value that it makes" if exact else "name one",
        )  # fmt: skip
    every = [one for node in nodes for one in _names(node)][:_SEARCHED]
    near = get_close_matches(name, dict.fromkeys(every), n=_NAMED, cutoff=0.4)
    raise GraphError(
        f"no node or value is called '{name}'",
        found=f"near it are {_listed(near)}" if near else "",
    )


def _names(node: ir.Node) -> Iterator[str]:
    if node.name:
        yield node.name
    yield from (value.name for value in node.outputs if value.name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{one}'" for one in names[:_NAMED]) + more
