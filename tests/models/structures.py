"""Structures of networks: small ones, random ones, and back from what was recognised."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from reparam.models import Recognised, cspresnet_layout, repvgg_layout
from reparam.models.layout import Layout

CSP = cspresnet_layout.Structure
REPVGG = repvgg_layout.Structure
A0 = REPVGG.of(**repvgg_layout.VARIANTS["repvgg_a0"])
SMALL_CSP = CSP((1, 2, 1, 1), (8, 16, 32, 64, 128), True, True, 10)
SMALL_REPVGG = REPVGG((1, 2, 2, 1), (16, 8, 16, 32), {2: 4, 5: 2}, class_num=7, in_channels=1)
SMALL_SE = REPVGG((1, 2, 2, 1), (32, 16, 48, 64), {3: 4}, class_num=7, use_se=True)
SMALL = {"cspresnet": SMALL_CSP, "repvgg": SMALL_REPVGG, "repvgg-se": SMALL_SE}


def layout_of(structure) -> Layout:
    family = cspresnet_layout if isinstance(structure, CSP) else repvgg_layout
    return family.layout(structure)


def structure_of(recognised: Recognised):
    """Return the structure that create_model would build from what was recognised."""
    values = {**recognised.assumed, **recognised.settings}
    if recognised.name.startswith("repvgg"):
        values = {**repvgg_layout.VARIANTS.get(recognised.name, {}), **values}
        del values["epsilon"]
        return REPVGG.of(**values)
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


def structures() -> st.SearchStrategy:
    return csp_structures() | repvgg_structures()
