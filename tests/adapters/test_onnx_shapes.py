"""Shapes in a converted graph: computed targets become constants, the batch axis gets its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_cleaning import clean_model
from reparam.adapters.onnx_runtime import open_session, run_onnx
from tests.adapters.graphs import (
    CHANNELS,
    FLOAT,
    X_SHAPE,
    conv,
    conv_weights,
    model,
    node,
    ops,
)


def flattened(batch: str | int, **changed: Any) -> bytes:
    """Return a graph whose last outputs take their batch from Shape, Slice and Concat."""
    parts = {
        "shape": node("Shape", ["p"], ["s"]),
        "slice": node("Slice", ["s", "zero", "one"], ["n"]),
        "concat": node("Concat", ["n", "rest"], ["target"], axis=0),
        "reshape": node("Reshape", ["p", "target"], ["y"]),
        **changed,
    }
    nodes = [
        conv(),
        node("GlobalAveragePool", ["c"], ["p"]),
        *parts.values(),
        node("Transpose", ["y"], ["t"], perm=[1, 0]),
    ]
    return model(
        nodes,
        {
            "weight": conv_weights()["weight"],
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "rest": np.array([-1]),
        },
        {"y": ("D.1", "D.4"), "t": ("D.5", "D.2"), "c": ("D.3", CHANNELS, 6, 8)},
        {"x": (batch, *X_SHAPE[1:])},
    )


def shapes_of(values: object) -> list[list[int | str]]:
    return [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("opset_slice", [["s", "zero", "one"], ["s", "zero", "one", "zero", "one"]])
def test_reshape_that_copies_the_batch_gets_a_constant_target(opset_slice: list[str]) -> None:
    before = flattened("N", slice=node("Slice", opset_slice, ["n"]))
    cleaned = clean_model(before)
    assert ops(cleaned.model) == ["Conv", "GlobalAveragePool", "Reshape", "Transpose"]
    assert cleaned.repairs["computed Reshape targets made constants"] == 1
    for batch in (1, 3):
        probe = np.random.default_rng(batch).normal(size=(batch, *X_SHAPE[1:]))
        runs = [
            run_onnx(open_session(m), probe.astype(np.float32)) for m in (before, cleaned.model)
        ]
        for old, new in zip(*runs, strict=True):
            np.testing.assert_array_equal(old, new)


NEAR_MISSES: dict[str, dict[str, Any]] = {
    "shape of another value": {"shape": node("Shape", ["x"], ["s"])},
    "another axis": {"slice": node("Slice", ["s", "one", "two"], ["n"])},
    "two axes": {"slice": node("Slice", ["s", "zero", "two"], ["n"])},
    "another position": {"concat": node("Concat", ["rest", "n"], ["target"], axis=0)},
    "zero means zero": {"reshape": node("Reshape", ["p", "target"], ["y"], allowzero=1)},
    "shape cut by itself": {"shape": node("Shape", ["p"], ["s"], start=0)},
    "strided": {"slice": node("Slice", ["s", "zero", "one", "zero", "two"], ["n"])},
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_of_a_copied_axis_stays(name: str) -> None:
    before = flattened("N", **NEAR_MISSES[name])
    assert ops(clean_model(before).model) == ops(before)


def test_open_batch_axis_is_named_wherever_it_goes() -> None:
    cleaned = clean_model(flattened("D.0")).model
    graph = onnx.load_model_from_string(cleaned).graph
    assert shapes_of(graph.input) == [["batch", 3, 6, 8]]
    assert shapes_of(graph.output) == [
        ["batch", "D.4"],
        ["D.5", "batch"],
        ["batch", CHANNELS, 6, 8],
    ]
    load_strictly(cleaned)


def test_axes_keep_their_names_where_another_axis_is_open() -> None:
    before = model([node("Relu", ["x"], ["y"])], {}, {"y": ("N", 3, "H")}, {"x": ("N", 3, "H")})
    graph = onnx.load_model_from_string(clean_model(before).model).graph
    assert shapes_of(graph.input) == [["N", 3, "H"]]
    assert shapes_of(graph.output) == [["N", 3, "H"]]


def test_output_axis_that_does_not_follow_the_batch_keeps_its_name() -> None:
    nodes = [
        node("NonZero", ["x"], ["where"]),
        node("Cast", ["where"], ["y"], to=FLOAT),
        node("Relu", ["x"], ["z"]),
    ]
    before = model(nodes, {}, {"y": (2, "found"), "z": ("D.1", 3)}, {"x": ("D.0", 3)})
    graph = onnx.load_model_from_string(clean_model(before).model).graph
    assert shapes_of(graph.output) == [[2, "found"], ["batch", 3]]


def test_fixed_batch_stays_fixed() -> None:
    graph = onnx.load_model_from_string(clean_model(flattened(2)).model).graph
    assert shapes_of(graph.input) == [[2, 3, 6, 8]]


def test_cleaning_twice_is_cleaning_once() -> None:
    once = clean_model(flattened("D.0"))
    twice = clean_model(once.model)
    assert twice.model == once.model
    assert twice.repairs == {}
