"""From this machine to a diagnosis: look, try, judge."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from reparam.environment import machine
from reparam.environment.abilities import ABILITIES, Judged, judge
from reparam.environment.asking import Processes
from reparam.environment.faults import Fault
from reparam.environment.installed import (
    OURS,
    Asked,
    Distribution,
    installed,
    requirements_of,
)
from reparam.environment.known import FAULTS
from reparam.environment.mending import mending_line
from reparam.environment.packages import OTHERS, PACKAGES, Package, Seen, look
from reparam.environment.surroundings import Cores, Surroundings
from reparam.version import tool_version

TIMEOUT = 60  # seconds for importing one package and all of its trials
_AT_ONCE = 4  # processes; each of paddle takes 300 MB

VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "FLAGS_enable_pir_api",
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What is here, what is wrong with it, and what mends it.

    Attributes:
        reparam: its version.
        platform: system, release and machine.
        here: all that was seen.
        faults: the known ones that apply.
        abilities: what each command can do.
        mend: what to type; None where pip has nothing to do, or can do nothing.
    """

    reparam: str
    platform: str
    here: Surroundings
    faults: tuple[Fault, ...]
    abilities: tuple[Judged, ...]
    mend: str | None

    @property
    def works(self) -> bool:
        """Whether everything that reparam offers works here."""
        return all(ability.works for ability in self.abilities)

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain values."""
        here = self.here
        return {
            "reparam": self.reparam,
            "python": here.python,
            "platform": self.platform,
            "quick": here.quick,
            "packages": [_package_fields(seen) for seen in here.seen.values()],
            "providers": [asdict(p) for p in here.seen["onnxruntime"].providers],
            "asked_for": None if here.asked is None else [_asked_fields(a) for a in here.asked],
            "conflicts": [{"by": by, **_asked_fields(asked)} for by, asked in here.conflicts],
            "cores": asdict(here.cores),
            "faults": [_fault_fields(fault) for fault in self.faults],
            "abilities": [asdict(ability) for ability in self.abilities],
            "mend": self.mend,
        }


def diagnose(
    *, quick: bool = False, timeout: int = TIMEOUT, tell: Callable[[str], None] = lambda _: None
) -> Diagnosis:
    """Return what this Python has, whether it works, and what is known to go wrong with it.

    Packages are imported and tried in processes of their own. Nothing is installed, nothing is
    written but temporary files, no network is used.

    Args:
        quick: only import them.
        timeout: seconds for importing one package and all of its trials.
        tell: is told what is being done.

    Raises:
        MissingDependencyError: the package ``packaging`` is not installed.
    """
    surroundings = _surroundings(quick, timeout, tell)
    return Diagnosis(
        reparam=tool_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        here=surroundings,
        faults=tuple(fault for fault in FAULTS if fault.applies(surroundings)),
        abilities=tuple(judge(ability, surroundings) for ability in ABILITIES),
        mend=mending_line(surroundings),
    )


def _surroundings(quick: bool, timeout: int, tell: Callable[[str], None]) -> Surroundings:
    here = installed()
    asked = requirements_of(OURS, here, OTHERS)
    return Surroundings(
        python=platform.python_version(),
        system=platform.system(),
        seen=_look_at_all(here, quick, timeout, tell),
        here=here,
        asked=asked,
        conflicts=_conflicts(asked or [], here),
        cores=read_cores(),
        quick=quick,
    )


def read_cores() -> Cores:
    """Return what this process may use of the machine."""
    return Cores(
        logical=os.cpu_count() or 1,
        allowed=len(machine.allowed_cores()),
        quota=machine.cgroup_quota(),
        usable=machine.usable_cores(),
        memory_limit=machine.memory_limit(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def _look_at_all(
    here: Mapping[str, Distribution], quick: bool, timeout: int, tell: Callable[[str], None]
) -> dict[str, Seen]:
    def one(package: Package) -> Seen:
        if package.steps:  # the others take no time
            tell(f"trying {package.module}")
        return look(package, here, processes, quick)

    workers = max(1, min(machine.usable_cores(), _AT_ONCE))
    # The longest first. Leaving the inner block ends what is running, whatever the reason is.
    order = sorted(PACKAGES, key=lambda package: -len(package.steps))
    with ThreadPoolExecutor(workers) as pool, Processes(timeout) as processes:
        found = dict(zip((p.module for p in order), pool.map(one, order), strict=True))
    return {package.module: found[package.module] for package in PACKAGES}


def _conflicts(
    asked: list[Asked], here: Mapping[str, Distribution]
) -> tuple[tuple[str, Asked], ...]:
    """Return what the packages that reparam asks for ask for in turn, and do not get."""
    known = {name for package in PACKAGES for name in package.distributions}
    return tuple(
        (f"{mine.found.name} {mine.found.version}", other)
        for mine in asked
        if mine.found
        for other in requirements_of(mine.found.name, here, OTHERS) or ()
        if not other.fits and other.name in known
    )


def _package_fields(seen: Seen) -> dict[str, Any]:
    return {
        "module": seen.module,
        "distributions": [asdict(one) for one in seen.distributions],
        "version": seen.version,
        "state": seen.state,
        "found": seen.found,
        "where": seen.where,
        "trials": [asdict(s) for name, s in seen.steps.items() if name != "import"],
    }


def _asked_fields(asked: Asked) -> dict[str, Any]:
    version = asked.found.version if asked.found else None
    return {"name": asked.name, "versions": asked.versions, "found": version, "fits": asked.fits}


def _fault_fields(fault: Fault) -> dict[str, Any]:
    return {
        "id": fault.id,
        "what": fault.what,
        "when": [str(condition) for condition in fault.when],
        "consequence": fault.consequence,
        "mended": fault.mended,
        "by_reparam": fault.by_reparam,
        "source": fault.source,
    }
