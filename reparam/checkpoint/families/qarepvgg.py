"""QARepVGG and RepOpt: branches of which few or none have a BatchNorm, and one after the sum.

Whether the input itself is added leaves no trace in a checkpoint: the block adds it where its
stride is 1 and it keeps the number of channels. So there is a record for each case, and where the
shapes allow more than one, the user has to say.

Source: Chu et al. 2022, Make RepVGG Greater Again (arXiv 2212.01593), section 4; Ding et al. 2022,
Re-parameterizing Your Optimizers rather than Architectures (arXiv 2205.15242), section 3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Choice, Epsilon, Family
from reparam.checkpoint.families.repvgg import REPVGG
from reparam.checkpoint.families.terms import (
    MAYBE,
    NEVER,
    PADDLE,
    POINT,
    Chain,
    Input,
    Kernel,
    Maybe,
    Mean,
    Norm,
    Scale,
    Sum,
    Term,
    conv_norm,
)

_OFFICIAL, _YOLO = Choice(1e-5, "QARepVGG"), Choice(1e-3, "YOLOv6", "ERBlock_")
_EPSILON = Epsilon(1e-5, None, "QARepVGG repvgg.py, BatchNorm2d's default", (_OFFICIAL, _YOLO))
_SOURCE = "QARepVGG, repvgg.py"
_GROUPED = "QARepVGG (grouped)"

V1 = Family(
    name="QARepVGG V1",
    term=Chain(REPVGG.term, Norm("bn")),
    deploy="rbr_reparam",
    epsilon=_EPSILON,
    anchors=REPVGG.anchors,
    stays=("nonlinearity",),
    blocked_by=("se",),  # before the last BatchNorm
    source=f"{_SOURCE}, QARepVGGBlockV1",
)


def _v2(
    name: str, source: str, *beside: Term, dense: bool = False, grouped: bool = False
) -> Family:
    """Return a record of the default block: BN(BN(conv3x3) + conv1x1 + what is beside them)."""
    return Family(
        name=name,
        term=Chain(
            Sum(
                conv_norm("rbr_dense", bias=NEVER, dense=dense, grouped=grouped),
                Kernel("rbr_1x1", POINT, bias=NEVER, dense=dense, grouped=grouped),
                *beside,
            ),
            Norm("bn"),
        ),
        deploy="rbr_reparam",
        epsilon=_EPSILON,
        anchors=("rbr_dense", "rbr_1x1"),
        stays=("nonlinearity",),
        blocked_by=("se", "rbr_1x1.bias"),  # a bias is of GRERepVGGBlock, normalized elsewhere
        source=source,
    )


_OWN, _THEIRS = f"{_SOURCE}, QARepVGGBlockV2", "YOLOv6, layers/common.py, QARepVGGBlockV2"

V2 = _v2("QARepVGG", f"{_OWN}; YOLOv6, QARepVGGBlock", Input(), dense=True)
V2_GROUPED = _v2(_GROUPED, f"{_OWN}, in groups", Input(), grouped=True)
V2_PLAIN = _v2("QARepVGG (no identity)", f"{_OWN}, stride 2 or other channels")
V2_AVERAGE = _v2(
    "QARepVGG V2 (YOLOv6)",
    _THEIRS,
    Input(),
    Mean("rbr_dense.conv.weight", exclusive=PADDLE),
    dense=True,
)


def _super_gradients(
    name: str, *beside: Term, dense: bool = False, grouped: bool = False
) -> Family:
    """Return a record of QARepVGG as super-gradients has it: alpha, and an optional last norm."""
    one = Kernel("branch_1x1", POINT, bias=MAYBE, dense=dense, grouped=grouped)
    return Family(
        name=name,
        term=Chain(
            Sum(
                conv_norm("branch_3x3", bias=NEVER, dense=dense, grouped=grouped),
                Chain(one, Maybe(Scale("alpha", scalar=True)), label="branch_1x1"),
                *beside,
            ),
            Maybe(Norm("post_bn")),
        ),
        deploy="rbr_reparam",
        epsilon=Epsilon(
            1e-5,
            None,
            "super-gradients modules/qarepvgg_block.py, BatchNorm2d's default",
            choices=(
                Choice(1e-3, "YOLO-NAS"),
                Choice(1e-6, "YOLO-NAS-POSE"),
                Choice(1e-5, "a network of its own"),
            ),
        ),
        anchors=("branch_3x3", "branch_1x1"),
        stays=("se", "nonlinearity"),
        source="super-gradients, modules/qarepvgg_block.py",
    )


SG = _super_gradients("QARepVGG (super-gradients)", Input(), dense=True)
SG_GROUPED = _super_gradients("QARepVGG (super-gradients, grouped)", Input(), grouped=True)
SG_PLAIN = _super_gradients("QARepVGG (super-gradients, no identity)")


def _linear_add(name: str, size: str = "wide") -> Chain:
    """Return the term of a convolution and the learned factor of each of its outputs."""
    scale = name.replace("conv_", "scale_") if "_" in name else f"scale_{name}"
    return Chain(Kernel(name, size, bias=NEVER), Scale(f"{scale}.weight"), label=name)


REPOPT = Family(
    name="RepOpt",
    term=Chain(
        Sum(
            _linear_add("conv"),
            _linear_add("conv_1x1", POINT),
            Maybe(Chain(Input(), Scale("scale_identity.weight"), label="identity")),
        ),
        Norm("bn"),
    ),
    deploy="conv",
    epsilon=Epsilon(
        1e-5,
        None,
        "RepOptimizers repoptvgg_model.py, BatchNorm2d's default",
        choices=(Choice(1e-5, "RepOptimizers"), _YOLO),
    ),
    anchors=("scale_conv", "scale_1x1", "scale_identity"),
    stays=("se", "post_se"),
    source="RepOptimizers, repoptimizer/repoptvgg_model.py; YOLOv6, LinearAddBlock",
)

FAMILIES = (V1, V2, V2_GROUPED, V2_PLAIN, V2_AVERAGE, SG, SG_GROUPED, SG_PLAIN, REPOPT)
