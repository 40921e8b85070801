"""Importing this takes the working folder off the module path that ``python -m reparam`` has.

Python puts it first there, so that a file of the user named ``click.py`` or ``onnx.py`` would be
imported in the place of the package. ``--model package.module:factory`` puts it back while it
imports what the user asked for.
"""

from __future__ import annotations

import os
import sys


def _run_as_a_module() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "reparam.__main__"


if _run_as_a_module() and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    del sys.path[0]
