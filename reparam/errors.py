"""Errors of the public API, each with the exit code the command line gives it.

A message has up to four parts: what and where, what was found, why it matters, what to try.
"""

from __future__ import annotations

EXIT_NO = 1  # the answer is no: not fusible, not equivalent
EXIT_UNUSABLE = 2  # wrong usage or unusable input


class ReparamError(Exception):
    """Base class. ``str(error)`` is the whole message, ready to print.

    Args:
        what: one line, what went wrong and with what.
        found: what was found, against what was needed.
        why: why that matters.
        hint: what to try.
    """

    exit_code = EXIT_UNUSABLE

    def __init__(self, what: str, *, found: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        rows = [self.what]
        for label, text in (("found", self.found), ("why", self.why), ("try", self.hint)):
            if text:
                rows.append(f"  {label + ':':<7}{text}")
        return "\n".join(rows)

    def located(self, what: str) -> ReparamError:
        """Return the same error under a first line that says where it happened."""
        return type(self)(what, found=self.found, why=self.why, hint=self.hint)


class NotFusibleError(ReparamError):
    """A law does not hold exactly for these operators, so they are not one convolution."""

    exit_code = EXIT_NO


class NotEquivalentError(ReparamError):
    """Two models were compared and are not the same function."""

    exit_code = EXIT_NO


class CheckpointError(ReparamError):
    """A file is not a usable checkpoint, or its arrays contradict each other."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle asks for code to be run; nothing of it was executed."""


class OptimizerStateError(CheckpointError):
    """A file holds the state of an optimizer, not weights."""


class PartError(CheckpointError):
    """Which of the weights in a file are meant is not said, or nothing is where it was said."""


class UnsupportedModelError(ReparamError):
    """The architecture is not one that this operation knows."""


class ConfigurationError(ReparamError):
    """A training configuration cannot be read, is not understood, or contradicts the checkpoint."""


class ExportError(ReparamError):
    """The converter failed, or what it wrote did not pass the checks."""


class GraphError(ReparamError):
    """An ONNX file cannot be used, or its graph contradicts itself."""


class BenchmarkError(ReparamError):
    """A measurement could not be taken as asked."""


class OutputError(ReparamError):
    """The output cannot be written where it was asked for."""


class MissingDependencyError(ReparamError):
    """An optional package is not installed."""

    @classmethod
    def of(cls, package: str, purpose: str, extra: str) -> MissingDependencyError:
        """Return the error for ``package``, needed for ``purpose``, provided by ``extra``."""
        return cls(
            f"{purpose} needs the package '{package}', which is not installed",
            hint=f'pip install "reparam[{extra}]"',
        )
