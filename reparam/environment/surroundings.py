"""Everything that was seen here, which known faults and abilities are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reparam.environment.installed import Asked, Distribution, accepts
from reparam.environment.packages import OTHERS, Seen, usual


@dataclass(frozen=True)
class Cores:
    """What a process may use of the machine.

    Attributes:
        logical: cores of the machine.
        allowed: cores in the affinity mask.
        quota: cores' worth of time that the control groups give, None where unlimited.
        usable: threads that can really run at once.
        memory_limit: bytes that the control groups give, None where unlimited.
        variables: those of the environment that set numbers of threads.
    """

    logical: int
    allowed: int
    quota: float | None
    usable: int
    memory_limit: int | None
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Surroundings:
    """What was seen of Python, the system, the packages and the cores.

    Attributes:
        python: its version.
        system: ``Linux`` and the like.
        seen: packages by the names of their modules.
        here: installed distributions by their normal names.
        asked: what reparam asks for; None where it has no metadata.
        conflicts: what other packages here ask for and do not get: the one that asks, and what.
        cores: of the machine.
        quick: packages were imported, nothing was tried.
    """

    python: str
    system: str
    seen: Mapping[str, Seen]
    here: Mapping[str, Distribution]
    asked: Sequence[Asked] | None
    conflicts: Sequence[tuple[str, Asked]]
    cores: Cores
    quick: bool = False

    def has(self, distribution: str, versions: str = "") -> bool:
        """Whether a distribution, or one that holds the same, is here in one of these versions."""
        names = (distribution, *OTHERS.get(distribution, ()))
        found = [self.here[name].version for name in names if name in self.here]
        return any(accepts(versions, version) for version in found)

    @property
    def unmet(self) -> list[Asked]:
        """What reparam asks for and does not have in an accepted version."""
        return [asked for asked in self.asked or () if not asked.fits]

    def unmet_of(self, module: str) -> Asked | None:
        """Return what reparam asks for of a module, if it is missing or of another version."""
        names = {usual(module), self.seen[module].name}
        return next((asked for asked in self.unmet if asked.name in names), None)
