"""Hold every family to what its original implementation computed; README.md says how recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.checkpoint.families.terms import (
    MAYBE,
    STATISTICS,
    Each,
    Kernel,
    Maybe,
    Mean,
    Term,
    leaves,
)
from reparam.checkpoint.plan import plan_of
from reparam.checkpoint.resolving import possible_keys
from reparam.checkpoint.rows import as_convolution
from reparam.errors import CheckpointError, NotFusibleError
from tests.checkpoint.families.harness import bound_of

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("*.npz"))
# None of them widens a difference, so the bound of the convolution is one of what they make of it.
ACTIVATIONS = {"": lambda y: y, "relu": F.relu}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Golden:
    """One recorded block, or one linear region of it."""

    family: str
    epsilon: float
    source: str
    stride: tuple[int, int]
    dilation: int
    groups: int
    activation: str
    part: str
    options: dict[str, Any]
    one_spelling: bool
    state: Arrays
    x: np.ndarray
    y: np.ndarray

    def match(self) -> BlockMatch:
        """Return the region that was recorded, and that the whole file has no other family."""
        shapes = {key: value.shape for key, value in self.state.items()}
        blocks = plan_of(shapes, families=self.options.get("families", ())).blocks
        assert {block.family.name for block in blocks} == {self.family}
        (match,) = (block for block in blocks if block.family.part == self.part)
        return match

    def bound(self) -> np.ndarray:
        match = self.match()
        tree = block_tree(match, self.state, self.epsilon)
        padding = self.padding(match.geometry.kernel)
        return bound_of(tree, self.x, self.stride, self.dilation, self.groups, padding)

    def padding(self, window: tuple[int, ...]) -> list[int]:
        return [self.dilation * (size // 2) for size in window]

    def deployed(self, fused: Arrays) -> np.ndarray:
        """Return what the one convolution of the deploy form makes of the input, in float64."""
        match = self.match()
        weight = as_convolution(match, fused[match.weight_key]).astype(np.float64)
        made = F.conv2d(
            paddle.to_tensor(self.x),
            paddle.to_tensor(weight),
            paddle.to_tensor(fused[match.bias_key].astype(np.float64)),
            list(self.stride),
            self.padding(weight.shape[2:]),
            self.dilation,
            self.groups,
        )
        return ACTIVATIONS[self.activation](made).numpy()


@cache
def golden(name: str) -> Golden:
    """Read the case ``name``."""
    with np.load(HERE / f"{name}.npz") as stored:
        entries = {key: stored[key] for key in stored.files}
    about = json.loads(str(entries["about"]))
    state = {key[6:]: value for key, value in entries.items() if key.startswith("state/")}
    return Golden(
        family=about["family"],
        epsilon=about["epsilon"],
        source=about["source"],
        stride=tuple(about.get("stride", (1, 1))),
        dilation=about.get("dilation", 1),
        groups=about.get("groups", 1),
        activation=about.get("activation", ""),
        part=about.get("part", ""),
        options=about.get("options", {}),
        one_spelling=about.get("one_spelling", False),
        state=state,
        x=entries["x"],
        y=entries["y"],
    )


@pytest.mark.parametrize("name", CASES)
def test_one_convolution_computes_what_the_original_does(name: str) -> None:
    case = golden(name)
    fused, report = fuse_arrays(case.state, **case.options)
    for used in report.epsilons:
        assert used.value == pytest.approx(case.epsilon, rel=1e-7)  # Paddle holds it as a float32
    found = case.deployed(fused)
    assert found.dtype == np.float64
    assert found.shape == case.y.shape
    assert (np.abs(found - case.y) <= case.bound()).all()


@pytest.mark.parametrize("name", CASES)
def test_every_stored_number_is_in_the_recorded_output(name: str) -> None:
    # Half as much again of any one array is another function: no array of a branch is passed by.
    case, match, bound = golden(name), golden(name).match(), golden(name).bound()
    for key in match.branch_keys:
        if key in match.counters:
            continue
        changed = {**case.state, key: case.state[key] * np.float32(1.5)}
        found = case.deployed(fuse_arrays(changed, **case.options)[0])
        assert (np.abs(found - case.y) > bound).any(), key


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_branch_goes_over_and_fusing_again_changes_nothing(name: str) -> None:
    case = golden(name)
    shapes = {key: value.shape for key, value in case.state.items()}
    blocks = plan_of(shapes, families=case.options.get("families", ())).blocks
    fused, _ = fuse_arrays(case.state, **case.options)
    consumed = {key for block in blocks for key in block.branch_keys}
    made = {key for block in blocks for key in (block.weight_key, block.bias_key)}
    neutral = {key for block in blocks for key in block.neutral_keys}
    assert set(fused) == set(case.state) - consumed | made | neutral
    for key in set(case.state) - consumed - made:
        assert fused[key] is case.state[key]
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert list(again) == list(fused)
    assert all(again[key] is fused[key] for key in fused)
    match = case.match()
    told = match.family.distinctive or any(size > 1 for size in match.geometry.kernel)
    if match.family.deploy and told:  # in the block's own place it is a convolution like others
        where = match.where if match.in_place else match.prefix.rstrip(".")
        assert where in report.already


def alone(term: Term) -> Iterator[str]:
    """Yield the last words of keys that a block may lack while it has all others."""
    if isinstance(term, Maybe):
        keys = list(possible_keys(term))
        if len(keys) == 1:
            yield keys[0]
    for part in getattr(term, "parts", getattr(term, "branches", ())):
        yield from alone(part)
    if isinstance(term, Maybe | Each):
        yield from alone(term.term)
    if isinstance(term, Kernel) and term.bias == MAYBE:
        yield term.shift


def damaged(name: str) -> Iterator[tuple[str, Golden]]:
    """Yield the case without each of its keys, and with each of another shape."""
    case, match = golden(name), golden(name).match()
    optional = tuple(key.split("}")[-1] for key in alone(match.family.term))
    for key in match.branch_keys:
        if key in match.counters:
            continue
        value = case.state[key]
        larger = np.concatenate([value, value[:1]])
        yield f"{key} {larger.shape}", replace(case, state={**case.state, key: larger})
        if not key.endswith(optional):
            left = {other: array for other, array in case.state.items() if other != key}
            yield f"no {key}", replace(case, state=left)


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_block_is_refused_or_left(name: str) -> None:
    where = golden(name).match().where
    for what, case in damaged(name):
        try:
            _, report = fuse_arrays(case.state, **case.options)
        except CheckpointError:
            continue
        assert where not in [one.where for one in report.fused], what


@pytest.mark.parametrize("name", CASES)
def test_the_other_spelling_of_statistics_is_the_same_block(name: str) -> None:
    case = golden(name)
    # PyTorch stores a fully connected layer as (O, I), Paddle as (I, O).
    turned = {2} if case.match().linear else set()
    other = {
        respelled(key): value.T if value.ndim in turned else value
        for key, value in case.state.items()
    }
    options = {**case.options, "epsilon": case.epsilon}
    fused, _ = fuse_arrays(case.state, **options)
    pools = [leaf for leaf in leaves(case.match().term) if isinstance(leaf, Mean)]
    try:
        again, _ = fuse_arrays(other, **options)
    except NotFusibleError:
        assert any(pool.exclusive for pool in pools)  # padding counts in one framework alone
        return
    assert {respelled(key) for key in fused} == set(again)
    for key, value in fused.items():
        expected = value.T if value.ndim in turned else value
        np.testing.assert_array_equal(again[respelled(key)], expected)


def respelled(key: str) -> str:
    for pair in zip(STATISTICS["paddle"], STATISTICS["torch"], strict=True):
        for old, new in (pair, pair[::-1]):
            if key.endswith(f".{old}"):
                return key.removesuffix(old) + new
    return key
