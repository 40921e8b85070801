"""By what an exported file's distance from the truth is measured."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.adapters.closeness import FACTOR
from reparam.errors import NotEquivalentError
from reparam.exporter.checking import check_outputs
from reparam.exporter.probing import Probe

TRUTH = np.random.default_rng(5).normal(size=(2, 3, 4, 4))
STEP = 1e-4  # of the truth; far above rounding


def off(by: float, image: int | None = None) -> np.ndarray:
    """The truth, with one element of one image (of both if None) off."""
    found = TRUTH.copy()
    for at in range(2) if image is None else (image,):
        found[at, 1, 2, 3] += by
    return found


def difference(output: np.ndarray, reference: np.ndarray, shaken: np.ndarray | None) -> float:
    """Check an output, and return the bound that it was held to."""
    images = np.zeros((2, 3, 8, 8), np.float32)
    probe = Probe(
        images, [TRUTH], [reference.astype(np.float32)],
        shaken=None if shaken is None else lambda index: [shaken][index],
    )  # fmt: skip
    single = output.astype(np.float32)
    run = lambda x: [single[: len(x)]]  # noqa: E731
    return check_outputs(run, ["y"], [probe], any_batch=True).bound


def test_a_network_that_is_close_by_luck_is_measured_by_what_rounding_its_weights_does() -> None:
    with pytest.raises(NotEquivalentError):
        difference(off(STEP), TRUTH, None)
    bound = difference(off(STEP), TRUTH, off(STEP))
    assert bound == pytest.approx(FACTOR * STEP, rel=1e-3)
    with pytest.raises(NotEquivalentError):
        difference(off((FACTOR + 1) * STEP), TRUTH, off(STEP))


def test_the_longer_yardstick_counts() -> None:
    with pytest.raises(NotEquivalentError) as caught:
        difference(off((FACTOR + 1) * STEP), off(STEP), off(STEP / 8))
    assert f"allowed: {FACTOR * STEP:.3g}" in str(caught.value)


def test_the_worst_image_counts_for_each() -> None:
    """The first image alone is off in the file, the second alone in float32."""
    assert difference(off(STEP, 0), off(STEP, 1), None) == pytest.approx(FACTOR * STEP, rel=1e-3)
    with pytest.raises(NotEquivalentError):
        difference(off((FACTOR + 1) * STEP, 0), off(STEP, 1), None)
