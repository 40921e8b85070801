"""A network that float16 has no room for is refused, by the name of what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reparam.errors import ExportError
from reparam.exporter import export
from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write

pytestmark = needs_converter


def scaled(folder: Path, factor: float) -> Path:
    """Write a network whose block ``stage1.0`` has no bias and gives ``factor`` times as much."""
    arrays = repvgg_arrays()
    for branch in ("rbr_dense", "rbr_1x1"):
        norm = f"stage1.0.{branch}.bn"
        arrays[f"{norm}.weight"] = arrays[f"{norm}.weight"] * np.float32(factor)
        for key in (f"{norm}.bias", f"{norm}._mean"):
            arrays[key] = np.zeros_like(arrays[key])
    return write(folder, arrays)


def in_float16(source: Path) -> str:
    """Return why the export is refused, once it is seen that nothing was written."""
    with pytest.raises(ExportError) as caught:
        export(source, input_size=(32, 32), precision="float16")
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    return str(caught.value)


def test_a_value_inside_that_is_too_large(tmp_path):
    source = scaled(tmp_path, 1e4)
    message = in_float16(source)
    assert "a value inside the network does not fit float16" in message
    assert "stage1.0.rbr_reparam.weight" in message
    export(source, input_size=(32, 32))


def test_a_weight_that_is_too_large(tmp_path):
    message = in_float16(scaled(tmp_path, 1e8))
    assert "stage1.0.rbr_reparam.weight" in message
    assert "float16 ends at 65504" in message
    assert "a value inside" not in message
