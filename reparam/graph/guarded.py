"""What can be done with the file of a graph, each in a process with a clock and a memory limit.

The command line and ``import reparam`` come through here; the functions that do the work are those
of :mod:`reparam.graph.pipeline`, :mod:`reparam.graph.inspecting` and
:mod:`reparam.graph.explaining`. What runs in the process is :mod:`reparam.supervision`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reparam import supervision
from reparam.supervision import Limits

if TYPE_CHECKING:
    from reparam.graph.explaining import Explanation
    from reparam.graph.inspecting import GraphInspection
    from reparam.graph.pipeline import GraphFusion


def fuse(
    source: str | Path,
    output: str | Path | None = None,
    *,
    limits: Limits | None = None,
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> GraphFusion:
    """Do :func:`reparam.graph.pipeline.fuse_onnx`.

    Raises:
        GraphError: also where the process died, by a signal or for want of time or memory.
    """
    source, limits = Path(source), limits or Limits()
    found: GraphFusion = supervision.supervised(
        "reparam.graph.pipeline:fuse_onnx",
        source,
        output,
        limits=limits,
        files=(source,),
        writes=(source if output is None else Path(output),),
        what=f"cannot fuse '{source}'",
        teller="tell",
        tell=tell,
        timeout=limits.timeout,
        **options,
    )
    return found


def inspect(path: str | Path, *, limits: Limits | None = None) -> GraphInspection:
    """Do :func:`reparam.graph.inspecting.inspect_onnx`; raises as :func:`fuse`."""
    found: GraphInspection = _read("reparam.graph.inspecting:inspect_onnx", path, limits=limits)
    return found


def explain(path: str | Path, name: str, *, limits: Limits | None = None) -> Explanation:
    """Do :func:`reparam.graph.explaining.explain`; raises as :func:`fuse`."""
    found: Explanation = _read("reparam.graph.explaining:explain", path, name, limits=limits)
    return found


def need_runnable(path: str | Path, *, limits: Limits | None = None) -> None:
    """Do :func:`reparam.graph.runnable.need_runnable`; raises as :func:`fuse`."""
    _read("reparam.graph.runnable:need_runnable", path, limits=limits)


def _read(function: str, path: str | Path, *arguments: Any, limits: Limits | None) -> Any:
    path = Path(path)
    what = f"cannot use '{path}'"
    return supervision.supervised(
        function, path, *arguments, limits=limits, files=(path,), what=what
    )
