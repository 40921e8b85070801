"""What the classes of a detector are called, and how many there are. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reparam.errors import ConfigurationError
from reparam.inputs import small_text

# Of the detection task of COCO 2017, in the order of their ids (Lin et al. 2014, arXiv 1405.0312).
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)
COCO_NAMES = tuple(_COCO.split(","))

_MOST_CLASSES = 100_000
_LARGEST_LIST = 1 << 24  # bytes
_LARGEST_ANNOTATIONS = 1 << 30  # bytes; those of COCO's training images have 0.45e9
_FORMS = (
    "a number, coco, names with commas between them, a .txt file with a name a line, or a .json "
    "file of annotations as COCO has them"
)


@dataclass(frozen=True)
class Classes:
    """How many classes there are, and their names in order, None where only the number is known."""

    count: int
    names: tuple[str, ...] | None = None


def read_classes(text: str) -> Classes:
    """Return the classes that ``text`` stands for.

    Args:
        text: a number; ``coco``; names with commas between them, as ``cat,dog`` or ``cat,``; the
            path of a .txt file with a name a line; or that of a .json file whose ``categories``
            have an ``id`` and a ``name``.

    Raises:
        ConfigurationError: it is none of these, or the file cannot be used.
    """
    text = text.strip()
    if text.lower() == "coco":
        return _named(COCO_NAMES, text)
    if text.lstrip("+-").isdecimal():
        return _counted(text)
    ending = Path(text).suffix.lower() if "\n" not in text else ""
    if ending == ".txt":
        lines = _text(Path(text), _LARGEST_LIST).splitlines()
        return _named(tuple(line.strip() for line in lines if line.strip()), text)
    if ending == ".json":
        return _named(_of_annotations(Path(text)), text)
    if "," not in text:
        hint = f"'{text},' is one class of that name" if text else ""
        raise _refusal(text, f"needed: {_FORMS}", hint)
    names = [name.strip() for name in text.split(",")]
    names = names[:-1] if not names[-1] else names
    if not names or not all(names):
        raise _refusal(text, "a name between two commas is empty")
    return _named(tuple(names), text)


def check_classes(classes: Classes, found: int) -> None:
    """Refuse ``classes`` that are not as many as a detector has.

    Args:
        found: number of classes of the detector.

    Raises:
        ConfigurationError: says both counts.
    """
    if classes.count != found:
        raise ConfigurationError(
            "the classes are not those of the checkpoint",
            found=f"{classes.count} classes were given, the checkpoint has {found}",
            why="with names of another data set, every detection would be called something else",
            hint="leave the classes out, and they are numbered",
        )


def _counted(text: str) -> Classes:
    digits = text.lstrip("+-")
    count = int(digits) if len(digits) < 10 else _MOST_CLASSES + 1
    if text.startswith("-") or not 1 <= count <= _MOST_CLASSES:
        raise _refusal(text, f"needed: a number from 1 to {_MOST_CLASSES:,}")
    return Classes(count)


def _named(names: tuple[str, ...], text: str) -> Classes:
    if not 1 <= len(names) <= _MOST_CLASSES:
        raise _refusal(text, f"{len(names):,} names in it; needed: 1 to {_MOST_CLASSES:,}")
    return Classes(len(names), names)


def _of_annotations(path: Path) -> tuple[str, ...]:
    """Return the names of the categories in the order of the file, which is that of training."""
    try:
        values = json.loads(_text(path, _LARGEST_ANNOTATIONS))
    except (ValueError, RecursionError) as error:
        raise _refusal(str(path), f"no JSON: {error}") from error
    categories = values.get("categories") if isinstance(values, dict) else None
    if not isinstance(categories, list) or not categories:
        raise _refusal(str(path), "no list 'categories' in it, as annotations of COCO have")
    for category in categories:
        if not _is_category(category):
            raise _refusal(
                str(path),
                f"a category that is {str(category)[:80]}; needed: a whole number as 'id', and a "
                "'name'",
            )
    (number, times), *_ = Counter(category["id"] for category in categories).most_common(1)
    if times > 1:
        raise _refusal(str(path), f"{times} categories with the id {number}")
    return tuple(category["name"].strip() for category in categories)


def _is_category(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("id")) is not int:
        return False
    name = value.get("name")
    return isinstance(name, str) and bool(name.strip())


def _text(path: Path, largest: int) -> str:
    try:
        return small_text(path, largest, ConfigurationError, "utf-8-sig")
    except ConfigurationError as error:
        raise _refusal(str(path), error.found) from error


def _refusal(text: str, found: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(f"cannot read the classes '{text[:200]}'", found=found, hint=hint)
