"""Models by name; needs no paddle until one is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

from reparam.errors import UnsupportedModelError
from reparam.models import (
    cspresnet_layout,
    mobileone_layout,
    pplcnetv2_layout,
    pplcnetv3_layout,
    ppyoloe_layout,
    repvgg_layout,
)

Factory = TypeVar("Factory", bound=Callable[..., Any])

# Where the built-in names are registered, so that a list of names costs no import of paddle.
_FAMILIES = {
    "cspresnet": cspresnet_layout,
    "mobileone": mobileone_layout,
    "pplcnetv2": pplcnetv2_layout,
    "pplcnetv3": pplcnetv3_layout,
    "ppyoloe": ppyoloe_layout,
    "repvgg": repvgg_layout,
}
_BUILT_IN: dict[str, str] = {
    name: f"reparam.models.{family}"
    for family, layout in _FAMILIES.items()
    for name in (family, *layout.VARIANTS)
}


@dataclass(frozen=True)
class _Entry:
    factory: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)


_registered: dict[str, _Entry] = {}


def register(name: str, **defaults: Any) -> Callable[[Factory], Factory]:
    """Return a decorator that makes a Layer class or function available to create_model.

    Args:
        name: what create_model and list_models call it.
        defaults: settings of this variant; those given to create_model come first.

    Raises:
        UnsupportedModelError: another factory has that name.
    """

    def decorate(factory: Factory) -> Factory:
        owner = _BUILT_IN.get(name, factory.__module__)
        if name in _registered or owner != factory.__module__:
            raise UnsupportedModelError(
                f"a model named '{name}' is registered already", hint="choose another name"
            )
        _registered[name] = _Entry(factory, defaults)
        return factory

    return decorate


def list_models() -> list[str]:
    """Return the names that create_model knows, sorted."""
    return sorted({*_BUILT_IN, *_registered})


def create_model(name: str, deploy: bool = False, **settings: Any) -> Any:
    """Return the paddle Layer registered as ``name``, with random weights.

    Args:
        deploy: build it in deploy form, every block as one convolution.
        settings: override those of the variant.

    Raises:
        UnsupportedModelError: the name or a setting is unknown, or a value is not possible.
        MissingDependencyError: paddle is not installed.
    """
    entry = _entry(name)
    accepted = inspect.signature(entry.factory).parameters
    _check_settings(name, settings, accepted)
    values = {**entry.defaults, **settings}
    if "deploy" in accepted:
        return entry.factory(deploy=deploy, **values)
    model = entry.factory(**values)
    if deploy:
        import_module("reparam.models.blocks").convert_to_deploy(model)
    return model


def _entry(name: str) -> _Entry:
    if name not in _registered and name in _BUILT_IN:
        import_module(_BUILT_IN[name])
    if name not in _registered:
        raise UnsupportedModelError(
            f"there is no model named '{name}'", hint=_suggest(name, list_models())
        )
    return _registered[name]


def _check_settings(
    name: str, settings: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]
) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    names = sorted(set(accepted) - {"deploy"})
    for setting in settings:
        if setting not in names:
            raise UnsupportedModelError(
                f"model '{name}' has no setting named '{setting}'",
                found=f"its settings are {', '.join(names)}",
                hint=_suggest(setting, names),
            )


def _suggest(word: str, choices: list[str]) -> str:
    nearest = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"'{nearest[0]}'" if nearest else f"one of {', '.join(choices)}"
