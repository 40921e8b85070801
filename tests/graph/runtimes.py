"""Where the onnxruntime that is installed is known to depart from the specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reparam.adapters.onnx_runtime import import_onnxruntime

MISCOUNTS = tuple(map(int, import_onnxruntime().__version__.split(".")[:2])) < (1, 24)
"""Whether it divides means by other numbers where padding counts.

Seen in 1.23, the last for Python 3.10: by all taps where ``ceil_mode`` lets a window leave the
image, before operator set 19; from 19 on in some windows padded at the end alone. 1.32 does not.
"""


def departs(operator: str, attributes: Mapping[str, Any]) -> bool:
    """Whether a node is one that this runtime may compute otherwise."""
    return MISCOUNTS and operator == "AveragePool" and bool(attributes.get("count_include_pad"))
