"""Hold the networks to what their authors' code computed; README.md says how it was recorded."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reparam.adapters.deploy_layers import deploy_layer_of
from reparam.architectures import create_model, recognise
from reparam.checkpoint import fuse_arrays
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.models import convert_to_deploy, fold_batch_norms
from tests.golden.networks.recording import Arrays, load
from tests.models.helpers import run

CASES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.npz"))}
# Of every BatchNorm: 1e-5, as Paddle's operator holds it whatever the dtype of its input.
EPSILON = float(np.float32(1e-5))

# A right network rounds as the peer does, in another order and, fused, in fewer places.
SAME_SIZE = 4
FLOOR = 4  # unit roundoffs of the output's scale: less than that is luck


@cache
def case(name: str) -> tuple[dict[str, Any], Arrays, np.ndarray, dict[str, list[np.ndarray]]]:
    return load(CASES[name])


def placeholders(state: Arrays) -> set[str]:
    """The deploy weights that PaddleClas stores at random beside the branches."""
    blocks = {key.partition(".dw_conv_list.")[0] for key in state if ".dw_conv_list." in key}
    return {f"{block}.dw_conv.{key}" for block in blocks for key in ("weight", "bias")}


def built(name: str) -> Any:
    about, state, _, _ = case(name)
    layer = create_model(about["model"], epsilon=EPSILON, **about["settings"])
    missing, unexpected = layer.set_state_dict(
        {key: value for key, value in state.items() if key not in placeholders(state)}
    )
    assert (missing, unexpected) == ([], [])
    return layer


def bounds(name: str, dtype: str) -> list[float]:
    """How far a right network may be from the truth, for each output.

    The peer's float32 output shows how much this network amplifies rounding.
    """
    outputs = case(name)[3]
    finer = UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]
    found = []
    for truth, peer in zip(outputs["output"], outputs["output32"], strict=True):
        floor = FLOOR * UNIT_ROUNDOFF["float32"] * float(np.abs(truth).max())
        found.append(SAME_SIZE * max(float(np.abs(peer - truth).max()), floor) * finer)
    return found


def excess(name: str, layer: Any, dtype: str = "float32") -> float:
    """How many times the bound the outputs of ``layer`` are from the truth."""
    _, _, x, outputs = case(name)
    found = run(layer.to(dtype=dtype), x.astype(dtype))
    assert [y.shape for y in found] == [y.shape for y in outputs["output"]]
    triples = zip(found, outputs["output"], bounds(name, dtype), strict=True)
    return max(float(np.abs(y - truth).max()) / bound for y, truth, bound in triples)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_form_computes_what_the_authors_code_does(name: str, dtype: str) -> None:
    layer = built(name).to(dtype=dtype)
    assert excess(name, layer, dtype) <= 1
    assert convert_to_deploy(layer)
    assert excess(name, layer, dtype) <= 1
    fold_batch_norms(layer)
    assert excess(name, layer, dtype) <= 1


@pytest.mark.parametrize("name", CASES)
def test_the_authors_own_deploy_form_is_the_same_function(name: str) -> None:
    outputs = case(name)[3]
    triples = zip(outputs["deployed32"], outputs["output"], bounds(name, "float32"), strict=True)
    assert all(np.abs(found - truth).max() <= bound for found, truth, bound in triples)


@pytest.mark.parametrize("name", CASES)
def test_the_bound_sees_a_bias_that_is_left_out(name: str) -> None:
    layer = built(name)
    convert_to_deploy(layer)
    bias = next(v for key, v in layer.state_dict().items() if key.endswith("_conv.bias"))
    bias.set_value(0 * bias)
    assert excess(name, layer) > 100


@pytest.mark.parametrize("name", CASES)
def test_the_checkpoint_alone_is_enough(name: str) -> None:
    """From names and arrays to a deploy form without BatchNorms, settings of no file given."""
    about, state, _, _ = case(name)
    told = {key: about["settings"][key] for key in {"act"} & set(about["settings"])}
    layer, report = deploy_layer_of(state, {"epsilon": EPSILON, **told})
    assert excess(name, layer) <= 1
    assert not any("_mean" in key for key in layer.state_dict())
    blocks = recognise({key: value.shape for key, value in state.items()}).blocks
    assert tuple(block.where for block in report.fused) == blocks


@pytest.mark.parametrize("name", CASES)
def test_networks_are_recognised_from_their_keys(name: str) -> None:
    about, state, _, _ = case(name)
    found = recognise({key: value.shape for key, value in state.items()})
    assert found is not None
    assert (found.name, found.form) == (about["model"], "train-time")
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    assert set(found.beside) == placeholders(state)
    told = {k: v for k, v in about["settings"].items() if k in found.settings and k != "scale"}
    assert {key: found.settings[key] for key in told} == told


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("clas")])
def test_the_unused_weights_of_a_training_checkpoint_are_replaced_and_reported(name: str) -> None:
    _, state, _, _ = case(name)
    assert len(placeholders(state)) == 2 * 4
    fused, report = fuse_arrays(state)
    assert not any(".dw_conv_list." in key for key in fused)
    assert all(not np.allclose(fused[key], state[key]) for key in placeholders(state))
    first = next(key for key in state if key in placeholders(state))
    (notice,) = [notice for notice in report.notices if "placeholder" in notice]
    assert f"'{first}'" in notice
    pruned = {key: value for key, value in state.items() if key not in placeholders(state)}
    for key, value in fuse_arrays(pruned)[0].items():
        np.testing.assert_array_equal(value, fused[key])
