"""What a configuration says of the whole detector: neck, head, selection and preprocessing."""

from __future__ import annotations

import pytest

from reparam.configuration import check_configuration, checking, read_configuration
from reparam.configuration.reading import Opaque
from reparam.detection import Preprocessing, Selection
from reparam.detection.records import IMAGENET_MEAN, IMAGENET_STD
from reparam.errors import ConfigurationError
from reparam.models import Recognised
from tests.configuration.test_training import changed, read, shapes

SIZE = [512, 768]
RESIZE = {"Resize": {"target_size": SIZE, "keep_ratio": False, "interp": 2}}
PLAIN = {"NormalizeImage": {"mean": [0.0] * 3, "std": [1.0] * 3, "norm_type": "none"}}
STEPS = [{"Decode": {}}, RESIZE, PLAIN, {"Permute": {}}]
NMS = {
    "name": "MultiClassNMS",
    "nms_top_k": 1000,
    "keep_top_k": 200,
    "score_threshold": 0.02,
    "nms_threshold": 0.65,
}
PLUS = {
    "architecture": "PPYOLOE",
    "norm_type": "sync_bn",
    "num_classes": 7,
    "depth_mult": 0.33,
    "width_mult": 0.5,
    "PPYOLOE": {"backbone": "CSPResNet", "neck": "CustomCSPPAN", "yolo_head": "PPYOLOEHead",
                "post_process": None},
    "CSPResNet": {"use_large_stem": True, "use_alpha": True},
    "CustomCSPPAN": {"out_channels": [768, 384, 192], "act": "swish", "spp": True},
    "PPYOLOEHead": {"fpn_strides": [32, 16, 8], "nms": NMS, "assigner": {"name": "Any"}},
    "TestReader": {"inputs_def": {"image_shape": [3, *SIZE]}, "sample_transforms": STEPS},
}  # fmt: skip
TOLD = {
    "layers": [1, 2, 2, 1],
    "channels": [32, 64, 128, 256, 512],
    "use_large_stem": True,
    "use_alpha": True,
    "in_channels": 3,
    "neck_channels": [384, 192, 96],
    "neck_blocks": 1,
    "neck_stages": 1,
    "neck_alpha": False,
    "spp": True,
    "attn_conv": "convbn",
    "num_classes": 7,
    "bins": 17,
    "first_bin": 0,
}
RECOGNISED = Recognised(  # as recognition tells a checkpoint of PLUS
    name="ppyoloe_plus_s",
    settings={"width_mult": 0.5, "depth_mult": 0.33, "use_large_stem": True, "use_alpha": True,
              "in_channels": 3, "neck_stages": 1, "neck_alpha": False, "spp": True,
              "attn_conv": "convbn", "num_classes": 7, "bins": 17},
    assumed={"act": "swish", "trt": False},
    form="train-time",
    blocks=(),
)  # fmt: skip


def test_everything_that_matters():
    found = read(PLUS)
    assert found.network == "ppyoloe"
    assert found.told == TOLD
    assert found.settings == {"act": "swish", "trt": False}
    assert found.classes == 7
    assert found.input_size == (512, 768)
    assert found.selection == Selection(0.02, 0.65, 200, 1000)
    assert found.preprocessing == Preprocessing(scale=True, keep_ratio=False, interpolation=2)
    assert found.refusal is None
    assert not found.fold_normalize
    assert not found.remarks


def test_the_backbone_is_as_it_was():
    backbone = read(PLUS).backbone
    assert backbone is not None
    assert backbone.network == "cspresnet"
    assert backbone.settings == {"act": "swish", "return_idx": [1, 2, 3], "trt": False}
    assert set(backbone.told) == {"layers", "channels", "use_large_stem", "use_alpha",
                                  "in_channels"}  # fmt: skip
    assert backbone.backbone is None
    assert backbone.selection is None


def test_a_file_with_includes(tmp_path):
    (tmp_path / "base.yml").write_text(
        "architecture: YOLOv3\nnorm_type: sync_bn\n"
        "YOLOv3: {backbone: CSPResNet, neck: CustomCSPPAN, yolo_head: PPYOLOEHead}\n"
        "CSPResNet: {use_large_stem: True}\n"
        "CustomCSPPAN: {out_channels: [768, 384, 192], act: swish, spp: true}\n"
        "PPYOLOEHead: {nms: {name: MultiClassNMS, keep_top_k: 300}}\n"
    )
    path = tmp_path / "mine.yml"
    path.write_text(
        "_BASE_: [base.yml]\nnum_classes: 3\ndepth_mult: 0.67\nwidth_mult: 0.75\n"
        "eval_size: &size [416, 416]\n"
        "EvalReader:\n  sample_transforms:\n  - Decode: {}\n"
        "  - Resize: {target_size: *size, keep_ratio: False}\n  - NormalizeImage: {}\n"
    )
    found = read_configuration(path)
    assert found.told["neck_channels"] == [576, 288, 144]
    assert found.told["neck_blocks"] == 2
    assert found.input_size == (416, 416)
    assert found.selection == Selection(0.05, 0.5, 300, None)
    assert found.preprocessing == Preprocessing(IMAGENET_MEAN, IMAGENET_STD, True, False, 1)


SAID = {  # changes, and what they make of what is told
    "an auxiliary head": (
        {"architecture": "PPYOLOEWithAuxHead",
         "PPYOLOEWithAuxHead": {"backbone": "CSPResNet", "aux_head": "SimpleConvHead"}}, {},
    ),
    "no convolution": ({"PPYOLOEHead__attn_conv": "None"}, {"attn_conv": None}),
    "null": ({"PPYOLOEHead__attn_conv": None}, {"attn_conv": None}),
    "repvgg": ({"PPYOLOEHead__attn_conv": "repvgg"}, {"attn_conv": "repvgg"}),
    "reg_max": ({"PPYOLOEHead__reg_max": 8}, {"bins": 9}),
    "reg_range": ({"PPYOLOEHead__reg_range": [-2, 17]}, {"bins": 19, "first_bin": -2}),
    "four levels": (
        {"CustomCSPPAN__out_channels": [768, 384, 192, 64],
         "PPYOLOEHead__fpn_strides": [32, 16, 8, 4], "CSPResNet__return_idx": [0, 1, 2, 3]},
        {"neck_channels": [384, 192, 96, 32]},
    ),
    "alpha in the neck": ({"CustomCSPPAN__use_alpha": True}, {"neck_alpha": True}),
    "its own multiplier": ({"CustomCSPPAN__width_mult": 1.0}, {"neck_channels": [768, 384, 192]}),
    "its own classes": ({"PPYOLOEHead__num_classes": 3}, {"num_classes": 3}),
    "stages": ({"CustomCSPPAN__stage_num": 2}, {"neck_stages": 2}),
    "in line": (
        {"PPYOLOE__neck": {"name": "CustomCSPPAN", "block_num": 9}}, {"neck_blocks": 3},
    ),
    "a transformer that is off": ({"CustomCSPPAN__use_trans": False,
                                   "CustomCSPPAN__num_layers": 4}, {}),
    "training": ({"PPYOLOEHead__loss_weight": {"dfl": 1}, "CustomCSPPAN__drop_block": True,
                  "PPYOLOE__for_distill": True}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_is_told(name):
    changes, difference = SAID[name]
    assert read(changed(PLUS, **changes)).told == {**TOLD, **difference}


def test_classes_are_80_where_nothing_says_it():
    values = {key: value for key, value in PLUS.items() if key != "num_classes"}
    assert read(values).told["num_classes"] == 80


def test_one_activation_for_all_parts():
    relu = {"CSPResNet__act": "relu", "CustomCSPPAN__act": "relu", "PPYOLOEHead__act": "relu"}
    assert read(changed(PLUS, **relu)).settings["act"] == "relu"
    same = read(changed(PLUS, CSPResNet__act="silu", trt=True))  # another name for swish
    assert same.settings == {"act": "silu", "trt": True}


REFUSED = {
    "a transformer": ({"CustomCSPPAN__use_trans": True}, "'use_trans' is True; known: False"),
    "another neck": ({"PPYOLOE__neck": "YOLOCSPPAN"}, "YOLOCSPPAN after the backbone"),
    "another head": ({"PPYOLOE__yolo_head": "PPYOLOERHead"}, "known: PPYOLOEHead"),
    "a tagged head": ({"PPYOLOE__yolo_head": Opaque("!Head")}, "!Head after the backbone"),
    "another architecture": (
        {"architecture": "YOLOX", "YOLOX": {"backbone": "CSPResNet"}}, "the architecture YOLOX"),
    "masks": ({"PPYOLOE__with_mask": True}, "'with_mask: True' in the section PPYOLOE"),
    "another end": ({"PPYOLOE__post_process": "BBoxPostProcess"}, "'post_process: BBox"),
    "a slip in the neck": ({"CustomCSPPAN__ssp": True}, "'ssp' in the section CustomCSPPAN"),
    "a slip in the head": ({"PPYOLOEHead__atn_conv": "None"}, "'atn_conv' in the section"),
    "a section of text": ({"PPYOLOEHead": "text"}, "PPYOLOEHead is not names and values"),
    "a tagged section": ({"CustomCSPPAN": Opaque("!x")}, "CustomCSPPAN is not names and"),
    "another stage": ({"CustomCSPPAN__stage_fn": "Other"}, "'stage_fn' is 'Other'"),
    "two activations": ({"CustomCSPPAN__act": "relu"}, "'act' is swish in the backbone, relu in"),
    "the neck's own activation": ({"CustomCSPPAN": {"spp": True}}, "leaky in the neck"),
    "a convolution": ({"PPYOLOEHead__attn_conv": "conv"}, "needed: convbn, repvgg or None"),
    "strides": ({"PPYOLOEHead__fpn_strides": [64, 32, 16]}, "needed: [32, 16, 8]"),
    "levels": ({"CSPResNet__return_idx": [0, 1, 2]}, "return_idx [0, 1, 2] of 4 stages"),
    "fewer levels": ({"CustomCSPPAN__out_channels": [768, 384]}, "and 2 out_channels"),
    "a middle": ({"PPYOLOEHead__grid_cell_offset": 0.0}, "'grid_cell_offset' is 0.0; known: 0.5"),
    "a range": ({"PPYOLOEHead__reg_range": [17, -2]}, "'reg_range' is [17, -2]"),
    "a range of flags": ({"PPYOLOEHead__reg_range": [False, True]}, "two whole numbers"),
    "classes": ({"PPYOLOEHead__num_classes": 0}, "'num_classes' is 0"),
    "another selection": ({"PPYOLOEHead__nms": {"name": "MatrixNMS"}}, "by MatrixNMS"),
    "a slip in the selection": ({"PPYOLOEHead__nms": {**NMS, "topk": 1}}, "'topk' in the section"),
    "a threshold": ({"PPYOLOEHead__nms": {**NMS, "nms_threshold": 70}}, "a number from 0 to 1"),
    "all of them": ({"PPYOLOEHead__nms": {**NMS, "keep_top_k": -1}}, "'keep_top_k' is -1"),
    "wider boxes": ({"PPYOLOEHead__nms": {**NMS, "normalized": False}}, "'normalized' is False"),
    "adaptive": ({"PPYOLOEHead__nms": {**NMS, "nms_eta": 0.9}}, "'nms_eta' is 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood(name, monkeypatch):
    """It is told where a checkpoint is of a detector; the backbone is understood all the same."""
    changes, message = REFUSED[name]
    found = read(changed(PLUS, **changes))
    assert found.network == "cspresnet"
    assert message in str(found.refusal)
    assert "'top.yml' is not understood" in found.refusal.what
    if "CSPResNet__return_idx" not in changes:
        check_configuration(found, shapes())
    monkeypatch.setattr(checking, "recognise", lambda _: RECOGNISED)
    with pytest.raises(ConfigurationError) as caught:
        check_configuration(found, {})
    assert caught.value is found.refusal


class TestSelection:
    def test_what_paddledetection_takes(self):
        for nms in ("MultiClassNMS", {"name": "MultiClassNMS"}):
            assert read(changed(PLUS, PPYOLOEHead__nms=nms)).selection == Selection(
                0.05, 0.5, 100, None
            )

    def test_a_section_of_its_own(self):
        said = changed(PLUS, PPYOLOEHead__nms="MultiClassNMS", MultiClassNMS={"keep_top_k": 5})
        assert read(said).selection.top_k == 5

    def test_candidates_without_a_limit(self):
        assert read(changed(PLUS, PPYOLOEHead__nms={**NMS, "nms_top_k": -1})).selection == (
            Selection(0.02, 0.65, 200, None)
        )


def reader(*steps, **rest):
    return {"sample_transforms": list(steps), **rest}


MEAN = {"NormalizeImage": {"mean": [1, 2.5, 3], "std": [4, 5, 6], "is_scale": False}}
READERS = {
    "numbers": (reader({"Decode": {}}, RESIZE, MEAN, {"Permute": {}}),
                Preprocessing((1, 2.5, 3), (4, 5, 6), False, False, 2)),
    "defaults": (reader({"Resize": {"target_size": 320, "keep_ratio": True}},
                        {"NormalizeImage": None}),
                 Preprocessing(IMAGENET_MEAN, IMAGENET_STD, True, True, 1)),
    "1/255 alone": (reader(RESIZE, PLAIN), Preprocessing(interpolation=2)),
    "nothing but the size": (
        reader(RESIZE, {"NormalizeImage": {"is_scale": False, "norm_type": "none"}}),
        Preprocessing(scale=False, interpolation=2)),
}  # fmt: skip


def normalize(**values):
    return reader(RESIZE, {"NormalizeImage": values})


UNKNOWN = {
    "another step": (reader(RESIZE, {"Pad": {"size": 640}}, PLAIN), "Resize, Pad, NormalizeImage"),
    "another order": (reader(PLAIN, RESIZE), "in this order"),
    "a step twice": (reader(RESIZE, RESIZE, PLAIN), "Resize twice"),
    "no resize": (reader(PLAIN), "one Resize and one NormalizeImage"),
    "a batch": (reader(RESIZE, PLAIN, batch_transforms=[{"PadBatch": {}}]), "batch_transforms"),
    "another layout": (reader(RESIZE, PLAIN, {"Permute": {"to_bgr": True}}), "Permute with to_bgr"),
    "a tag": (reader(Opaque("!Resize"), PLAIN), "a step that is"),
    "two in one": (reader({**RESIZE, **PLAIN}), "a step that is"),
    "settings of text": (reader({"Resize": "large"}, PLAIN), "Resize with 'large'"),
    "no size": (reader({"Resize": {"keep_ratio": False}}, PLAIN), "needs a target_size"),
    "no ratio": (reader({"Resize": {"target_size": 64}}, PLAIN), "and keep_ratio"),
    "interpolation": (
        reader({"Resize": {"target_size": 64, "keep_ratio": False, "interp": 7}}, PLAIN),
        "interp 7"),
    "a slip": (normalize(is_scaled=True), "'is_scaled' of NormalizeImage"),
    "a norm": (normalize(norm_type="min_max"), "norm_type 'min_max'"),
    "two means": (normalize(mean=[0, 0]), "mean [0, 0]; needed: three numbers"),
    "a std of 0": (normalize(std=[1, 0, 1]), "needed: numbers above 0"),
    "nan": (normalize(mean=[0, float("nan"), 0]), "needed: three numbers"),
    "words": (normalize(is_scale="yes"), "is_scale 'yes'"),
}  # fmt: skip


class TestImages:
    @pytest.mark.parametrize("name", READERS)
    def test_what_is_understood(self, name):
        said, preprocessing = READERS[name]
        found = read(changed(PLUS, TestReader=said))
        assert found.preprocessing == preprocessing
        assert not found.remarks

    @pytest.mark.parametrize("name", UNKNOWN)
    def test_what_is_not_is_left_out_and_said(self, name):
        said, message = UNKNOWN[name]
        found = read(changed(PLUS, TestReader=said, EvalReader=reader(RESIZE, PLAIN)))
        assert found.network == "ppyoloe"
        assert found.preprocessing is None
        (remark,) = found.remarks
        assert message in remark
        assert remark.startswith("what TestReader in top.yml does to an image is not understood")

    def test_the_other_reader_where_one_says_nothing(self):
        found = read(changed(PLUS, TestReader={}, EvalReader=reader(RESIZE, MEAN)))
        assert found.preprocessing.mean == (1, 2.5, 3)
        assert found.input_size == (512, 768)

    def test_nothing_at_all(self):
        found = read(changed(PLUS, TestReader=None))
        assert (found.preprocessing, found.input_size, found.remarks) == (None, None, ())

    def test_which_size_counts(self):
        steps = reader(RESIZE, PLAIN)
        shaped = {**steps, "inputs_def": {"image_shape": [3, 64, 96]}}
        for said, size in ((shaped, (64, 96)), (steps, (512, 768)), ({}, (32, 32))):
            found = read(changed(PLUS, TestReader=said, eval_size=[32, 32]))
            assert found.input_size == size

    def test_pixels_that_the_file_normalizes(self):
        assert read(changed(PLUS, TestReader__fuse_normalize=True)).fold_normalize


DIFFERENT = {
    "classes": ({"num_classes": 8}, "num_classes 8 in the configuration, 7 in the checkpoint"),
    "width": ({"CustomCSPPAN__width_mult": 1.0}, "neck_channels [768, 384, 192] in"),
    "depth": ({"CustomCSPPAN__depth_mult": 1.0}, "neck_blocks 3 in the configuration, 1 in"),
    "pools": ({"CustomCSPPAN__spp": False}, "spp False in the configuration, True in"),
    "alpha": ({"CustomCSPPAN__use_alpha": True}, "neck_alpha True"),
    "attention": ({"PPYOLOEHead__attn_conv": "None"}, "attn_conv None in the conf"),
    "bins": ({"PPYOLOEHead__reg_max": 20}, "bins 21 in the configuration, 17 in"),
    "the backbone": ({"CSPResNet__use_large_stem": False}, "use_large_stem False"),
}


class TestAgainstCheckpoint:
    @pytest.fixture(autouse=True)
    def _recognised(self, monkeypatch):
        monkeypatch.setattr(checking, "recognise", lambda _: RECOGNISED)

    def test_they_agree(self):
        found = read(PLUS)
        assert check_configuration(found, {}) is found

    @pytest.mark.parametrize("name", DIFFERENT)
    def test_they_differ(self, name):
        changes, message = DIFFERENT[name]
        with pytest.raises(ConfigurationError) as caught:
            check_configuration(read(changed(PLUS, **changes)), {})
        assert message in caught.value.found
        assert caught.value.found.count(message.split()[0]) == 1


class TestAgainstBackbone:
    @pytest.mark.parametrize("prefix", ["", "backbone."])
    def test_a_backbone_alone_is_compared_with_its_part(self, prefix):
        found = read(PLUS)
        part = check_configuration(found, shapes(prefix))
        assert part is found.backbone
        assert part.settings["return_idx"] == [1, 2, 3]

    def test_it_differs(self):
        with pytest.raises(ConfigurationError, match="use_alpha True in the configuration, False"):
            check_configuration(read(PLUS), shapes(use_alpha=False))
