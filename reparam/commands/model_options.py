"""Which network a command is about, where the checkpoint alone does not decide it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from reparam.adapters.foreign_import import is_factory
from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import load_checkpoint
from reparam.commands.common import settings_option, tell_unused
from reparam.commands.output import note
from reparam.configuration import (
    Configuration,
    check_configuration,
    check_name,
    read_configuration,
)
from reparam.detection import Preprocessing, Selection

Command = TypeVar("Command", bound=Callable[..., Any])

WITHOUT_EFFECT = "a network of your own decides it"

_OPTIONS = (
    click.option(
        "--model",
        metavar="NAME|MODULE:FACTORY",
        help="The architecture that the checkpoint has to be of, as repvgg_a0; or your own code "
        "that builds the network, as models.mynet:build. It is imported, and so run.",
    ),
    settings_option,
    click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        help="The training configuration of PaddleDetection or PaddleClas (.yml).",
    ),
    click.option(
        "--input-channels",
        type=click.IntRange(min=1),
        help="Of the image, for a network of your own. Default: those of its first convolution.",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What the options say of the network, not yet compared with a checkpoint."""

    model: str | None
    given: Mapping[str, Any]
    config: Path | None
    input_channels: int | None

    def of(self, *checkpoints: Path, prefix: str | None = None) -> Chosen:
        """Return what the options come to for checkpoints that all have to agree with them.

        Args:
            prefix: of the weights to use, where that was said.

        Raises:
            UnsupportedModelError, CheckpointError, ConfigurationError: they do not agree.
        """
        if self.model is not None and is_factory(self.model):
            own = ForeignModel(self.model, self.given, self.input_channels)
            unused = tell_unused(("config", "epsilon"), WITHOUT_EFFECT)
            return Chosen({}, own, None, tuple(unused))
        notices = tell_unused(("input_channels",), "it is for a network of your own")
        whole = None if self.config is None else read_configuration(self.config)
        configuration = whole
        for path in checkpoints if whole is not None or self.model is not None else ():
            shapes = load_checkpoint(path, prefix=prefix).shapes
            if self.model is not None:
                check_name(self.model, shapes)
            if whole is not None:  # each by itself: one may be a backbone, another a detector
                configuration = check_configuration(whole, shapes)
        settings = dict(self.given)
        if configuration is None:
            return Chosen(settings, None, None, tuple(notices))
        notices += self._contradictions(configuration)
        for remark in configuration.remarks:
            note(remark)
        notices += configuration.remarks
        settings = {**configuration.settings, **settings}
        return Chosen(
            settings,
            None,
            configuration.input_size,
            tuple(notices),
            selection=configuration.selection,
            preprocessing=configuration.preprocessing,
        )

    def _contradictions(self, configuration: Configuration) -> list[str]:
        said = {**configuration.told, **configuration.settings}
        notices = [
            f"--model-arg {name}={value} wins over {said[name]} in {self.config}"
            for name, value in self.given.items()
            if name in said and said[name] != value
        ]
        for notice in notices:
            note(notice)
        return notices


@dataclass(frozen=True)
class Chosen:
    """The network to use.

    Attributes:
        settings: of a registered architecture, in place of what it assumes.
        own: the user's own network, in place of a registered one.
        input_size: (H, W) that a configuration names.
        notices: options that have no effect or contradict each other; told on stderr already.
        selection: how a configuration makes detections of boxes, if it says.
        preprocessing: of the images that a configuration tests a detector with, if it says.
    """

    settings: dict[str, Any]
    own: ForeignModel | None
    input_size: tuple[int, int] | None
    notices: tuple[str, ...] = ()
    selection: Selection | None = None
    preprocessing: Preprocessing | None = None


def model_options(command: Command) -> Command:
    """Give a command ``--model``, ``--model-arg``, ``-c`` and ``--input-channels``: ``choice``."""

    @functools.wraps(command)
    def with_choice(*args: Any, **values: Any) -> Any:
        choice = Choice(
            model=values.pop("model"),
            given=values.pop("settings"),
            config=values.pop("config"),
            input_channels=values.pop("input_channels"),
        )
        return command(*args, choice=choice, **values)

    for option in reversed(_OPTIONS):
        with_choice = option(with_choice)
    return with_choice  # type: ignore[return-value]
