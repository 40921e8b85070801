"""What is installed, by the metadata of packages, and what reparam asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

from reparam.errors import MissingDependencyError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OURS = "reparam"
EXTRA = "export"  # everything that commands need


@dataclass(frozen=True)
class Distribution:
    """One installed distribution."""

    name: str
    version: str


@dataclass(frozen=True)
class Asked:
    """One requirement of a distribution that counts here, and what of it is installed.

    Attributes:
        name: of the distribution that is asked for.
        versions: that are accepted, as in metadata: ``<3.4,>=3.3``; empty for any.
        found: the distribution that answers it; None where there is none.
        fits: it is there, in an accepted version.
    """

    name: str
    versions: str
    found: Distribution | None
    fits: bool

    @property
    def wanted(self) -> str:
        """What to give to pip: under the name of what is installed, if that is another one."""
        return (self.found.name if self.found else self.name) + self.versions


def normal(name: str) -> str:
    """Return the name of a distribution as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, Distribution]:
    """Return everything that has metadata, by its normal name; the first on the path counts."""
    found: dict[str, Distribution] = {}
    for entry in metadata.distributions():
        name = entry.metadata["Name"] if entry.metadata else None
        if name:  # a half removed one has none
            found.setdefault(normal(name), Distribution(normal(name), entry.version or ""))
    return found


def accepts(versions: str, version: str) -> bool:
    """Whether a version is one of those accepted, such as ``>=3.3,<3.4``; pre-releases may be.

    A version that is none, such as ``unknown``, is not.
    """
    _packaging()
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(versions).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def requirements_of(
    distribution: str, here: Mapping[str, Distribution], others: Mapping[str, tuple[str, ...]]
) -> list[Asked] | None:
    """Return what a distribution asks for on this machine; None where it has no metadata.

    Args:
        distribution: its name. Of reparam, what its extra ``export`` asks for is in it.
        here: what :func:`installed` found.
        others: by normal name, distributions that hold the same package as one asked for:
            onnxruntime-gpu answers a requirement of onnxruntime.

    Raises:
        MissingDependencyError: the package ``packaging`` is not installed.
    """
    try:
        lines = metadata.requires(distribution)
    except metadata.PackageNotFoundError:
        return None
    found = []
    extra = {"extra": EXTRA if distribution == OURS else ""}
    for line in lines or []:
        requirement = _parsed(line)
        if requirement.marker is None or requirement.marker.evaluate(extra):
            found.append(_asked(requirement, here, others))
    return found


def _asked(
    requirement: Requirement,
    here: Mapping[str, Distribution],
    others: Mapping[str, tuple[str, ...]],
) -> Asked:
    name = normal(requirement.name)
    answers = [here[n] for n in (name, *others.get(name, ())) if n in here]
    found = answers[0] if answers else None
    versions = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
    return Asked(name, versions, found, bool(found and accepts(versions, found.version)))


@lru_cache(maxsize=256)
def _parsed(line: str) -> Requirement:
    _packaging()
    from packaging.requirements import Requirement

    return Requirement(line)


def _packaging() -> None:
    try:
        import packaging.requirements  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "packaging":
            raise
        raise MissingDependencyError(
            "comparing versions needs the package 'packaging', which is not installed",
            hint="pip install packaging",
        ) from error
