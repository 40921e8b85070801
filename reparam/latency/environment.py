"""What machine a measurement was taken on, and whether it was quiet."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

Load = tuple[float, float, float]  # averages over 1, 5 and 15 minutes

CPU_INFO = Path("/proc/cpuinfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUP_MOUNT = Path("/sys/fs/cgroup")
CPU_DEVICES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Environment:
    """The machine, the software and the load during a measurement."""

    platform: str
    cpu: str
    cores: int  # logical cores of the machine
    affinity_cores: int  # those that this process is allowed on
    cgroup_quota: float | None  # cores' worth of time that its control group is given
    usable_cores: int  # what is left of the cores after affinity and quota
    governor: str | None  # frequency governor, where it can be read
    load_start: Load
    load_end: Load
    python: str
    numpy: str
    onnxruntime: str

    def __str__(self) -> str:
        quota = f", quota {self.cgroup_quota:g}" if self.cgroup_quota is not None else ""
        governor = f", governor {self.governor}" if self.governor else ""
        return (
            f"{self.cpu}, {self.usable_cores} of {self.cores} cores usable{quota}{governor}; "
            f"onnxruntime {self.onnxruntime}, Python {self.python}; load average "
            f"{self.load_start[0]:.2f} before, {self.load_end[0]:.2f} after"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the environment as plain values."""
        loads = {"load_start": list(self.load_start), "load_end": list(self.load_end)}
        return asdict(self) | loads

    def crowding(self, threads: int) -> str | None:
        """Return a warning if other work wanted the cores that ``threads`` threads ran on.

        The load at the start is other work, so it must fit into the cores to spare; the load at
        the end contains the measurement. Half a core is left for housekeeping.
        """
        spare = max(self.cores - threads, 0)
        if self.load_start[0] > spare + 0.5:
            when, load = "start", self.load_start[0]
        elif self.load_end[0] > max(self.cores, threads) + 0.5:
            when, load = "end", self.load_end[0]
        else:
            return None
        return (
            f"load average {load:.1f} at the {when}, with {spare} of {self.cores} cores to spare "
            f"beside {threads} threads: other work may have taken time from this one"
        )


def read_environment(onnxruntime: str, load_start: Load) -> Environment:
    """Return the environment now, at the end, given the runtime's version and the load before."""
    return Environment(
        platform=platform.platform(),
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        affinity_cores=len(allowed_cores()),
        cgroup_quota=cgroup_quota(),
        usable_cores=usable_cores(),
        governor=governor(),
        load_start=load_start,
        load_end=os.getloadavg(),
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=onnxruntime,
    )


def usable_cores() -> int:
    """Return how many threads this process can really run at once: 1 or more.

    The smaller of the affinity mask and the control group's quota. onnxruntime looks at neither
    by itself and starts a thread for every core of the host.
    """
    quota = cgroup_quota()
    allowed = len(allowed_cores())
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def allowed_cores() -> list[int]:
    """Return the numbers of the cores in the affinity mask of this process."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_model() -> str:
    """Return the name of the processor, or of its architecture where the name is not given."""
    try:
        text = CPU_INFO.read_text(errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.machine()


def governor() -> str | None:
    """Return the frequency governor of the first core this process may use, if it has one."""
    core = allowed_cores()[0]
    return _read(CPU_DEVICES / f"cpu{core}" / "cpufreq" / "scaling_governor")


def cgroup_quota() -> float | None:
    """Return the cores' worth of CPU time that the control groups allow; None where unlimited.

    Every group from that of this process up to the root of the mount can have a limit, and the
    smallest counts. Inside a container the root of the mount is the container's own group, and
    the path that the kernel shows may not exist below it.

    Source: Linux kernel documentation, Control Group v2 (cpu.max) and CFS Bandwidth Control
    (cpu.cfs_quota_us, cpu.cfs_period_us).
    """
    limits = [limit for folder in _cgroup_folders() if (limit := _limit_in(folder)) is not None]
    return min(limits, default=None)


def _cgroup_folders() -> Iterator[Path]:
    for line in (_read(OWN_CGROUPS) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mounts = [CGROUP_MOUNT, CGROUP_MOUNT / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [CGROUP_MOUNT / "cpu", CGROUP_MOUNT / controllers]
        else:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                yield mount.joinpath(*parts[:depth])


def _limit_in(folder: Path) -> float | None:
    line = _read(folder / "cpu.max")  # version 2: "quota period" or "max period"
    if line is None:  # version 1: two files, a quota of -1 is none
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        line = f"{quota} {period}"
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    return int(fields[0]) / int(fields[1])


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
