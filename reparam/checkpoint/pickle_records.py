"""Objects that trainers save beside the weights, and what to say of those that are refused.

A checkpoint often holds the arguments of a training run, paths, dates, a configuration. Such an
object is of no use here and does no harm, since nothing of it is looked up or called: it becomes
an empty record, whatever it holds. Any class that is not listed is refused by name, though it
would be as harmless here: elsewhere the file would run it.
"""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from reparam.errors import UnsafeCheckpointError

_RECORDS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(deque|Counter)"
    r"|(builtins|__builtin__)\.(set|frozenset|slice|x?range|complex|object"
    r"|int|long|float|str|unicode|bool|list|dict)"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"
    r"|datetime\.(datetime|date|time|timedelta|timezone)|decimal\.Decimal|uuid\.UUID|typing\.\w+"
    r"|torch\.torch_version\.TorchVersion"
    # configurations, as the libraries of their names keep them
    r"|easydict\.EasyDict|addict\.addict\.Dict|munch(\.munch)?\.\w*Munch"
    r"|(yacs|fvcore\.common|detectron2\.config)\.config\.CfgNode"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.\w*Metadata|nodes\.\w+Node)"
    r"|(mmengine\.config\.config|mmcv\.utils\.config)\.ConfigDict"
    r"|mmengine\.logging\.history_buffer\.HistoryBuffer"
    r"|(pytorch_lightning|lightning_fabric|lightning\.\w+)\.utilities\.\w+\.AttributeDict"
    r"|(pytorch_lightning|lightning\.pytorch)\.callbacks\.\w+\.\w+"
)
_DANGER = {*sys.stdlib_module_names, "__builtin__", "numpy"}


def is_record(path: str) -> bool:
    """Return whether the class ``path`` is one whose objects are read as empty records."""
    return _RECORDS.fullmatch(path) is not None


def refuse_name(path: str, loads: str) -> NoReturn:
    """Refuse a file that names the function or class ``path``.

    Args:
        loads: what would run the file's code.

    Raises:
        UnsafeCheckpointError: always.
    """
    root = path.partition(".")[0]
    if "torch" in loads and root not in _DANGER:
        raise UnsafeCheckpointError(
            f"the pickle holds an object of '{path}', code and not weights; nothing of it was run",
            why="a network saved as a whole is tied to the code it was made with",
            hint="where that code is, if you trust the file: model = torch.load(FILE, "
            "weights_only=False); torch.save(model.state_dict(), 'weights.pth') (YOLO trainers "
            "save a dict, with the model under 'ema' or 'model')",
        )
    if root == "torch":
        raise UnsafeCheckpointError(
            f"the pickle names '{path}', and is no file of torch.save; nothing of it was run",
            why="tensors in a plain pickle are pickles within the pickle",
            hint="if you trust the file: torch.save(pickle.load(open(FILE, 'rb')), 'weights.pth')",
        )
    raise UnsafeCheckpointError(
        f"the pickle names '{path}', which weights do not need; nothing of it was run",
        why=f"loading such a file with {loads} would call what it names",
        hint="do not load it elsewhere; ask its author for a file of arrays only",
    )
