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
    ppyoloe_inference,
    ppyoloe_layout,
    repvgg_inference,
    repvgg_layout,
)
from reparam.models.layout import Account, Shape
from reparam.models.spelling import paddle_shapes, torch_name, torch_shapes, turned

# A checkpoint is of a family when this share of all keys, found or needed, is right. One defect
# in the smallest network leaves 10 of 12; a RepVGG in torch's spelling agrees on 3 keys of 8.
_LEAST_AGREEMENT = 0.75

_FAMILIES: tuple[tuple[Any, Any], ...] = (
    (ppyoloe_inference, ppyoloe_layout),
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
        ignored: keys of what takes part in training alone, such as an auxiliary head.
        block_family: what reports call its blocks, in any form.
        torch: PyTorch wrote it: the keys above are in its spelling, those of the Layer in Paddle's
            (:func:`reparam.models.spelling.in_paddle_spelling`).
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
    ignored: tuple[str, ...] = ()
    block_family: str = ""
    torch: bool = False


def recognise(shapes: Mapping[str, Shape]) -> Recognised | None:
    """Return the architecture whose state dict has these names and shapes, None if none known.

    A few keys may be missing, misshapen or too many: they are reported, not guessed away. Keys
    under a prefix (``backbone.``, ``module.``) belong to a larger model: of those, PP-YOLOE is
    known.
    """
    found = _nearest(shapes)
    if found is None:
        return None
    name, settings = found.family.settings_of(found.structure)
    assumed = dict(found.structure.assumed)
    if found.account.form == "deploy":
        for lost in found.family.LOST_IN_DEPLOY_FORM:
            assumed[lost] = settings.pop(lost)
    return _recognised(name, settings, assumed, found)


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
    structure = found.structure
    if branches is not None and hasattr(structure, "conv_branches"):
        structure = replace(structure, conv_branches=branches)
    whole: dict[str, Shape] = found.family.layout(structure).shapes()
    return torch_shapes(whole) if found.torch else whole


@dataclass(frozen=True)
class _Nearest:
    """A network, how the keys of a checkpoint agree with it, and whether PyTorch wrote them."""

    family: Any
    structure: Any
    account: Account
    torch: bool


def _nearest(shapes: Mapping[str, Shape]) -> _Nearest | None:
    for inference, family in _FAMILIES:
        found = _of_family(inference, family, shapes, torch=False)
        if family.IN_TORCH and found is not None:
            found = _in_either_spelling(found, inference, shapes)
        if found is not None and found.account.agreement >= _LEAST_AGREEMENT:
            return found
    return None


def _of_family(
    inference: Any, family: Any, shapes: Mapping[str, Shape], torch: bool
) -> _Nearest | None:
    structure = inference.infer(shapes)
    if structure is None:
        return None
    return _Nearest(family, structure, family.layout(structure).account(shapes), torch)


def _in_either_spelling(
    found: _Nearest, inference: Any, shapes: Mapping[str, Shape]
) -> _Nearest | None:
    """Return ``found`` or what the keys are in PyTorch's spelling, whichever agrees better.

    In deploy form the axes of the linear layer alone tell, and where it is square nothing does:
    then None.
    """
    if any(torch_name(key) != key for key in shapes):  # a statistic, by the name Paddle gives it
        return found
    translated = paddle_shapes(shapes)
    other = _of_family(inference, found.family, translated, torch=True)
    if other is None or other.account.agreement < found.account.agreement:
        return found
    if other.account.agreement > found.account.agreement:
        return other
    linear = [shape for shape in translated.values() if len(shape) == 2]
    return None if any(shape[0] == shape[1] for shape in linear) else found


def _recognised(
    name: str, settings: dict[str, Any], assumed: dict[str, Any], found: _Nearest
) -> Recognised:
    account = found.account
    own = torch_name if found.torch else str
    shape = turned if found.torch else tuple
    return Recognised(
        name=name,
        settings=settings,
        assumed=assumed,
        form=account.form,
        blocks=account.blocks,
        missing=tuple(map(own, account.missing)),
        unexpected=tuple(map(own, account.unexpected)),
        mismatched=tuple((own(key), shape(a), shape(b)) for key, a, b in account.mismatched),
        deployed=account.deployed,
        folded=account.folded,
        beside=tuple(map(own, account.beside)),
        ignored=tuple(map(own, account.ignored)),
        block_family=found.family.BLOCK_FAMILY,
        torch=found.torch,
    )
