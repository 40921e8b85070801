"""Which versions of paddle and paddle2onnx install together and convert: try each pair, tell.

    python tools/version_table.py                             every pair of PAIRS
    python tools/version_table.py 3.2.2+2.1.0 3.3.1+2.1.0     these
    python tools/version_table.py --python python3.10 --folder /somewhere

Each pair gets an environment of its own (1.1 GB and one to two minutes), which is deleted before
the next is made. In it, every case of ``version_cases.py`` runs in a process that may die. One
JSON line a pair is printed as soon as it is known, and a table in Markdown at the end. Exit 1 if
no pair passed every case.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES_FILE = Path(__file__).with_name("version_cases.py")
CASES = ("plain", "upsampling", "nms", "export", "detector")
PAIRS = tuple(
    (paddle, converter)
    for paddle in ("3.0.0", "3.1.0", "3.1.1", "3.2.0", "3.2.1", "3.2.2", "3.3.0", "3.3.1")
    for converter in ("2.0.1", "2.1.0")
)
REST = ("onnxruntime>=1.18,<2", "onnx-ir>=0.1.12,<2", "onnx>=1.16.1", "click>=8.1,<9",
        "numpy>=1.24,<3", "pyyaml>=6,<7", "rich>=13,<16", "ml_dtypes>=0.5,<1",
        "safetensors>=0.4.3,<1", "setuptools")  # fmt: skip
SHOWN = ("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime", "numpy")
INSTALL_S, CASE_S = 900, 300

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STATED = re.compile(r"\[ERROR\]|\b\w*(?:Error|Exception)\b|\berror:", re.IGNORECASE)
_LABELS = re.compile(r"^(?:[\d: -]*\[(?:ERROR|Paddle2ONNX)\]|error:|\s)*", re.IGNORECASE)
_IN_CODE = re.compile(r'^File "|^\S+\(|^raise |^self\.')


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
        passed: it ended with 0 and said its line.
        detail: what it said, or its first error.
    """

    passed: bool
    detail: str


@dataclass(frozen=True)
class Row:
    """What came of one pair.

    Attributes:
        paddle: its version.
        paddle2onnx: its version.
        python: the version of the interpreter.
        installed: versions that pip chose, by package; empty where it found none.
        cases: outcomes by name.
        failed: why there is no environment, if so.
    """

    paddle: str
    paddle2onnx: str
    python: str
    installed: Mapping[str, str] = field(default_factory=dict)
    cases: Mapping[str, Outcome] = field(default_factory=dict)
    failed: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return not self.failed and all(case.passed for case in self.cases.values())


def outcome(status: int, log: str) -> Outcome:
    """Return what came of a case whose process ended so, and wrote this."""
    lines = [line for raw in log.splitlines() if (line := _COLOUR.sub("", raw).strip())]
    if status == 0:
        told = _last_object(lines)
        if told is not None:
            return Outcome(True, str(told["detail"]))
        return Outcome(False, "ended with 0 and said nothing")
    ending = f"{signal.Signals(-status).name}: " if status < 0 else ""
    return Outcome(False, ending + first_error(lines))


def first_error(lines: Sequence[str]) -> str:
    """Return the first line that states an error, else the last one."""
    stated = [line for line in lines if _STATED.search(line) and not _IN_CODE.search(line)]
    for line in (*stated, *lines[-1:]):
        if text := _LABELS.sub("", line):
            return text
    return "it printed nothing"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown, with what failed below it."""
    head = ["paddlepaddle", "paddle2onnx", "onnx", "onnxruntime", *CASES]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    below: dict[str, list[str]] = {}
    for row in rows:
        cells = [row.paddle, row.paddle2onnx]
        cells += [row.installed.get(name, "-") for name in ("onnx", "onnxruntime")]
        cells += [_cell(row, case) for case in CASES]
        lines.append("| " + " | ".join(cells) + " |")
        pair = f"{row.paddle}+{row.paddle2onnx}"
        failures = {"installing": row.failed} if row.failed else {
            name: case.detail for name, case in row.cases.items() if not case.passed
        }  # fmt: skip
        for name, detail in failures.items():
            below.setdefault(f"{name}: {detail}", []).append(pair)
    return "\n".join(lines + [""] + [f"- {why} ({', '.join(at)})" for why, at in below.items()])


def _cell(row: Row, case: str) -> str:
    found = row.cases.get(case)
    return "-" if found is None else "yes" if found.passed else "**no**"


def _last_object(lines: Sequence[str]) -> Any:
    try:
        told = json.loads(lines[-1])
    except (ValueError, IndexError):
        return None
    return told if isinstance(told, dict) and "detail" in told else None


def run(command: Sequence[str], seconds: float, cwd: Path | None = None) -> tuple[int, str]:
    """Return the exit status and the output of a process; 124 if it took too long."""
    with tempfile.TemporaryFile() as log:  # a file: nothing that inherits it can block us
        try:
            done = subprocess.run(  # noqa: S603 - interpreters and scripts that are named above
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=cwd, timeout=seconds,
            )  # fmt: skip
            status, last = done.returncode, b""
        except subprocess.TimeoutExpired:
            status, last = 124, f"\nerror: still running after {seconds:g} s".encode()
        log.seek(0)
        return status, (log.read() + last).decode(errors="replace")


def try_pair(paddle: str, converter: str, python: str, wheel: str, folder: Path) -> Row:
    """Make an environment in a folder of its own, run every case in it, and delete it."""
    about = (paddle, converter, _version_of(python))
    with tempfile.TemporaryDirectory(prefix="reparam-pair-", dir=folder) as name:
        place = Path(name, "venv")
        inside = str(place / "bin" / "python")
        wanted = [f"paddlepaddle=={paddle}", f"paddle2onnx=={converter}", *REST]
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = (
            [python, "-m", "venv", str(place)],
            [*install, "--prefer-binary", *wanted],
            [*install, "--no-deps", wheel],
        )
        for step in steps:
            status, log = run(step, INSTALL_S)
            if status != 0:
                lines = [line for line in log.splitlines() if "WARNING" not in line]
                return Row(*about, failed=first_error([line.strip() for line in lines]))
        outcomes = {
            case: outcome(*run([inside, str(CASES_FILE), case], CASE_S, Path(name)))
            for case in CASES
        }
        return Row(*about, _installed(inside), outcomes)


def make_wheel(folder: Path) -> str:
    """Return the path of a wheel of this checkout, in which building it leaves nothing."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("reparam", "models"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--wheel-dir", str(folder), str(copy)]  # fmt: skip
    status, log = run(command, INSTALL_S)
    if status:
        sys.exit(f"error: no wheel of this checkout: {log.strip()}")
    return str(next(folder.glob("*.whl")))


def _installed(python: str) -> dict[str, str]:
    asked = f"from importlib.metadata import version as v; print(*map(v, {SHOWN!r}))"
    status, log = run([python, "-c", asked], 60)
    return {} if status else dict(zip(SHOWN, log.split(), strict=True))


def _version_of(python: str) -> str:
    status, log = run([python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"], 60)
    if status:
        sys.exit(f"error: '{python}' is no Python: {log.strip()}")
    return log.strip()


def main(arguments: Sequence[str]) -> int:
    """Try the pairs that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", nargs="*", help="PADDLE+PADDLE2ONNX, such as 3.3.1+2.1.0")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args(arguments)
    pairs = [tuple(pair.split("+")) for pair in chosen.pairs] or list(PAIRS)
    if any(len(pair) != 2 for pair in pairs):
        parser.error("a pair is PADDLE+PADDLE2ONNX, such as 3.3.1+2.1.0")
    rows = []
    with tempfile.TemporaryDirectory(prefix="reparam-wheel-", dir=chosen.folder) as name:
        wheel = make_wheel(Path(name))
        for paddle, converter in pairs:
            rows.append(try_pair(paddle, converter, chosen.python, wheel, chosen.folder))
            print(json.dumps(asdict(rows[-1])), flush=True)
    print(table(rows))
    return 0 if any(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
