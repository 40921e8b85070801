"""What ``reparam doctor`` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from reparam.environment.abilities import NEEDED
from reparam.environment.asking import FAILS, WORKS
from reparam.environment.diagnosis import Diagnosis
from reparam.environment.installed import Asked
from reparam.environment.packages import BROKEN, MISSING, Seen
from reparam.environment.surroundings import Cores

Row = tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    columns: Row
    rows: Sequence[Row]


def print_report(found: Diagnosis) -> None:
    """Print a diagnosis; where rich is what is broken, as plain lines."""
    parts: list[_Table | str] = [
        f"reparam {found.reparam}, Python {found.here.python}, {found.platform}",
        _packages(found),
        *_notes(found),
        *_devices(found),
        _cores(found.here.cores),
        *_faults(found),
        _Table(
            ("command", "here", "because"),
            [(a.name, "yes" if a.works else "no", a.because) for a in found.abilities],
        ),
    ]
    with_rich = found.here.seen["rich"].state == WORKS
    for number, part in enumerate(parts):
        if number and not (isinstance(part, str) and isinstance(parts[number - 1], str)):
            click.echo()
        _print(part, with_rich)
    click.echo()
    click.echo(_end(found))  # whole, to be copied


def _print(part: _Table | str, with_rich: bool) -> None:
    if not with_rich:
        rows = [part.columns, *part.rows] if isinstance(part, _Table) else [(part,)]
        for row in rows:
            click.echo("  ".join(row).rstrip())
        return
    from reparam.commands.tables import stdout, table

    console = stdout()
    if isinstance(part, str):
        console.print(part)
        return
    grid = table(*part.columns)
    for row in part.rows:
        grid.add_row(*row)
    console.print(grid)


def _packages(found: Diagnosis) -> _Table:
    here = found.here
    asked = {a.found.name if a.found else a.name: a for a in here.asked or ()}
    rows = [
        (
            seen.name,
            seen.version,
            asked[seen.name].versions if seen.name in asked else "",
            _state(seen, asked.get(seen.name), here.quick),
        )
        for seen in here.seen.values()
        if seen.module != "reparam"
    ]
    own = here.seen["reparam"]
    rows.insert(0, (own.name, own.version, "", _state(own, None, here.quick)))
    return _Table(("package", "version", "asked for", "state"), rows)


def _state(seen: Seen, asked: Asked | None, quick: bool) -> str:
    if seen.state == MISSING:
        return "missing" if seen.module in NEEDED else "missing, not needed"
    if seen.state == BROKEN:
        return f"cannot be imported: {seen.found}" + _other_version(asked)
    said = [f"{s.name} fails: {s.found}" for s in seen.steps.values() if s.state == FAILS]
    tried = any(s.state == WORKS for name, s in seen.steps.items() if name != "import")
    said = said or ["works" if tried and not quick else "imports"]
    if len(seen.distributions) > 1:
        said.append("beside " + ", ".join(f"{d.name} {d.version}" for d in seen.distributions[1:]))
    if not seen.distributions:
        said.append(f"without metadata, from {seen.where}")
    return "; ".join(said) + _other_version(asked)


def _other_version(asked: Asked | None) -> str:
    return "" if asked is None or asked.fits else "; another version is asked for"


def _notes(found: Diagnosis) -> list[str]:
    notes = [
        f"{by} asks for {asked.name}{asked.versions}: "
        + (f"{asked.found.version} is here" if asked.found else "it is missing")
        for by, asked in found.here.conflicts
    ]
    if found.here.asked is None:
        notes.append("reparam is not installed, so what it asks for is not known")
    return notes


def _devices(found: Diagnosis) -> list[_Table | str]:
    parts: list[_Table | str] = []
    paddle = found.here.seen["paddle"]
    if paddle.state_of("conv") == WORKS:
        gpus = paddle.value("conv", "gpus")
        cuda = f"with CUDA, {gpus} GPU(s) here" if paddle.value("conv", "cuda") else "without CUDA"
        parts.append(f"{paddle.name} runs on the CPU; compiled {cuda}")
    providers = found.here.seen["onnxruntime"].providers
    if providers and not found.here.quick:
        rows = [
            (p.name, "loads" if p.loads else f"named, but does not load: {p.found}")
            for p in providers
        ]
        parts.append(_Table(("execution provider of onnxruntime", "state"), rows))
    return parts


def _cores(cores: Cores) -> str:
    quota = "no quota" if cores.quota is None else f"a quota of {cores.quota:g}"
    memory = (
        "no limit of memory"
        if cores.memory_limit is None
        else f"{cores.memory_limit / 2**30:.1f} GiB of memory"
    )
    variables = "".join(f", {name}={value}" for name, value in cores.variables.items())
    return (
        f"{cores.logical} logical cores, {cores.allowed} in the affinity mask, {quota}, {memory}"
        f"{variables}\nonnxruntime sizes its threads from the host; "
        f"what fits here, and is the default: reparam bench --threads {cores.usable}"
    )


def _faults(found: Diagnosis) -> list[_Table | str]:
    if not found.faults:
        return ["none of the known faults applies"]
    order = sorted(found.faults, key=lambda fault: fault.by_reparam)  # what is left to do first
    rows = [
        (
            fault.id,
            f"{fault.what}: {fault.consequence}\n"
            f"{'nothing is left to do' if fault.by_reparam else 'to mend it'}: {fault.mended}",
        )
        for fault in order
    ]
    return [_Table(("known fault", "what goes wrong, and what mends it"), rows)]


def _end(found: Diagnosis) -> str:
    lines = []
    bad = [ability for ability in found.abilities if not ability.works]
    if found.works:
        lines.append("everything works here")
    else:
        lines.append(f"{len(bad)} of {len(found.abilities)} do not work here")
    if found.mend:
        lines.append(f"what pip can mend:\n  {found.mend}")
    elif bad:
        lines.append("nothing of that can be mended by pip")
    return "\n".join(lines)
