"""Convert one static Paddle program to ONNX; run by file path, in a process of its own.

Arguments: the program (``model.json``), its parameters, the file to write, the opset. They may be
read once a line with "go" comes on stdin; another end of it is that of the parent.
Exit status 0 means that the file holds what the converter returned. The converter may end this
process from C++ at any moment, which is why nothing else happens here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(program: str, parameters: str, output: str, opset: str) -> None:
    """Write what paddle2onnx makes of the program to ``output``."""
    # The default tool of paddle2onnx sets this variable, and then installs packages by itself.
    os.environ.pop("POLYGRAPHY_AUTOINSTALL_DEPS", None)
    import paddle2onnx

    if sys.stdin.readline().strip() != "go":
        sys.exit("error: the process that needed this one is gone")
    model = paddle2onnx.export(
        program,
        parameters,
        None,
        opset_version=int(opset),
        auto_upgrade_opset=False,
        enable_onnx_checker=True,
        optimize_tool=None,
    )
    if not isinstance(model, bytes) or not model:
        sys.exit("error: paddle2onnx returned no model")
    Path(output).write_bytes(model)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this script: its modules are no packages of this process
    main(*sys.argv[1:])
