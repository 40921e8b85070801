"""The file that ``torch.save`` wrote before PyTorch 1.6, and still writes on request.

Five pickles (a magic number, the protocol, the machine, the object, the keys of the storages),
then the storages in that order: a count of eight bytes, then the elements. Where a storage stands
is known only after the object, so that is read twice: for what it names, then with the bytes.

Source: ``_legacy_save`` and ``_legacy_load`` in ``torch/serialization.py`` of PyTorch 2.
"""

from __future__ import annotations

from typing import Any

from reparam.checkpoint.pickle_objects import ARRAYS, shown
from reparam.checkpoint.pickle_reader import unpickled
from reparam.checkpoint.torch_objects import vocabulary
from reparam.errors import CheckpointError

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

_PROTOCOL = 1001
_COUNT = 8  # bytes


def read_legacy(buffer: memoryview) -> Any:
    """Return what a file of the old ``torch.save`` holds; arrays are read-only views.

    Raises:
        UnsafeCheckpointError: its pickle names code, which was not run.
        CheckpointError: a damaged file, or one of another machine.
    """
    _, start = unpickled(buffer, ARRAYS)  # the magic number
    protocol, start = unpickled(buffer, ARRAYS, start)
    machine, start = unpickled(buffer, ARRAYS, start)
    if not isinstance(protocol, int) or protocol != _PROTOCOL or not isinstance(machine, dict):
        raise CheckpointError(
            "a file of torch.save in a form that is not known", found=f"protocol {shown(protocol)}"
        )
    if machine.get("little_endian") is not True:
        raise CheckpointError("the file has the byte order of another machine")
    sizes: dict[str, tuple[int, int]] = {}

    def noted(key: str, count: int, width: int) -> None:
        first = sizes.setdefault(key, (count, width))
        if first[0] * first[1] != count * width:
            raise CheckpointError(
                "the tensors of a storage contradict each other",
                found=f"storage '{key}' of {first[0] * first[1]:,} and of {count * width:,} bytes",
            )

    _, end = unpickled(buffer, vocabulary(noted), start)
    keys, end = unpickled(buffer, ARRAYS, end)
    storages = _storages(buffer, end, keys, sizes)
    return unpickled(buffer, vocabulary(lambda key, *_: storages[key]), start)[0]


def _storages(
    buffer: memoryview, position: int, keys: Any, sizes: dict[str, tuple[int, int]]
) -> dict[str, memoryview]:
    """Return where each storage stands, the first at ``position``."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("the list of storages in the file is damaged")
    if len(set(keys)) < len(keys) or set(sizes) != set(keys):
        raise CheckpointError(
            "the list of storages does not fit the tensors",
            found=f"{len(keys)} storages listed; needed: {len(sizes)}, each once",
        )
    found = {}
    for key in keys:
        stated = int.from_bytes(buffer[position : position + _COUNT], "little")
        count, width = sizes[key]
        start, stop = position + _COUNT, position + _COUNT + count * width
        if stop > len(buffer):
            raise CheckpointError(
                "the file ends before its tensors do",
                found=f"storage '{key}' would end at byte {stop:,} of {len(buffer):,}",
                hint="copy or download the file again and compare the size",
            )
        if stated != count:
            raise CheckpointError(
                "a storage has another size than its tensors say",
                found=f"storage '{key}' has {stated:,} elements; needed: {count:,}",
            )
        found[key] = buffer[start:stop]
        position = stop
    return found
