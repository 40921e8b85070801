"""A ``.pdema`` beside a ``.pdparams``: which holds averaged weights, and how that is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.checkpoint.pipeline import deploy_path, fuse
from tests.weights import repvgg_arrays, write

NETWORK = {key: f"conv2d_{i}.w_0" for i, key in enumerate(repvgg_arrays())}
COPY = {key: f"{name}_deepcopy_{i}" for i, (key, name) in enumerate(NETWORK.items())}
COPY_OF_COPY = {key: f"{name}_deepcopy_{i}" for i, (key, name) in enumerate(COPY.items())}
COMPUTED = {key: f"eager_tmp_{i}" for i, key in enumerate(NETWORK)}
OTHER_NETWORK = {key: f"conv2d_{i + 500}.w_0" for i, key in enumerate(NETWORK)}


def pair(folder, params: dict, ema: dict):
    for seed, (ending, names) in enumerate((("pdparams", params), ("pdema", ema))):
        save_checkpoint(folder / f"x.{ending}", repvgg_arrays(seed), names=names)


def notice(path) -> str:
    notices = load_checkpoint(path).layout.notices
    assert len(notices) == 1
    return notices[0]


@pytest.mark.parametrize(
    ("params", "ema", "averaged"),
    [
        (NETWORK, COPY, "x.pdparams"),  # PaddleDetection since March 2022
        (COPY, NETWORK, "x.pdema"),  # and before
        (COMPUTED, NETWORK, "x.pdparams"),
        (COPY, COMPUTED, "x.pdema"),
    ],
)
def test_names_of_copies_and_computed_values_tell(tmp_path, params, ema, averaged):
    pair(tmp_path, params, ema)
    for name, other in (("x.pdparams", "x.pdema"), ("x.pdema", "x.pdparams")):
        said = notice(tmp_path / name)
        assert said.startswith(f"'{other}' stands beside it; the averaged weights are in ")
        assert f"the averaged weights are in '{averaged}'" in said
        assert said.endswith(f"used: '{name}', as named")


def test_a_few_buffers_with_names_of_their_own_do_not_hide_it(tmp_path):
    odd = dict.fromkeys(list(NETWORK)[:3], "eager_tmp_9")
    pair(tmp_path, NETWORK | odd, COPY | dict.fromkeys(odd, "generated_tensor_7"))
    assert "averaged weights are in 'x.pdparams'" in notice(tmp_path / "x.pdparams")


@pytest.mark.parametrize(
    ("params", "ema"),
    [({}, {}), (NETWORK, NETWORK), (COMPUTED, COMPUTED), (NETWORK, COPY_OF_COPY),
     (OTHER_NETWORK, COPY), (NETWORK, {}), (COPY, COPY)],
)  # fmt: skip
def test_where_nothing_tells_that_is_said(tmp_path, params, ema):
    pair(tmp_path, params, ema)
    assert "nothing in the files tells" in notice(tmp_path / "x.pdparams")
    assert "since March 2022" in notice(tmp_path / "x.pdema")


@pytest.mark.parametrize("contents", [b"", b"damaged", b"\x80\x02cposix\nsystem\n."])
def test_an_unusable_file_beside_proves_nothing(tmp_path, contents):
    pair(tmp_path, NETWORK, COPY)
    (tmp_path / "x.pdema").write_bytes(contents)
    assert "nothing in the files tells" in notice(tmp_path / "x.pdparams")


def test_alone(tmp_path):
    pair(tmp_path, NETWORK, COPY)
    (tmp_path / "x.pdparams").unlink()
    assert notice(tmp_path / "x.pdema").startswith("no 'x.pdparams' stands beside it; nothing")
    assert load_checkpoint(write(tmp_path, repvgg_arrays(), "y.pdparams")).layout.notices == ()


def test_the_names_are_those_of_paddle(tmp_path):
    """As PaddleDetection's trainer goes about it: copy, put the average in, save both."""
    from reparam.adapters.paddle_models import import_paddle

    paddle = import_paddle()
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    aside = copy.deepcopy(layer.state_dict())
    average = {key: 0.5 * tensor for key, tensor in layer.state_dict().items()}
    layer.set_state_dict(average)
    paddle.save(layer.state_dict(), str(tmp_path / "x.pdparams"))
    paddle.save(aside, str(tmp_path / "x.pdema"))
    assert "averaged weights are in 'x.pdparams'" in notice(tmp_path / "x.pdparams")
    paddle.save(average, str(tmp_path / "x.pdparams"))
    assert "averaged weights are in 'x.pdparams': its parameters are named as computed" in notice(
        tmp_path / "x.pdparams"
    )


def test_the_deploy_form_does_not_take_the_place_of_the_other(tmp_path):
    pair(tmp_path, NETWORK, COPY)
    assert deploy_path(tmp_path / "x.pdema").name == "x.pdema.deploy.pdparams"
    fused = [load_checkpoint(fuse(tmp_path / f"x.{e}").output) for e in ("pdparams", "pdema")]
    assert fused[0].sha256 != fused[1].sha256
    report = fuse(tmp_path / "x.pdema", tmp_path / "y.pdema").report
    assert "used: 'x.pdema'" in report.notices[0]
    assert np.array_equal(
        load_checkpoint(tmp_path / "y.pdema").arrays["linear.bias"],
        repvgg_arrays(1)["linear.bias"],
    )
