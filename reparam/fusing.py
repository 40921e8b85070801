"""``reparam.fuse``: one name for checkpoints and for ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reparam.checkpoint.pipeline import Fusion
    from reparam.graph.pipeline import GraphFusion
    from reparam.normalization import Normalization

_COMMON = frozenset({"strict", "force", "dry_run"})
_OF_CHECKPOINTS = frozenset({"epsilon", "fold_bn", "skip", "families", "format", "prefix"})


def fuse(
    source: str | Path,
    output: str | Path | None = None,
    *,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
    epsilon: float | None = None,
    fold_bn: bool = False,
    skip: Sequence[str] = (),
    families: Sequence[str] = (),
    format: str | None = None,
    prefix: str | None = None,
    allow_macs: float = 1.0,
    without: Sequence[str] = (),
    normalize: str | Normalization | None = None,
    merge_siblings: bool = False,
    bake_inputs: bool = False,
    keep_going: bool = False,
    tell: Callable[[str], None] | None = None,
    timeout: float | None = None,
    memory_limit: int | None = None,
) -> Fusion | GraphFusion:
    """Fuse a checkpoint or an ONNX file and write its deploy form, whole or not at all.

    A name that ends in ``.onnx`` is an ONNX file, of any network, for
    :func:`reparam.graph.pipeline.fuse_onnx`; so is a static Paddle program. Anything else is a
    checkpoint, for :func:`reparam.checkpoint.pipeline.fuse`. The source is not changed. Where there
    is nothing to fuse, nothing is written, unless ``output`` names a file.

    Args:
        output: x.deploy.onnx for x.onnx, x.deploy.pdparams for x.pdparams and so on by default.
        strict: refuse where there is nothing to fuse, or something was left.
        force: replace what is there.
        dry_run: report, but write nothing.
        epsilon: checkpoints: of the BatchNorms, in place of what the family says.
        fold_bn: checkpoints: fold conv-bn pairs outside blocks as well.
        skip: checkpoints: blocks to leave as they are, names or patterns.
        families: checkpoints: names of families that come first.
        format: checkpoints: ``pdparams`` or ``safetensors``.
        prefix: checkpoints: use only the weights under this name or prefix.
        allow_macs: graphs: how many times the MACs of what it replaces a region may cost.
        without: graphs: names of passes that are switched off.
        normalize: graphs: what is to be done to raw pixels, which the file takes then.
        merge_siblings: graphs: make 1x1 convolutions that read one value one, with a Split.
        bake_inputs: graphs: take weights that are inputs too for constants.
        keep_going: graphs: accepted and without effect.
        tell: graphs: is told what is being done.
        timeout: graphs: seconds for the process that reads and runs them, 600 if None.
        memory_limit: graphs: bytes for that process, 2 GiB and 8 times the file if None.

    Returns:
        Where the result is and what was done: ``source``, ``source_sha256``, ``output``,
        ``sha256``, ``report``. Of an ONNX file also ``verdict`` and ``whole``.

    Raises:
        ReparamError: as the two functions say.
        TypeError: an option is not one of this kind of file.
    """
    usual = fuse.__kwdefaults__ or {}
    given = {name: value for name, value in locals().items() if value is not usual.get(name, value)}
    graph = is_graph(source := Path(source))
    for name in given:
        if name not in _COMMON and (name in _OF_CHECKPOINTS) == graph:
            kind = "an ONNX file" if graph else "a checkpoint"
            raise TypeError(f"fuse: '{name}' is not an option of {kind}")
    if graph:
        from reparam.graph import guarded
        from reparam.supervision import TIMEOUT, Limits

        limits = Limits(given.pop("timeout", TIMEOUT), given.pop("memory_limit", None))
        return guarded.fuse(source, output, limits=limits, **given)
    from reparam.checkpoint.pipeline import fuse as fuse_checkpoint

    return fuse_checkpoint(source, output, **given)


def is_graph(path: Path) -> bool:
    """Whether a path is that of an ONNX file or a static Paddle program; all else is a checkpoint.

    Nothing is opened.
    """
    from reparam.adapters.static_models import is_static

    return path.suffix == ".onnx" or is_static(path)
