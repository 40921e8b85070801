"""Structural re-parameterization and deployment for PaddlePaddle: fuse, verify, export, bench.

Names are loaded when they are first used, so ``import reparam`` imports neither paddle nor onnx
nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reparam.adapters.foreign_models import ForeignModel
    from reparam.architectures import contract, create_model, expand, list_models, recognise
    from reparam.checkpoint.files import Checkpoint, load_checkpoint, save_checkpoint
    from reparam.checkpoint.fusing import fuse_arrays
    from reparam.checkpoint.inspection import inspect
    from reparam.checkpoint.unfusing.arrays import unfuse_arrays
    from reparam.checkpoint.unfusing.pipeline import unfuse
    from reparam.configuration import read_configuration
    from reparam.equivalence import Probing, verify
    from reparam.errors import (
        BenchmarkError,
        CheckpointError,
        ConfigurationError,
        ExportError,
        GraphError,
        MissingDependencyError,
        NotEquivalentError,
        NotFusibleError,
        OutputError,
        ReparamError,
        UnsafeCheckpointError,
        UnsupportedModelError,
    )
    from reparam.exporter import export
    from reparam.exporter.benchmarking import Protocol, benchmark
    from reparam.exporter.layer_fusing import fuse_layers
    from reparam.fusing import fuse

_HOMES = {
    "reparam.adapters.foreign_models": ("ForeignModel",),
    "reparam.configuration": ("read_configuration",),
    "reparam.exporter.layer_fusing": ("fuse_layers",),
    "reparam.fusing": ("fuse",),
    "reparam.architectures": ("contract", "create_model", "expand", "list_models", "recognise"),
    "reparam.checkpoint.files": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "reparam.checkpoint.fusing": ("fuse_arrays",),
    "reparam.checkpoint.inspection": ("inspect",),
    "reparam.checkpoint.unfusing.pipeline": ("unfuse",),
    "reparam.checkpoint.unfusing.arrays": ("unfuse_arrays",),
    "reparam.equivalence": ("Probing", "verify"),
    "reparam.errors": (
        "BenchmarkError",
        "CheckpointError",
        "ConfigurationError",
        "ExportError",
        "GraphError",
        "MissingDependencyError",
        "NotEquivalentError",
        "NotFusibleError",
        "OutputError",
        "ReparamError",
        "UnsafeCheckpointError",
        "UnsupportedModelError",
    ),
    "reparam.exporter": ("export",),
    "reparam.exporter.benchmarking": ("Protocol", "benchmark"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BenchmarkError",
    "Checkpoint",
    "CheckpointError",
    "ConfigurationError",
    "ExportError",
    "ForeignModel",
    "GraphError",
    "MissingDependencyError",
    "NotEquivalentError",
    "NotFusibleError",
    "OutputError",
    "Probing",
    "Protocol",
    "ReparamError",
    "UnsafeCheckpointError",
    "UnsupportedModelError",
    "benchmark",
    "contract",
    "create_model",
    "expand",
    "export",
    "fuse",
    "fuse_arrays",
    "fuse_layers",
    "inspect",
    "list_models",
    "load_checkpoint",
    "read_configuration",
    "recognise",
    "save_checkpoint",
    "unfuse",
    "unfuse_arrays",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from reparam.version import tool_version  # reading metadata is slow for an import

        return tool_version()
    if name not in _HOME_OF:
        raise AttributeError(f"module 'reparam' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
