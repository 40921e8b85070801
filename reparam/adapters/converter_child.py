"""Convert one static Paddle program to ONNX; run by file path, in a process of its own.

Arguments: the program (``model.json``), its parameters, the file to write, the opset. They may be
read once a line with "go" comes on stdin; another end of it is that of the parent.
Exit status 0 means that the file holds what the converter returned. The converter may end this
process from C++ at any moment, which is why nothing else happens here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any


def main(program: str, parameters: str, output: str, opset: str) -> None:
    """Write what paddle2onnx makes of the program to ``output``."""
    # The default tool of paddle2onnx sets this variable, and then installs packages by itself.
    os.environ.pop("POLYGRAPHY_AUTOINSTALL_DEPS", None)
    try:
        convert = _compiled_part().export
    except (ImportError, OSError, AttributeError):
        import paddle2onnx.paddle2onnx_cpp2py_export as compiled

        convert = compiled.export
    if sys.stdin.readline().strip() != "go":
        sys.exit("error: the process that needed this one is gone")
    # In order: opset, upgrade it by itself, verbose, check, experimental operators, optimise,
    # custom operators, runtime, file with ranges of int8, file for weights, float16.
    model = convert(program, parameters, int(opset), False, False, True, True, True, {},
                    "onnxruntime", "", "", False)  # fmt: skip
    if not isinstance(model, bytes) or not model:
        sys.exit("error: paddle2onnx returned no model")
    Path(output).write_bytes(model)


def _compiled_part() -> Any:
    """Return the compiled part of paddle2onnx without the Python of Paddle, which takes 1.4 s.

    It needs Paddle's library, and finds it if that was loaded before.
    """
    paddle, paddle2onnx = (find_spec(name) for name in ("paddle", "paddle2onnx"))
    if paddle is None or paddle2onnx is None:
        raise ImportError("paddle or paddle2onnx is not installed")
    folder = Path(str(paddle.origin)).parent
    for name in ("libs/libcommon.so", "libs/libphi_core.so", "libs/libphi.so", "base/libpaddle.so"):
        if (folder / name).exists():
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
    name = "paddle2onnx_cpp2py_export"
    found = PathFinder.find_spec(name, [str(Path(str(paddle2onnx.origin)).parent)])
    if found is None or found.loader is None:
        raise ImportError(f"no {name}")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


if __name__ == "__main__":
    del sys.path[0]  # the folder of this script: its modules are no packages of this process
    main(*sys.argv[1:])
