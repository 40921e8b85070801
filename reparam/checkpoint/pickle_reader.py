"""Reading a pickle of named arrays without running it.

A ``.pdparams`` file is a pickle, a ``.pth`` file holds one, and a pickle is a program: the standard
loader calls whatever function the file names. This interpreter knows the few instructions that
array checkpoints are made of, builds arrays as views of the memory-mapped file, and looks up no
function at all: the names a checkpoint may use are rows of a table, and any other name ends the
reading.

Source: the opcode list of PEP 3154 and of CPython's ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from reparam.checkpoint.pickle_objects import (
    ARRAYS,
    LONGEST_NAME,
    ArrayToCome,
    DtypeToCome,
    Name,
    Record,
    Vocabulary,
    array_of,
    named_pairs,
    with_byte_order,
)
from reparam.checkpoint.pickle_records import is_record, refuse_name
from reparam.errors import CheckpointError

_MARK = object()


def read_pickle(buffer: memoryview) -> Any:
    """Return the object that a pickle of arrays describes: dicts, lists, tuples, arrays, scalars.

    Arrays are read-only views of ``buffer``. Other objects that trainers save along are empty
    records, see ``pickle_records``.

    Raises:
        UnsafeCheckpointError: the file names a function or class that weights do not need.
        CheckpointError: the bytes are no complete pickle of protocol 2 to 5.
    """
    return unpickled(buffer, ARRAYS)[0]


def unpickled(buffer: memoryview, words: Vocabulary, start: int = 0) -> tuple[Any, int]:
    """Return the object that the pickle at ``start`` describes, and where that pickle ends.

    Args:
        words: what the names in it stand for.

    Raises:
        CheckpointError: as :func:`read_pickle`.
    """
    machine = _Machine(buffer, words, start)
    try:
        return machine.run(), machine.position
    except (IndexError, struct.error, KeyError) as error:
        raise CheckpointError(
            f"the pickle ends or breaks at byte {machine.position} of {len(buffer)}",
            found="a truncated or damaged file",
            hint="copy or download it again and compare the size",
        ) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the pickle is damaged at byte {machine.position} of {len(buffer)}",
            found=str(error),
        ) from error


class _Machine:
    """The stack machine, over one buffer."""

    def __init__(self, buffer: memoryview, words: Vocabulary, start: int) -> None:
        self.buffer = buffer
        self.words = words
        self.position = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        while True:
            opcode = self.buffer[self.position]
            self.position += 1
            if opcode == 0x2E:  # STOP
                return self.stack.pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise ValueError(f"instruction {opcode:#04x} does not occur in array checkpoints")
            step(self)

    def take(self, count: int) -> memoryview:
        """Return the next ``count`` bytes."""
        if count < 0 or self.position + count > len(self.buffer):
            raise IndexError("end of file")
        part = self.buffer[self.position : self.position + count]
        self.position += count
        return part

    def number(self, layout: str) -> int:
        return int(struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0])

    def line(self) -> str:
        start = bytes(self.buffer[self.position : self.position + LONGEST_NAME])
        text, newline, _ = start.partition(b"\n")
        if not newline and len(start) < LONGEST_NAME:
            raise IndexError("end of file")
        if not newline:
            raise ValueError("a name without an end")
        self.position += len(text) + 1
        return text.decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def drop(self) -> None:
        self.stack.pop()

    def since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        top = self.stack[-1]
        self.memo[index] = top
        if isinstance(top, ArrayToCome):
            top.places.append(index)

    def copy(self, values: Any) -> None:
        """Count what a call copies: whatever a file holds needs to be copied once at most."""
        self.copied += sum(len(v) for v in values if isinstance(v, str | list | tuple | dict))
        if self.copied > len(self.buffer):
            raise ValueError("the same contents are copied over and over")

    def complete(self, holder: ArrayToCome, array: np.ndarray[Any, Any]) -> None:
        """Put ``array`` where ``holder`` stands, once: a loop over its places is no loop in one."""
        if holder.completed:
            raise ValueError("an array that is given its contents twice")
        holder.completed = True
        self.stack[-1] = array
        for index in holder.places:
            self.memo[index] = array


def _text(layout: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(str(m.take(m.number(layout)), "utf-8", "surrogatepass"))


def _old_text(layout: str) -> Callable[[_Machine], None]:
    """Text or bytes of Python 2, which has one type for both."""
    return lambda m: m.push(str(m.take(m.number(layout)), "latin1"))


def _bytes(layout: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(layout)))


def _integer(layout: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.number(layout))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.push(value)


def _protocol(m: _Machine) -> None:
    version = m.number("B")
    if not 2 <= version <= 5:
        raise ValueError(f"pickle protocol {version}, not 2 to 5")


def _frame(m: _Machine) -> None:
    m.number("Q")  # a hint for readers of streams


def _float(m: _Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def _long(m: _Machine) -> None:
    m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True))


def _tuple(size: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        items = tuple(m.stack.pop() for _ in range(size))
        m.push(items[::-1])

    return step


def _set_items(m: _Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, Record):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items set on something that is no dict")
    target.update(named_pairs(zip(items[::2], items[1::2], strict=True)))


def _append(m: _Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, Record):
        return
    if not isinstance(target, list):
        raise ValueError("items appended to something that is no list")
    target.extend(items)


def _set_item(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, [key, value])


def _name(m: _Machine, module: Any, attribute: Any) -> None:
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise ValueError("a function whose name is no text")
    path = f"{module[:LONGEST_NAME]}.{attribute[:LONGEST_NAME]}"[:LONGEST_NAME]
    if not (path in m.words.calls or path in m.words.constants or is_record(path)):
        refuse_name(path, m.words.loads)
    m.push(Name(path))


def _global(m: _Machine) -> None:
    module, attribute = m.line(), m.line()
    _name(m, module, attribute)


def _stack_global(m: _Machine) -> None:
    attribute, module = m.stack.pop(), m.stack.pop()
    _name(m, module, attribute)


def _reduce(m: _Machine) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is no function")
    if function.path in m.words.calls:
        m.copy(arguments)
        m.push(m.words.calls[function.path](*arguments))
    elif is_record(function.path):
        m.push(Record())
    else:
        raise ValueError(f"a call of '{function.path}'")


def _new_object(m: _Machine) -> None:
    m.stack.pop()  # arguments
    kind = m.stack.pop()
    if not isinstance(kind, Name) or not is_record(kind.path):
        raise ValueError("an object of something that is no class")
    m.push(Record())


def _new_set(m: _Machine) -> None:
    m.since_mark()
    m.push(Record())


def _persistent(m: _Machine) -> None:
    if m.words.persistent is None:
        raise ValueError("a reference to something outside the pickle")
    m.push(m.words.persistent(m.stack.pop()))


def _build(m: _Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Record) or (isinstance(target, dict) and isinstance(state, dict)):
        return  # attributes of an object, such as the versions of the modules of a state dict
    if not isinstance(state, tuple):
        raise ValueError("state that is no tuple")
    if isinstance(target, ArrayToCome):
        shape, dtype, fortran, raw = state[-4:]
        if isinstance(raw, str):
            m.copy([raw])
        m.complete(target, array_of(shape, dtype, fortran is True, raw))
    elif isinstance(target, DtypeToCome):
        target.dtype = with_byte_order(target.dtype, state)
    else:
        raise ValueError("state for something that is neither an array nor a dtype")


_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("("): _constant(_MARK),
    ord("0"): lambda m: m.drop(),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): _constant(()),
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("K"): _integer("B"),
    ord("M"): _integer("H"),
    ord("J"): _integer("i"),
    0x8A: _long,
    ord("G"): _float,
    ord("X"): _text("I"),
    0x8C: _text("B"),
    0x8D: _text("Q"),
    ord("U"): _old_text("B"),
    ord("T"): _old_text("i"),
    ord("B"): _bytes("I"),
    ord("C"): _bytes("B"),
    0x8E: _bytes("Q"),
    0x96: _bytes("Q"),  # a bytearray, as protocol 5 writes array contents
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("s"): _set_item,
    ord("u"): lambda m: _set_items(m, m.since_mark()),
    ord("a"): lambda m: _append(m, [m.stack.pop()]),
    ord("e"): lambda m: _append(m, m.since_mark()),
    ord("h"): lambda m: m.get(m.number("B")),
    ord("j"): lambda m: m.get(m.number("I")),
    ord("q"): lambda m: m.put(m.number("B")),
    ord("r"): lambda m: m.put(m.number("I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    0x8F: lambda m: m.push(Record()),  # a set
    0x90: lambda m: _append(m, m.since_mark()),
    0x91: _new_set,
    ord("Q"): _persistent,
    ord("b"): _build,
}
