"""What needs paddle2onnx, which has no wheel for every Python that reparam runs on."""

from __future__ import annotations

import pytest

from reparam.adapters.converter import has_converter, no_converter

needs_converter = pytest.mark.skipif(not has_converter(), reason=no_converter()[0])
