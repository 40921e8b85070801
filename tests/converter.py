"""What needs paddle2onnx, which has no wheel for every Python that reparam runs on."""

from __future__ import annotations

import pytest

from reparam.adapters.converter import NO_CONVERTER, has_converter

needs_converter = pytest.mark.skipif(not has_converter(), reason=NO_CONVERTER)
