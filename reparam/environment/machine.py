"""The machine that a process runs on: its cores, and how many of them it may really use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CPU_INFO = Path("/proc/cpuinfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUP_MOUNT = Path("/sys/fs/cgroup")
CPU_DEVICES = Path("/sys/devices/system/cpu")

_NO_LIMIT = 1 << 60  # bytes; version 1 writes the largest number of pages for no limit


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
    folders = _cgroup_folders("cpu")
    limits = [limit for folder in folders if (limit := _limit_in(folder)) is not None]
    return min(limits, default=None)


def memory_limit() -> int | None:
    """Return the bytes of memory that the control groups allow; None where unlimited.

    Source: Linux kernel documentation, Control Group v2 (memory.max) and Memory Resource
    Controller (memory.limit_in_bytes).
    """
    found = []
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name) or ""
            if text.isdigit() and int(text) < _NO_LIMIT:
                found.append(int(text))
    return min(found, default=None)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    for line in (_read(OWN_CGROUPS) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mounts = [CGROUP_MOUNT, CGROUP_MOUNT / "unified"]
        elif controller in controllers.split(","):
            mounts = [CGROUP_MOUNT / controller, CGROUP_MOUNT / controllers]
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
