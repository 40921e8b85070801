"""Structures of networks: small ones, random ones, and back from what was recognised."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from reparam.models import (
    Recognised,
    cspresnet_layout,
    mobileone_layout,
    pplcnetv2_layout,
    pplcnetv3_layout,
    ppyoloe_layout,
    repvgg_layout,
)
from reparam.models.layout import Layout, Shapes

CSP = cspresnet_layout.Structure
REPVGG = repvgg_layout.Structure
MOBILEONE = mobileone_layout.Structure
LCNET2 = pplcnetv2_layout.Structure
LCNET3 = pplcnetv3_layout.Structure
PPYOLOE = ppyoloe_layout.Structure
LAYOUTS = {
    CSP: cspresnet_layout,
    REPVGG: repvgg_layout,
    MOBILEONE: mobileone_layout,
    LCNET2: pplcnetv2_layout,
    LCNET3: pplcnetv3_layout,
    PPYOLOE: ppyoloe_layout,
}
A0 = REPVGG.of(**repvgg_layout.VARIANTS["repvgg_a0"])
SMALL_CSP = CSP((1, 2, 1, 1), (8, 16, 32, 64, 128), True, True, 10)
SMALL_REPVGG = REPVGG((1, 2, 2, 1), (16, 8, 16, 32), {2: 4, 5: 2}, class_num=7, in_channels=1)
SMALL_SE = REPVGG((1, 2, 2, 1), (32, 16, 48, 64), {3: 4}, class_num=7, use_se=True)
SMALL_MOBILEONE = MOBILEONE((1, 2, 3, 1), (8, 24, 16, 40), 2, num_classes=7, in_channels=1)
SMALL_MOBILEONE_SE = MOBILEONE((2, 1, 2, 1), (8, 24, 16, 16), use_se=True, num_classes=5)
SMALL_BACKBONE = CSP((1, 2, 1, 1), (8, 16, 32, 64, 128), True, True)
SMALL_PPYOLOE = PPYOLOE(SMALL_BACKBONE, (48, 24, 12), neck_blocks=2, num_classes=5, bins=9)
SMALL_TINY = PPYOLOE(
    replace(SMALL_BACKBONE, use_large_stem=False, in_channels=1), (24, 24), neck_blocks=1,
    neck_stages=2, neck_alpha=True, spp=False, attn_conv="repvgg", num_classes=3,
)  # fmt: skip
SMALL = {
    "cspresnet": SMALL_CSP,
    "repvgg": SMALL_REPVGG,
    "repvgg-se": SMALL_SE,
    "mobileone": SMALL_MOBILEONE,
    "mobileone-se": SMALL_MOBILEONE_SE,
    "lcnetv2": LCNET2.of(0.25, (1, 2, 2, 2), class_num=7, class_expand=20, in_channels=1),
    "lcnetv2-short": LCNET2.of(0.35, (1, 1, 1, 1), class_num=7, use_last_conv=False),
    "lcnetv3-det": LCNET3.of(0.5, det=True, conv_kxk_num=2),
    "lcnetv3-rec": LCNET3.of(0.35, in_channels=1),
    "ppyoloe": SMALL_PPYOLOE,
    "ppyoloe-tiny": SMALL_TINY,
}


def layout_of(structure) -> Layout:
    return LAYOUTS[type(structure)].layout(structure)


def torch_spelled(shapes: Shapes) -> Shapes:
    """Return what PyTorch would have written, a counter with every BatchNorm."""
    spelling = {"_mean": "running_mean", "_variance": "running_var"}
    found: Shapes = {}
    for name, shape in shapes.items():
        stem, _, last = name.rpartition(".")
        found[f"{stem}.{spelling.get(last, last)}"] = shape[::-1] if len(shape) == 2 else shape
        if last == "_mean":
            found[f"{stem}.num_batches_tracked"] = ()
    return found


def structure_of(recognised: Recognised):
    """Return the structure that create_model would build from what was recognised."""
    values = {**recognised.assumed, **recognised.settings}
    family, _, _ = recognised.name.partition("_")
    if family != "cspresnet":
        layouts = {kind.__module__.rpartition(".")[2]: kind for kind in LAYOUTS}
        kind = layouts[f"{family}_layout"]
        values = {**LAYOUTS[kind].VARIANTS.get(recognised.name, {}), **values}
        for setting in ("epsilon", "act", "dropout_prob", "trt"):
            values.pop(setting, None)
        return kind.of(**values)
    layers = values.get("layers", cspresnet_layout.LAYERS)
    channels = values.get("channels", cspresnet_layout.CHANNELS)
    return CSP(
        cspresnet_layout.scaled(layers, values.get("depth_mult", 1.0)),
        cspresnet_layout.scaled(channels, values.get("width_mult", 1.0)),
        values["use_large_stem"],
        values["use_alpha"],
        values["num_classes"],
        values["in_channels"],
    )


def told_by_deploy_form(structure):
    """Return the structure that is recognised once a fused kernel has lost what it holds."""
    if isinstance(structure, CSP):
        return replace(structure, use_alpha=False)
    if isinstance(structure, PPYOLOE):
        backbone = replace(structure.backbone, use_alpha=False)
        return replace(structure, backbone=backbone, neck_alpha=False)
    if isinstance(structure, MOBILEONE):
        return replace(structure, conv_branches=1)
    if isinstance(structure, LCNET3):
        return replace(structure, conv_branches=pplcnetv3_layout.CONV_BRANCHES)
    return structure


def csp_structures() -> st.SearchStrategy:
    stages = st.integers(1, 4)
    return stages.flatmap(
        lambda n: st.builds(
            CSP,
            layers=st.tuples(*[st.integers(1, 3)] * n),
            channels=st.tuples(*[st.integers(1, 16).map(lambda c: 4 * c)] * (n + 1)),
            use_large_stem=st.booleans(),
            use_alpha=st.booleans(),
            num_classes=st.none() | st.integers(1, 20),
            in_channels=st.integers(1, 4),
        )
    )


@st.composite
def repvgg_structures(draw) -> repvgg_layout.Structure:
    use_se = draw(st.booleans())
    widths = st.sampled_from([16, 24, 64, 96] if use_se else [4, 8, 24, 64, 96])
    structure = REPVGG(
        num_blocks=draw(st.tuples(*[st.integers(1, 3)] * 4)),
        widths=draw(st.tuples(*[widths] * 4)),
        class_num=draw(st.integers(1, 20)),
        in_channels=draw(st.integers(1, 4)),
        use_se=use_se,
    )
    layers = range(1, len(structure.blocks()))
    groups = draw(st.dictionaries(st.sampled_from(layers), st.sampled_from([2, 4])))
    return replace(structure, groups=groups)


@st.composite
def mobileone_structures(draw) -> mobileone_layout.Structure:
    use_se = draw(st.booleans())
    widths = st.sampled_from([16, 24, 64, 96] if use_se else [4, 8, 24, 64, 96])
    return MOBILEONE(
        num_blocks=draw(st.tuples(*[st.integers(1, 3)] * 4)),
        widths=draw(st.tuples(*[widths] * 4)),
        conv_branches=draw(st.integers(1, 4)),
        use_se=use_se,
        num_classes=draw(st.sampled_from([1, 2, 10, 20])),  # never a width: see IN_TORCH
        in_channels=draw(st.integers(1, 4)),
    )


def lcnet2_structures() -> st.SearchStrategy:
    return st.builds(
        LCNET2.of,
        scale=st.integers(2, 150).map(lambda hundredths: hundredths / 100),
        depths=st.tuples(*[st.integers(1, 3)] * 4),
        class_num=st.integers(1, 20),
        use_last_conv=st.booleans(),
        class_expand=st.integers(1, 40),
        in_channels=st.integers(1, 4),
    )


def lcnet3_structures() -> st.SearchStrategy:
    return st.builds(
        LCNET3.of,
        scale=st.integers(63, 1500).map(lambda thousandths: thousandths / 1000),
        det=st.booleans(),
        conv_kxk_num=st.integers(1, 5),
        in_channels=st.integers(1, 4),
    )


@st.composite
def ppyoloe_structures(draw) -> ppyoloe_layout.Structure:
    backbone = replace(draw(csp_structures()), num_classes=None)
    levels = draw(st.integers(1, len(backbone.layers)))
    widths = st.integers(1, 16).map(lambda c: 4 * c)
    return PPYOLOE(
        backbone=backbone,
        neck_channels=draw(st.tuples(*[widths] * levels)),
        neck_blocks=draw(st.integers(1, 4)),
        neck_stages=draw(st.integers(1, 2)),
        neck_alpha=draw(st.booleans()),
        spp=draw(st.booleans()),
        attn_conv=draw(st.sampled_from(ppyoloe_layout.ATTENTIONS)),
        num_classes=draw(st.integers(1, 20)),
        bins=draw(st.integers(1, 20)),
    )


def structures() -> st.SearchStrategy:
    lcnets = lcnet2_structures() | lcnet3_structures()
    others = repvgg_structures() | mobileone_structures() | lcnets
    return csp_structures() | others | ppyoloe_structures()
