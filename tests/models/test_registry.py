"""Models by name, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reparam import architectures, models
from reparam.errors import UnsupportedModelError
from reparam.models import (
    CSPResNet,
    RepVGG,
    create_model,
    list_models,
    recognise,
    register,
    registry,
)
from reparam.models.blocks import ReparamBlock
from reparam.models.layers import RepVggBlock
from reparam.models.paddle_api import paddle
from tests.models.helpers import shapes_of


def python(code: str) -> str:
    """Return what a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_recognising_and_listing_need_no_framework():
    frameworks = "{'paddle', 'onnx', 'onnx_ir', 'onnxruntime', 'paddle2onnx'}"
    code = (
        "import sys\n"
        "from reparam.architectures import list_models, recognise\n"
        "from reparam.models import recognise as same\n"
        "assert recognise({'stage0.rbr_reparam.weight': (8, 3, 3, 3)}) is None\n"
        "assert 'repvgg_a0' in list_models()\n"
        f"print(sorted({frameworks} & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_the_door_imports_nothing_before_it_is_used():
    code = "import sys, reparam.architectures; print('reparam.models' in sys.modules)"
    assert python(code) == "False"


def test_building_without_paddle_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['paddle'] = None\n"
        "from reparam.architectures import create_model\n"
        "from reparam.errors import MissingDependencyError\n"
        "try:\n"
        "    create_model('repvgg_a0')\n"
        "except MissingDependencyError as error:\n"
        "    print(error)"
    )
    message = python(code)
    assert "'paddlepaddle', which is not installed" in message
    assert 'pip install "reparam[export]"' in message


def test_every_public_name_is_there():
    for name in models.__all__:
        assert getattr(models, name).__name__ == name
    assert set(models.__all__) <= set(dir(models))
    with pytest.raises(AttributeError, match="no attribute 'ResNet'"):
        _ = models.ResNet


def test_every_family_and_its_variants_are_listed():
    sizes = ["a0", "a1", "a2", "b0", "b1", "b1g2", "b1g4", "b2", "b2g2", "b2g4"]
    repvggs = [f"repvgg_{size}" for size in (*sizes, "b3", "b3g2", "b3g4", "d2se")]
    cspresnets = [f"cspresnet_{size}" for size in "lmstx"]
    mobileones = [f"mobileone_s{number}" for number in range(5)]
    lcnets = [f"pplcnetv2_{size}" for size in ("base", "large", "small")]
    lcnets += ["pplcnetv3", "pplcnetv3_det", "pplcnetv3_rec"]
    yoloes = [f"ppyoloe_{size}" for size in ("l", "m", *(f"plus_{n}" for n in "lmstx"), *"stx")]
    expected = ["cspresnet", *cspresnets, "mobileone", *mobileones, "pplcnetv2", *lcnets]
    expected += ["ppyoloe", *yoloes]
    assert list_models() == [*expected, "repvgg", *repvggs]
    assert architectures.list_models() == list_models()


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", ["cspresnet_t", "cspresnet_x"])
def test_a_variant_is_built_with_its_own_multipliers_unless_told_otherwise(name, deploy):
    model = create_model(name, deploy=deploy, width_mult=0.125)
    assert isinstance(model, CSPResNet)
    assert model.structure.channels == (8, 16, 32, 64, 128)
    assert model.structure.layers == {"t": (1, 2, 2, 1), "x": (4, 8, 8, 4)}[name[-1]]


@pytest.mark.parametrize("deploy", [False, True])
def test_what_is_recognised_builds_the_same_state_dict(deploy):
    for name, settings in (
        ("repvgg_a0", {"class_num": 5}),
        ("repvgg", {"num_blocks": [1, 2, 1, 1], "width_multiplier": [0.25, 0.125, 0.1, 0.125]}),
        ("cspresnet_t", {"use_large_stem": True, "use_alpha": True}),
        ("cspresnet_s", {"width_mult": 0.125, "num_classes": 4, "in_channels": 1}),
        ("cspresnet", {"layers": [1, 1], "channels": [8, 8, 16], "return_idx": [1]}),
    ):
        shapes = shapes_of(create_model(name, deploy=deploy, **settings))
        found = architectures.recognise(shapes)
        assert found == recognise(shapes)
        again = architectures.create_model(
            found.name, deploy=deploy, **{**found.assumed, **found.settings}
        )
        assert shapes_of(again) == shapes


def test_a_half_fused_checkpoint_is_rebuilt_by_what_was_recognised():
    settings = {"layers": [2, 1], "channels": [8, 8, 16], "return_idx": [1], "use_alpha": True}
    original = create_model("cspresnet", **settings)
    original.stages[0].blocks[1].conv2.convert_to_deploy()
    original.stages[1].conv3.fold_batch_norm()
    original.stages[1].blocks[0].conv2.conv1.fold_batch_norm()
    found = recognise(shapes_of(original))
    assert found.form == "mixed"
    again = create_model(found.name, **{**found.assumed, **found.settings})
    layers = dict(again.named_sublayers())
    for prefix in found.deployed:
        layers[prefix].convert_to_deploy()
    for prefix in found.folded:
        layers[prefix].fold_batch_norm()
    assert shapes_of(again) == shapes_of(original)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnsupportedModelError, match="no model named 'repvgg_b2g'") as error:
        create_model("repvgg_b2g")
    assert error.value.hint == "'repvgg_b2g4'"
    with pytest.raises(UnsupportedModelError) as error:
        create_model("zzz")
    assert "one of cspresnet" in error.value.hint


def test_an_unknown_setting_is_answered_with_those_accepted():
    with pytest.raises(UnsupportedModelError, match="no setting named 'num_class'") as error:
        create_model("cspresnet_s", num_class=10)
    assert error.value.hint == "'num_classes'"
    assert "act, channels, depth_mult" in error.value.found


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.mark.usefixtures("clean_registry")
def test_a_network_of_ones_own_is_built_by_name_in_both_forms():
    @register("mine", channels=4)
    def build(channels: int, alpha: bool = False):
        return paddle.nn.Sequential(RepVggBlock(3, channels, alpha=alpha))

    assert "mine" in list_models()
    model = create_model("mine", alpha=True)
    assert "0.alpha" in model.state_dict()
    deployed = create_model("mine", deploy=True, channels=6)
    assert shapes_of(deployed) == {"0.conv.weight": (6, 3, 3, 3), "0.conv.bias": (6,)}
    assert all(isinstance(layer, ReparamBlock) for layer in deployed.children())
    with pytest.raises(UnsupportedModelError, match="no setting named 'beta'"):
        create_model("mine", beta=1)


@pytest.mark.usefixtures("clean_registry")
def test_a_factory_that_takes_any_setting_is_given_it():
    @register("any")
    def build(**settings):
        return settings

    assert create_model("any", whatever=1) == {"whatever": 1}


@pytest.mark.parametrize("name", ["repvgg_a0", "cspresnet"])
def test_a_name_is_registered_once(name):
    with pytest.raises(UnsupportedModelError, match="registered already"):
        register(name)(RepVGG)
