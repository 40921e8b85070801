"""What a graph comes from: an ONNX file, or a static Paddle program that becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reparam.adapters.static_models import convert_static, find_static, is_static
from reparam.drafts import scratch_folder
from reparam.errors import GraphError
from reparam.files import sha256_of
from reparam.graph.constants import Constants
from reparam.graph.files import Opened, open_model, save_model
from reparam.graph.inferring import infer_shapes
from reparam.graph.normalizing import normalize
from reparam.normalization import Normalization

ONNX = ".onnx"
STATIC = (".json", ".pdmodel", ".pdiparams")


@dataclass(frozen=True)
class Origin:
    """What is fused.

    Attributes:
        source: as it was named.
        path: of the ONNX file.
        sha256: of the source, where that is not the ONNX file.
        told: of the source, for the metadata.
        notices: of the converter.
    """

    source: Path
    path: Path
    sha256: str = ""
    told: dict[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def opened(self, bake_inputs: bool) -> Opened:
        """Return the ONNX file, read anew.

        Raises:
            GraphError: it is unusable.
        """
        try:
            return open_model(self.path, bake_inputs=bake_inputs)
        except GraphError as error:
            if self.path == self.source:
                raise
            what = f"cannot use what the converter made of '{self.source}'"
            raise error.located(what) from error

    @contextmanager
    def reference(self, bake_inputs: bool, wanted: Normalization | None) -> Iterator[Path]:
        """Yield the file that a fused one is to be the same function as.

        It is the ONNX file; or, where that is to take raw pixels, a temporary copy in which they
        are normalised first, and nothing is fused.

        Raises:
            GraphError: there is no saying what is to be normalised.
        """
        if wanted is None:
            yield self.path
            return
        with scratch_folder() as folder:
            model = self.opened(bake_inputs).model
            infer_shapes(model)
            normalize(model, wanted, Constants(model.graph))
            path = folder / f"reference{ONNX}"
            save_model(model, path)
            yield path


@contextmanager
def as_onnx(source: Path, tell: Callable[[str], None], timeout: float = 600) -> Iterator[Origin]:
    """Yield an ONNX file: the source, or what the converter makes of a static Paddle program.

    Raises:
        ExportError: the program cannot be converted.
        MissingDependencyError: the converter is not installed.
    """
    if not is_static(source):
        yield Origin(source, source)
        return
    static = find_static(source)
    tell(f"converting {static.program}")
    with scratch_folder() as folder:
        converted = convert_static(static, folder, timeout=timeout)
        notices = [f"{what}: {number}" for what, number in converted.repairs.items()]
        yield Origin(
            source,
            converted.path,
            sha256_of(static.program),
            {"reparam.parameters_sha256": sha256_of(static.parameters)},
            tuple(notices),
        )
