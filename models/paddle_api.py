"""The import of paddle, without its notice about a compiler cache and its C++ warnings.

Raises:
    MissingDependencyError: paddle is not installed.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from reparam.errors import MissingDependencyError

os.environ.setdefault("GLOG_minloglevel", "2")  # its C++ part reads this once, at import
try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        import paddle as _paddle
except ModuleNotFoundError as error:
    if error.name != "paddle":
        raise
    raise MissingDependencyError.of("paddlepaddle", "building a model", "export") from None

paddle: Any = _paddle

if TYPE_CHECKING:

    class Layer:
        """What type checkers see of paddle.nn.Layer, which has no types of its own here."""

        training: bool

        def __call__(self, *inputs: Any) -> Any: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    Layer = paddle.nn.Layer
