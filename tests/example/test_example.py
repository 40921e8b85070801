"""The packaged networks and images are whole, and the networks classify the images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from reparam.architectures import create_model, recognise
from reparam.checkpoint import load_checkpoint
from reparam.example import CLASSES, MEAN, STD, example_checkpoints, example_images, normalise

MEGABYTE = 2**20
FAMILIES = sorted(example_checkpoints())


def test_the_packaged_data_stays_small() -> None:
    folder = next(iter(example_checkpoints().values())).parent
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 4 * MEGABYTE


def test_provenance_and_licence_travel_with_the_data() -> None:
    folder = next(iter(example_checkpoints().values())).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Zalando SE" in text
    assert "Permission is hereby granted" in text


def test_images_are_a_thousand_of_all_ten_classes() -> None:
    images, labels = example_images()
    assert (images.shape, images.dtype) == ((1000, 1, 32, 32), np.float32)
    assert (labels.shape, labels.dtype) == ((1000,), np.int64)
    assert len(CLASSES) == 10
    assert np.bincount(labels, minlength=10).min() >= 80
    # A sample of 784,000 pixels: near the mean 0 and deviation 1 of the training images, which
    # leave out the border.
    inner = images[:, :, 2:-2, 2:-2]
    assert abs(float(inner.mean())) < 0.05
    assert abs(float(inner.std()) - 1.0) < 0.05


def test_normalise_centres_scales_and_borders_with_black() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 0, 0] = 255
    found = normalise(image)
    assert found.shape == (1, 1, 32, 32)
    black, white = -MEAN / STD, (1.0 - MEAN) / STD
    assert found[0, 0, 2, 2] == pytest.approx(white, rel=1e-6)
    found[0, 0, 2, 2] = black
    np.testing.assert_allclose(found, black, rtol=1e-6)
    assert image[0, 0, 0] == 255


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_are_trained_and_in_train_time_form(family: str) -> None:
    arrays = load_checkpoint(example_checkpoints()[family]).arrays
    found = recognise({key: value.shape for key, value in arrays.items()})
    assert found is not None
    assert (found.name, found.form) == (family, "train-time")
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    for key, value in arrays.items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        if key.endswith("._variance"):
            assert not (value == 1.0).all(), f"{key} is that of a fresh network"
        if key.endswith(".alpha"):
            assert value.item() != 1.0, f"{key} was never learned"


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_classify_nine_images_of_ten(family: str) -> None:
    import paddle

    arrays = load_checkpoint(example_checkpoints()[family]).arrays
    found = recognise({key: value.shape for key, value in arrays.items()})
    assert found is not None
    model = create_model(found.name, **found.settings)
    assert model.set_state_dict(dict(arrays)) == ([], [])
    model.eval()
    images, labels = example_images()
    with paddle.no_grad():
        scores = model(paddle.to_tensor(images)).numpy()
    assert (scores.argmax(axis=1) == labels).mean() >= 0.90


def test_the_data_needs_no_framework() -> None:
    code = (
        "import sys; from reparam.example import example_checkpoints, example_images; "
        "example_checkpoints(); example_images(); "
        "sys.exit(any(name in sys.modules for name in ('paddle', 'onnx', 'onnxruntime')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
