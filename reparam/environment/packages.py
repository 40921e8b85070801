"""The packages that count here: what holds them, what is tried of each, and how that went."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

from reparam.environment.asking import FAILS, NOT_TRIED, WORKS, Processes, Step
from reparam.environment.installed import Distribution, normal

MISSING, BROKEN = "missing", "broken"
CPU = "CPUExecutionProvider"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HEAD = re.compile(r"^.*?\[E:onnxruntime[^\]]*\] *")  # time, kind and place in the source
_LIBRARY = "with error: "  # of the loader of shared libraries
_LONGEST = 300  # characters


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        module: what is imported.
        distributions: normal names of those that hold it, the usual one first. They write the
            same files, so only one of them can be installed.
        steps: trials in :mod:`reparam.adapters.trials`, in an order in which each needs no more
            than those before it.
    """

    module: str
    distributions: tuple[str, ...]
    steps: tuple[str, ...] = ()


PACKAGES = (
    Package("reparam", ("reparam",), ("fuse",)),
    Package("numpy", ("numpy",)),
    Package("ml_dtypes", ("ml-dtypes",)),
    Package("safetensors", ("safetensors",)),
    Package("yaml", ("pyyaml",)),
    Package("rich", ("rich",)),
    Package("click", ("click",)),
    Package("packaging", ("packaging",)),
    Package(
        "paddle",
        ("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu", "paddlepaddle-npu"),
        ("conv", "inference"),
    ),
    Package("paddle2onnx", ("paddle2onnx",), ("convert", "interpolation")),
    Package("onnx", ("onnx", "onnx-weekly")),
    Package("google.protobuf", ("protobuf",)),
    Package("onnx_ir", ("onnx-ir",), ("graph",)),
    Package("onnxoptimizer", ("onnxoptimizer",)),
    Package(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml",
         "onnxruntime-qnn", "onnxruntime-migraphx", "onnxruntime-rocm", "onnxruntime-cann",
         "onnxruntime-training", "onnxruntime-training-cpu", "onnxruntime-azure",
         "onnxruntime-silicon", "onnxruntime-webgpu", "onnxruntime-trt-rtx"),
        (f"provider:{CPU}", "providers", "reads"),
    ),
    Package("openvino", ("openvino",)),
)  # fmt: skip

OTHERS = {package.distributions[0]: package.distributions[1:] for package in PACKAGES}
"""By the usual distribution of a package, the others that hold it."""


@dataclass(frozen=True)
class Provider:
    """An execution provider that onnxruntime names; ``found`` says why it does not load."""

    name: str
    loads: bool
    found: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen of one package.

    Attributes:
        module: what was imported.
        distributions: those installed that hold it; several spoil each other.
        state: ``works``, ``missing`` or ``broken``: whether it can be imported.
        found: why it cannot.
        where: the file that was imported.
        told: the version that the module has of itself; "" where it has none.
        steps: the trials of it, by name.
        providers: of onnxruntime.
    """

    module: str
    distributions: tuple[Distribution, ...]
    state: str
    found: str = ""
    where: str = ""
    told: str = ""
    steps: Mapping[str, Step] = field(default_factory=dict)
    providers: tuple[Provider, ...] = ()

    @property
    def name(self) -> str:
        """The distribution it is of, or the usual one where none is installed."""
        return self.distributions[0].name if self.distributions else usual(self.module)

    @property
    def version(self) -> str:
        """The version by its metadata, or by itself where it has no metadata."""
        return self.distributions[0].version if self.distributions else self.told

    def value(self, step: str, key: str) -> Any:
        """Return what a step told, None where it did not work or is not there."""
        return self.steps[step].values.get(key) if step in self.steps else None

    def state_of(self, step: str) -> str:
        """Return whether a step ``works``, ``fails`` or was ``not tried``."""
        return self.steps[step].state if step in self.steps else NOT_TRIED

    def failed(self) -> Step | None:
        """Return the trial that failed, if one did; those behind it were not tried."""
        trials = (step for name, step in self.steps.items() if name != "import")
        return next((step for step in trials if step.state == FAILS), None)


def usual(module: str) -> str:
    """Return the distribution that a module is usually of."""
    return next(p.distributions[0] for p in PACKAGES if p.module == module)


def look(
    package: Package, here: Mapping[str, Distribution], processes: Processes, quick: bool
) -> Seen:
    """Return what is to be seen of a package: metadata, an import, and unless ``quick`` trials."""
    found = tuple(here[name] for name in map(normal, package.distributions) if name in here)
    if not _is_there(package.module):
        if not found:
            return Seen(package.module, found, MISSING)
        return Seen(package.module, found, BROKEN, "its metadata is there, the package is not")
    steps, log = processes.ask(package.module, () if quick else package.steps)
    first = steps["import"]
    if first.state != WORKS:
        return Seen(package.module, found, BROKEN, first.found, steps=steps)
    return Seen(
        package.module,
        found,
        WORKS,
        where=str(first.values.get("where", "")),
        told=str(first.values.get("version", "")),
        steps=steps,
        providers=tuple(_providers(package.module, steps, log, processes)),
    )


def _is_there(module: str) -> bool:
    """Whether something of that name is on the path; no code of it is run."""
    first, *rest = module.split(".")
    spec = find_spec(first)
    for depth, _ in enumerate(rest, 2):
        within = None if spec is None else spec.submodule_search_locations
        if within is None:
            return False
        spec = PathFinder.find_spec(".".join(module.split(".")[:depth]), list(within))
    return spec is not None


def _providers(
    module: str, steps: Mapping[str, Step], log: str, processes: Processes
) -> Iterable[Provider]:
    """Open a session on each execution provider that is named, each in a process of its own."""
    named = steps["providers"].values.get("named", ()) if "providers" in steps else ()
    for name in named:
        step = f"provider:{name}"
        if name == CPU:
            yield _provider(name, steps[step], log)
        else:
            tried, said = processes.ask(module, [step])
            yield _provider(name, tried[step], said)


def _provider(name: str, step: Step, log: str) -> Provider:
    if step.state == FAILS:
        return Provider(name, False, step.found)
    loaded = list(step.values.get("loaded", ()))
    if step.state == NOT_TRIED or name in loaded:
        return Provider(name, step.state == WORKS)
    where = f"the session runs on {', '.join(loaded) or 'nothing'}"
    said = refusal(log)
    return Provider(name, False, f"{where}: {said}" if said else where)


def refusal(log: str) -> str:
    """Return what onnxruntime logged of a provider that does not load; "" if nothing.

    That is the library that is missing, if it names one, else the first thing that it calls an
    error.
    """
    lines = [_COLOUR.sub("", line).strip() for line in log.splitlines()]
    libraries = [line.rpartition(_LIBRARY)[2] for line in lines if _LIBRARY in line]
    errors = [line for line in lines if "[E:" in line or line.startswith("EP Error")]
    return _HEAD.sub("", (libraries or errors or [""])[0])[:_LONGEST]
