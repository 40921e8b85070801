"""What a detector's file answers with, where the command line says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import click

from reparam.commands.model_options import Chosen
from reparam.detection import HEADS, Selection
from reparam.detection.classes import read_classes

Command = TypeVar("Command", bound=Callable[..., Any])

_LAYOUTS = ("paddledetection",)

_OPTIONS = (
    click.option(
        "--head",
        type=click.Choice(HEADS),
        help="Of a detector: how its answer leaves the file. The maps of each level; boxes and "
        "scores of every cell; or, the default, detections: boxes, scores, classes, count.",
    ),
    click.option(
        "--compat",
        type=click.Choice(_LAYOUTS),
        help="Of a detector: the inputs and outputs of PaddleDetection's own exports. An image and "
        "its scale_factor; rows of class, score and box in the original image, and their count.",
    ),
    click.option(
        "--score-threshold",
        type=click.FloatRange(0, 1, max_open=True),
        help="The score of a detection is above. Default: 0.01, or as the configuration says.",
    ),
    click.option(
        "--iou-threshold",
        type=click.FloatRange(0, 1),
        help="A box whose overlap with a better one of its class is above is no detection. "
        "Default: 0.7, or as the configuration says.",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=1),
        help="Detections of an image that are kept, best first. Default: 300, or as the "
        "configuration says.",
    ),
    click.option(
        "--candidates",
        type=click.IntRange(min=1),
        help="Boxes of one class and image that take part in selecting, best first. Default: all; "
        "1000 with --compat paddledetection, as there.",
    ),
    click.option(
        "--classes",
        metavar="N|NAMES|FILE",
        help="The classes that the detector has to have: a number; coco; names, as cat,dog; or a "
        "file of them, a name a line or the annotations of COCO. Names go into the file's "
        "contract.",
    ),
)


@dataclass(frozen=True)
class DetectorChoice:
    """What the options say of a detector's answer."""

    head: str | None
    compat: str | None
    classes: str | None
    selection: dict[str, Any]

    def options(self, chosen: Chosen) -> dict[str, Any]:
        """Return fields of :class:`reparam.exporter.Options`; what is not given is as configured.

        Raises:
            UnsupportedModelError: the classes cannot be read.
        """
        given = {name: value for name, value in self.selection.items() if value is not None}
        return {
            "head": self.head,
            "compat": self.compat,
            "classes": None if self.classes is None else read_classes(self.classes),
            "selection": replace(chosen.selection or Selection(), **given),
            "preprocessing": chosen.preprocessing,
        }


def detector_options(command: Command) -> Command:
    """Give a command the options of a detector's answer: ``detector``."""

    @functools.wraps(command)
    def with_choice(*args: Any, **values: Any) -> Any:
        choice = DetectorChoice(
            head=values.pop("head"),
            compat=values.pop("compat"),
            classes=values.pop("classes"),
            selection={one.name: values.pop(one.name) for one in fields(Selection)},
        )
        return command(*args, detector=choice, **values)

    for option in reversed(_OPTIONS):
        with_choice = option(with_choice)
    return with_choice  # type: ignore[return-value]
