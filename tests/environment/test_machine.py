"""The cores and the memory that a process may really use, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam.environment import machine as reading
from reparam.environment.machine import cgroup_quota, memory_limit, usable_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the control group mount, on a machine with cores 2, 3, 5, 7."""
    monkeypatch.setattr(reading, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(reading, "CGROUP_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(reading, "allowed_cores", lambda: [2, 3, 5, 7])
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


def test_processor_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CPU_INFO", tmp_path / "cpuinfo")
    assert reading.cpu_model()
    write(tmp_path / "cpuinfo", "processor : 0\nmodel name\t: Fast  9000: X\n")
    assert reading.cpu_model() == "Fast  9000: X"


def test_the_governor_of_a_core_that_is_allowed(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CPU_DEVICES", tmp_path)
    assert reading.governor() is None
    write(tmp_path / "cpu2" / "cpufreq" / "scaling_governor", "powersave\n")
    assert reading.governor() == "powersave"


@pytest.mark.parametrize(("text", "limit"), [("max", None), ("1073741824", 1 << 30)])
def test_a_version_2_limit_of_memory(machine: Path, text: str, limit: int | None) -> None:
    write(machine / "pod" / "memory.max", f"{text}\n")
    write(machine / "memory.max", "max\n")
    write(machine.parent / "cgroup", "0::/pod\n")
    assert memory_limit() == limit


@pytest.mark.parametrize(
    ("text", "limit"), [("9223372036854771712", None), ("536870912", 1 << 29), ("-1", None)]
)
def test_a_version_1_limit_of_memory(machine: Path, text: str, limit: int | None) -> None:
    write(machine / "memory" / "memory.limit_in_bytes", f"{text}\n")
    write(machine / "cpu" / "memory.limit_in_bytes", "1\n")
    write(machine.parent / "cgroup", "4:memory:/\n1:cpu:/\n")
    assert memory_limit() == limit


def test_a_limit_of_memory_is_no_quota(machine: Path) -> None:
    write(machine / "memory" / "memory.limit_in_bytes", "1000\n")
    write(machine.parent / "cgroup", "4:memory:/\n1:cpu:/\n")
    assert cgroup_quota() is None
