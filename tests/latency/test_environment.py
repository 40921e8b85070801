"""Whether a machine was quiet during a measurement."""

from __future__ import annotations

from dataclasses import replace

from reparam.latency.environment import Environment

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
