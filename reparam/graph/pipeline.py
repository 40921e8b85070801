"""From an ONNX file to a fused one: read, fuse, prove, write, compare, and only then place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reparam.errors import GraphError, NotEquivalentError, NotFusibleError, OutputError
from reparam.files import check_output, deploy_stem, sha256_of, whole_file
from reparam.graph.files import Opened, data_of, light_model, save_model
from reparam.graph.files_writing import Written
from reparam.graph.fusing import fuse_graph
from reparam.graph.origins import ONNX, STATIC, Origin, as_onnx
from reparam.graph.passes import check_names
from reparam.graph.records import GraphReport, Options
from reparam.graph.reporting import to_json
from reparam.graph.runnable import too_large
from reparam.graph.whole import compare
from reparam.graph.whole_records import NOT_RUN, Whole
from reparam.normalization import Normalization
from reparam.reports import Report, written_text
from reparam.version import tool_version

if TYPE_CHECKING:
    import onnx_ir as ir

_DRY = Whole(NOT_RUN, reason="nothing was written")
_COPIED = Whole(NOT_RUN, reason="nothing was changed")


@dataclass(frozen=True, repr=False)
class GraphFusion(Report):
    """A fused ONNX file.

    Attributes:
        source: the file it came from.
        source_sha256: of that file.
        output: where it is; None where nothing was written: in a dry run, and where there was
            nothing to fuse.
        sha256: of it.
        data: the file beside it that has its weights, if there is one.
        report: what was done.
        whole: what comparing it with the source as a whole found.
        before: regions that an earlier run fused, as the source says of itself.
        notices: what a user should know.
    """

    source: Path
    source_sha256: str
    output: Path | None
    sha256: str
    data: Path | None
    report: GraphReport
    whole: Whole
    before: int = 0
    notices: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        number = len(self.report.fused)
        return written_text(
            self.source, f"{number} regions fused" if number else self.verdict, self.output
        )

    def to_json(self) -> dict[str, Any]:
        return to_json(self)

    @property
    def verdict(self) -> str:
        """``"fused"``, ``"simplified"``, ``"already fused"`` or ``"nothing to fuse"``.

        A graph is simplified where no region was fused, and there are other nodes than before.
        """
        if self.report.fused:
            return "fused"
        if _is_simplified(self.report):
            return "simplified"
        return "already fused" if self.before else "nothing to fuse"


@dataclass
class _Checked:
    """What the checks of a draft found."""

    whole: Whole = field(default_factory=lambda: _DRY)


def deploy_path_of(source: Path) -> Path:
    """Return where the fused form goes by default: x.onnx, x.json and the like: x.deploy.onnx."""
    source = source if source.name else source.absolute()  # "." is a folder with a program
    stem = source.stem if source.suffix in (ONNX, *STATIC) else source.name or "program"
    return source.parent / f"{deploy_stem(stem)}{ONNX}"


def fuse_onnx(
    source: str | Path,
    output: str | Path | None = None,
    *,
    allow_macs: float = 1.0,
    without: Sequence[str] = (),
    normalize: str | Normalization | None = None,
    merge_siblings: bool = False,
    bake_inputs: bool = False,
    keep_going: bool = False,  # noqa: ARG001 - scripts may still give it
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
    timeout: float = 600,
    tell: Callable[[str], None] = lambda _: None,
) -> GraphFusion:
    """Fuse every linear region of an ONNX file and write the result, whole or not at all.

    Every region is proved by itself, in float64; then the file that was written is compared with
    the source as a whole, in float64 and on onnxruntime, before it gets its name. The source is
    not changed.

    Where there is nothing to fuse, nothing is written, unless ``output`` names a file: that holds
    what the source holds, byte for byte if that is one ONNX file.

    Args:
        source: an ONNX file, with any network in it; or a static Paddle program (``.json`` or
            ``.pdmodel``, with its ``.pdiparams`` beside it), which is converted first.
        output: x.deploy.onnx for x.onnx by default.
        allow_macs: how many times the MACs of what it replaces a region may cost.
        without: names of passes that are switched off, of :data:`reparam.graph.passes.NAMES`.
        normalize: what is to be done to the pixels of the image, which the file takes raw then: a
            preset, or numbers, as :meth:`reparam.graph.normalizing.Normalization.parse` reads.
        merge_siblings: make 1x1 convolutions that read one value one, with a Split.
        bake_inputs: take weights that are inputs of the graph too for constants.
        keep_going: accepted and without effect: a region whose proof fails stays as it is, and
            the rest is written, always.
        strict: refuse where there is nothing to fuse, or something was left.
        force: replace what is there.
        dry_run: fuse and prove, and write nothing.
        timeout: seconds for each process that converts a static program.
        tell: is told what is being done.

    Raises:
        GraphError: the file is unusable, a pass has no such name, or the normalisation cannot be
            put into it.
        NotEquivalentError: what was made is not the same function as a whole, or ``strict``, and
            a proof failed. Nothing is written.
        NotFusibleError: ``strict``, and there was nothing to fuse or something was left.
        OutputError: the output cannot be written there.
        MissingDependencyError: onnx, onnx-ir or onnxruntime is not installed.
    """
    source = Path(source)
    target = deploy_path_of(source) if output is None else Path(output)
    check_names(without)
    wanted = Normalization.parse(normalize) if isinstance(normalize, str) else normalize
    options = Options(frozenset(without), allow_macs, wanted, merge_siblings)
    if not dry_run:
        _check_target(source, target, force)
    tell(f"reading {source}")
    with as_onnx(source, tell, timeout) as origin:
        opened = origin.opened(bake_inputs)
        if not dry_run:
            _check_data(opened, target)
        before = _fused_before(opened.model)
        report = fuse_graph(opened.model, options, tell)
        if strict:
            _need_all_fused(source, report)
        hint = ("--bake-inputs takes them for constants",) if opened.overridable else ()
        notices = (*origin.notices, *opened.notices, *hint, *report.notices)
        sha256 = origin.sha256 or opened.sha256
        changes = bool(report.fused or wanted or opened.baked) or _is_simplified(report)
        if dry_run or (output is None and not changes):
            return GraphFusion(source, sha256, None, "", None, report, _DRY, before, notices)
        if not changes:
            made, data = _copied(origin, opened, target, force)
            return GraphFusion(source, sha256, target, made, data, report, _COPIED, before, notices)
        _need_runnable(source, origin, report)
        _stamp(opened, origin, before + len(report.fused))
        tell(f"writing {target}")
        with origin.reference(bake_inputs, options.normalize) as reference:
            written, whole = _written(opened, source, reference, target, force, tell)
    data = data_of(target) if written.data_bytes else None
    return GraphFusion(source, sha256, target, written.sha256, data, report, whole, before, notices)


def _is_simplified(report: GraphReport) -> bool:
    """Whether a graph has other nodes than before; a Constant counts as the weight that it is."""
    before, after = (
        {name: number for name, number in counts.items() if name != "Constant"}
        for counts in (report.ops_before, report.ops_after)
    )
    return before != after


def _copied(origin: Origin, opened: Opened, target: Path, force: bool) -> tuple[str, Path | None]:
    """Write what the source holds under another name; return its SHA-256 and its weights' file."""
    if origin.path != origin.source or opened.data_files:  # a name inside it tells where they are
        written = save_model(origin.opened(False).model, target, force=force)
        return written.sha256, data_of(target) if written.data_bytes else None
    with whole_file(target, force) as draft:
        shutil.copyfile(origin.path, draft)
        if sha256_of(draft) != opened.sha256:
            raise GraphError(f"'{origin.path}' changed while it was being read")
    return opened.sha256, None


def _check_target(source: Path, target: Path, force: bool) -> None:
    """Refuse early what could not be written at the end."""
    if target.suffix != ONNX:
        raise OutputError(
            f"cannot write '{target}'",
            found="a name that does not end in .onnx",
            why="what becomes of an ONNX file is an ONNX file",
        )
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(
            f"'{target}' is the input", why="the input is never changed", hint="-o names another"
        )
    check_output(target, force)


def _check_data(opened: Opened, target: Path) -> None:
    """Refuse to write over the weights of the source, which may be beside the output."""
    data = data_of(target)
    if data.exists() and any(data.samefile(one) for one in opened.data_files):
        raise OutputError(
            f"'{data}' has weights of the input",
            why="the input is never changed",
            hint="-o names another",
        )


def _need_all_fused(source: Path, report: GraphReport) -> None:
    if report.failed:
        more = len(report.failed) - 1
        raise NotEquivalentError(
            f"a region of '{source}' is not the same function after fusing",
            found=report.failed[0].text + (f" (and {more} more)" if more else ""),
            why="--strict was given, and this is a fault of reparam",
            hint="without --strict, that region stays as it was and the rest is written; please "
            "report this, with the file",
        )
    if report.left:
        raise NotFusibleError(
            f"not everything in '{source}' was fused",
            found=f"left was {report.left[0].text}",
            why="--strict was given",
        )
    if not report.fused:
        raise NotFusibleError(f"nothing to fuse in '{source}'", why="--strict was given")


def _fused_before(model: ir.Model) -> int:
    told = model.metadata_props.get("reparam.fused_regions", "")
    return int(told) if told.isdecimal() else 0


def _need_runnable(source: Path, origin: Origin, report: GraphReport) -> None:
    """Refuse what is too large to be compared as a whole."""
    reason = too_large(light_model(origin.path))
    if reason:
        number = len(report.fused)
        proved = "1 region is" if number == 1 else f"{number:,} regions are"
        raise GraphError(
            f"cannot compare what fusing makes of '{source}' with it",
            found=f"{proved} proved, but the whole was not run: {reason}",
            why="nothing is written that was not compared as a whole",
            hint="--dry-run tells what would be fused",
        )


def _stamp(opened: Opened, origin: Origin, regions: int) -> None:
    """Make a model say what was done to it; what it says of itself otherwise stays.

    A source that says what it came from itself keeps that: the checkpoint it was exported from.
    """
    said = opened.model.metadata_props
    sha256 = origin.sha256 or opened.sha256
    said.setdefault("reparam.source_sha256", sha256)
    said.update(origin.told)
    said["reparam.version"] = tool_version()
    said["reparam.fused_from_sha256"] = sha256
    said["reparam.fused_regions"] = str(regions)


def _written(
    opened: Opened,
    source: Path,
    reference: Path,
    target: Path,
    force: bool,
    tell: Callable[[str], None],
) -> tuple[Written, Whole]:
    """Write a model; it gets its name only after it was compared with its source."""
    stamp = _stamp_of(opened.path)
    checked = _Checked()

    def check(draft: Path) -> None:
        tell(f"comparing it with {source} as a whole")
        checked.whole = compare(reference, draft)
        if checked.whole.verdict == "different":
            raise NotEquivalentError(
                f"what fusing made of '{source}' is not the same function",
                found=checked.whole.reason,
                why="nothing is written that is not equal as a whole",
                hint="--without PASS switches a pass off; please report this, with the file",
            )
        if _stamp_of(opened.path) != stamp or sha256_of(opened.path) != opened.sha256:
            raise GraphError(f"'{source}' changed while it was being read")

    written = save_model(opened.model, target, force=force, check=check)
    return written, checked.whole


def _stamp_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
