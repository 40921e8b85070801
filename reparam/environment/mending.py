"""The one line that mends what pip can mend."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from reparam.environment.installed import Asked
from reparam.environment.packages import BROKEN, PACKAGES, Seen
from reparam.environment.surroundings import Surroundings


def mending_line(here: Surroundings) -> str | None:
    """Return what to type so that all that reparam asks for is here; None if pip can do nothing.

    Distributions that overwrote each other are uninstalled first, what is missing or of another
    version is installed in a version that is asked for, and what is there and cannot be imported
    is installed anew. It is printed, never run.
    """
    several = [seen for seen in here.seen.values() if len(seen.distributions) > 1]
    replaced = {seen.module for seen in several}
    install = [_one_of(seen, here) for seen in several]
    names = {d.name for seen in several for d in seen.distributions}
    install += [asked.wanted for asked in here.unmet if _answer(asked) not in names]
    install += [asked.wanted for _, asked in here.conflicts if _is_new(asked, here, names)]
    anew = [
        _asked_or_same(seen, here)
        for seen in here.seen.values()
        if seen.state == BROKEN and seen.module not in replaced and _is_needed(seen, here)
    ]
    anew = [wanted for wanted in anew if wanted not in install]
    parts = []
    if several:
        parts.append(f"{pip()} uninstall --yes {' '.join(sorted(names))}")
    if install:
        parts.append(f"{pip()} install {_quoted(install)}")
    if anew:
        parts.append(f"{pip()} install --force-reinstall --no-deps {_quoted(anew)}")
    return " && ".join(parts) or None


def pip() -> str:
    """Return how to call the pip of this Python: by its name only where that is the one meant."""
    found = shutil.which("pip")
    own = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip" if own else f"{shlex.quote(sys.executable)} -m pip"


def _answer(asked: Asked) -> str:
    return asked.found.name if asked.found else asked.name


def _one_of(seen: Seen, here: Surroundings) -> str:
    """Return the one to install of several: not the usual one, which somebody added to."""
    chosen = next(d for d in reversed(seen.distributions))
    asked = _asked_of(seen, here)
    return chosen.name + (asked.versions if asked else "")


def _asked_or_same(seen: Seen, here: Surroundings) -> str:
    asked = _asked_of(seen, here)
    return seen.name + (asked.versions if asked else f"=={seen.version}")


def _asked_of(seen: Seen, here: Surroundings) -> Asked | None:
    return next((a for a in here.asked or () if _answer(a) == seen.name), None)


def _is_needed(seen: Seen, here: Surroundings) -> bool:
    """Whether reparam, or what it asks for, needs a package; onnx needs protobuf."""
    return _asked_of(seen, here) is not None or seen.module == "google.protobuf"


def _is_new(asked: Asked, here: Surroundings, names: set[str]) -> bool:
    known = {name for package in PACKAGES for name in package.distributions}
    met = {_answer(unmet) for unmet in here.unmet}
    return asked.name in known and _answer(asked) not in met | names


def _quoted(wanted: Sequence[str]) -> str:
    return " ".join(f'"{text}"' if set(text) & set("<>=!~,") else text for text in wanted)
