"""The one door to ``reparam.models``: architectures by name, and recognised in a checkpoint.

Everything behind it is imported on the first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reparam.models import Recognised


def create_model(name: str, deploy: bool = False, **settings: Any) -> Any:
    """Return the paddle Layer registered as ``name``, with random weights.

    Args:
        deploy: build it in deploy form, every block as one convolution.
        settings: override those of the variant.

    Raises:
        UnsupportedModelError: the name or a setting is unknown, or a value is not possible.
        MissingDependencyError: paddle is not installed.
    """
    from reparam.models import create_model as build

    return build(name, deploy=deploy, **settings)


def list_models() -> list[str]:
    """Return the names that create_model knows, sorted."""
    from reparam.models import list_models as names

    return names()


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Recognised | None:
    """Return the architecture whose state dict has these names and shapes, None if none known."""
    from reparam.models import recognise as find

    return find(shapes)


def train_time_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]] | None:
    """Return names and shapes of the recognised network in train-time form, None if none known."""
    from reparam.models.recognition import train_time_shapes as whole

    return whole(shapes)
