"""How to export a network, every choice in one place, and which choices exclude each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reparam.adapters.converter import check_opset
from reparam.adapters.head_model import PADDLEDETECTION
from reparam.adapters.onnx_axes import AXES, BATCH, HEIGHT, WIDTH
from reparam.detection import HEADS, NMS, Preprocessing, Selection
from reparam.detection.classes import Classes
from reparam.errors import ExportError, OutputError
from reparam.files import check_output
from reparam.normalization import Normalization

FLOAT32, FLOAT16 = "float32", "float16"
PRECISIONS = (FLOAT32, FLOAT16)
DYNAMIC = (BATCH, HEIGHT, WIDTH)


@dataclass(frozen=True)
class Options:
    """How to export a network; none of it changes what the network is.

    Attributes:
        input_size: (H, W); the network's own default if None. Of an open axis it is only a size
            to check with.
        batch: of the input; None leaves that axis open, or is 1 where ``dynamic`` names others.
        dynamic: open axes, some of batch, height and width; batch alone if None and no batch is
            given.
        opset: 11 to 21.
        output_names: new names of the outputs of the ONNX file, in order.
        precision: of weights and arithmetic in the ONNX file, float32 or float16.
        keep_io: its inputs and outputs are float32 whatever the precision.
        external_data: put the weights into a second file; done without being asked where they do
            not fit into one.
        paddle: the ``.json`` of a program for Paddle Inference to write as well; its weights go
            beside it.
        fold_normalize: what is done to raw pixels, which the file takes then: a preset, or numbers
            (:meth:`reparam.graph.normalizing.Normalization.parse`); the usual of the recognised
            network if it is an empty text. None leaves it to code in front of the file.
        head: of a detector: "raw", "decoded" or "nms".
        default_head: where none is asked for and an ONNX file is written.
        compat: "paddledetection" for the inputs and outputs of its models.
        selection: which boxes of a detector are detections.
        classes: that a detector must have; their names are told in the contract of the file.
        preprocessing: what is done to an image in front of a detector; None takes what its
            kind is usually trained with.
        force: replace files that are there.
        timeout: seconds for the converter.
        progress: is told each step in a few words.
    """

    input_size: tuple[int, int] | None = None
    batch: int | None = None
    dynamic: Sequence[str] | None = None
    opset: int = 17
    output_names: Sequence[str] | None = None
    precision: str = FLOAT32
    keep_io: bool = True
    external_data: bool = False
    paddle: Path | None = None
    fold_normalize: str | Normalization | None = None
    head: str | None = None
    default_head: str = NMS
    compat: str | None = None
    selection: Selection = field(default_factory=Selection)
    classes: Classes | None = None
    preprocessing: Preprocessing | None = None
    force: bool = False
    timeout: float = 600
    progress: Callable[[str], None] | None = None

    def tell(self, step: str) -> None:
        """Pass a step on to ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(step)

    @property
    def normalization(self) -> Normalization | None:
        """What the file does to raw pixels, once that is known; None where it takes none."""
        asked = self.fold_normalize
        return asked if isinstance(asked, Normalization) else None

    @property
    def open_axes(self) -> dict[int, str]:
        """The open axes of the input (N, C, H, W): their names, by position."""
        given = self.dynamic
        if given is None:
            given = [BATCH] if self.batch is None else []
        return {axis: name for axis, name in AXES.items() if name in given}

    def shape(self, channels: int, size: tuple[int, int]) -> tuple[int | None, ...]:
        """Return the shape of the input, None where it is open."""
        whole = (self.batch or 1, channels, *(self.input_size or size))
        return tuple(None if at in self.open_axes else n for at, n in enumerate(whole))


def check_request(source: Path, output: Path | None, options: Options) -> None:
    """Refuse, before anything is built, what could not end well.

    Args:
        source: the file that is being exported.
        output: the ONNX file to write, if one is.

    Raises:
        ExportError: nothing is to be written, options contradict each other, the input would be
            empty, or the opset is not one of 11 to 21.
        GraphError: what is to be done to raw pixels is no normalisation.
        OutputError: an output cannot be written, or is the source.
    """
    if output is None and options.paddle is None:
        raise ExportError("nothing to export to", hint="--onnx, --paddle, or both")
    paths = outputs_of(output, options)
    for at, path in enumerate(paths):
        if path in paths[:at]:
            raise OutputError(f"cannot write two files to '{path}'", hint="name another for one")
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(
                f"cannot write '{path}'", why="it is the checkpoint that is being exported"
            )
        check_output(path, options.force)
    if output is not None and output.suffix != ".onnx":
        raise OutputError(
            f"cannot write an ONNX file to '{output}'",
            found="a name that does not end in .onnx",
            why="runtimes and people know an ONNX file by that ending",
            hint=f"name it {output.name or 'model'}.onnx",
        )
    if options.paddle is not None and options.paddle.suffix != ".json":
        raise OutputError(
            f"cannot write a program to '{options.paddle}'",
            why="Paddle Inference knows it by the ending .json",
        )
    _check_input(options)
    check_opset(options.opset)
    if options.precision not in PRECISIONS:
        raise ExportError(
            f"cannot export in '{options.precision}'", hint=f"one of {', '.join(PRECISIONS)}"
        )
    for name, known in (("head", HEADS), ("compat", (PADDLEDETECTION,))):
        value = getattr(options, name)
        if value is not None and value not in known:
            raise ExportError(f"there is no {name} '{value}'", hint=f"one of {', '.join(known)}")
    _check_names(options.output_names)
    _check_normalize(options)


def outputs_of(output: Path | None, options: Options) -> list[Path]:
    """Return the files that are written whatever the size of the network."""
    paddle = options.paddle
    return [
        *([] if output is None else [output]),
        *([data_of(output)] if output is not None and options.external_data else []),
        *([] if paddle is None else [paddle, paddle.with_suffix(".pdiparams")]),
    ]


def data_of(output: Path) -> Path:
    """Return the file beside an ONNX file that takes its weights."""
    return output.with_name(f"{output.name}.data")


def _check_input(options: Options) -> None:
    size, batch = options.input_size, options.batch
    if min(size or (1,)) < 1 or (batch is not None and batch < 1):
        raise ExportError(
            "the input must have at least one pixel and one image",
            found=f"input size {size}, batch {batch}",
        )
    unknown = [name for name in options.dynamic or () if name not in DYNAMIC]
    if unknown:
        raise ExportError(
            f"there is no axis '{unknown[0]}' to leave open", hint=f"some of {', '.join(DYNAMIC)}"
        )
    if batch is not None and BATCH in (options.dynamic or ()):
        raise ExportError(
            "the batch cannot be fixed and open",
            found=f"batch {batch}, and 'batch' among the dynamic axes",
            hint="leave one of the two out",
        )


def _check_names(names: Sequence[str] | None) -> None:
    for at, name in enumerate(names or ()):
        if not name or name != name.strip():
            raise ExportError(f"'{name}' is no name for an output")
        if name in (names or ())[:at]:
            raise ExportError(f"two outputs cannot both be named '{name}'")


def _check_normalize(options: Options) -> None:
    asked = options.fold_normalize
    if asked is None:
        return
    if options.paddle is not None:
        raise ExportError(
            "a program for Paddle Inference does not take raw pixels",
            why="a normalisation is folded in the graph of an ONNX file, and only there; two files "
            "of one export that want different images are easily mixed up",
            hint="--onnx with --fold-normalize, and --paddle in a run of its own",
        )
    if isinstance(asked, str) and asked:
        Normalization.parse(asked)
