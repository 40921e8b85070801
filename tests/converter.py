"""What needs paddle2onnx, which has no wheel for every Python that reparam runs on."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from reparam.adapters.converter import has_converter, no_converter

needs_converter = pytest.mark.skipif(not has_converter(), reason=no_converter()[0])

# Paddle writes the scales of an interpolation as float64 from this version on.
writes_float64_scales = tuple(map(int, version("paddlepaddle").split(".")[:2])) >= (3, 3)
