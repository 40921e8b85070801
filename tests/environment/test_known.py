"""Each known fault is found where it is, and not where it nearly is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reparam.environment.asking import WORKS, Step
from reparam.environment.known import FAULTS
from reparam.environment.surroundings import Surroundings
from tests.environment.made_up import CORES, failing, provider, surroundings


def files(written: int, read: int | None) -> Surroundings:
    steps = {"import": Step("import", WORKS, values={"ir_version": written})}
    reads = {"reads": Step("reads", WORKS, values={"ir_version": read})} if read else {}
    return surroundings(seen={"onnx": {"steps": steps}, "onnxruntime": {"steps": reads}})


def versions(**changes: str | None) -> Surroundings:
    return surroundings(versions={k.replace("_", "-"): v for k, v in changes.items()})


CASES = {
    "interpolation-scale": (
        [versions(), versions(paddlepaddle="3.3.0"),
         versions(paddlepaddle=None, paddlepaddle_gpu="3.3.1")],
        [versions(paddlepaddle="3.2.2"), versions(paddlepaddle="3.4.0"),
         versions(paddle2onnx="2.0.0"), versions(paddle2onnx=None)],
    ),
    "interpolation-fails": (
        [surroundings(seen={"paddle2onnx": {"steps": failing("interpolation", "no", "convert")}})],
        [surroundings(), surroundings(seen={"paddle2onnx": {"steps": failing("convert", "no")}})],
    ),
    "python-without-converter": (
        [surroundings(python="3.13.0", versions={"paddle2onnx": old}) for old in (None, "0.9.5")],
        [surroundings(python="3.12.9", versions={"paddle2onnx": None}),
         surroundings(python="3.13.0")],
    ),
    "converter-too-old": (
        [versions(paddle2onnx="0.9.5"), versions(paddle2onnx="1.3.1")],
        [versions(), versions(paddle2onnx="2.0.0"), versions(paddle2onnx=None)],
    ),
    "onnx-newer-than-converter": (
        [versions(onnx="1.17.1"), versions(onnx="1.23.2")],
        [versions(), versions(onnx="1.18.0", paddle2onnx=None)],
    ),
    "converter-installs": (
        [versions(), versions(paddle2onnx="2.0.0")],
        [versions(paddle2onnx="1.3.1"), versions(paddle2onnx=None)],
    ),
    "converter-on-windows": (
        [surroundings(system="Windows"),
         surroundings(system="Windows", versions={"paddlepaddle": "3.2.0"})],
        [surroundings(), surroundings(system="Windows", versions={"paddlepaddle": "3.1.1"}),
         surroundings(system="Windows", versions={"paddle2onnx": None})],
    ),
    "onednn-of-paddle-inference": (
        [versions(paddlepaddle="3.3.0"), versions(paddlepaddle="3.3.1")],
        [versions(paddlepaddle="3.2.2"), versions(paddlepaddle="3.3.2")],
    ),
    "newer-ir-version": ([files(11, 10)], [files(10, 10), files(9, 10), files(11, None)]),
    "gather-of-rank-0": (
        [versions(), versions(onnxruntime="1.18.0"),
         versions(onnxruntime=None, onnxruntime_gpu="1.18.0")],
        [versions(onnxruntime="1.17.3"), versions(paddle2onnx=None)],
    ),
    "pickles-of-numpy-2": ([versions(numpy="1.26.4")], [versions(), versions(numpy="2.0.0")]),
    "several-onnxruntimes": (
        [versions(onnxruntime_gpu="1.32.0")],
        [versions(), versions(onnxruntime=None, onnxruntime_gpu="1.32.0")],
    ),
    "several-paddles": (
        [versions(paddlepaddle_gpu="2.6.2")],
        [versions(), versions(paddlepaddle=None, paddlepaddle_gpu="3.3.1")],
    ),
    "provider-does-not-load": (
        [surroundings(seen={"onnxruntime": {"providers": (provider("CUDA", False),)}})],
        [surroundings(seen={"onnxruntime": {"providers": (provider("CUDA", True),)}}),
         surroundings(seen={"onnxruntime": {"providers": (provider("CUDA", False),)}}, quick=True)],
    ),
    "paddle-not-asked-for": (
        [versions(paddlepaddle="3.2.2"), versions(paddlepaddle="3.4.0"),
         versions(paddlepaddle=None, paddlepaddle_gpu="2.6.2"),
         versions(paddlepaddle="not a version")],
        [versions(), versions(paddlepaddle=None)],
    ),
    "no-protobuf": ([versions(protobuf=None)], [versions(), versions(protobuf=None, onnx=None)]),
    "threads-of-the-host": (
        [surroundings(cores=replace(CORES, usable=2))],
        [surroundings(), surroundings(cores=replace(CORES, usable=2),
                                      versions={"onnxruntime": None})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_where_it_applies(fault):
    here, near = CASES[fault.id]
    assert [fault.applies(one) for one in here] == [True] * len(here)
    assert [fault.applies(one) for one in near] == [False] * len(near)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_every_condition_is_needed(fault):
    """Of the machines near to it, each lacks a condition; with that left out it would apply."""
    for number in range(len(fault.when)):
        rest = (*fault.when[:number], *fault.when[number + 1 :])
        assert any(replace(fault, when=rest).applies(one) for one in CASES[fault.id][1]), number


def test_every_record_says_everything():
    assert len({fault.id for fault in FAULTS}) == len(FAULTS) == len(CASES)
    for fault in FAULTS:
        assert all((fault.what, fault.when, fault.consequence, fault.mended, fault.source))
        assert all(str(condition) for condition in fault.when)
        assert not any(text.endswith(".") for text in (fault.what, fault.consequence, fault.mended))


def test_a_healthy_machine_has_only_faults_that_reparam_takes_care_of():
    assert all(fault.by_reparam for fault in FAULTS if fault.applies(surroundings()))
