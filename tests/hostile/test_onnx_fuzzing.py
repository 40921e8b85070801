"""Mutated graphs are used or refused, and nothing else happens."""

from __future__ import annotations

import pytest

from tests.hostile.onnx_fuzzing import MUTATIONS, READER, mutants, run

SEED = 20260101


@pytest.mark.parametrize("number", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_are_used_or_refused(number):
    """More, and with other seeds: python -m tests.hostile.onnx_fuzzing 100000 SEED."""
    outcomes, wrong = run(number, SEED)
    assert wrong == []
    assert sum(outcomes.values()) == number
    assert outcomes[READER] <= number / 2  # the others get behind the reader


def test_every_mutation_is_made():
    made = {one for name, _ in mutants(200, SEED) for one in name.partition(": ")[2].split(", ")}
    assert made == {mutate.__name__ for mutate in MUTATIONS}
