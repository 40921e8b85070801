"""The onnx wheel's own test models: each is fused or left, and gives the outputs that it gave."""

from __future__ import annotations

import random

import pytest

from tests.graph.onnx_wheel import judge, judge_all, models, name_of

SMALL = [path for path in models() if path.name == "model.onnx"]
LIGHT = [path for path in models() if path.name != "model.onnx"]
CHUNKS = 12  # each in a process, so that several cores have something to do
SAMPLE = 60


def wrong(found: dict[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in found.items() if reason}


def test_there_are_as_many_as_are_known_of() -> None:
    assert len(SMALL) > 1400
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", random.Random(12).sample(SMALL, SAMPLE), ids=name_of)
def test_a_sample_does_as_it_did(path) -> None:
    assert judge(path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_one_does_as_it_did(chunk: int) -> None:
    assert wrong(judge_all(SMALL[chunk::CHUNKS])) == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_every_light_one_does_as_it_did(path) -> None:
    assert wrong(judge_all([path])) == {}
