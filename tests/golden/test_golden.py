"""Hold reparam to what paddledet and paddleclas computed; README.md says how it was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from reparam.architectures import create_model, recognise
from reparam.checkpoint import fuse_arrays, load_checkpoint
from reparam.conv import evaluate_magnitude, gamma, rounding_count
from reparam.conv.bounds import BATCH_NORM_ROUNDINGS, UNIT_ROUNDOFF
from reparam.models import RepVGGBlock, RepVggBlock, convert_to_deploy

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("*.npz"))
NETWORKS = [name for name in CASES if "_block" not in name]
BLOCKS = [name for name in CASES if "_block" in name]
# Of every BatchNorm of both peers: 1e-5, which Paddle's operator holds as a float32 whatever the
# dtype of its input. In float64 the difference shows, 13 digits down.
EPSILON = float(np.float32(1e-5))

# A right network rounds as the peer does, in another order and, fused, in fewer places: its
# distance from the truth is of the size of the peer's own, which one sample tells only roughly.
SAME_SIZE = 4
FLOOR = 4  # unit roundoffs of the output's scale: less than that is luck

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Golden:
    """One recorded case."""

    settings: dict[str, Any]
    input: np.ndarray
    state: Arrays
    deploy: Arrays
    truth: list[np.ndarray]
    float32: list[np.ndarray]
    deployed32: list[np.ndarray]


@cache
def golden(name: str) -> Golden:
    """Read the case ``name``."""
    with np.load(HERE / f"{name}.npz") as stored:
        entries = {key: stored[key] for key in stored.files}
    grouped: dict[str, Arrays] = {
        group: {} for group in ("state", "deploy", "output", "output32", "deployed32")
    }
    for key, value in entries.items():
        group, slash, rest = key.partition("/")
        if slash:
            grouped[group][rest] = value
    return Golden(
        settings=json.loads(str(entries["about"]))["settings"],
        input=entries["input"],
        state=grouped["state"],
        deploy=grouped["deploy"],
        truth=list(grouped["output"].values()),
        float32=list(grouped["output32"].values()),
        deployed32=list(grouped["deployed32"].values()),
    )


def built(name: str) -> Any:
    """Return our Layer for the case ``name``, in evaluation mode, every key loaded."""
    case = golden(name)
    settings = dict(case.settings)
    if name in BLOCKS:
        layer = _block(name, settings)
    else:
        groups = settings.pop("override_groups_map", None)
        if groups is not None:
            settings["override_groups_map"] = {int(k): v for k, v in groups.items()}
        family = "repvgg" if name.startswith("clas") else "cspresnet"
        layer = create_model(family, epsilon=EPSILON, **settings)
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    assert shapes == {key: value.shape for key, value in case.state.items()}
    assert layer.set_state_dict(dict(case.state)) == ([], [])
    layer.eval()
    return layer


def _block(name: str, settings: dict[str, Any]) -> Any:
    if name.startswith("det"):
        channels = settings["ch_in"], settings["ch_out"]
        return RepVggBlock(*channels, act=settings["act"], alpha=settings["alpha"], epsilon=EPSILON)
    geometry = {key: settings[key] for key in ("stride", "groups")}
    channels = settings["in_channels"], settings["out_channels"]
    return RepVGGBlock(*channels, epsilon=EPSILON, **geometry)


def run(layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """Return everything ``layer`` makes of ``x``, in float64."""
    with paddle.no_grad():
        found = layer(paddle.to_tensor(x))
    return [one.numpy() for one in (found if isinstance(found, list) else [found])]


def folded_magnitude(
    state: Mapping[str, np.ndarray], conv: str, norm: str, like: np.ndarray
) -> Arrays:
    """Return weight and bias of a BatchNorm folded into its convolution, all signs dropped.

    Written out here, apart from the product's algebra, because it is what the bound rests on.
    """
    gain, beta, mean, variance = (
        np.abs(state[f"{norm}.{key}"].astype(np.float64))
        for key in ("weight", "bias", "_mean", "_variance")
    )
    gain = gain / np.sqrt(variance + EPSILON)
    weight = np.zeros(like.shape)
    if conv:
        kernel = np.abs(state[conv].astype(np.float64))
        pad = (like.shape[2] - kernel.shape[2]) // 2
        weight = np.pad(kernel, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    else:
        for channel in range(like.shape[0]):
            weight[channel, channel % like.shape[1], 1, 1] = 1.0
    return {"weight": weight * gain[:, None, None, None], "bias": beta + mean * gain}


def magnitude(state: Mapping[str, np.ndarray], prefix: str, like: np.ndarray) -> Arrays:
    """Return weight and bias of the sum of a block's branches, all signs dropped."""
    names = (
        ("conv1", "conv2") if f"{prefix}conv1.conv.weight" in state else ("rbr_dense", "rbr_1x1")
    )
    parts = [
        folded_magnitude(state, f"{prefix}{name}.conv.weight", f"{prefix}{name}.bn", like)
        for name in names
    ]
    if f"{prefix}alpha" in state:
        factor = abs(float(state[f"{prefix}alpha"].item()))
        parts[1] = {key: factor * value for key, value in parts[1].items()}
    if f"{prefix}rbr_identity.weight" in state:
        parts.append(folded_magnitude(state, "", f"{prefix}rbr_identity", like))
    return {key: np.sum([part[key] for part in parts], axis=0) for key in ("weight", "bias")}


@pytest.mark.parametrize("name", CASES)
def test_fused_arrays_are_the_peers_deploy_weights(name: str) -> None:
    # The peer fuses in float32: six roundings a BatchNorm, one for alpha, one a branch.
    # We round once.
    case = golden(name)
    fused, report = fuse_arrays(case.state)
    assert {key for block in report.fused for key in block.keys} == set(case.deploy)
    roundings = gamma(BATCH_NORM_ROUNDINGS + 1 + 3, "float32") + UNIT_ROUNDOFF["float32"]
    for key, expected in case.deploy.items():
        stem, _, kind = key.rpartition(".")
        prefix = stem.removesuffix("rbr_reparam").removesuffix("conv")
        like = case.deploy[f"{stem}.weight"]
        bound = roundings * magnitude(case.state, prefix, like)[kind]
        assert fused[key].dtype == np.float32
        difference = np.abs(fused[key].astype(np.float64) - expected)
        assert (difference <= bound).all(), f"{key}: {(difference / bound).max():.3g} of the bound"


@pytest.mark.parametrize("name", CASES)
def test_fusing_consumes_the_branches_and_carries_the_rest(name: str) -> None:
    case = golden(name)
    fused, _ = fuse_arrays(case.state)
    prefixes = tuple(key.removesuffix("weight") for key in case.deploy if key.endswith("weight"))
    blocks = {p.removesuffix("rbr_reparam.").removesuffix("conv.") for p in prefixes}
    branch = ("conv1.", "conv2.", "alpha", "rbr_dense.", "rbr_1x1.", "rbr_identity.")
    consumed = {
        key
        for key in case.state
        if any(key.startswith(block) and key[len(block) :].startswith(branch) for block in blocks)
    }
    assert consumed
    assert set(fused) == (set(case.state) - consumed) | set(case.deploy)
    for key in set(case.state) - consumed:
        assert fused[key] is case.state[key]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("deploy", [False, True], ids=["train-time", "deploy"])
def test_blocks_compute_what_the_peers_do(name: str, deploy: bool) -> None:
    # Rounding of one float32 evaluation; one more where the fused weight was rounded. ReLU does
    # not widen a difference.
    case, layer = golden(name), built(name)
    block = layer.as_block()
    roundings = gamma(rounding_count(block) + 1, "float32")
    bound = roundings * evaluate_magnitude(block, case.input.astype(np.float64))
    if deploy:
        layer.convert_to_deploy()
    (found,) = run(layer, case.input)
    difference = np.abs(found.astype(np.float64) - case.truth[0])
    assert (difference <= bound).all(), f"{(difference / bound).max():.3g} of the bound"


FORMS: dict[str, Callable[[Any], Any]] = {
    "train-time": lambda _: None,
    "deploy": convert_to_deploy,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_compute_what_the_peers_do(name: str, form: str, dtype: str) -> None:
    # The peer's float32 output shows how much this network amplifies rounding. In float64 the
    # same amplification meets a unit roundoff 2**-29 as large.
    case, model = golden(name), built(name)
    model.to(dtype=dtype)
    FORMS[form](model)
    found = run(model, case.input.astype(dtype))
    assert len(found) == len(case.truth)
    finer = UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]
    for ours, truth, peer in zip(found, case.truth, case.float32, strict=True):
        scale = float(np.abs(truth).max())
        floor = FLOOR * UNIT_ROUNDOFF["float32"] * scale
        bound = SAME_SIZE * max(float(np.abs(peer - truth).max()), floor) * finer
        assert np.abs(ours - truth).max() <= bound


@pytest.mark.parametrize("name", ["clas_repvgg", "clas_repvgg_g4", "clas_repvgg_se"])
def test_the_peers_own_deploy_form_is_right_only_without_squeeze_excite(name: str) -> None:
    case = golden(name)
    (truth,), (peer,), (deployed,) = case.truth, case.float32, case.deployed32
    off, scale = np.abs(deployed - truth).max(), np.abs(truth).max()
    if name.endswith("_se"):
        assert off > scale
    else:
        assert off <= SAME_SIZE * np.abs(peer - truth).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_recognised_from_their_keys(name: str) -> None:
    case = golden(name)
    found = recognise({key: value.shape for key, value in case.state.items()})
    assert found is not None
    assert (found.form, found.missing, found.unexpected, found.mismatched) == (
        "train-time",
        (),
        (),
        (),
    )
    told = {"channels", "layers", "use_alpha", "use_large_stem"}
    told |= {"num_blocks", "width_multiplier", "class_num", "use_se"}
    for key in told & set(case.settings):
        assert found.settings[key] == case.settings[key]
    groups = found.settings.get("override_groups_map", {})
    assert groups == {int(k): v for k, v in case.settings.get("override_groups_map", {}).items()}


@pytest.mark.parametrize("numpy_major", [1, 2])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_written_by_paddle_load_bit_for_bit(numpy_major: int, protocol: int) -> None:
    found = load_checkpoint(HERE / f"numpy{numpy_major}_protocol{protocol}.pdparams")
    expected = golden("det_block_alpha").state
    assert list(found.arrays) == list(expected)
    for key, value in expected.items():
        assert found.arrays[key].dtype == value.dtype
        np.testing.assert_array_equal(found.arrays[key], value)
    assert found.names["alpha"].startswith("rep_vgg_block_")


def test_the_two_numpys_wrote_different_pickles() -> None:
    for protocol in (2, 4):
        first, second = (
            (HERE / f"numpy{major}_protocol{protocol}.pdparams").read_bytes() for major in (1, 2)
        )
        assert b"numpy._core" not in first
        assert b"numpy._core" in second
