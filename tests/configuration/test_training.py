"""What a training configuration says of the network; what is not understood is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam.configuration import check_configuration, check_name, configuration_of
from reparam.configuration.reading import Opaque
from reparam.configuration.records import Document
from reparam.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from reparam.models import cspresnet_layout, repvgg_layout

DETECTOR = {
    "architecture": "YOLOv3",
    "norm_type": "sync_bn",
    "num_classes": 80,
    "depth_mult": 0.33,
    "width_mult": 0.5,
    "use_ema": True,
    "YOLOv3": {"backbone": "CSPResNet", "neck": "CustomCSPPAN", "post_process": None},
    "CSPResNet": {
        "layers": [3, 6, 6, 3],
        "channels": [64, 128, 256, 512, 1024],
        "return_idx": [1, 2, 3],
        "use_large_stem": True,
        "use_alpha": True,
    },
    "TestReader": {"inputs_def": {"image_shape": [3, 640, 640]}, "sample": [Opaque("!Decode")]},
}


def changed(values, **changes):
    """Return ``values`` with some of them replaced; ``Section__key`` reaches into a section."""
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            result.setdefault(section, {})[key] = value
        else:
            result[name] = value
    return result


def read(values):
    return configuration_of(Document(Path("top.yml"), values, (Path("top.yml"),)))


def shapes(prefix="", deploy=False, **settings):
    chosen = {
        "layers": (1, 2, 2, 1),
        "channels": (32, 64, 128, 256, 512),
        "use_large_stem": True,
        "use_alpha": True,
        **settings,
    }
    layout = cspresnet_layout.layout(cspresnet_layout.Structure(**chosen))
    return {prefix + key: shape for key, shape in layout.shapes(deploy=deploy).items()}


REFUSED = {
    "another backbone": ({"YOLOv3__backbone": "ResNet"}, "the backbone ResNet"),
    "a tagged backbone": ({"YOLOv3__backbone": Opaque("!ResNet")}, "the backbone !ResNet"),
    "no backbone": ({"YOLOv3": {"neck": "X"}}, "no 'backbone' in the section"),
    "no section": ({"architecture": "FasterRCNN"}, "its architecture, FasterRCNN"),
    "a slip": ({"CSPResNet__use_lage_stem": True}, "'use_lage_stem' in the section"),
    "another norm": ({"norm_type": "gn"}, "norm_type 'gn'"),
    "quantization": ({"slim": "QAT"}, "'slim: QAT'"),
    "quantization of clas": ({"Slim": {"quant": {"name": "pact"}}}, "'Slim: quant'"),
    "layers that are text": ({"CSPResNet__layers": "3"}, "'layers' is '3'"),
    "layers of nothing": ({"CSPResNet__layers": []}, "'layers' is []"),
    "a layer of -1": ({"CSPResNet__layers": [-1]}, "whole numbers from 1"),
    "a flag in words": ({"CSPResNet__use_alpha": "yes please"}, "needed: true or false"),
    "a number as a flag": ({"CSPResNet__trt": 1}, "'trt' is 1"),
    "a factor of 0": ({"width_mult": 0}, "'width_mult' is 0"),
    "a factor of nan": ({"width_mult": float("nan")}, "needed: a number above 0"),
    "classes in words": ({"num_classes": "many"}, "'number of classes' is 'many'"),
    "an activation with options": (
        {"CSPResNet__act": {"name": "leaky_relu", "negative_slope": 0.2}},
        "the name of an activation",
    ),
    "a section of text": ({"CSPResNet": "text"}, "is not names and values"),
    "nothing known": ({"architecture": None}, "no 'backbone'"),
}


class TestDetection:
    def test_everything_that_matters(self):
        found = read(DETECTOR)
        assert found.network == "cspresnet"
        assert found.told == {
            "layers": [1, 2, 2, 1],
            "channels": [32, 64, 128, 256, 512],
            "use_large_stem": True,
            "use_alpha": True,
            "in_channels": 3,
        }
        assert found.settings == {"act": "swish", "return_idx": [1, 2, 3], "trt": False}
        assert found.classes == 80
        assert found.input_size == (640, 640)

    def test_what_is_not_said_is_as_in_paddledetection(self):
        values = {"architecture": "YOLOv3", "YOLOv3": {"backbone": "CSPResNet"}}
        found = read(values)
        assert found.told["layers"] == [3, 6, 6, 3]
        assert found.told["channels"] == [64, 128, 256, 512, 1024]
        assert not found.told["use_large_stem"]
        assert not found.told["use_alpha"]
        assert found.classes is None
        assert found.input_size is None

    def test_the_section_wins_over_what_stands_at_the_top(self):
        found = read(changed(DETECTOR, trt=True, CSPResNet__width_mult=0.75))
        assert found.told["channels"] == [48, 96, 192, 384, 768]
        assert found.settings["trt"] is True

    def test_a_backbone_written_in_line(self):
        inline = {"name": "CSPResNet", "act": "relu", "return_idx": [2, 3]}
        found = read(changed(DETECTOR, YOLOv3__backbone=inline))
        assert found.settings == {"act": "relu", "return_idx": [2, 3], "trt": False}
        assert found.told["use_alpha"]

    @pytest.mark.parametrize(
        "key", ["use_checkpoint", "depth_wise", "freeze_norm", "freeze_at", "pretrained"]
    )
    def test_what_does_not_matter_is_let_be(self, key):
        assert read(changed(DETECTOR, **{f"CSPResNet__{key}": True})) == read(DETECTOR)

    def test_an_activation_of_none(self):
        assert read(changed(DETECTOR, CSPResNet__act=None)).settings["act"] is None

    def test_an_open_input_size(self):
        for shape in ([3, -1, -1], [3, None, 640], 640, [3, 640]):
            found = read(changed(DETECTOR, TestReader={"inputs_def": {"image_shape": shape}}))
            assert found.input_size is None

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_is_refused(self, name):
        changes, message = REFUSED[name]
        with pytest.raises(ConfigurationError) as caught:
            read(changed(DETECTOR, **changes))
        assert message in caught.value.found
        assert "'top.yml' is not understood" in caught.value.what

    def test_no_configuration_of_a_network(self):
        with pytest.raises(ConfigurationError, match="neither 'architecture'"):
            read({"epoch": 80})


class TestClassification:
    def test_a_known_network(self):
        found = read({"Arch": {"name": "RepVGG_A0", "class_num": 5, "pretrained": True}})
        assert found.network == "repvgg_a0"
        assert found.told["class_num"] == 5
        assert read({"Arch": {"name": "RepVGG_A0"}}).told["class_num"] == 1000
        assert found.input_size is None
        arch = {"Arch": {"name": "RepVGG_A0"}, "Global": {"image_shape": [3, 192, 224]}}
        assert read(arch).input_size == (192, 224)

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ({"name": "ResNet50"}, "the network ResNet50"),
            ({"name": "repvgg"}, "the network repvgg"),
            ({"name": "RepVGG_A0", "dropout": 0.1}, "'dropout' in the section Arch"),
            ({"name": "RepVGG_A0", "class_num": "five"}, "needed: a whole number"),
            ({}, "the network None"),
        ],
    )
    def test_what_is_refused(self, arch, message):
        with pytest.raises(ConfigurationError, match=message):
            read({"Arch": arch})


DIFFERENT = {
    "stem": ({"CSPResNet__use_large_stem": False}, "use_large_stem False in the conf"),
    "alpha": ({"CSPResNet__use_alpha": False}, "use_alpha False in the configuration, True"),
    "width": ({"width_mult": 0.75}, "channels [48, 96, 192, 384, 768] in the configuration"),
    "depth": ({"depth_mult": 0.67}, "layers [2, 4, 4, 2] in the configuration, [1, 2, 2, 1]"),
    "channels": ({"CSPResNet__channels": [64, 128, 256, 512, 768]}, "384] in the conf"),
}


class TestAgainstCheckpoint:
    @pytest.mark.parametrize("prefix", ["", "backbone."])
    @pytest.mark.parametrize("deploy", [False, True])
    def test_they_agree(self, prefix, deploy):
        check_configuration(read(DETECTOR), shapes(prefix, deploy))

    @pytest.mark.parametrize("name", DIFFERENT)
    def test_they_differ(self, name):
        changes, message = DIFFERENT[name]
        with pytest.raises(ConfigurationError) as caught:
            check_configuration(read(changed(DETECTOR, **changes)), shapes())
        assert message in caught.value.found
        assert "is not that of the checkpoint" in caught.value.what
        assert caught.value.exit_code == 2

    def test_every_difference_is_named(self):
        wrong = changed(DETECTOR, CSPResNet__use_alpha=False, depth_mult=1.0)
        with pytest.raises(ConfigurationError) as caught:
            check_configuration(read(wrong), shapes())
        assert "layers" in caught.value.found
        assert "use_alpha" in caught.value.found

    def test_alpha_is_not_told_by_the_deploy_form(self):
        check_configuration(
            read(changed(DETECTOR, CSPResNet__use_alpha=False)), shapes(deploy=True)
        )

    @pytest.mark.parametrize(("classes", "good"), [(80, True), (20, False)])
    def test_the_classes_of_a_detector(self, classes, good):
        found = {**shapes("backbone."), "yolo_head.pred_cls.0.weight": (classes, 192, 3, 3)}
        if good:
            check_configuration(read(DETECTOR), found)
        else:
            with pytest.raises(ConfigurationError, match="num_classes 80 in the configuration, 20"):
                check_configuration(read(DETECTOR), found)

    def test_a_checkpoint_of_another_network(self):
        structure = repvgg_layout.Structure((1, 2, 2, 1), (8, 12, 16, 20))
        found = repvgg_layout.layout(structure).shapes()
        with pytest.raises(ConfigurationError, match="is of a cspresnet, the checkpoint a repvgg"):
            check_configuration(read(DETECTOR), found)
        with pytest.raises(ConfigurationError, match="the checkpoint no network that"):
            check_configuration(read(DETECTOR), {"x": (3,)})

    def test_classes_of_a_classifier(self):
        variant = repvgg_layout.VARIANTS["repvgg_a0"]
        structure = repvgg_layout.Structure.of(**variant, override_groups_map=None, class_num=5,
                                               in_channels=3)  # fmt: skip
        found = repvgg_layout.layout(structure).shapes()
        check_configuration(read({"Arch": {"name": "RepVGG_A0", "class_num": 5}}), found)
        with pytest.raises(ConfigurationError, match="class_num 1000 in the configuration, 5"):
            check_configuration(read({"Arch": {"name": "RepVGG_A0"}}), found)


class TestName:
    @pytest.mark.parametrize("name", ["cspresnet_s", "cspresnet"])
    def test_the_right_one(self, name):
        check_name(name, shapes())

    def test_unknown(self):
        with pytest.raises(UnsupportedModelError) as caught:
            check_name("cspresnt_s", shapes())
        assert caught.value.hint == "'cspresnet_s'"

    @pytest.mark.parametrize("name", ["cspresnet_m", "repvgg", "repvgg_a0"])
    def test_another(self, name):
        with pytest.raises(UnsupportedModelError) as caught:
            check_name(name, shapes())
        assert f"not a {name}" in caught.value.what
        assert "a cspresnet_s: " in caught.value.found
        assert "layers [1, 2, 2, 1]" in caught.value.found

    def test_none_at_all(self):
        with pytest.raises(UnsupportedModelError, match="no network that reparam knows"):
            check_name("repvgg", {"x": (3,)})

    def test_to_the_last_key(self):
        found = shapes()
        del found["stem.conv1.bn._mean"]
        with pytest.raises(CheckpointError, match=r"1 missing: stem.conv1.bn._mean"):
            check_name("cspresnet_s", found)
        with pytest.raises(CheckpointError, match=r"1 unexpected: more"):
            check_name("cspresnet_s", {**shapes(), "more": (3,)})
        with pytest.raises(CheckpointError, match=r"1 of the wrong shape: stem.conv1.bn._mean"):
            check_name("cspresnet_s", {**shapes(), "stem.conv1.bn._mean": (3,)})
