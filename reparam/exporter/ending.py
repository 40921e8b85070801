"""The last step before an ONNX file is written: what is one operator in its graph becomes one.

A network of known blocks leaves little to do here: a bias beside its linear layer, a learned affine
between an activation and a convolution. A network of the user's own may have any branch left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reparam.adapters.onnx_weights import initializers_of, with_weights, without_weights
from reparam.adapters.paddle_models import Array
from reparam.graph.constants import Constants
from reparam.graph.fusing import fuse_graph
from reparam.graph.inspecting import first_round
from reparam.graph.normalizing import normalize, settle
from reparam.graph.preparing import sweep
from reparam.graph.records import Fused, Left
from reparam.graph.records import Options as Fusing
from reparam.normalization import Normalization

AS_ASKED = "the export was asked to keep the form of the checkpoint"


@dataclass(frozen=True)
class Ended:
    """A graph that is ready to be written.

    Attributes:
        proto: the model; its heavy weights are inputs.
        weights: these, by name.
        made: weights that are of no layer, but were computed here, by name.
        fused: regions that are one operator now.
        left: regions that are not, and why.
        notices: what fusing had to say.
    """

    proto: Any
    weights: Mapping[str, Array]
    made: Mapping[str, Array] = field(default_factory=dict)
    fused: tuple[Fused, ...] = ()
    left: tuple[Left, ...] = ()
    notices: tuple[str, ...] = ()


def end_with_fusing(
    proto: Any,
    weights: Mapping[str, Array],
    *,
    fuse: bool = True,
    normalization: Normalization | None = None,
) -> Ended:
    """Return a graph in which no region is left that one operator would do, each proved.

    A weight that no region changes keeps its name and its bits; where there is no region at all,
    the model comes back as the same object. A region whose proof fails stays as it was, and the
    report says so.

    Args:
        proto: an ``onnx.ModelProto``; inputs in ``weights`` are weights. It is not changed.
        weights: by name.
        fuse: otherwise regions are only counted.
        normalization: what is done to the image, which is raw pixels then; it stays as nodes of
            its own where nothing is fused.
    """
    model = with_weights(proto, weights)
    before = {k: v.const_value for k, v in model.graph.initializers.items()}
    fused: tuple[Fused, ...] = ()
    if fuse:
        report = fuse_graph(model, Fusing(normalize=normalization))
        fused, left, said = tuple(report.fused), (*report.left, *report.failed), report.notices
        changed = bool(fused) or report.ops_after != report.ops_before
    else:
        left = _regions(with_weights(proto, weights))
        said = [] if normalization is None else _put_in_front(model, normalization)
        changed = normalization is not None
    if not changed:
        return Ended(proto, weights, left=left, notices=tuple(said))
    now = model.graph.initializers  # one that was changed may have the name of what it was
    made = {
        k: v for k, v in initializers_of(model).items() if now[k].const_value is not before.get(k)
    }
    ended, heavy = without_weights(model, proto, weights)
    return Ended(ended, heavy, made, fused, left, tuple(said))


def _put_in_front(model: Any, normalization: Normalization) -> list[str]:
    """Put a normalisation at the input as it is, folded into nothing; return what to say of it."""
    placed = normalize(model, normalization, Constants(model.graph))
    if placed is None:
        return []
    settle(model.graph, placed)
    sweep(model)
    kept = [node.op_type for node in placed.nodes if node.graph is model.graph]
    return [f"the normalisation is {' and '.join(kept)} at the input: {AS_ASKED}"] if kept else []


def _regions(model: Any) -> tuple[Left, ...]:
    """Return the regions that fusing would take first; the model is not of use afterwards."""
    regions = first_round(model, Constants(model.graph)).regions
    return tuple(Left(str(one.output.name), one.kind, AS_ASKED) for one in regions)
