"""Faults of packages as records, and the conditions under which they are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from reparam.environment.asking import FAILS
from reparam.environment.installed import accepts
from reparam.environment.packages import MISSING
from reparam.environment.surroundings import Surroundings


class Condition(Protocol):
    """Something that holds here or does not; its text is for people."""

    def holds(self, here: Surroundings) -> bool:
        """Whether it does."""


@dataclass(frozen=True)
class Has:
    """A distribution is installed, in one of these versions."""

    distribution: str
    versions: str = ""

    def holds(self, here: Surroundings) -> bool:
        return here.has(self.distribution, self.versions)

    def __str__(self) -> str:
        return f"{self.distribution} {self.versions}".strip()


@dataclass(frozen=True)
class HasNot:
    """A distribution is not installed, or in none of these versions."""

    distribution: str
    versions: str = ""

    def holds(self, here: Surroundings) -> bool:
        return not here.has(self.distribution, self.versions)

    def __str__(self) -> str:
        return f"no {self.distribution} {self.versions}".strip()


@dataclass(frozen=True)
class Python:
    """The version of Python is one of these."""

    versions: str

    def holds(self, here: Surroundings) -> bool:
        return accepts(self.versions, here.python)

    def __str__(self) -> str:
        return f"Python {self.versions}"


@dataclass(frozen=True)
class System:
    """The operating system is this one."""

    name: str

    def holds(self, here: Surroundings) -> bool:
        return here.system == self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Several:
    """More than one distribution that holds a package is installed."""

    module: str

    def holds(self, here: Surroundings) -> bool:
        return len(here.seen[self.module].distributions) > 1

    def __str__(self) -> str:
        return f"several distributions of {self.module}"


@dataclass(frozen=True)
class OtherVersion:
    """A package is installed in a version that reparam does not ask for."""

    module: str

    def holds(self, here: Surroundings) -> bool:
        unmet = here.unmet_of(self.module)
        return unmet is not None and unmet.found is not None

    def __str__(self) -> str:
        return f"{self.module} of a version that reparam does not ask for"


@dataclass(frozen=True)
class Missing:
    """A package is not installed."""

    module: str

    def holds(self, here: Surroundings) -> bool:
        return here.seen[self.module].state == MISSING

    def __str__(self) -> str:
        return f"{self.module} is not installed"


@dataclass(frozen=True)
class Fails:
    """A trial of a package failed."""

    module: str
    step: str

    def holds(self, here: Surroundings) -> bool:
        return here.seen[self.module].state_of(self.step) == FAILS

    def __str__(self) -> str:
        return f"the trial '{self.step}' of {self.module} failed"


@dataclass(frozen=True)
class Silent:
    """onnxruntime names an execution provider that does not load."""

    def holds(self, here: Surroundings) -> bool:
        return not here.quick and any(not p.loads for p in here.seen["onnxruntime"].providers)

    def __str__(self) -> str:
        return "onnxruntime names an execution provider that does not load"


@dataclass(frozen=True)
class NewerFiles:
    """The package onnx writes files that onnxruntime is too old to read."""

    def holds(self, here: Surroundings) -> bool:
        written = here.seen["onnx"].value("import", "ir_version")
        read = here.seen["onnxruntime"].value("reads", "ir_version")
        return bool(written and read and written > read)

    def __str__(self) -> str:
        return "onnx writes a newer IR version than onnxruntime reads"


@dataclass(frozen=True)
class FewerCores:
    """This process may use fewer cores than the machine has."""

    def holds(self, here: Surroundings) -> bool:
        return here.cores.usable < here.cores.logical

    def __str__(self) -> str:
        return "fewer cores are usable than the machine has"


@dataclass(frozen=True)
class Fault:
    """One known fault.

    Attributes:
        id: what to call it.
        what: goes wrong, in one sentence.
        when: all of these hold where it can happen.
        consequence: for a user.
        mended: what reparam does about it, or what the user can do.
        by_reparam: it is reparam that does it; nothing is left to do.
        source: where it is from.
    """

    id: str
    what: str
    when: Sequence[Condition]
    consequence: str
    mended: str
    source: str
    by_reparam: bool = False

    def applies(self, here: Surroundings) -> bool:
        """Whether everything holds under which it can happen."""
        return all(condition.holds(here) for condition in self.when)
