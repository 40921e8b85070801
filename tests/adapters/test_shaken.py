"""What one rounding of every weight does to a network, at worst."""

from __future__ import annotations

import numpy as np

from reparam.adapters.foreign_running import jittered
from reparam.adapters.paddle_models import import_paddle, in_float64, run_layer
from reparam.adapters.shaken import Shaken

paddle = import_paddle()


def test_the_copy_that_is_furthest_from_the_truth_counts() -> None:
    layer = paddle.nn.Sequential(paddle.nn.Linear(5, 7), paddle.nn.ReLU(), paddle.nn.Linear(7, 3))
    weights = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    x = np.random.default_rng(2).normal(size=(4, 5))
    truth = run_layer(in_float64(layer), x)[0]
    found = np.abs(Shaken(layer).reference(0, x, truth) - truth).max()
    others = [np.abs(run_layer(jittered(layer, seed), x)[0] - truth).max() for seed in range(40)]
    assert 0 < found < 1e-5
    assert found >= np.median(others)  # of three, the worst; one alone is below it half the time
    for key, value in layer.state_dict().items():
        assert np.array_equal(value.numpy(), weights[key])


def test_copies_are_made_once_and_are_the_same_again() -> None:
    layer = paddle.nn.Linear(5, 3)
    x = np.random.default_rng(3).normal(size=(4, 5))
    truth = run_layer(in_float64(layer), x)[0]
    shaken = Shaken(layer)
    first = shaken.reference(0, x, truth)
    again = [shaken.reference(0, x, truth), Shaken(layer).reference(0, x, truth)]
    assert all(np.array_equal(first, other) for other in again)
    furthest = shaken.reference(0, x, first)  # from another truth, another copy
    assert not np.array_equal(furthest, first)
