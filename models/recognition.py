"""Which architecture a checkpoint is of, from its names and shapes alone; needs no paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reparam.models import (
    cspresnet_inference,
    cspresnet_layout,
    mobileone_inference,
    mobileone_layout,
    pplcnetv2_inference,
    pplcnetv2_layout,
    pplcnetv3_inference,
    pplcnetv3_layout,
    repvgg_inference,
    repvgg_layout,
)
from reparam.models.layout import Account, Shape

# A checkpoint is of a family when this share of all keys, found or needed, is right. One defect
# in the smallest network leaves 10 of 12; a RepVGG in torch's spelling agrees on 3 keys of 8.
_LEAST_AGREEMENT = 0.75

_FAMILIES: tuple[tuple[Any, Any], ...] = (
    (cspresnet_inference, cspresnet_layout),
    (repvgg_inference, repvgg_layout),
    (mobileone_inference, mobileone_layout),
    (pplcnetv2_inference, pplcnetv2_layout),
    (pplcnetv3_inference, pplcnetv3_layout),
)


@dataclass(frozen=True)
class Recognised:
    """The architecture of a checkpoint, and how each of its keys fits.

    ``create_model(name, **settings)`` builds the Layer, in train-time form. Bringing the blocks
    in ``deployed`` to deploy form and folding the layers in ``folded`` gives it the keys of the
    checkpoint, but for those listed in ``missing``, ``unexpected``, ``mismatched`` and ``beside``.

    Attributes:
        name: the registered variant, else the family.
        settings: what create_model needs beside the name.
        assumed: what no checkpoint tells, with the value that create_model uses by default.
        form: "train-time", "deploy", or "mixed" where blocks differ.
        blocks: prefixes of all re-parameterizable blocks, in the order of the network.
        missing: keys the network needs and the checkpoint lacks, each block in its own form.
        unexpected: keys of the checkpoint that have no place in the network.
        mismatched: (name, shape found, shape needed).
        deployed: prefixes of the blocks that are in deploy form.
        folded: prefixes of the ConvBNLayers whose BatchNorm is folded.
        beside: keys of deploy weights that stand beside the branches, which decide.
    """

    name: str
    settings: dict[str, Any]
    assumed: dict[str, Any]
    form: str
    blocks: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()
    deployed: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def recognise(shapes: Mapping[str, Shape]) -> Recognised | None:
    """Return the architecture whose state dict has these names and shapes, None if none known.

    A few keys may be missing, misshapen or too many: they are reported, not guessed away. Keys
    under a prefix (``backbone.``, ``module.``) belong to a larger model and are not recognised.
    """
    found = _nearest(shapes)
    if found is None:
        return None
    family, structure, account = found
    name, settings = family.settings_of(structure)
    assumed = dict(structure.assumed)
    if account.form == "deploy":
        for lost in family.LOST_IN_DEPLOY_FORM:
            assumed[lost] = settings.pop(lost)
    return _recognised(name, settings, assumed, account)


def train_time_shapes(
    shapes: Mapping[str, Shape], branches: int | None = None
) -> dict[str, Shape] | None:
    """Return names and shapes of the recognised network, all of it in train-time form.

    Args:
        branches: of each block, in a network that counts them, in place of what the checkpoint
            or the published variant says.
    """
    found = _nearest(shapes)
    if found is None:
        return None
    family, structure, _ = found
    if branches is not None and hasattr(structure, "conv_branches"):
        structure = replace(structure, conv_branches=branches)
    whole: dict[str, Shape] = family.layout(structure).shapes()
    return whole


def _nearest(shapes: Mapping[str, Shape]) -> tuple[Any, Any, Account] | None:
    """Return the family, the structure and how the keys agree with it."""
    for inference, family in _FAMILIES:
        structure = inference.infer(shapes)
        if structure is None:
            continue
        account: Account = family.layout(structure).account(shapes)
        if account.agreement >= _LEAST_AGREEMENT:
            return family, structure, account
    return None


def _recognised(
    name: str, settings: dict[str, Any], assumed: dict[str, Any], account: Account
) -> Recognised:
    return Recognised(
        name=name,
        settings=settings,
        assumed=assumed,
        form=account.form,
        blocks=account.blocks,
        missing=account.missing,
        unexpected=account.unexpected,
        mismatched=account.mismatched,
        deployed=account.deployed,
        folded=account.folded,
        beside=account.beside,
    )
