"""The passes over a graph: their names, their order and why it is this one, in one place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reparam.errors import GraphError


@dataclass(frozen=True)
class Pass:
    """One pass.

    Attributes:
        name: by which it is switched off.
        does: what, in a few words.
        place: why it stands where it does.
        on: whether it runs unless it is switched off; the others have an option of their own.
    """

    name: str
    does: str
    place: str
    on: bool = True


PASSES = (
    Pass(
        "constants",
        "constant-only nodes and known shapes become initializers",
        "first: weights and axes have to be known before anything else can be",
    ),
    Pass(
        "identities",
        "nodes that change nothing go",
        "what stands between two nodes hides each from the other",
    ),
    Pass(
        "global-pool",
        "ReduceMean over all positions becomes GlobalAveragePool",
        "before whatever knows pooling, which then knows it by one name",
    ),
    Pass(
        "normalize",
        "the normalisation of the input becomes nodes at the input",
        "before the regions, which fold those nodes like any other",
        on=False,
    ),
    Pass(
        "idioms",
        "nodes that onnxruntime computes as one are left whole",
        "before the regions, which would take parts of them",
    ),
    Pass(
        "fuse-branches",
        "branches that are added, joined or split become one convolution",
        "with the next four in one choice: the largest region wins, whatever its kind",
    ),
    Pass("fold-batchnorm", "BatchNormalization goes into a neighbour", "chosen with the branches"),
    Pass("fold-bias", "an Add of a constant becomes a bias", "chosen with the branches"),
    Pass("fold-scale", "a Mul by a constant goes into a neighbour", "chosen with the branches"),
    Pass("fuse-chains", "convolutions in a row become one", "chosen with the branches"),
    Pass(
        "hoist",
        "factors behind a Reshape, Concat, pooling ... go up into the maker's weights",
        "after the regions, which need no detour; the regions are looked for again after moves",
    ),
    Pass(
        "sink",
        "factors with several readers go down into the weights of all of them",
        "after hoist: one node takes what goes up, and several what goes down",
    ),
    Pass(
        "straighten",
        "two nodes in a row that lay the same elements out anew become one, or none",
        "after sink: a factor that has moved leaves such pairs behind",
    ),
    Pass(
        "regroup",
        "terms of a sum that have one source come together",
        "last of the moves: terms are known by what the other moves left",
    ),
    Pass(
        "merge-siblings",
        "1x1 convolutions of one value become one, and a Split",
        "after the regions: a branch that was fused is no sibling, and a Split ends a region",
        on=False,
    ),
    Pass(
        "dead-nodes",
        "nodes and initializers that nothing reads go",
        "last, and once before all others, which count who reads a value",
    ),
)
"""All passes, in the order in which they run."""

NAMES = tuple(one.name for one in PASSES)


def check_names(names: Collection[str]) -> None:
    """Refuse names that no pass has.

    Raises:
        GraphError: there is one.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise GraphError(
            f"there is no pass '{unknown[0]}'",
            found=", ".join(unknown),
            hint=f"the passes are {', '.join(NAMES)}",
        )
