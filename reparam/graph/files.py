"""ONNX files and what they become in memory; nothing in them is run, nothing else is opened.

A file is parsed once, and the weights are taken out of what parsing made. All checks, and the
reader that builds the graph, see a model without weights. Weights in other files stay there, mapped
into memory, and are read when they are used.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reparam.adapters.onnx_files import LIMIT
from reparam.adapters.onnx_model import import_onnx
from reparam.checkpoint.hashing import FileHash
from reparam.checkpoint.opening import mapped
from reparam.errors import CheckpointError, GraphError
from reparam.files import sha256_of, whole_files
from reparam.graph.files_checks import (
    allow_constants,
    check_supported,
    check_texts,
    check_valid,
    unknown_operators,
)
from reparam.graph.files_names import check_names
from reparam.graph.files_outside import DataFiles
from reparam.graph.files_serde import deserialized
from reparam.graph.files_tensors import Buffer, put_back, take_out
from reparam.graph.files_writing import Written, heavy_bytes, write_model
from reparam.graph.looking import look

if TYPE_CHECKING:
    import onnx_ir as ir

Used = TypeVar("Used")

OPSETS = range(9, 22)
"""The versions of the ONNX operator set that fusing is tested with."""

_OUTSIDE = "reparam.outside"  # in the notes of a model: its source kept weights outside
_PROTOBUF = (1 << 31) - 1  # bytes that a message may have
_LFS = b"version https://git-lfs"
_TOLD = 5  # operators that a notice names


@dataclass(frozen=True)
class Opened:
    """An ONNX file that was read.

    Attributes:
        model: what it holds; initializers that were heavy, or in other files, are read-only views.
        path: of the file.
        bytes: of the file and its data files.
        data_files: that hold weights of it.
        overridable: initializers that are inputs too, so that a caller may set them.
        baked: those that were, and are constants now.
        notices: what a user should know of it, a sentence each.
        hash: of the file.
    """

    model: ir.Model
    path: Path
    bytes: int
    data_files: tuple[Path, ...]
    overridable: tuple[str, ...]
    baked: tuple[str, ...]
    notices: tuple[str, ...]
    hash: FileHash = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal; computed in the background, so this may wait."""
        return self.hash.hexdigest()

    def data_sha256(self) -> dict[Path, str]:
        """Return the SHA-256 of each data file, computed now.

        Raises:
            OSError: one can no longer be read.
        """
        return {path: sha256_of(path) for path in self.data_files}


def open_model(path: str | Path, *, bake_inputs: bool = False) -> Opened:
    """Read an ONNX file that is whole, valid, and has nothing that would be lost on writing it.

    Nodes that are in no order that ONNX allows are sorted, and a notice says so. Operators that
    nothing is known about are no reason to refuse a file.

    Args:
        path: of the file.
        bake_inputs: take initializers for constants though they are inputs too. They cease to be
            inputs; without it a caller may set them, and so they are not constants.

    Raises:
        GraphError: the file cannot be read, is no ONNX model, is cut short or not valid, its graph
            has a cycle or gives a name twice, its weights are missing or outside of its folder,
            or it has parts that would be lost.
        MissingDependencyError: onnx or onnx-ir is not installed.
    """
    path = Path(path)
    return _used(path, lambda pages: _open(path, pages, bake_inputs))


def _used(path: Path, use: Callable[[mmap.mmap], Used]) -> Used:
    """Return what becomes of the pages of a file; an error says of which."""
    try:
        pages = mapped(path)
    except CheckpointError as error:
        hint = "" if path.is_dir() else error.hint
        raise GraphError(error.what, found=error.found, why=error.why, hint=hint) from error
    try:
        return use(pages)
    except GraphError as error:
        raise error.located(f"cannot use '{path}': {error.what}") from error


def save_model(
    model: ir.Model,
    path: str | Path,
    *,
    external: bool | None = None,
    force: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Written:
    """Write a model to a file, whole or not at all. The same model gives the same bytes.

    Heavy weights go into a second file, named as the first with ``.data`` at its end, if they do
    not fit into one, or if those of the file that the model comes from were outside of it. The
    files that the model was read from may be replaced: they are never written into.

    Args:
        model: is not changed.
        path: of the file.
        external: True puts the weights outside, False into the file.
        force: replace what is there.
        check: gets the path of the draft before anything is placed; what it raises ends this.

    Raises:
        GraphError: the model is not valid, or shall fit into one file and does not.
        OutputError: the file cannot be written there.
    """
    path = Path(path)
    heavy = heavy_bytes(model)
    if external is None:
        external = bool(model.meta.get(_OUTSIDE)) or heavy > LIMIT
    files = [data_of(path), path] if external and heavy else [path]
    with whole_files(files, force) as drafts:
        written = write_model(model, drafts[-1], drafts[0] if len(drafts) > 1 else None)
        if check is not None:
            check(drafts[-1])
    return written


def data_of(path: Path) -> Path:
    """Return the file beside an ONNX file that takes its weights."""
    return path.with_name(f"{path.name}.data")


def _open(path: Path, pages: mmap.mmap, bake_inputs: bool) -> Opened:
    digest, size = FileHash(path), len(pages)
    files = DataFiles(path.parent)
    light, taken = _taken_apart(pages, files)
    check_texts(light)
    check_supported(light)
    _name_onnx_domain(light)
    notices = []
    if check_names(light):
        notices.append("the nodes were in an order that ONNX does not allow, and were sorted")
    overridable = _overridable(light)
    baked = overridable if bake_inputs else ()
    if bake_inputs:
        _bake(light, set(overridable))
        overridable = ()
    allow_constants(light)
    check_valid(light)
    notices += _notices(light, overridable)
    model = deserialized(light)
    if taken:
        put_back(model, taken)
    if files.paths:
        model.meta[_OUTSIDE] = True
    return Opened(
        model=model,
        path=path,
        bytes=size + files.size,
        data_files=files.paths,
        overridable=overridable,
        baked=baked,
        notices=tuple(notices),
        hash=digest,
    )


def light_model(path: Path) -> Any:
    """Return the ``onnx.ModelProto`` in a file without its heavy weights, which are checked.

    Raises:
        GraphError: the file cannot be read, is not a whole model, has what would crash those that
            read it next, or its weights are not where they should be.
    """
    return _used(path, lambda pages: _taken_apart(pages, DataFiles(path.parent))[0])


def _taken_apart(pages: mmap.mmap, files: DataFiles) -> tuple[Any, list[Buffer]]:
    """Return a model without its heavy weights, after looking at it, and those."""
    proto = _parsed(pages)
    look(proto)
    taken = take_out(proto, files)
    light = type(proto).FromString(proto.SerializeToString())  # the other keeps room for weights
    return light, taken


def _parsed(pages: mmap.mmap) -> Any:
    """Return the ``onnx.ModelProto`` in a mapped file, which is closed: parsing copies it."""
    onnx = import_onnx()
    decode_error = import_module("google.protobuf.message").DecodeError
    size, start = len(pages), pages[: len(_LFS)]
    if size > _PROTOBUF:
        raise GraphError(
            "it is too large",
            found=f"{size} bytes; a file may have {_PROTOBUF}",
            hint="export it with its weights in a second file",
        )
    try:
        with memoryview(pages) as view:
            proto = onnx.ModelProto.FromString(view)
    except decode_error as error:
        raise GraphError(
            "it is not an ONNX model, or not a whole one",
            found=f"{size} bytes",
            hint="'git lfs pull' fetches the file itself" if start == _LFS else "",
        ) from error
    finally:
        pages.close()
    if not proto.graph.node:
        raise GraphError("it is not an ONNX model", found="no graph, or a graph without nodes")
    return proto


def _name_onnx_domain(light: Any) -> None:
    """Give the domain of ONNX's own operators one of its two names everywhere."""
    for holder in (light, *light.functions):
        for entry in holder.opset_import:
            if entry.domain == "ai.onnx":
                entry.domain = ""


def _overridable(light: Any) -> tuple[str, ...]:
    initializers = {tensor.name for tensor in light.graph.initializer}
    return tuple(value.name for value in light.graph.input if value.name in initializers)


def _bake(light: Any, names: set[str]) -> None:
    """Take initializers out of the inputs."""
    inputs = [entry for entry in light.graph.input if entry.name not in names]
    del light.graph.input[:]
    light.graph.input.extend(inputs)


def _notices(light: Any, overridable: tuple[str, ...]) -> list[str]:
    told = []
    opsets = {entry.domain: entry.version for entry in light.opset_import}
    if opsets.get("", OPSETS[0]) not in OPSETS:
        told.append(
            f"its operator set is version {opsets['']}; tested are {OPSETS[0]} to {OPSETS[-1]}"
        )
    newest = import_onnx().IR_VERSION
    if light.ir_version > newest:
        told.append(
            f"its IR version is {light.ir_version}; the installed onnx checks it as {newest}"
        )
    unknown = unknown_operators(light)
    if unknown:
        names = ", ".join(unknown[:_TOLD]) + (" ..." if len(unknown) > _TOLD else "")
        told.append(f"operators that ONNX does not know are left as they are: {names}")
    if overridable:
        told.append(
            f"{len(overridable)} of its {len(light.graph.initializer)} initializers are inputs too,"
            " which a caller may set: they are not taken for constants"
        )
    return told
