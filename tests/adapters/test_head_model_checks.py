"""The proof of a head model: right ones pass; test_head_model_mutations.py breaks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from reparam.adapters import head_model_checks as module
from reparam.adapters.head_model import OWN, PADDLEDETECTION, HeadPlan, build_head
from reparam.adapters.head_model_checks import check_head
from reparam.detection.records import DECODED, NMS, Maps, Selection
from reparam.errors import ExportError
from tests.adapters.heads import MAPS, SIZES, planned

FORMS = [(DECODED, OWN), (NMS, OWN), (NMS, PADDLEDETECTION)]


@pytest.mark.parametrize(("head", "layout"), FORMS)
@pytest.mark.parametrize("batch", [None, 1, 2, 4])
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["fixed", "open"])
def test_right_heads_pass(head: str, layout: str, batch, sizes) -> None:
    plan = planned(head=head, layout=layout, batch=batch, sizes=sizes)
    check_head(build_head(plan), plan)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(0.0, 0.7, 20),
        Selection(0.5, 0.0, 20),
        Selection(0.5, 1.0, 20),
        Selection(0.9, 0.3, 1, 1),
        Selection(0.01, 0.7, 2000, 50),
    ],
)
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("sizes", [SIZES, ((1, 1), (2, 2), (4, 4))])
def test_right_heads_pass_whatever_they_select(selection, classes: int, sizes) -> None:
    plan = planned(maps=replace(MAPS, classes=classes), selection=selection, sizes=sizes)
    check_head(build_head(plan), plan)


def test_a_head_of_other_bins_passes() -> None:
    maps = Maps((64, 16), 2, (-2.0, -1.0, 0.5, 3.0))
    other = planned(maps=maps, sizes=((2, 2), (8, 8)))
    check_head(build_head(other), other)


def at_full_size() -> HeadPlan:
    maps = Maps((32, 16, 8), 80, MAPS.projection)
    return HeadPlan(maps, sizes=((20, 20), (40, 40), (80, 80)))


def test_a_head_of_full_size_passes() -> None:
    plan = at_full_size()
    check_head(build_head(plan), plan)


def test_a_head_that_warns_is_refused() -> None:
    plan = planned()
    model = build_head(plan)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1), "unread"))
    with pytest.raises(ExportError, match="warns about the model"):
        check_head(model, plan)


def test_every_kind_of_image_is_seen_whatever_the_batch() -> None:
    for batch in (None, 1, 2, 3, 5):
        runs = module._batches(batch)
        assert {kind for run in runs for kind in run} == {"crowded", "empty", "sparse"}
        assert all(len(run) == batch for run in runs) or batch is None
