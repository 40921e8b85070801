"""Files made with blocks whose own methods are wrong: right ones, or none, and always told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import load_checkpoint
from reparam.checkpoint.pipeline import fuse
from reparam.equivalence import Probing, verify
from reparam.errors import NotEquivalentError, NotFusibleError
from reparam.exporter import export
from reparam.exporter.layer_fusing import fuse_layers
from reparam.exporter.layer_networks import has_branches
from tests import faulty_blocks
from tests.converter import needs_converter
from tests.own_network import randomised
from tests.weights import write

SIZE = (16, 12)
ATTENTIVE = {"kind": "DropsAttention", "attention": True}


def model_of(factory: str = "build", **arguments) -> ForeignModel:
    return ForeignModel(f"tests.faulty_blocks:{factory}", arguments)


def source_of(folder, factory: str = "build", **arguments):
    layer = randomised(getattr(faulty_blocks, factory)(**arguments))
    return write(folder, {key: tensor.numpy() for key, tensor in layer.state_dict().items()})


def probing(model) -> Probing:
    return Probing(model=model, sizes=(SIZE,))


RIGHT_AGAIN = [
    {"kind": "Broadcasts"},
    {"kind": "MergesOne", "stride": 2, "outputs": 6},
    {"kind": "PlaceholderOfOne", "attention": True},
    {"kind": "Raises", "groups": 2},
    {"kind": "Outside"},
]


@pytest.mark.parametrize("arguments", RIGHT_AGAIN)
class TestWeightsThatTheMethodGetsWrong:
    def test_they_are_right_in_the_file(self, arguments, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        result = fuse_layers(source, model, input_size=SIZE)
        (proved,) = result.report.fused
        assert (proved.block.by, proved.block.runs) == ("reparam", True)
        assert result.report.network.verdict == "equal"
        found = load_checkpoint(result.output).arrays
        bare = load_checkpoint(fuse(source, tmp_path / "bare.pdparams").output).arrays
        for key in ("block.rbr_reparam.weight", "block.rbr_reparam.bias"):
            np.testing.assert_allclose(found[key], bare[key], rtol=0, atol=1e-6)

    def test_verify_says_equivalent(self, arguments, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        fused = fuse_layers(source, model, input_size=SIZE).output
        for first, second in ((source, fused), (source, None)):
            result = verify(first, second, probing(model))
            assert result.verdict == "equivalent", result.first_difference
            assert [len(stage.blocks) for stage in result.stages if stage.name == "blocks"] == [1]
        assert "fused by reparam instead" in result.notices[0]

    def test_a_changed_weight_is_seen(self, arguments, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        fused = fuse_layers(source, model, input_size=SIZE).output
        arrays = dict(load_checkpoint(fused).arrays)
        arrays["block.rbr_reparam.bias"] = arrays["block.rbr_reparam.bias"] * np.float32(1.001)
        result = verify(source, write(tmp_path, arrays, "other.pdparams"), probing(model))
        assert result.verdict == "different"
        assert "block 'block'" in result.first_difference


@pytest.mark.parametrize(
    ("arguments", "flaw"),
    [
        (ATTENTIVE, "does not run 'se'"),
        ({"kind": "StrideOne", "stride": 2}, "'rbr_reparam' has stride [1, 1]"),
    ],
)
class TestDeployFormsThatAreWrong:
    def test_the_file_is_right_and_the_form_is_named(self, arguments, flaw, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        report = fuse_layers(source, model, input_size=SIZE).report
        assert not report.fused[0].block.runs
        assert report.network.verdict == "equal"
        (notice,) = (one for one in report.notices if "proved" in one)
        assert flaw in notice
        assert f"the weights are right, but not what comes out when they are run by tests.faulty_blocks.{arguments['kind']}" in notice  # noqa: E501  # fmt: skip

    def test_strict_refuses(self, arguments, flaw, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        with pytest.raises(NotFusibleError) as caught:
            fuse_layers(source, model, input_size=SIZE, strict=True)
        assert flaw in caught.value.found
        assert list(tmp_path.iterdir()) == [source]

    def test_verify_speaks_of_the_users_form(self, arguments, flaw, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        fused = fuse_layers(source, model, input_size=SIZE).output
        for second in (fused, None):
            result = verify(source, second, probing(model))
            assert result.verdict == "different"
            assert flaw in result.first_difference
        assert "weights are right" in verify(source, fused, probing(model)).first_difference
        assert verify(source, fused, Probing(network=False)).verdict == "equivalent"  # the arrays

    @needs_converter
    def test_an_exported_file_is_right(self, arguments, flaw, tmp_path):
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        report = export(source, model=model, input_size=SIZE)
        assert report.worst.verdict == "equal"
        assert report.ops_after["Conv"] == (4 if "attention" in arguments else 3)
        assert "BatchNormalization" not in report.ops_after
        assert any(flaw in notice for notice in report.notices)
        assert verify(source, report.output, probing(model)).verdict == "equivalent"

    @needs_converter
    def test_and_so_is_one_of_the_deploy_form(self, arguments, flaw, tmp_path):
        """The user's own deploy form would be exported as it is, and nobody would know."""
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        fused = fuse_layers(source, model, input_size=SIZE).output
        report = export(fused, model=model, input_size=SIZE)
        assert report.source_form == "deploy"
        assert any(flaw in notice for notice in report.notices)
        for first in (source, fused):
            result = verify(first, report.output, probing(model))
            assert result.verdict == "equivalent", result.first_difference


class TestPlaceholders:
    """Both forms have the same keys."""

    def test_there_and_back(self, tmp_path):
        arguments = {"kind": "Placeholder", "attention": True}
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        result = fuse_layers(source, model, input_size=SIZE)
        assert [proved.block.by for proved in result.report.fused] == ["method"]
        before, after = load_checkpoint(source).arrays, load_checkpoint(result.output).arrays
        assert after.keys() == before.keys()
        assert {key for key in after if (after[key] != before[key]).any()} == {
            "block.rbr_reparam.weight",
            "block.rbr_reparam.bias",
        }
        assert verify(source, result.output, probing(model)).verdict == "equivalent"
        assert verify(result.output, source, probing(model)).verdict == "equivalent"
        again = fuse_layers(result.output, model, tmp_path / "b.pdparams", input_size=SIZE)
        assert again.sha256 == result.sha256

    def test_a_placeholder_is_no_fusion(self, tmp_path):
        arguments = {"kind": "Placeholder"}
        source, model = source_of(tmp_path, **arguments), model_of(**arguments)
        arrays = dict(load_checkpoint(source).arrays)
        arrays["block.rbr_reparam.bias"] = arrays["block.rbr_reparam.bias"] + np.float32(1)
        other = write(tmp_path, arrays, "other.pdparams")
        assert verify(source, other, probing(model)).verdict == "different"


class TestWholeNetworks:
    def test_there_and_back(self, tmp_path):
        source, model = source_of(tmp_path, "Whole"), model_of("Whole")
        result = fuse_layers(source, model, input_size=SIZE)
        assert [proved.block.where for proved in result.report.fused] == ["(root)"]
        assert verify(source, result.output, probing(model)).verdict == "equivalent"
        assert verify(source, None, probing(model)).verdict == "equivalent"
        again = fuse_layers(result.output, model, tmp_path / "b.pdparams", input_size=SIZE)
        assert again.report.already == ("(root)",)
        assert has_branches(load_checkpoint(source), model)
        assert not has_branches(load_checkpoint(result.output), model)

    def test_half_of_one(self, tmp_path):
        source, model = source_of(tmp_path, "Whole"), model_of("Whole")
        half = fuse_layers(source, model, input_size=SIZE, skip=["body.1"])
        assert [left.where for left in half.report.left] == ["body.1"]
        assert verify(source, half.output, probing(model)).verdict == "equivalent"
        rest = fuse_layers(half.output, model, tmp_path / "b.pdparams", input_size=SIZE)
        whole = fuse_layers(source, model, tmp_path / "c.pdparams", input_size=SIZE)
        one, other = (load_checkpoint(done.output).arrays for done in (rest, whole))
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)

    def test_what_is_outside_the_blocks_is_compared(self, tmp_path):
        source, model = source_of(tmp_path, "build", kind="Block"), model_of(kind="Block")
        arrays = dict(load_checkpoint(fuse_layers(source, model, input_size=SIZE).output).arrays)
        arrays["head.bias"] = arrays["head.bias"] + np.float32(1e-3)
        result = verify(source, write(tmp_path, arrays, "other.pdparams"), probing(model))
        assert [s.name for s in result.stages if s.verdict == "different"] == ["other arrays"]

    @needs_converter
    def test_export(self, tmp_path):
        source, model = source_of(tmp_path, "Whole"), model_of("Whole")
        report = export(source, model=model, input_size=SIZE)
        assert report.worst.verdict == "equal"
        assert report.ops_after["Conv"] == 4
        assert "BatchNormalization" not in report.ops_after


@pytest.mark.parametrize("kind", ["Returns", "Residual", "ChangesAndReturns"])
def test_layers_that_methods_return_are_loaded_again(kind, tmp_path):
    source, model = source_of(tmp_path, "returns", kind=kind), model_of("returns", kind=kind)
    result = fuse_layers(source, model, input_size=SIZE)
    assert {"block.weight", "block.bias"} <= set(load_checkpoint(result.output).arrays)
    assert verify(source, result.output, probing(model)).verdict == "equivalent"


@needs_converter
def test_nothing_is_exported_where_nobody_knows_better(tmp_path):
    source = source_of(tmp_path, "returns", kind="ReturnsWrong")
    with pytest.raises(NotEquivalentError, match="fuse\\(\\) makes another function"):
        export(source, model=model_of("returns", kind="ReturnsWrong"), input_size=SIZE)
    assert list(tmp_path.iterdir()) == [source]


def test_a_method_that_needs_arguments_is_told(tmp_path):
    source, model = source_of(tmp_path, kind="NeedsArguments"), model_of(kind="NeedsArguments")
    result = fuse_layers(source, model, input_size=SIZE)
    assert [left.where for left in result.report.left] == ["block"]
    assert "needs arguments" in result.report.left[0].reason
    with pytest.raises(NotFusibleError, match="not everything"):
        fuse_layers(source, model, tmp_path / "b.pdparams", input_size=SIZE, strict=True)


def test_the_manifest_says_who_fused_it(tmp_path):
    source = source_of(tmp_path, **ATTENTIVE)
    output = fuse_layers(source, model_of(**ATTENTIVE), input_size=SIZE).output
    note = json.loads(output.with_name(f"{output.name}.manifest.json").read_text())
    (block,) = note["report"]["fused"]
    assert block["by"] == "reparam"
    assert block["runs"] is False
    assert "does not run 'se'" in block["problem"]
