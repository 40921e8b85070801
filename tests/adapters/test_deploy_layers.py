"""A checkpoint in any form becomes the deploy form, and is the same network."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.adapters.checkpoint_layers import layer_of
from reparam.adapters.closeness import closeness
from reparam.adapters.deploy_layers import deploy_layer_of, recognised_in
from reparam.adapters.paddle_models import as_float32, keys_of, run_layer
from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError, UnsupportedModelError
from tests.adapters.recorded import Arrays, Recorded, recorded

CASES = ("clas_repvgg", "det_cspresnet_alpha")
# Of each case: keys of one block in train-time form, and of one ConvBN outside the blocks.
BLOCK = {"clas_repvgg": "stage2.0.", "det_cspresnet_alpha": "stages.2.blocks.1.conv2."}


@pytest.fixture(scope="module", params=CASES)
def network(request: pytest.FixtureRequest) -> tuple[str, Recorded]:
    return request.param, recorded(request.param)


def in_form(form: str, case: str, state: Arrays) -> Arrays:
    """Return the state dict with no, one or every block fused, or one fused beside its branches."""
    if form == "train-time":
        return state
    fused, _ = fuse_arrays(state)
    if form == "deploy":
        return fused
    if form == "beside":
        return {**state, **{k: v for k, v in fused.items() if k.startswith(BLOCK[case])}}
    mixed = {k: v for k, v in state.items() if not k.startswith(BLOCK[case])}
    return {**mixed, **{k: v for k, v in fused.items() if k.startswith(BLOCK[case])}}


@pytest.mark.parametrize("form", ["train-time", "mixed", "deploy", "beside"])
def test_deploy_form_computes_what_was_recorded(form: str, network: tuple[str, Recorded]) -> None:
    case, expected = network
    layer, _ = deploy_layer_of(in_form(form, case, expected.state))
    outputs = run_layer(layer, expected.input)
    for three in zip(expected.truth, expected.reference, outputs, strict=True):
        assert closeness(*three).verdict == "equal"
    assert keys_of(layer, "BatchNorm2D", "weight") == []


@pytest.mark.parametrize("form", ["train-time", "mixed", "deploy"])
def test_form_is_recognised(form: str, network: tuple[str, Recorded]) -> None:
    case, expected = network
    assert recognised_in(in_form(form, case, expected.state)).form == form


def test_epsilon_reaches_the_blocks_and_every_other_batch_norm() -> None:
    state = recorded("det_cspresnet_alpha").state
    small, _ = deploy_layer_of(state, {"epsilon": 1e-5})
    large, _ = deploy_layer_of(state, {"epsilon": 1e-3})
    layers = (small.state_dict(), large.state_dict())
    biases = [key for key in layers[0] if key.endswith("conv.bias")]
    assert len(biases) == 3 + 4 * 4 + 2 * 5
    for key in biases:
        a, b = (state_dict[key].numpy() for state_dict in layers)
        assert np.abs(a - b).max() > 1e-6, key


def test_convolution_whose_batch_norm_is_folded_already_stays_as_it_is() -> None:
    state = recorded("det_cspresnet_alpha").state
    layer, _ = deploy_layer_of(state)
    folded = {key: tensor.numpy() for key, tensor in layer.state_dict().items()}
    again, report = deploy_layer_of(folded)
    assert report.fused == ()
    for key, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), folded[key])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_dtypes_become_float32(dtype: str) -> None:
    state = {key: array.astype(dtype) for key, array in recorded("clas_repvgg").state.items()}
    layer, _ = deploy_layer_of(state)
    assert {str(t.dtype) for t in layer.state_dict().values()} == {"paddle.float32"}
    x = recorded("clas_repvgg").input
    expected = run_layer(layer_of(as_float32(state), {}), x)[0]
    found = run_layer(layer, x)[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def spoiled(how: str) -> Arrays:
    state = dict(recorded("clas_repvgg").state)
    key = "stage1.0.rbr_dense.conv.weight"
    if how == "missing":
        del state[key]
    elif how == "unexpected":
        state["stage1.0.more"] = state[key]
    elif how == "of the wrong shape":
        state[key] = state[key][:-1]
    else:
        state[key] = state[key].astype(np.uint16)
    return state


@pytest.mark.parametrize(
    "how", ["missing", "unexpected", "of the wrong shape", "of a dtype that does not run"]
)
def test_defect_is_refused_by_name(how: str) -> None:
    with pytest.raises(CheckpointError, match=f"1 {how}") as caught:
        recognised_in(spoiled(how))
    assert "stage1.0." in caught.value.found


@pytest.mark.parametrize("arrays", [{}, {"a.weight": np.zeros((2, 2), np.float32)}])
def test_unknown_network_is_refused_and_what_is_known_is_said(arrays: Arrays) -> None:
    with pytest.raises(UnsupportedModelError, match="not one that reparam knows") as caught:
        recognised_in(arrays)
    assert "repvgg_a0" in caught.value.found


def test_setting_that_no_network_has_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="colour"):
        deploy_layer_of(recorded("clas_repvgg").state, {"colour": "red"})
    with pytest.raises(UnsupportedModelError):
        deploy_layer_of(recorded("clas_repvgg").state, {"num_blocks": 7})
