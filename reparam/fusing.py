"""``reparam.fuse``: one name for checkpoints and for ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reparam.checkpoint.pipeline import Fusion
    from reparam.graph.pipeline import GraphFusion

_LIMITS = ("timeout", "memory_limit")
_COMMON = ("strict", "force", "dry_run")
_OF_CHECKPOINTS = ("epsilon", "fold_bn", "skip", "families", "format", "prefix")
_OF_GRAPHS = (
    "allow_macs", "without", "normalize", "merge_siblings", "bake_inputs", "keep_going", "tell",
    *_LIMITS,
)  # fmt: skip


def fuse(
    source: str | Path, output: str | Path | None = None, **options: Any
) -> Fusion | GraphFusion:
    """Fuse a checkpoint or an ONNX file and write its deploy form, whole or not at all.

    A name that ends in ``.onnx`` is an ONNX file, of any network, for
    :func:`reparam.graph.pipeline.fuse_onnx`; so is a static Paddle program. Anything else is a
    checkpoint, for :func:`reparam.checkpoint.pipeline.fuse`. The source is not changed.

    Args:
        output: x.deploy.onnx for x.onnx, x.deploy.pdparams for x.pdparams and so on by default.
        options: of both: ``strict``, ``force``, ``dry_run``. Of checkpoints: ``epsilon``,
            ``fold_bn``, ``skip``, ``families``, ``format``, ``prefix``. Of ONNX files:
            ``allow_macs``, ``without``, ``normalize``, ``merge_siblings``, ``bake_inputs``,
            ``keep_going``, ``tell``, and of the process that reads them: ``timeout`` in seconds
            (600) and ``memory_limit`` in bytes (2 GiB and 8 times the file).

    Returns:
        Where the result is and what was done: ``source``, ``source_sha256``, ``output``,
        ``sha256``, ``report``. Of an ONNX file also ``verdict`` and ``whole``.

    Raises:
        ReparamError: as the two functions say.
        TypeError: an option is not one of this kind of file.
    """
    source = Path(source)
    graph = is_graph(source)
    own, other = (_OF_GRAPHS, _OF_CHECKPOINTS) if graph else (_OF_CHECKPOINTS, _OF_GRAPHS)
    for name in options:
        if name not in (*own, *_COMMON):
            kind = "an ONNX file" if graph else "a checkpoint"
            said = f"is not an option of {kind}" if name in other else "is not an option"
            raise TypeError(f"fuse: '{name}' {said}")
    if graph:
        from reparam.graph import guarded
        from reparam.supervision import TIMEOUT, Limits

        limits = Limits(options.pop("timeout", TIMEOUT), options.pop("memory_limit", None))
        return guarded.fuse(source, output, limits=limits, **options)
    from reparam.checkpoint.pipeline import fuse as fuse_checkpoint

    return fuse_checkpoint(source, output, **options)


def is_graph(path: Path) -> bool:
    """Whether a path is that of an ONNX file or a static Paddle program; all else is a checkpoint.

    Nothing is opened.
    """
    from reparam.adapters.static_models import is_static

    return path.suffix == ".onnx" or is_static(path)
