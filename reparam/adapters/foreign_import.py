"""Layers that the user's own code builds: ``package.module:factory``, called because asked for.

Nothing here looks for code by itself. The working folder is first on the module path while the
module is imported and the factory runs, as it is for ``python script.py``; afterwards it is last,
so a file of the user that is named like one of our packages shadows nothing that comes later.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from reparam.adapters.paddle_models import import_paddle
from reparam.errors import UnsupportedModelError

_USED_LATER = ("onnx", "onnx_ir", "onnxruntime", "paddle2onnx", "safetensors", "yaml")
_HINT = "--model package.module:factory, a class or function that returns a paddle.nn.Layer"


def is_factory(model: str) -> bool:
    """Whether ``model`` names the user's own code, and not a registered architecture."""
    return ":" in model or "." in model or "/" in model


def build_foreign(model: str, arguments: Mapping[str, Any]) -> Any:
    """Return the Layer that the user's factory builds, in evaluation mode.

    What the code prints goes to stderr.

    Args:
        model: ``package.module:factory``.
        arguments: keyword arguments for the factory.

    Raises:
        UnsupportedModelError: there is no such module or factory, it does not take the arguments,
            it raised, or it returned something else.
        MissingDependencyError: paddle is not installed.
    """
    layer_class = import_paddle().nn.Layer
    with own_modules_first(), stdout_as_stderr():
        factory = _factory(model)
        _check_arguments(model, factory, arguments)
        layer = _called(f"cannot build '{model}'", lambda: factory(**arguments))
    import_paddle().disable_static()  # and it is on the CPU again, whatever the code chose
    if not isinstance(layer, layer_class):
        raise UnsupportedModelError(
            f"'{model}' built no network",
            found=f"a value of type {type(layer).__name__}; needed: a paddle.nn.Layer",
            hint=_HINT,
        )
    layer.eval()
    return layer


@contextlib.contextmanager
def own_modules_first() -> Iterator[None]:
    """Have the working folder first on the module path, last afterwards, and never changed."""
    folder = str(Path.cwd())
    before = list(sys.path)
    loaded = {name: sys.modules.get(name) for name in _USED_LATER}
    sys.path[:] = [folder, *before]
    try:
        yield
    finally:
        sys.path[:] = [*(entry for entry in before if entry not in ("", folder)), folder]
        for name, module in loaded.items():
            if _is_under(sys.modules.get(name), folder) and not _is_under(module, folder):
                # The user's own file of that name; its importer keeps it, we get the package.
                del sys.modules[name]
        importlib.invalidate_caches()
        os.chdir(folder)


@contextlib.contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """Send what Python code prints to stderr: stdout holds our report."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def first_line(error: BaseException) -> str:
    """Return what an exception of foreign code says, in one line, and where it was raised."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    own = Path(__file__).parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if _is_theirs(f.filename, own)), None)
    return f"{said} ({place.filename}, line {place.lineno})" if place else said


def _is_theirs(filename: str, own: Path) -> bool:
    """Whether a frame is of the user's code: not ours, not of the import system or of paddle."""
    path = Path(filename)
    inside = any(part in ("importlib", "paddle") for part in path.parts)
    return not filename.startswith("<") and own not in path.parents and not inside


def _is_under(module: ModuleType | None, folder: str) -> bool:
    place = getattr(module, "__file__", None)
    if place is None:
        return False
    path = Path(place)
    return Path(folder) in path.parents and "site-packages" not in path.parts


def _factory(model: str) -> Callable[..., Any]:
    module_name, colon, name = model.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise UnsupportedModelError(
            f"--model '{model}' names no code",
            found="no ':'" if not colon else "a module and an attribute have to stand around ':'",
            why="a name without ':' and '.' is one of the registered architectures",
            hint=_HINT,
        )
    value: Any = _module(model, module_name)
    for part in name.split("."):
        if not hasattr(value, part):
            names = [known for known in dir(value) if not known.startswith("_")]
            nearest = get_close_matches(part, names, n=3, cutoff=0.4) or names[:8]
            raise UnsupportedModelError(
                f"there is no '{name}' in the module '{module_name}'",
                found=f"it is {getattr(value, '__file__', None) or value}",
                hint=f"one of {', '.join(nearest)}" if nearest else _HINT,
            )
        value = getattr(value, part)
    if not callable(value):
        raise UnsupportedModelError(
            f"'{model}' cannot be called", found=f"a value of type {type(value).__name__}",
            hint=_HINT,
        )  # fmt: skip
    return value  # type: ignore[no-any-return]


def _module(model: str, name: str) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {name, *_parents(name)}:
            raise UnsupportedModelError(
                f"cannot import '{name}'", found=first_line(error),
                why=f"--model {model} asks for it", hint=f"install '{error.name}', or fix the name",
            ) from error  # fmt: skip
        raise UnsupportedModelError(
            f"there is no module '{name}'",
            found=f"no '{error.name}' in {Path.cwd()} or among the installed packages"
            + _elsewhere(error.name or name),
            hint="run reparam in the folder that you would run your training script in",
        ) from error
    except (Exception, SystemExit) as error:
        raise UnsupportedModelError(
            f"cannot import '{name}'", found=first_line(error), why=f"--model {model} asks for it"
        ) from error


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])


def _elsewhere(name: str) -> str:
    """Say where the package that lacks the module is, if it is not where the user thinks."""
    package = sys.modules.get(name.rpartition(".")[0])
    paths = list(getattr(package, "__path__", []))
    return f"; the package is {paths[0]}" if paths else ""


def _check_arguments(model: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a builtin; its own error says what it misses
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        names = [name for name in signature.parameters if name != "self"]
        raise UnsupportedModelError(
            f"'{model}' cannot be called with these arguments",
            found=f"{error}; given: {', '.join(arguments) or 'none'}",
            why=f"its parameters are {', '.join(names) or 'none'}",
            hint="--model-arg NAME=VALUE for each that has no default",
        ) from error


def _called(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise UnsupportedModelError(what, found=first_line(error)) from error
