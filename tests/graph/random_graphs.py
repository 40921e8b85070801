"""Random graphs of all operators that the fuser has a rule for, and of some that stop it.

Residuals, escapes, dead ends, shared weights, values of one channel, broadcasts and axes of equal
length come up on purpose. A failing example prints itself as a program of the GraphBuilder.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.graph.builder_base import WEIGHTS
from tests.graph.programs import Program
from tests.graph.random_steps import FLAT_STEPS, IMAGE_STEPS, Draw, Growth

OPSETS = (17, 9, 10, 11, 12, 13, 15, 18, 21)


@st.composite
def programs(draw: Draw, most: int = 12) -> Program:
    """A program of at most ``most`` steps."""
    settings: dict[str, Any] = {
        "opset": draw(st.sampled_from(OPSETS)),
        "seed": draw(st.integers(0, 99)),
        "weights": draw(st.sampled_from(WEIGHTS)),
        "dtype": draw(st.sampled_from(("float32",) * 6 + ("float16",))),
    }
    rank = draw(st.sampled_from((2, 2, 2, 1, 3)))
    grow = Growth(draw, rank, settings)
    for name in ("x", "z")[: draw(st.sampled_from((1, 1, 2)))]:
        grow.keep(grow.record.call("input", name, _input_shape(draw, rank)))
    for _ in range(draw(st.integers(1, most))):
        grow_once(grow)
    _choose_outputs(grow)
    return grow.record.program


def _input_shape(draw: Draw, rank: int) -> list[Any]:
    channels = draw(st.sampled_from((4, 3, 2, 1)))
    if draw(st.sampled_from((False, False, True))):
        return [None, channels, *[None] * rank]
    return [
        draw(st.sampled_from((1, 2))),
        channels,
        *(draw(st.integers(2, 8)) for _ in range(rank)),  # under a stride, too
    ]


def grow_once(grow: Growth) -> None:
    """Take one drawn step from one drawn value; a step that does not fit is none."""
    x = grow.pick()
    shape = grow.shape(x)
    if len(shape) > 2:
        step = grow.one_of(*IMAGE_STEPS)
    elif len(shape) == 2:
        step = grow.one_of(*FLAT_STEPS)
    else:
        return
    made = step(grow, x)
    if made is not None:
        grow.keep(made)


def _choose_outputs(grow: Growth) -> None:
    """The newest value, and by the draw some that are read by nobody, and some that are."""
    newest = grow.values[-1]
    inputs = list(grow.record.g.inputs)
    others = [v for v in grow.values[:-1] if v not in inputs]
    outputs = [v for v in others if v in grow.unread and grow.draw(st.booleans())]
    if others and grow.one_of(False, False, True):
        outputs.append(grow.pick(*others))
    if newest in inputs:
        newest = grow.call("relu", newest)
    grow.record.call("output", *dict.fromkeys([newest, *outputs]))
