"""Files that take raw pixels compute the network on the normalised image, at the border too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from reparam.adapters.closeness import closeness
from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.adapters.paddle_models import in_float64, run_layer
from reparam.checkpoint import load_checkpoint
from reparam.errors import ExportError, GraphError, NotEquivalentError
from reparam.exporter import (
    ExportReport,
    Network,
    Options,
    ending,
    export_network,
    network_of,
    onnx_export,
)
from reparam.exporter.raw_pixels import preset_of, raw_images, taking_raw_pixels
from reparam.graph import fusing
from reparam.normalization import METADATA, PRESETS, Normalization
from tests.converter import needs_converter
from tests.exporter.pair import pair
from tests.weights import repvgg_arrays, write

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def by_hand(spec: str, pixels: np.ndarray) -> np.ndarray:
    """What a network sees of pixels, in their dtype, by none of the code that is tested."""
    if spec.endswith(",bgr"):
        pixels, spec = pixels[:, ::-1], spec.removesuffix(",bgr")
    mean, std = ([*MEAN], [*STD]) if spec == "imagenet" else ([0.5] * 3, [0.25] * 3)
    if spec == "ppyoloe+":
        mean, std = [0.0] * 3, [1.0] * 3
    planes = [(pixels[:, c] / 255 - mean[c]) / std[c] for c in range(3)]
    return np.stack(planes, axis=1).astype(pixels.dtype)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.float32)


def assert_computes(network: Network, spec: str, path: Path, x: np.ndarray, **how: Any) -> None:
    truth = run_layer(in_float64(network.original), by_hand(spec, x.astype(np.float64)))
    reference = run_layer(network.original, by_hand(spec, x))
    outputs = run_onnx(load_strictly(path), x)
    for exact, yardstick, output in zip(truth, reference, outputs, strict=True):
        measured = closeness(exact, yardstick, output, **how)
        assert measured.verdict == "equal", measured


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Two networks that read one image, whose first convolutions pad."""
    return pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("small")
    return network_of(load_checkpoint(write(folder, repvgg_arrays())))


def made(network: Network, folder: Path, spec: str, **options: Any) -> ExportReport:
    chosen = Options(**{"fold_normalize": spec, "input_size": (32, 40), **options})
    return export_network(network, folder / "net.onnx", chosen)


@needs_converter
@pytest.mark.parametrize("spec", ["imagenet", "ppyoloe+,bgr"])
def test_the_file_normalises(spec: str, network: Network, tmp_path: Path) -> None:
    report = made(network, tmp_path, spec)
    assert report.worst.verdict == "equal"
    model = onnx.load(report.output)
    assert [node.op_type for node in model.graph.node if "image" in node.input] == (
        ["Sub"] if spec == "imagenet" else ["Conv", "Conv"]
    )
    kernels = {t.name: t.dims for t in model.graph.initializer}
    read = [kernels[node.input[1]][1:] for node in model.graph.node if node.op_type == "Conv"]
    assert [1, 1, 1] not in read  # the factor and the order of the channels are in the first
    stays = [notice for notice in report.notices if "one Sub of the mean stays" in notice]
    assert bool(stays) == (spec == "imagenet")
    assert_computes(network, spec, report.output, pixels(3, 3, 32, 40))
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(props[METADATA])["input"] == "image"
    assert json.loads(props[METADATA])["scale"] == 1 / 255


@needs_converter
def test_every_axis_open(small: Network, tmp_path: Path) -> None:
    report = made(small, tmp_path, "imagenet", dynamic=["batch", "height", "width"])
    for shape in ((1, 3, 33, 50), (2, 3, 64, 20)):
        assert_computes(small, "imagenet", report.output, pixels(*shape))


@needs_converter
def test_small_probes_are_raw_pixels_too(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[np.ndarray] = []
    make = onnx_export.probes_of

    def record(*given: Any, **named: Any) -> Any:
        probes = make(*given, **named)
        probed.extend(probe.images for probe in probes)
        return probes

    monkeypatch.setattr(onnx_export, "probes_of", record)
    report = made(small, tmp_path, "imagenet", input_size=(160, 176), batch=2)
    (images,) = probed
    assert images.shape == (2, 3, 96, 128)
    assert (images == images.round()).all()
    assert (images.min(), images.max()) == (0, 255)
    assert_computes(small, "imagenet", report.output, pixels(2, 3, 160, 176))


@needs_converter
@pytest.mark.parametrize("spec", ["imagenet", "ppyoloe+"])
def test_float16(spec: str, small: Network, tmp_path: Path) -> None:
    report = made(small, tmp_path, spec, precision="float16")
    assert report.worst.verdict == report.float16.float32.verdict == "equal"
    if spec == "imagenet":  # what the Sub of the mean makes of a white pixel
        assert report.float16.largest >= 255 - 255 * MEAN.max()
    x = pixels(2, 3, 32, 40)
    assert_computes(small, spec, report.output, x, computed_in="float16")


@needs_converter
def test_the_form_of_the_checkpoint_keeps_it_as_nodes(tmp_path: Path) -> None:
    spec = "0.5,0.25,1/255,bgr"
    kept = network_of(load_checkpoint(write(tmp_path, repvgg_arrays())), fuse=False)
    report = made(kept, tmp_path, spec)
    assert report.ops_after["Sub"] == 1
    assert report.ops_after["BatchNormalization"] > 0
    assert f"the normalisation is Sub and Conv at the input: {ending.AS_ASKED}" in report.notices
    assert_computes(kept, spec, report.output, pixels(2, 3, 32, 40))


WRONG: dict[str, Callable[[Normalization], Normalization]] = {
    "mean forgotten": lambda n: replace(n, mean=(0.0,) * 3),
    "std squared": lambda n: replace(n, std=tuple(v * v for v in n.std)),
    "channels turned": lambda n: replace(n, bgr=not n.bgr),
    "only the factors turned": lambda n: replace(n, std=n.std[::-1]),
    "scale left out": lambda n: replace(n, scale=1.0),
    "1/256": lambda n: replace(n, scale=1 / 256),
}


@needs_converter
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_normalisation_is_caught(
    name: str, small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fusing.normalize
    monkeypatch.setattr(
        fusing, "normalize", lambda model, wanted, *rest: real(model, WRONG[name](wanted), *rest)
    )
    with pytest.raises(NotEquivalentError, match="is not that of the network"):
        made(small, tmp_path, "imagenet")
    assert not list(tmp_path.iterdir())


@needs_converter
def test_a_mean_folded_through_a_padded_border_is_caught(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ending.fuse_graph

    def fold_it_all(model: Any, *given: Any) -> Any:
        told = real(model, *given)
        (sub,) = [node for node in model.graph if node.op_type == "Sub"]
        (conv,) = [use.node for use in sub.outputs[0].uses()]
        image, mean_value = sub.inputs
        mean = mean_value.const_value.numpy().reshape(-1)
        weight, bias = (value.const_value.numpy() for value in conv.inputs[1:])
        whole = bias - np.einsum("ochw,c->o", weight, mean)
        conv.inputs[2].const_value = onnx_ir.tensor(whole, name=conv.inputs[2].name)
        conv.replace_input_with(0, image)
        model.graph.remove(sub, safe=True)
        del model.graph.initializers[mean_value.name]
        return told

    monkeypatch.setattr(ending, "fuse_graph", fold_it_all)
    with pytest.raises(NotEquivalentError, match="is not that of the network"):
        made(small, tmp_path, "imagenet")


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "settings", "preset"),
        [
            ("repvgg_a0", {"class_num": 10}, "imagenet"),
            ("cspresnet_s", {"num_classes": 3}, "imagenet"),
            ("ppyoloe_s", {"use_alpha": False}, "ppyoloe"),
            ("ppyoloe_plus_s", {"use_alpha": True}, "ppyoloe+"),
            ("ppyoloe", {"use_alpha": True, "num_classes": 80}, "ppyoloe+"),
            ("ppyoloe", {"use_alpha": False, "num_classes": 80}, "ppyoloe"),
        ],
    )
    def test_by_name(
        self, name: str, settings: dict[str, Any], preset: str, small: Network
    ) -> None:
        assert preset_of(replace(small, name=name, settings=settings, assumed={})) == preset

    @pytest.mark.parametrize("name", ["cspresnet_s", "models.mynet:build", "pplcnetv3_det"])
    def test_of_what_has_no_usual_way(self, name: str, small: Network) -> None:
        settings = {"num_classes": 80} if ":" in name else {}
        with pytest.raises(ExportError, match=f"how the images of '{name}' are normalised"):
            preset_of(replace(small, name=name, settings=settings, assumed={}))

    def test_of_a_detector_that_lost_what_tells(self, small: Network) -> None:
        lost = replace(small, name="ppyoloe_s", settings={}, assumed={"use_alpha": True})
        with pytest.raises(ExportError) as caught:
            taking_raw_pixels(lost, Options(fold_normalize=""))
        assert caught.value.hint == "--fold-normalize ppyoloe or --fold-normalize ppyoloe+"

    def test_the_usual_one_is_said_to_be_assumed(self, small: Network) -> None:
        told, options = taking_raw_pixels(small, Options(fold_normalize=""))
        assert options.normalization == PRESETS["imagenet"]
        assert "'imagenet', which is assumed" in told.notices[-1]
        told, options = taking_raw_pixels(small, Options(fold_normalize="imagenet"))
        assert options.normalization == PRESETS["imagenet"]
        assert told.notices == small.notices

    def test_none_is_none(self, small: Network) -> None:
        assert taking_raw_pixels(small, Options()) == (small, Options())
        assert Options(fold_normalize="imagenet").normalization is None  # not yet known


class TestRefused:
    def test_for_a_program(self, small: Network, tmp_path: Path) -> None:
        options = Options(fold_normalize="imagenet", paddle=tmp_path / "net.json")
        for output in (tmp_path / "net.onnx", None):
            with pytest.raises(ExportError, match="does not take raw pixels"):
                export_network(small, output, options)

    def test_what_is_no_normalisation(self, small: Network, tmp_path: Path) -> None:
        for spec in ("imagenette", "1,2,3", "0,0"):
            with pytest.raises(GraphError):
                export_network(small, tmp_path / "net.onnx", Options(fold_normalize=spec))

    def test_another_number_of_channels(self, small: Network) -> None:
        with pytest.raises(ExportError, match="not for the images of this network"):
            taking_raw_pixels(replace(small, channels=1), Options(fold_normalize="imagenet"))


def test_images_and_what_float32_makes_of_them() -> None:
    x = raw_images((2, 3, 30, 40))
    assert x.dtype == np.float32
    assert set(np.unique(x)) == set(range(256))
    for spec in ("imagenet", "imagenet,bgr", "ppyoloe+"):
        wanted, exact = Normalization.parse(spec), by_hand(spec, x.astype(np.float64))
        found = wanted.apply_in_float32(x)
        assert found.dtype == np.float32
        # Three roundings, and those of three constants, of numbers up to 1 over a std of 0.22.
        assert np.abs(found - exact).max() <= 6 * 2.0**-24 * (1 / STD.min()) * 2
        np.testing.assert_allclose(wanted.apply(x), exact, rtol=0, atol=1e-14)
