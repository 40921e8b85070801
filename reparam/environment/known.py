"""The known faults: what goes wrong, when, and what becomes of it. Each has its source."""

from __future__ import annotations

from reparam.environment.faults import (
    Fails,
    Fault,
    FewerCores,
    Has,
    HasNot,
    Missing,
    NewerFiles,
    OtherVersion,
    Python,
    Several,
    Silent,
    System,
)

_MEASURED = "measured on Linux x86-64, November 2026"

FAULTS = (
    Fault(
        "interpolation-scale",
        "paddle 3.3 writes the scale of an interpolation as float64, and paddle2onnx 2 refuses "
        "the whole program: 'MUST be ir::FloatAttribute'",
        (Has("paddlepaddle", ">=3.3,<3.4"), Has("paddle2onnx", ">=2.0.1,<2.2")),
        "PP-YOLOE and every other network with an interpolation does not convert",
        "reparam writes the scales as float32 before it converts",
        f"{_MEASURED}; Paddle2ONNX issue 1641",
        by_reparam=True,
    ),
    Fault(
        "interpolation-fails",
        "a network with an interpolation does not convert here, although one without does",
        (Fails("paddle2onnx", "interpolation"),),
        "networks that enlarge feature maps, such as PP-YOLOE, cannot be exported",
        "the versions of paddle and paddle2onnx that reparam asks for",
        _MEASURED,
    ),
    Fault(
        "python-without-converter",
        "paddle2onnx 2 has no wheel for Python 3.13, nor has the onnx 1.17 that it asks for; pip "
        "falls back to paddle2onnx 0.9, or to building from source, which fails",
        (Python(">=3.13"), HasNot("paddle2onnx", ">=2")),
        "checkpoints and static programs cannot become ONNX files; all else works",
        "Python 3.10, 3.11 or 3.12",
        _MEASURED,
    ),
    Fault(
        "converter-too-old",
        "paddle2onnx before 2.0 does not read the programs of paddle 3 (model.json)",
        (Has("paddle2onnx", "<2"),),
        "checkpoints and static programs cannot become ONNX files",
        "paddle2onnx 2.1",
        f"{_MEASURED}, with paddle2onnx 1.3.1 beside paddle 3.3.1: 'returned no model'",
    ),
    Fault(
        "onnx-newer-than-converter",
        "paddle2onnx 2.1 asks for an onnx of at most 1.17.0",
        (Has("paddle2onnx", ">=2.1,<2.2"), Has("onnx", ">1.17.0")),
        "pip calls the installation inconsistent; the converter itself works all the same",
        "reparam uses the converter without its optimizer, which is what does not fit",
        f"{_MEASURED}, with onnx 1.23.2",
        by_reparam=True,
    ),
    Fault(
        "converter-installs",
        "paddle2onnx 2 runs 'pip install' by itself for its default optimizer, polygraphy",
        (Has("paddle2onnx", ">=2"),),
        "packages change while a network is exported",
        "reparam never calls that optimizer, and forbids the installing",
        _MEASURED,
        by_reparam=True,
    ),
    Fault(
        "converter-on-windows",
        "paddle2onnx does not import on Windows beside paddle 3.2 and 3.3",
        (System("Windows"), Has("paddlepaddle", ">=3.2,<3.4"), Has("paddle2onnx")),
        "nothing can be exported",
        "export on Linux",
        "Paddle2ONNX issues 1607, 1610, 1615, 1629, 1630, 1642",
    ),
    Fault(
        "onednn-of-paddle-inference",
        "Paddle Inference 3.3.0 and 3.3.1 fail with oneDNN on the CPU: "
        "'ConvertPirAttribute2RuntimeAttribute'",
        (Has("paddlepaddle", ">=3.3.0,<=3.3.1"),),
        "a program from export --paddle can fail in your own code, where oneDNN is on",
        "reparam runs it without oneDNN; in yours: config.disable_mkldnn()",
        "Paddle issue 77340",
        by_reparam=True,
    ),
    Fault(
        "newer-ir-version",
        "the package onnx here writes ONNX files of a newer IR version than onnxruntime reads",
        (NewerFiles(),),
        "files that other tools make with this onnx do not load; those of reparam do",
        "a newer onnxruntime, or onnx.helper.make_model(..., ir_version=8)",
        "PaddleOCR issue 15357",
    ),
    Fault(
        "gather-of-rank-0",
        "onnxruntime 1.18 and newer refuse a Gather of a scalar, which paddle2onnx writes for the "
        "NMS of PP-YOLOE: 'data tensor must have rank >= 1'",
        (Has("onnxruntime", ">=1.18"), Has("paddle2onnx")),
        "detectors that other tools export do not load",
        "reparam export writes the decoding and the NMS of a detector itself, without it",
        "Paddle2ONNX issues 1375, 1423, 1541, 1603",
        by_reparam=True,
    ),
    Fault(
        "pickles-of-numpy-2",
        "a .pdparams written under numpy 2 names numpy._core, which numpy 1 does not have",
        (Has("numpy", "<2"),),
        "paddle.load fails here on checkpoints from elsewhere",
        "reparam reads both kinds, and writes what both load",
        _MEASURED,
        by_reparam=True,
    ),
    Fault(
        "several-onnxruntimes",
        "several wheels of onnxruntime are installed, and each has written over the files of the "
        "other",
        (Several("onnxruntime"),),
        "a GPU that was there is gone, or nothing loads",
        "uninstall all of them, then install one",
        "onnxruntime issues 26996, 7748, 6183",
    ),
    Fault(
        "several-paddles",
        "several wheels of paddle are installed, and each has written over the files of the other",
        (Several("paddle"),),
        "which of them runs is left to chance",
        "uninstall all of them, then install one",
        "as with onnxruntime: they hold the same folder, paddle/",
    ),
    Fault(
        "provider-does-not-load",
        "onnxruntime names an execution provider whose libraries cannot be loaded, and runs on the "
        "CPU without an error",
        (Silent(),),
        "what is measured as a GPU is a CPU",
        "install what the provider needs; reparam looks at the session's own providers",
        "onnxruntime issues 23372, 17801",
    ),
    Fault(
        "paddle-not-asked-for",
        "this paddle is not of the versions that reparam is tested with",
        (OtherVersion("paddle"),),
        "static programs may be written in another way, and not convert",
        "the version that reparam asks for",
        "setup.cfg, extra 'export'",
    ),
    Fault(
        "no-protobuf",
        "onnx is installed and protobuf is not",
        (Has("onnx"), Missing("google.protobuf")),
        "onnx does not import",
        "install protobuf",
        "onnx asks for it in its metadata",
    ),
    Fault(
        "threads-of-the-host",
        "onnxruntime starts a thread for every core of the host, whatever affinity mask and "
        "control group say; OMP_NUM_THREADS has no effect on it",
        (Has("onnxruntime"), FewerCores()),
        "in a container its threads wait for each other",
        "reparam sets the number itself; in your code: SessionOptions.intra_op_num_threads",
        f"{_MEASURED}; onnxruntime issues 8313, 10113",
        by_reparam=True,
    ),
)  # fmt: skip
