"""OREPA: one convolution already in training, its kernel a sum of products of learned arrays.

Source: Hu et al. 2022, Online Convolutional Re-parameterization (arXiv 2204.00826), section 3.3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Choice, Epsilon, Family
from reparam.checkpoint.families.terms import (
    NEVER,
    POINT,
    SAME,
    Chain,
    Either,
    Kernel,
    Maybe,
    Norm,
    Scale,
    Sum,
    array,
    conv_norm,
)

_PARTS = (
    "origin",
    "avg_conv",
    "avg_avg",
    "pfir_conv",
    "prior",
    "1x1",
    "1x1_kxk_idconv1",
    "1x1_kxk_conv1",
    "1x1_kxk_conv2",
    "gconv_dw",
    "gconv_pw",
)


def _kernels(stem: str, inside: str, *, point: bool) -> Sum:
    """Return what is added to one kernel, each part times its row of ``vector``.

    Args:
        stem: what the names begin with, ``inside`` included.
        inside: prefix of the module within the block.
        point: whether there is a kernel of one tap, which then has the fifth row. Without one,
            blocks that keep their input's size have a row that nothing uses.
    """
    vector = f"{inside}vector"
    rows = (6,) if point else (5, 6)

    def part(row: int, *kernels: Kernel | Either) -> Chain:
        return Chain(*kernels, Scale(vector, row=row, rows=rows), label=_label(kernels))

    def fixed(name: str) -> Kernel:
        return array(stem + name, SAME, planes=True, fixed=True)

    depthwise = Kernel(
        f"{stem}gconv_dw",
        SAME,
        bias=NEVER,
        weight_key=f"{stem}gconv_dw",
        depthwise=True,
        expands=True,
    )
    first = Either(
        Sum(array(f"{stem}1x1_kxk_idconv1", POINT), array(f"{inside}id_tensor", POINT, fixed=True)),
        array(f"{stem}1x1_kxk_conv1", POINT),
    )
    branches = [
        part(0, array(f"{stem}origin")),
        part(
            1,
            array(f"{stem}avg_conv", POINT),
            array(f"{stem}avg_avg", SAME, planes=True, fixed=True),
        ),
        part(
            2,
            array(f"{stem}pfir_conv", POINT),
            array(f"{stem}prior", SAME, planes=True, fixed=True),
        ),
        part(3, first, array(f"{stem}1x1_kxk_conv2", SAME)),
    ]
    if point:
        branches.append(part(4, array(f"{stem}1x1", POINT)))
    branches.append(part(len(branches), depthwise, array(f"{stem}gconv_pw", POINT)))
    return Sum(*branches)


def _label(kernels: tuple[Kernel | Either, ...]) -> str:
    named = (kernel.name for kernel in reversed(kernels) if isinstance(kernel, Kernel))
    return next(named).rpartition(".")[2]


def _anchors(stem: str) -> tuple[str, ...]:
    return tuple(stem + part for part in _PARTS)


OREPA = Family(
    name="OREPA",
    term=Chain(_kernels("weight_orepa_", "", point=True), Norm("bn")),
    deploy="orepa_reparam",
    epsilon=Epsilon.of(1e-5, "OREPA_CVPR2022, blocks.py, BatchNorm2d's default"),
    anchors=_anchors("weight_orepa_"),
    stays=("nonlinear",),
    source="OREPA_CVPR2022, blocks.py",
    dense=True,
)

OREPA_REPVGG = Family(
    name="RepConv_OREPA",
    term=Sum(
        Chain(
            _kernels("rbr_dense.weight_rbr_", "rbr_dense.", point=False),
            Norm("rbr_dense.bn"),
            label="rbr_dense",
        ),
        conv_norm("rbr_1x1", POINT, bias=NEVER),
        Maybe(Norm("rbr_identity")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon(
        1e-5,
        None,
        "OREPA_CVPR2022, blocks_repvgg.py, BatchNorm2d's default",
        choices=(
            Choice(1e-3, "RepConv_OREPA of YOLOv7", "model."),
            Choice(1e-5, "RepVGGBlock_OREPA of OREPA_CVPR2022", "stage"),
        ),
    ),
    anchors=_anchors("rbr_dense.weight_rbr_"),
    stays=("se", "nonlinearity"),
    source="OREPA_CVPR2022, blocks_repvgg.py; yolov7, models/common.py",
    dense=True,
)

OREPA_1X1 = Family(
    name="OREPA_1x1",
    term=Chain(
        Sum(
            Chain(array("weight_or1x1_origin", POINT), Scale("vector", row=0, rows=(2,))),
            Chain(
                array("weight_or1x1_l2i_conv1", POINT),
                array("weight_or1x1_l2i_conv2", POINT),
                Scale("vector", row=1, rows=(2,)),
            ),
        ),
        Norm("bn"),
    ),
    deploy="or1x1_reparam",
    epsilon=OREPA.epsilon,
    anchors=("weight_or1x1_origin", "weight_or1x1_l2i_conv1", "weight_or1x1_l2i_conv2"),
    stays=("nonlinear",),
    source="OREPA_CVPR2022, blocks.py",
    dense=True,
)

FAMILIES = (OREPA, OREPA_REPVGG, OREPA_1X1)
