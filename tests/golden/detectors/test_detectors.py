"""Hold the detector to what paddledet's PP-YOLOE computed; README.md says how it was recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from reparam.adapters.deploy_layers import deploy_layer_of
from reparam.architectures import create_model, recognise
from reparam.checkpoint import fuse_arrays
from reparam.conv import gamma
from reparam.conv.bounds import BATCH_NORM_ROUNDINGS, UNIT_ROUNDOFF
from reparam.detection import Selection, decode, select
from reparam.models import convert_to_deploy
from tests.golden.detectors.recording import Arrays, Case, load
from tests.golden.test_golden import magnitude

CASES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.npz"))}
# Of every BatchNorm of the peer: 1e-5, as Paddle's operator holds it whatever the dtype.
EPSILON = float(np.float32(1e-5))
NAMES = {"out_channels": "neck_channels", "block_num": "neck_blocks", "use_alpha": "neck_alpha"}

# A right network rounds as the peer does, in another order and, fused, in fewer places.
SAME_SIZE = 4
FLOOR = 4  # unit roundoffs of the output's scale: less than that is luck


@cache
def case(name: str) -> Case:
    return load(CASES[name])


def settings(name: str) -> dict[str, Any]:
    """Return the peer's settings as create_model takes them."""
    told = case(name).about["settings"]
    neck = {NAMES.get(key, key): value for key, value in told["neck"].items()}
    low, high = told["head"].get("reg_range", (0, 17))
    head = {key: told["head"][key] for key in ("num_classes", "attn_conv") if key in told["head"]}
    backbone = {key: value for key, value in told["backbone"].items() if key != "return_idx"}
    return {**neck, **backbone, **head, "bins": high - low}


def own_keys(name: str, keys: Any) -> list[str]:
    """Return the keys of what takes part in inference; an alpha of the deploy form does not."""
    return [key for key in keys if not key.startswith("aux_")]


def built(name: str, head: str = "raw") -> Any:
    layer = create_model("ppyoloe", head=head, epsilon=EPSILON, **settings(name))
    state = {key: case(name).state[key] for key in own_keys(name, case(name).state)}
    assert layer.set_state_dict(state) == ([], [])
    layer.eval()
    return layer


def answers(layer: Any, x: np.ndarray) -> Arrays:
    """Return maps, boxes and scores by the names of the recording."""
    with paddle.no_grad():
        maps = layer(paddle.to_tensor(x))
        boxes, scores = layer.yolo_head.decoded(maps)
    named = {f"{('cls', 'reg')[i % 2]}{i // 2}": one.numpy() for i, one in enumerate(maps)}
    return {**named, "boxes": boxes.numpy(), "scores": scores.numpy()}


def bound(run: Arrays, name: str, dtype: str) -> float:
    """How far a right network may be from the truth.

    The peer tells how much this network amplifies rounding: in float32, or with its weights off
    by one rounding, as fused ones are. Its worst output counts: the best of many is luck.
    """
    off = [FLOOR * UNIT_ROUNDOFF["float32"]]
    for key in (key.removeprefix("truth/") for key in run if key.startswith("truth/")):
        truth, peer = run[f"truth/{key}"], run[f"float32/{key}"]
        distance = max(float(np.abs(truth - peer).max()), float(run[f"nudged/{key}"]))
        off.append(distance / float(np.abs(truth).max()))
    scale = float(np.abs(run[f"truth/{name}"]).max())
    finer = UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]
    return SAME_SIZE * max(off) * scale * finer


def excess(name: str, layer: Any, dtype: str = "float32") -> dict[str, float]:
    """How many times its bound each output is from the truth, the worst of both recordings."""
    layer.to(dtype=dtype)
    worst: dict[str, float] = {}
    for x, run in zip(case(name).images, case(name).runs, strict=True):
        found = answers(layer, x.astype(dtype))
        assert {f"truth/{key}" for key in found} == {k for k in run if k.startswith("truth/")}
        for key, value in found.items():
            truth = run[f"truth/{key}"]
            assert value.shape == truth.shape
            assert value.dtype == dtype
            off = float(np.abs(value - truth).max()) / bound(run, key, dtype)
            worst[key] = max(worst.get(key, 0.0), off)
    return worst


FORMS: dict[str, Callable[[Any], Any]] = {
    "train-time": lambda _: None,
    "deploy": convert_to_deploy,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_maps_boxes_and_scores_are_the_peers(name: str, form: str, dtype: str) -> None:
    layer = built(name)
    layer.to(dtype=dtype)
    FORMS[form](layer)
    assert max(excess(name, layer, dtype).values()) <= 1


@pytest.mark.parametrize("name", CASES)
def test_the_peers_own_deploy_form_is_the_same_function(name: str) -> None:
    for run in case(name).runs:
        for key in ("cls0", "reg0"):
            off = np.abs(run[f"deployed32/{key}"] - run[f"truth/{key}"]).max()
            assert off <= bound(run, key, "float32")


@pytest.mark.parametrize("name", CASES)
def test_losses_get_what_the_peers_losses_get(name: str) -> None:
    layer, (x, run) = built(name), (case(name).images[1], case(name).runs[1])
    layer.training = True  # not its BatchNorms, as in the recording
    with paddle.no_grad():
        scores, distributions = (one.numpy() for one in layer(paddle.to_tensor(x)))
    for found, key in ((scores, "scores"), (distributions, "distributions")):
        expected = run[f"float32/train_{key}"]
        assert found.shape == expected.shape
        kinds = ["scores"] if key == "scores" else [k[6:] for k in run if k.startswith("truth/reg")]
        allowed = 2 * max(bound(run, kind, "float32") for kind in kinds)
        assert np.abs(found - expected).max() <= allowed


@pytest.mark.parametrize("name", CASES)
def test_the_maps_say_what_they_are(name: str) -> None:
    told, maps = case(name).about["settings"]["head"], built(name).maps
    low, high = told.get("reg_range", (0, 17))
    assert maps.strides == tuple(told.get("fpn_strides", (32, 16, 8)))
    assert maps.classes == told["num_classes"]
    assert maps.projection == tuple(range(low, high))


@pytest.mark.parametrize("name", CASES)
def test_keys_stand_in_the_peers_order(name: str) -> None:
    layer = built(name)
    assert list(layer.state_dict()) == own_keys(name, case(name).state)
    convert_to_deploy(layer)
    after = [key for key in case(name).about["deploy_keys"] if not key.endswith(".alpha")]
    assert list(layer.state_dict()) == own_keys(name, after)


@pytest.mark.parametrize("name", CASES)
def test_detectors_are_recognised_from_their_keys(name: str) -> None:
    state = case(name).state
    found = recognise({key: value.shape for key, value in state.items()})
    assert found is not None
    assert found.form == "train-time"
    assert (found.missing, found.unexpected, found.mismatched, found.beside) == ((), (), (), ())
    assert set(found.ignored) == set(state) - set(own_keys(name, state))
    ours = create_model(found.name, **found.settings).structure
    assert ours == create_model("ppyoloe", **settings(name)).structure
    blocks = {key.rpartition(".conv.")[0] for key in case(name).deploy}
    assert set(found.blocks) == set(own_keys(name, blocks))


@pytest.mark.parametrize("name", CASES)
def test_fused_arrays_are_the_peers_deploy_weights(name: str) -> None:
    # The peer fuses in float32: six roundings a BatchNorm, one for alpha, one a branch.
    # We round once.
    fused, report = fuse_arrays(case(name).state)
    deploy = case(name).deploy
    assert {key for block in report.fused for key in block.keys} == set(deploy)
    roundings = gamma(BATCH_NORM_ROUNDINGS + 1 + 3, "float32") + UNIT_ROUNDOFF["float32"]
    for key, expected in deploy.items():
        stem, _, kind = key.rpartition(".")
        like = deploy[f"{stem}.weight"]
        allowed = roundings * magnitude(case(name).state, stem.removesuffix("conv"), like)[kind]
        assert fused[key].dtype == np.float32
        assert (np.abs(fused[key].astype(np.float64) - expected) <= allowed).all(), key


@pytest.mark.parametrize("name", CASES)
def test_the_peers_deploy_checkpoint_loads_and_answers(name: str) -> None:
    about, state = case(name).about, {**case(name).state, **case(name).deploy}
    arrays = {key: state[key] for key in about["deploy_keys"]}
    act = about["settings"]["head"].get("act", "swish")
    layer, report = deploy_layer_of(arrays, {"epsilon": EPSILON, "act": act, "head": "raw"})
    assert not report.fused
    factors = [key for key in arrays if key.endswith(".alpha")]
    assert bool(factors) == any("factors of fused blocks" in notice for notice in report.notices)
    found = recognise({key: array.shape for key, array in arrays.items()})
    assert (found.form, found.missing, found.unexpected) == ("deploy", (), ())
    assert set(factors) <= set(found.ignored)
    assert max(excess(name, layer).values()) <= 1


@pytest.mark.parametrize("name", CASES)
def test_the_checkpoint_alone_is_enough(name: str) -> None:
    """From names and arrays to a deploy form without BatchNorms; the activation is not in them."""
    act = case(name).about["settings"]["head"].get("act", "swish")
    options = {"epsilon": EPSILON, "act": act, "head": "raw"}
    layer, report = deploy_layer_of(case(name).state, options)
    assert max(excess(name, layer).values()) <= 1
    assert not any("_mean" in key for key in layer.state_dict())
    assert {key for block in report.fused for key in block.keys} == set(case(name).deploy)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["default", "strict"])
def test_detections_are_the_peers(name: str, kind: str) -> None:
    """Of the peer's own boxes and scores, so that nothing is within rounding but divisions."""
    told = case(name).about["nms"][kind]
    selection = Selection(
        told["score_threshold"], told["nms_threshold"], told["keep_top_k"], told["nms_top_k"]
    )
    for run in case(name).runs:
        boxes, scores = (run[f"float32/{key}"] for key in ("boxes", "scores"))
        factors = np.tile(run["scale_factor"][:, ::-1], 2)[:, None]  # x, y, x, y
        found = select(boxes / factors, scores, selection)
        rows, count = (run[f"float32/{kind}_{part}"] for part in ("rows", "count"))
        assert list(found.count) == list(count)
        for i, theirs in enumerate(np.split(rows, np.cumsum(count)[:-1])):
            best = theirs[np.argsort(-theirs[:, 1], kind="stable")]
            ours = slice(len(theirs))
            np.testing.assert_array_equal(found.classes[i, ours], best[:, 0])
            np.testing.assert_array_equal(found.scores[i, ours], best[:, 1])
            np.testing.assert_allclose(
                found.boxes[i, ours], best[:, 2:], rtol=2 * UNIT_ROUNDOFF["float32"]
            )


@pytest.mark.parametrize("name", CASES)
def test_decoding_in_numpy_is_the_peers(name: str) -> None:
    maps = built(name).maps
    for run in case(name).runs:
        levels = range(len(maps.strides))
        truth = [run[f"truth/{kind}{i}"] for i in levels for kind in ("cls", "reg")]
        boxes, scores = decode(maps, truth)
        for found, key in ((boxes, "boxes"), (scores, "scores")):
            assert np.abs(found - run[f"truth/{key}"]).max() <= bound(run, key, "float64")


def test_the_batch_is_of_images_that_differ() -> None:
    for name in CASES:
        scores = case(name).runs[1]["truth/scores"]
        assert np.abs(scores[0] - scores[1]).max() > 0.01
        assert (scores > 0.01).any(axis=(1, 2)).all()
