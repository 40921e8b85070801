"""The cores a process may really use, and the warnings, on made-up machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reparam.latency import environment
from reparam.latency.environment import Environment, cgroup_quota, usable_cores

QUIET = Environment(
    platform="Linux",
    cpu="a processor",
    cores=8,
    affinity_cores=8,
    cgroup_quota=None,
    usable_cores=8,
    governor=None,
    load_start=(0.1, 0.1, 0.1),
    load_end=(1.9, 0.4, 0.1),
    python="3.11.0",
    numpy="2.0.0",
    onnxruntime="1.20.0",
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the control group mount, on a machine with cores 2, 3, 5, 7."""
    monkeypatch.setattr(environment, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(environment, "CGROUP_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(environment, "allowed_cores", lambda: [2, 3, 5, 7])
    return tmp_path / "mount"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_the_affinity_mask_counts(machine: Path) -> None:
    write(machine / "cpu.max", "max 100000\n")
    write(machine.parent / "cgroup", "0::/\n")
    assert cgroup_quota() is None
    assert usable_cores() == 4


def test_without_control_groups_the_affinity_mask_counts(machine: Path) -> None:
    assert usable_cores() == 4


@pytest.mark.parametrize(
    ("line", "cores"), [("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_version_2_quota_counts_in_whole_cores(machine: Path, line: str, cores: int) -> None:
    write(machine / "cpu.max", f"{line}\n")
    write(machine.parent / "cgroup", "0::/\n")
    assert usable_cores() == cores


def test_the_smallest_limit_on_the_way_up_counts(machine: Path) -> None:
    write(machine / "cpu.max", "max 100000\n")
    write(machine / "pod" / "cpu.max", "200000 100000\n")
    write(machine / "pod" / "box" / "cpu.max", "300000 100000\n")
    write(machine / "other" / "cpu.max", "100000 100000\n")
    write(machine.parent / "cgroup", "0::/pod/box\n")
    assert cgroup_quota() == 2.0


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_a_version_1_quota(machine: Path, folder: str) -> None:
    write(machine / folder / "cpu.cfs_quota_us", "150000\n")
    write(machine / folder / "cpu.cfs_period_us", "50000\n")
    write(machine / "memory" / "cpu.cfs_quota_us", "1\n")
    write(machine.parent / "cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/1234\n0::/\n")
    assert cgroup_quota() == 3.0


def test_version_1_without_a_quota(machine: Path) -> None:
    write(machine / "cpu" / "cpu.cfs_quota_us", "-1\n")
    write(machine / "cpu" / "cpu.cfs_period_us", "100000\n")
    write(machine.parent / "cgroup", "1:cpu:/\n")
    assert cgroup_quota() is None


def test_a_path_out_of_the_mount_is_read_inside_it(machine: Path) -> None:
    write(machine / "cpu.max", "100000 100000\n")
    write(machine.parent / "cpu.max", "1 100000\n")
    write(machine.parent / "cgroup", "0::/../..\n")
    assert cgroup_quota() == 1.0


def test_a_quiet_machine_gives_no_warning() -> None:
    assert QUIET.crowding(threads=2) is None
    assert QUIET.crowding(threads=8) is None


def test_load_beyond_the_spare_cores_gives_a_warning() -> None:
    busy = replace(QUIET, load_start=(2.8, 1.0, 1.0))
    assert busy.crowding(threads=4) is None
    warning = busy.crowding(threads=6)
    assert warning is not None
    assert "2.8 at the start, with 2 of 8 cores to spare beside 6 threads" in warning


def test_load_that_came_later_gives_a_warning() -> None:
    warning = replace(QUIET, load_end=(9.0, 1.0, 1.0)).crowding(threads=2)
    assert warning is not None
    assert "9.0 at the end" in warning


def test_more_threads_than_cores_do_not_accuse_others() -> None:
    assert replace(QUIET, load_end=(12.0, 1.0, 1.0)).crowding(threads=12) is None


def test_processor_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CPU_INFO", tmp_path / "cpuinfo")
    assert environment.cpu_model()
    write(tmp_path / "cpuinfo", "processor : 0\nmodel name\t: Fast  9000: X\n")
    assert environment.cpu_model() == "Fast  9000: X"


def test_the_governor_of_a_core_that_is_allowed(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CPU_DEVICES", tmp_path)
    assert environment.governor() is None
    write(tmp_path / "cpu2" / "cpufreq" / "scaling_governor", "powersave\n")
    assert environment.governor() == "powersave"
