"""Write an old static program (``.pdmodel``) as a new one; run by file path, in its own process.

Arguments: the old program, the new one to write (``.json``). Nothing of the program is run. Paddle
can end the process from C++ where a file is no program, which is why nothing else happens here.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(old: str, new: str) -> None:
    """Write ``new``; its parameters are those of ``old``, in the same order."""
    import paddle

    paddle.enable_static()
    with paddle.pir_utils.OldIrGuard():
        program = paddle.static.deserialize_program(Path(old).read_bytes())
    translated = paddle.pir.translate_to_pir(program.desc)
    with paddle.pir_utils.IrGuard():
        paddle.save(translated, new)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this script: its modules are no packages of this process
    main(*sys.argv[1:])
