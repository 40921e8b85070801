"""Finding the weights in what a file holds: nested parts, wrapper prefixes, training leftovers.

A trainer saves weights under many layouts. The rules that choose among them, in this order:

1. What the user names with ``--prefix`` is used: a nested part, a prefix of names, or both.
2. State of an optimizer, counters and the like are never weights; they are left out and named.
3. Where several sets of weights stand side by side, the student is used beside a teacher, and the
   average (``ema``) beside the weights it was taken of: these are what gets deployed. Any other
   choice is refused.
4. A wrapper's name that stands before every key (``module.``, ``model.``) is taken off.

Only names are looked at, never values; arrays are handed on as the objects they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reparam.checkpoint.layouts import Layout, notices_of, quoted
from reparam.checkpoint.prefixes import DEEPEST, Arrays, under, unwrapped
from reparam.checkpoint.roles import (
    AVERAGED,
    QUANTISED,
    WEIGHTS,
    averaged_in,
    deployed_of,
    is_optimizer_state,
    is_quantised,
    is_training,
    kind_within,
)
from reparam.checkpoint.stored_forms import (
    NAME_TABLE,
    SLICE_TABLE,
    Unreadable,
    joined,
    stored_array,
    table_under,
)
from reparam.errors import CheckpointError, OptimizerStateError, PartError

_LONGEST_NAME = 1000  # characters; the longest in the field have about 100


@dataclass(frozen=True)
class Selected:
    """The weights that were found: arrays and Paddle's names of them, by the keys to use."""

    arrays: Arrays
    names: dict[str, str]
    layout: Layout


def find_weights(value: Any, wanted: str | None = None, room: int | None = None) -> Selected:
    """Return the weights in ``value``, which is what a file holds.

    Args:
        value: a dict of arrays, of dicts, and of whatever else was saved with them.
        wanted: the name of the part or the prefix to use, in place of the rules of this module.
        room: bytes that sliced arrays may take when they are put together.

    Raises:
        PartError: nothing stands under ``wanted``; or several sets of weights do, and no rule
            chooses between them.
        OptimizerStateError: the file holds nothing but the state of an optimizer.
        CheckpointError: it holds no weights, or a table in it contradicts the arrays.
    """
    if not isinstance(value, dict):
        raise CheckpointError("the file holds no dict of named weights")
    found, table = _select(value, wanted)
    notices = list(notices_of(found.layout))
    if wanted is not None and _is_default(value, found.layout):
        notices.append(f"--prefix {wanted} changed nothing: the same weights are used without it")
    arrays = joined(found.arrays, table, room)
    prefix = found.layout.prefix
    names = {key: found.names[prefix + key] for key in arrays if prefix + key in found.names}
    kind = QUANTISED if is_quantised(arrays) else found.layout.kind
    return Selected(arrays, names, replace(found.layout, kind=kind, notices=tuple(notices)))


def _is_default(value: dict[Any, Any], layout: Layout) -> bool:
    """Whether the rules choose the weights of ``layout`` by themselves."""
    try:
        default = _select(value, None)[0].layout
    except PartError:
        return False
    return (default.part, default.prefix) == (layout.part, layout.prefix)


def _select(value: dict[Any, Any], wanted: str | None) -> tuple[Selected, dict[str, Any] | None]:
    """Return what is used of ``value``, and the table of what is in slices there."""
    rest = [] if wanted is None else wanted.strip(".").split(".")
    if not all(rest):
        raise PartError(f"'{wanted}' is no prefix of names")
    holders = _Holders()
    node, layout, depth = value, Layout(wanted=wanted), 0
    while parts := holders.parts(node):
        name = _named(parts, rest) or averaged_in(node) or _chosen(tuple(parts), layout.part)
        layout = _entered(layout, node, name, tuple(parts))
        node, depth = parts[name], depth + 1
        if depth > DEEPEST:
            raise CheckpointError("weights are nested too deep", found=layout.part[:80])
    if is_optimizer_state(node):
        raise OptimizerStateError("the file holds the state of an optimizer, no weights")
    arrays, names, others = _weights(node)
    if not arrays:
        _refuse_without_weights(layout.left_out + others)
    layout = replace(layout, left_out=layout.left_out + others)
    if rest:
        arrays, layout = under(arrays, ".".join(rest), layout)
    arrays, layout = unwrapped(arrays, layout)
    table = table_under(node.get(SLICE_TABLE), layout.prefix)
    return Selected(arrays, names, layout), table


class _Holders:
    """Which dicts hold weights, each looked at once: files can hold one dict many times over."""

    def __init__(self) -> None:
        self.known: dict[int, bool] = {}

    def parts(self, node: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the dicts in ``node`` that hold weights, or nothing if ``node`` itself does."""
        parts = {
            str(key): item
            for key, item in node.items()
            if not is_training(str(key)) and self.holds(item, 0)
        }
        weight = next((key for key, item in node.items() if _is_weight(key, item)), None)
        if not parts or is_optimizer_state(node):
            return {}
        if weight is None:
            return parts
        raise PartError(
            "weights stand at two levels of the file",
            found=f"'{weight}' beside weights under {quoted(parts)}",
            hint=f"choose with --prefix: {quoted(parts)}",
        )

    def holds(self, item: Any, depth: int) -> bool:
        if not isinstance(item, dict) or depth > DEEPEST:
            return False
        if id(item) not in self.known:
            self.known[id(item)] = False  # a dict that holds itself is asked about only once
            self.known[id(item)] = not is_optimizer_state(item) and (
                any(_is_tensor(entry) for entry in item.values())
                or any(self.holds(entry, depth + 1) for entry in item.values())
            )
        return self.known[id(item)]


def _is_tensor(item: Any) -> bool:
    return isinstance(item, Unreadable) or stored_array(item) is not None


def _is_weight(key: Any, item: Any) -> bool:
    """Whether an entry beside nested weights is a weight itself, no counter such as an epoch."""
    array = stored_array(item)
    known = isinstance(key, str) and not is_training(key)
    return known and array is not None and array.size > 1


def _named(parts: Mapping[str, Any], rest: list[str]) -> str | None:
    """Return the part that the next wanted name means, and count that name as used."""
    for name in parts:
        if rest and name == rest[0]:
            return rest.pop(0)
        words = name.split(".")
        if len(words) > 1 and rest[: len(words)] == words:
            del rest[: len(words)]
            return name
    return None


def _chosen(names: tuple[str, ...], path: str) -> str:
    name = names[0] if len(names) == 1 else deployed_of(names)
    if name is not None:
        return name
    choices = tuple(f"{path}.{name}" if path else name for name in names)
    raise PartError(
        f"the file holds {len(names)} sets of weights, and nothing says which are meant",
        found=quoted(choices),
        hint=f"choose with --prefix, such as --prefix {choices[0]}",
    )


def _entered(layout: Layout, node: Mapping[Any, Any], name: str, names: tuple[str, ...]) -> Layout:
    """Note that the part ``name`` of ``node`` is used, and what is left out beside it."""
    others = tuple(str(key) for key in node if key not in (name, NAME_TABLE, SLICE_TABLE))
    path = f"{layout.part}." if layout.part else ""
    kind = kind_within(name, layout.kind)
    if averaged_in(node) is not None:
        kind = AVERAGED if name == averaged_in(node) else WEIGHTS
    return replace(
        layout,
        kind=kind,
        part=path + name,
        left_out=layout.left_out + tuple(path + other for other in others),
        choices=layout.choices + tuple(path + other for other in names if other != name),
    )


def _weights(node: Mapping[Any, Any]) -> tuple[Arrays, dict[str, str], tuple[str, ...]]:
    """Return the arrays of a state dict, Paddle's names of them, and what else it holds."""
    arrays: Arrays = {}
    names: dict[str, str] = {}
    others = []
    for key, item in node.items():
        array = stored_array(item)
        if isinstance(item, Unreadable):
            raise CheckpointError(
                f"'{str(key)[:80]}' is no plain array of numbers", found=item.kind,
                why="only dense real numbers can be fused, or carried over as they are",
            )  # fmt: skip
        if array is not None and not isinstance(key, str):
            raise CheckpointError("a weight has a name that is no text", found=f"'{key}'")
        if array is not None and len(key) > _LONGEST_NAME:
            raise CheckpointError(
                "a weight has a name that is too long",
                found=f"'{key[:80]}...', {len(key):,} characters; at most {_LONGEST_NAME:,}",
            )
        if array is not None:
            arrays[key] = array
            if isinstance(item, tuple):
                names[key] = item[0]
        elif key not in (NAME_TABLE, SLICE_TABLE):
            others.append(str(key))
    table = node.get(NAME_TABLE)
    if isinstance(table, dict):
        names |= {k: n for k, n in table.items() if isinstance(n, str) and isinstance(k, str)}
    return arrays, names, tuple(others)


def _refuse_without_weights(others: tuple[str, ...]) -> None:
    raise CheckpointError(
        "the file holds no weights",
        found=f"no array, but {quoted(others)}" if others else "an empty dict",
        hint="save the state dict: paddle.save(model.state_dict(), 'x.pdparams'), or "
        "torch.save(model.state_dict(), 'x.pth')",
    )
