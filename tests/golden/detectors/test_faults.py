"""Detectors that are wrong in one place, which the bounds have to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from reparam.architectures import create_model
from tests.golden.detectors.test_detectors import EPSILON, built, case, excess, settings


def changed(layer: Any, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    parameter = layer.state_dict()[key]
    parameter.set_value(change(parameter.numpy()).astype("float32"))


def swap_stems(layer: Any) -> None:
    head = layer.yolo_head
    head.stem_cls, head.stem_reg = head.stem_reg, head.stem_cls


def first(layer: Any, ending: str) -> str:
    return next(key for key in layer.state_dict() if key.endswith(ending))


# Each is a mistake that a right file of the right shape would not show.
FAULTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "distances begin at 0": (
        "small_objects",
        lambda layer: changed(layer, "yolo_head.proj_conv.weight", lambda w: w + 2),
    ),
    "the stems are swapped": ("ppyoloe", swap_stems),
    "alpha is taken for 1": (
        "ppyoloe_plus",
        lambda layer: changed(layer, first(layer, ".alpha"), np.ones_like),
    ),
    "alpha of the neck is taken for 1": (
        "neck_alpha",
        lambda layer: changed(
            layer, next(k for k in layer.state_dict() if k.startswith("neck.") and "alpha" in k),
            np.ones_like,
        ),
    ),
    "a gate has no bias": (
        "ppyoloe_plus",
        lambda layer: changed(layer, "yolo_head.stem_reg.0.fc.bias", np.zeros_like),
    ),
    "a mean is off by a thousandth": (
        "four_levels",
        lambda layer: changed(layer, "neck.pan_routes.0.bn._mean", lambda mean: mean * 1.001),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_bounds_see_a_fault(fault: str) -> None:
    name, spoil = FAULTS[fault]
    layer = built(name)
    spoil(layer)
    assert max(excess(name, layer).values()) > 10


def test_the_bounds_see_another_activation() -> None:
    layer = create_model("ppyoloe", head="raw", epsilon=EPSILON, **settings("ppyoloe_plus"))
    relu = create_model(
        "ppyoloe", head="raw", epsilon=EPSILON, **{**settings("ppyoloe_plus"), "act": "relu"}
    )
    state = case("ppyoloe_plus").state
    for one, wrong in ((layer, False), (relu, True)):
        one.set_state_dict(dict(state))
        one.eval()
        assert (max(excess("ppyoloe_plus", one).values()) > 100) is wrong
