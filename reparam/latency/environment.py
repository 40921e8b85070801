"""What machine a measurement was taken on, and whether it was quiet."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reparam.environment import machine

Load = tuple[float, float, float]  # averages over 1, 5 and 15 minutes


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
        cpu=machine.cpu_model(),
        cores=os.cpu_count() or 1,
        affinity_cores=len(machine.allowed_cores()),
        cgroup_quota=machine.cgroup_quota(),
        usable_cores=machine.usable_cores(),
        governor=machine.governor(),
        load_start=load_start,
        load_end=os.getloadavg(),
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=onnxruntime,
    )
