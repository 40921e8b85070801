"""Mutated checkpoint files, and a process that loads them while it is watched.

    python -m tests.checkpoint.fuzzing FOLDER COUNT SEED [unsafe]

writes COUNT mutants one after another into FOLDER and loads each. It prints one JSON object, with
the reproducer of whatever went wrong. File number i of a seed is the same in every run. With
``unsafe`` the standard unpickler loads the files instead, to show that the watching finds it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import sys
from collections import Counter, OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np

from reparam.architectures import recognise
from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.pickle_writer import write_pickle
from reparam.errors import ReparamError
from tests.checkpoint.torch_files import (
    FORMS,
    Name,
    every_dtype,
    legacy,
    rebuilt,
    storage,
    tensor,
    tensors,
    typed,
    view,
    without_sums,
    zipped,
)

ROOM = 256 << 20  # bytes of address space that the files, of a few kB each, may cost
TOUCHED = 1 << 20  # bytes of an array that is read whole
SECONDS = 5  # that one file may take
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
               2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
WATCHED = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "ctypes.", "shutil.",
           "pickle.find_class", "marshal.", "builtins.input", "tempfile.", "code.__new__",
           "function.__new__", "object.__", "sys.")  # fmt: skip


class Call:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def block(seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {"b.conv1.conv.weight": rng.normal(size=(2, 2, 3, 3)).astype(dtype),
              "b.conv2.conv.weight": rng.normal(size=(2, 2, 1, 1)).astype(dtype)}  # fmt: skip
    for branch in ("conv1", "conv2"):
        for name in ("weight", "bias", "_mean", "_variance"):
            arrays[f"b.{branch}.bn.{name}"] = rng.uniform(0.5, 1, 2).astype(dtype)
    return arrays


def values() -> list[object]:
    """What trainers pickle: flat, named, nested, sliced, and what belongs to no weights."""
    named = {key: Call(tuple, [f"p_{key}", array]) for key, array in block(1).items()}
    slices = {
        "w@@.0": np.ones(4),
        "w@@.1": np.ones(2),
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}},
    }
    optimizer = {"w_moment1_0": np.ones(3), "LR_Scheduler": {"last_epoch": 1, "last_lr": 0.1}}
    return [
        {**block(0), "StructuredToParameterName@@": {key: f"p_{key}" for key in block(0)}},
        OrderedDict(model=named, ema=block(2), optimizer=optimizer, epoch=3, best=None),
        {f"Student.{k}": a for k, a in block(3).items()} | {"Teacher.w": np.float32(1)},
        {"module.a": Call(eval, "data", {"data": np.ones((2, 3))}), **slices},
        {"a": np.asfortranarray(np.ones((2, 3))), "b": np.arange(3, dtype=">i4"), "": np.zeros(0)},
        {k: a.view(np.uint16) for k, a in block(4, "float16").items()},
        {"conv.weight_quanter._scale": np.ones(1), "conv.weight": np.ones((1, 1, 1, 1))},
        optimizer,
    ]


def values_of_torch() -> list[object]:
    """What trainers save with torch.save."""
    held = storage(np.arange(60, dtype=np.float32))
    views = {"a": view(held, 3, (4, 3), (1, 4)), "b": view(held, 0, (2, 5, 3), (0, 9, 2)),
             "c": view(held, 59, (), ()), "d": view(held, 0, (0, 2), (2, 1))}  # fmt: skip
    state = OrderedDict(tensors({f"module.{key}": array for key, array in block(7).items()}))
    state._metadata = OrderedDict({"": {"version": 2}})
    args = argparse.Namespace(out=PurePosixPath("a"), kinds={1, 2}, dtype=Name("torch", "float16"))
    optimizer = {"state": {0: {"exp_avg": tensor(np.ones(3))}}, "param_groups": [{"lr": 0.1}]}
    return [
        state,
        {"state_dict": tensors(block(8)), "state_dict_ema": tensors(block(9)), "args": args,
         "optimizer": optimizer, "rng_state": tensor(np.zeros(9, np.uint8)), "epoch": 3},
        {**views, **tensors(every_dtype())},
        {"p": rebuilt("_rebuild_parameter", views["a"], True, OrderedDict()),
         "u": typed(np.ones(3, np.uint16), "uint16")},
        optimizer,
    ]  # fmt: skip


def attacks() -> list[bytes]:
    """Files that run something when they are unpickled; parts of them get into the mutants."""
    calls = [Call(os.system, "touch PWNED"), Call(exec, "open('PWNED', 'w')"),
             Call(open, "PWNED", "w"), Call(__import__, "antigravity")]  # fmt: skip
    found = [pickle.dumps({"w": call}, protocol=p) for call in calls for p in (2, 4)]
    return found + [form({"w": call}) for call in calls for form in FORMS.values()]


def seeds(folder: Path) -> list[bytes]:
    """Return whole files of every kind."""
    found = [pickle.dumps(value, protocol=p) for value in values() for p in (2, 3, 4, 5)]
    stream = io.BytesIO()
    write_pickle(stream, block(5).items(), {"b.conv1.conv.weight": "conv2d_0.w_0"})
    found.append(stream.getvalue())
    for number, arrays in enumerate((block(6), {"model.w": np.ones((2, 2), np.float16)})):
        path = folder / f"{number}.safetensors"
        save_checkpoint(path, arrays, metadata={"format": "pd"})
        found.append(path.read_bytes())
        path.unlink()
    for value in values_of_torch():
        for protocol in (2, 4):
            found += [legacy(value, protocol=protocol), zipped(value, protocol=protocol)]
            found.append(without_sums(found[-1]))
    return found


class Builder:
    """Random objects of the kinds that checkpoints are made of, put together wrongly."""

    KEYS = ("model", "ema", "student", "teacher", "Student.w", "Teacher.w", "module.w", "module.b",
            "state_dict", "optimizer", "LR_Scheduler", "master_weights", "epoch", "w", "b", "", ".",
            "w@@.0", "w@@.1", "OriginShape", "slices", "StructuredToParameterName@@",
            "UnpackBigParamInfor@@", "w_moment1_0", "weight_quanter", "a.weight_quanter._scale",
            *block(0))  # fmt: skip

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.made: list[object] = []

    def object(self, depth: int = 0) -> object:
        kinds = (
            (self.mapping,) if depth == 0 else (self.mapping, self.array, self.array, self.plain)
        )
        if depth > 4:
            kinds = (self.array, self.plain)
        return self.rng.choice(kinds)(depth)

    def mapping(self, depth: int) -> dict:
        found: dict = {}
        self.made.append(found)  # so that it can hold itself
        for _ in range(self.rng.randrange(1, 7)):
            key = self.rng.choice((*self.KEYS, 3)) if self.rng.random() < 0.97 else 2**70
            again = self.made and self.rng.random() < 0.1
            found[key] = self.rng.choice(self.made) if again else self.object(depth + 1)
        return found

    def array(self, depth: int) -> object:
        shape = self.rng.choice(((), (1,), (4,), (2, 0), (2, 2, 3, 3), (2, 2, 1, 1), (1,) * 20))
        kind = self.rng.choice(("float32", "float64", "float16", "uint16", "int8", "bool", ">u2"))
        array = np.full(shape, self.rng.choice((0, 1, 1e30)) if kind == "float32" else 1, kind)
        self.made.append(array)
        return Call(tuple, ["name", array]) if self.rng.random() < 0.2 else array

    def plain(self, depth: int) -> object:
        return self.rng.choice((None, 3, -1, 2**70, 0.5, "w", "w@@.0", ["w@@.0", "w@@.1"], (2, 4),
                                [], (), (-1,), (2**70,), ["w", np.ones(2)], True))  # fmt: skip


class Mutator:
    """Mutants of whole files, each determined by its number."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.files = seeds(folder)
        self.of_torch = values_of_torch()
        self.donors = self.files + attacks()
        self.opcodes = [self._opcodes(data) for data in self.files]
        self.changes = (self._flip, self._set, self._cut, self._splice, self._opcode,
                        self._length, self._delete, self._repeat, self._digits)  # fmt: skip

    def mutant(self, number: int) -> bytes:
        rng = random.Random(f"{self.seed}/{number}")
        if rng.random() < 0.3:
            return pickle.dumps(Builder(rng).object(), protocol=rng.choice((2, 3, 4, 5)))
        if rng.random() < 0.2:
            return self._inside(rng)
        which = rng.randrange(len(self.files))
        data = bytearray(self.files[which])
        places = self.opcodes[which] or list(range(min(len(data), 400)))
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
            rng.choice(self.changes)(rng, data, places)
            if not data:
                return b"\x80"
        return bytes(data)

    def _inside(self, rng: random.Random) -> bytes:
        """A whole zip file of torch.save with a mutated pickle, or another entry, in it."""

        def change(entries: dict[str, bytes]) -> None:
            name = "data.pkl" if rng.random() < 0.9 else rng.choice(sorted(entries))
            data = bytearray(entries[name])
            places = self._opcodes(data) or list(range(len(data)))
            for _ in range(rng.choice((1, 1, 2, 5)) if data else 0):
                rng.choice(self.changes)(rng, data, places)
                if not data:
                    break
            entries[name] = bytes(data)

        return zipped(rng.choice(self.of_torch), protocol=rng.choice((2, 4)), change=change)

    @staticmethod
    def _opcodes(data: bytes) -> list[int]:
        """Where the instructions are, of each pickle in a row; of a zip file, of its first."""
        stream, found = io.BytesIO(data), []
        if data[:1] != b"\x80" and data[:2] != b"PK":
            return []
        stream.seek(data.index(b"\x80"))
        while data[stream.tell() : stream.tell() + 1] == b"\x80":
            found += [place for _, _, place in pickletools.genops(stream) if place is not None]
        return found

    @staticmethod
    def _flip(rng, data, places) -> None:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    @staticmethod
    def _set(rng, data, places) -> None:
        data[rng.randrange(len(data))] = rng.randrange(256)

    @staticmethod
    def _cut(rng, data, places) -> None:
        del data[rng.randrange(len(data)) :]

    def _splice(self, rng, data, places) -> None:
        donor = rng.choice(self.donors)
        start = rng.randrange(len(donor))
        part = donor[start : start + rng.choice((1, 4, 16, 64, 1000))]
        place = rng.choice((rng.choice(places), rng.randrange(len(data))))
        data[place : place + rng.choice((0, len(part)))] = part

    @staticmethod
    def _opcode(rng, data, places) -> None:
        place = min(rng.choice(places), len(data) - 1)
        data[place] = ord(rng.choice(pickletools.opcodes).code.encode("latin1"))

    @staticmethod
    def _length(rng, data, places) -> None:
        place = min(rng.choice(places), len(data) - 1) + 1
        layout = rng.choice(("<B", "<H", "<I", "<Q", ">Q"))
        number = rng.choice(INTERESTING) % (1 << 8 * struct.calcsize(layout))
        data[place : place + struct.calcsize(layout)] = struct.pack(layout, number)

    @staticmethod
    def _delete(rng, data, places) -> None:
        place = rng.randrange(len(data))
        del data[place : place + rng.randrange(1, 40)]

    @staticmethod
    def _repeat(rng, data, places) -> None:
        start = rng.randrange(len(data))
        part = bytes(data[start : start + rng.randrange(1, 200)])
        data[start:start] = part * rng.choice((1, 2, 50))

    @staticmethod
    def _digits(rng, data, places) -> None:
        """Another number in a text, such as the header of a .safetensors file."""
        digits = [i for i, byte in enumerate(data[:600]) if 0x30 <= byte <= 0x39]
        if digits:
            place = rng.choice(digits)
            data[place : place + 1] = str(rng.choice(INTERESTING)).encode()


class Watch:
    """An audit hook that notes what no loading of weights does: imports, calls, writing."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            mode, flags = arguments[1], arguments[2] or 0
            writing = any(letter in (mode or "") for letter in "wax+")
            if writing or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.seen.append(f"{event} {arguments}")
        elif event.startswith(WATCHED):
            self.seen.append(f"{event} {arguments}"[:200])


def load_unsafely(path: Path) -> str:
    """What every other tool does: the mutation that the watching has to catch."""
    try:
        pickle.loads(path.read_bytes())
    except Exception:  # noqa: BLE001
        return "refused"
    return "read"


def load(path: Path) -> str:
    try:
        checkpoint = load_checkpoint(path, accept_quantised=True)
        checkpoint.sha256  # noqa: B018 - waits for the check sums
        for array in checkpoint.arrays.values():
            if array.nbytes < TOUCHED:
                array.tobytes()
        find_blocks(checkpoint.shapes)
        recognise(checkpoint.shapes)
    except ReparamError as error:
        str(error)
        return type(error).__name__
    return "read"


def main(folder: Path, count: int, seed: int, loader=load) -> dict:
    mutator, path, watch = Mutator(folder, seed), folder / "x.pdparams", Watch()
    for data in mutator.files:  # whatever is imported late is imported now
        path.write_bytes(data)
        load(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    results: Counter[str] = Counter()
    problems = []
    for number in range(count):
        path.unlink()  # some file systems write a file to disk when it is written again
        path.write_bytes(mutator.mutant(number))
        signal.alarm(SECONDS)
        watch.on = True
        try:
            results[loader(path)] += 1
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
            problems.append(f"seed {seed}, file {number}: {error!r}")
        finally:
            watch.on = False
            signal.alarm(0)
        problems += [f"seed {seed}, file {number}: {event}" for event in watch.seen]
        watch.seen.clear()
    path.unlink()
    left = sorted(p.name for p in folder.iterdir())
    return {"results": results, "problems": problems[:20], "left": left}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _too_long)
    os.chdir(sys.argv[1])
    chosen = load_unsafely if sys.argv[4:] == ["unsafe"] else load
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), chosen)))
