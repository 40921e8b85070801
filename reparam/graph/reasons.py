"""In words: what a value is known to be, and what keeps a node from being fused."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from reparam.conv.geometry import Geometry
from reparam.errors import NotFusibleError
from reparam.graph.analysis import Analysis
from reparam.graph.forms import Form
from reparam.graph.idioms import QUANTIZED, is_quantized_by_runtime
from reparam.graph.regions import candidates, closed, nodes_of

if TYPE_CHECKING:
    import onnx_ir as ir

_LISTED = 4  # readers that a reason names, and forms that are told


def one_line(error: NotFusibleError) -> str:
    """Return an error without its line breaks."""
    return "; ".join(part for part in (error.what, error.found, error.why) if part)


def forms_of(value: ir.Value, analysis: Analysis) -> tuple[str, ...]:
    """Return the forms of a value that a node which reads it could continue, in words."""
    told = [form_text(form) for form in analysis.passed(value)]
    if analysis.forms.get(value) and analysis.has_to_be_there(value):
        told.append(f"nothing older: {'; '.join(_needed_by(value, analysis))}")
    return tuple(told)


def form_text(form: Form) -> str:
    """Return a form in words: ``a 3x3 convolution of 'x' (16 -> 32 channels, stride 2)``."""
    source, shaped = f"'{form.source.name}'", form.shaped
    if form.node is None:
        return "itself"
    if shaped.opaque is not None:
        names = {part.node.op_type for part in form.behind() if part.node and part.cost}
        return f"a {' or '.join(sorted(names))} of {source}, of which only outputs are changed"
    if shaped.geometry is None:
        added = "" if shaped.zero_bias else " and a shift"
        each = "" if shaped.axis is None else f" for each entry of axis {shaped.axis}"
        return f"{source} with a factor{added}{each}"
    bias = "" if shaped.zero_bias else " and a bias"
    return f"{_kernel(shaped.geometry)} of {source} ({_settings(shaped.geometry)}){bias}"


def _kernel(geometry: Geometry) -> str:
    if not geometry.kernel:
        return "a linear layer"
    return f"a {'x'.join(map(str, geometry.kernel))} convolution"


def _settings(geometry: Geometry) -> str:
    told = [f"{geometry.in_channels} -> {geometry.out_channels} channels"]
    for name, entries in (("stride", geometry.stride), ("dilation", geometry.dilation)):
        if any(entry != 1 for entry in entries):
            told.append(f"{name} {'x'.join(map(str, entries))}")
    if any(any(pair) for pair in geometry.padding):
        told.append(f"padding {', '.join(f'{a}+{b}' for a, b in geometry.padding)}")
    if geometry.groups > 1:
        told.append(f"{geometry.groups} groups")
    return ", ".join(told)


def reasons_of(node: ir.Node, analysis: Analysis) -> Iterator[str]:
    """Yield why no region takes a node, one line each."""
    if node in analysis.frozen:
        yield analysis.frozen[node]
        return
    if not analysis.is_linear(node):
        yield f"{_operator(node)} is not linear in one value: forms end here"
        return
    refusals = analysis.refusals.get(node, [])
    for refusal in refusals[:_LISTED]:
        of = f"from '{refusal.source}': " if refusal.source is not None else ""
        yield of + one_line(refusal.error)
    known = any(analysis.forms.get(value) for value in node.outputs)
    if not known and not refusals:
        yield _why_no_form(node, analysis)
    for output in node.outputs:
        for form in analysis.forms.get(output, ())[:_LISTED]:
            yield f"'{output.name}' is {form_text(form)}: {_why_no_region(form, output, analysis)}"
        if known:
            yield from _after(output, analysis)


def _operator(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _why_no_form(node: ir.Node, analysis: Analysis) -> str:
    moving = [v for v in node.inputs if v is not None and not analysis.constants.known(v)]
    if len(moving) < 2:
        return f"this {node.op_type} is not one that a convolution can stand for"
    if node.op_type not in ("Add", "Sub", "Sum", "Concat"):
        return f"{node.op_type} of two values, neither a constant, is not linear"
    sources = [
        ", ".join(f"'{form.source.name}'" for form in analysis.passed(value)) for value in moving
    ]
    each = "; ".join(
        f"'{value.name}' is of {found}" for value, found in zip(moving, sources, strict=True)
    )
    return f"no form of a common source: {each}"


def _why_no_region(form: Form, output: ir.Value, analysis: Analysis) -> str:
    """Return why no region ends at a value with this form."""
    costs = {part.node: part.cost for part in form.behind() if part.node is not None}
    read = _read_elsewhere(costs, output)
    if read:
        return read
    before, after = sum(costs.values()), form.after
    if after > before * (1 + 1e-9):
        if before == 0:
            return "pooling, padding or a factor alone would become a convolution"
        return (
            f"one operator would cost {after / before:.3g} times the MACs "
            f"({before:,.0f} -> {after:,.0f} at each position)"
        )
    if nodes_of(form) >= len(costs) and after >= before * (1 - 1e-9):
        return f"it is as small as it gets; {_before(form.source, analysis)}"
    if is_quantized_by_runtime(form, closed(form, output, analysis) or (), output):
        return QUANTIZED
    if any(region.form is form for region in candidates(output, analysis, 1.0)):
        return "another region that saves more takes a part of it"
    return "too little is saved"


def _read_elsewhere(nodes: Collection[ir.Node], output: ir.Value) -> str:
    """Return what needs a value between some nodes other than the last, or nothing."""
    for value in (value for node in nodes for value in node.outputs if value is not output):
        outside = [use.node for use in value.uses() if use.node not in nodes]
        if value.is_graph_output():
            return f"'{value.name}' inside is an output of the graph"
        if outside:
            return f"'{value.name}' inside is read elsewhere, by {_nodes(outside)}"
    return ""


def _before(value: ir.Value, analysis: Analysis) -> str:
    """Return why a form that starts at a value does not start earlier."""
    node = value.producer()
    if node is None:
        return f"'{value.name}' is an input of the graph"
    if not analysis.is_linear(node):
        return f"'{value.name}' is made by {_nodes([node])}, which is not linear"
    needed = "; ".join(_needed_by(value, analysis))
    return needed or f"what makes '{value.name}', {_nodes([node])}, has no form to continue"


def _after(value: ir.Value, analysis: Analysis) -> Iterator[str]:
    """Yield why nothing after a value takes it in."""
    if analysis.has_to_be_there(value):
        for reason in _needed_by(value, analysis):
            yield f"nothing after it takes it in: {reason}"
        return
    for use in list(value.uses())[:_LISTED]:
        for refusal in analysis.refusals.get(use.node, [])[:1]:
            yield f"{_nodes([use.node])} after it: {one_line(refusal.error)}"


def _needed_by(value: ir.Value, analysis: Analysis) -> Iterator[str]:
    """Yield what needs a value that no form replaces."""
    if value.is_graph_output():
        yield f"'{value.name}' is an output of the graph"
    others = [
        use.node
        for use in value.uses()
        if use.node not in analysis.nodes or not analysis.is_linear(use.node)
    ]
    if others:
        yield f"'{value.name}' is read by {_nodes(others)}"


def _nodes(nodes: list[ir.Node]) -> str:
    unique = list(dict.fromkeys(nodes))
    told = [f"{_operator(node)} '{node.name or node.outputs[0].name}'" for node in unique]
    more = f" and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    return ", ".join(told[:_LISTED]) + more
