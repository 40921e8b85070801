"""Graphs that are valid but for one to five mutations, each of which looks sane by itself.

    python -m tests.hostile.onnx_fuzzing 100000 [SEED]

The mutants are inspected and fused without being run, in one process that is started anew when it
dies. Prints how many were used, refused by the reader and refused later, and what went wrong.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from reparam.errors import GraphError, ReparamError
from reparam.graph.files import open_model
from reparam.graph.inspecting import inspect_onnx
from reparam.graph.pipeline import fuse_onnx
from reparam.supervision import Child
from tests.graph.full_models import full_model
from tests.graph.networks import low_rank, nothing, repvgg

Choice = random.Random
SIZES = (0, 1, 2, 3, 4, 7, 8, 16, -1, 31, 1 << 31, 1 << 40)
OPERATORS = ("Add", "Mul", "Sub", "Conv", "MatMul", "Relu", "Concat", "Reshape", "Identity", "Sum")
TYPES = (1, 10, 11, 7, 6, 9, 16)
USED, READER, LATER = "used", "refused by the reader", "refused later"


def outcome_of(content: bytes) -> str:
    """Return what becomes of a file; what is no error of reparam is raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.onnx")
        path.write_bytes(content)
        try:
            open_model(path)
        except ReparamError:
            return READER
        try:
            inspect_onnx(path)
            fuse_onnx(path, dry_run=True)
        except ReparamError:
            return LATER
        return USED


def mutants(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield mutated files, each with the names of what was done to it."""
    bases = [make() for make in (repvgg, low_rank, nothing, full_model)]
    for index in range(number):
        choice = random.Random(f"{seed} {index}")
        model = onnx.ModelProto()
        model.CopyFrom(choice.choice(bases))
        done = [choice.choice(MUTATIONS) for _ in range(choice.randint(1, 5))]
        for mutate in done:
            mutate(model, choice)
        name = f"{index}: {', '.join(mutate.__name__ for mutate in done)}"
        yield name, model.SerializeToString()


def run(number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Return how many files had each outcome, and what went wrong otherwise."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    waiting = mutants(number, seed)
    while True:
        with Child("tests.hostile.onnx_fuzzing:outcome_of", 60, 2 << 30, what="died") as child:
            for name, content in waiting:
                try:
                    outcomes[child.call(content)] += 1
                except GraphError as error:  # the process is gone, and the next one goes on
                    wrong.append(f"{name}: {error.found}")
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                    wrong.append(f"{name}: {error!r}")
            else:
                return outcomes, wrong


def _node(model: Any, choice: Choice) -> Any:
    return choice.choice(model.graph.node)


def change_size_of_input(model: Any, choice: Choice) -> None:
    dims = choice.choice(model.graph.input).type.tensor_type.shape.dim
    if dims:
        choice.choice(dims).dim_value = choice.choice(SIZES)


def change_size_of_weight(model: Any, choice: Choice) -> None:
    tensor = choice.choice(model.graph.initializer) if model.graph.initializer else None
    if tensor is not None and tensor.dims:
        order = list(tensor.dims)
        choice.shuffle(order)
        tensor.dims[:] = order


def change_attribute(model: Any, choice: Choice) -> None:
    attributes = list(_node(model, choice).attribute)
    for attribute in attributes[:1]:
        if attribute.ints:
            at = choice.randrange(len(attribute.ints))
            attribute.ints[at] = choice.choice(SIZES)
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = choice.choice(SIZES)
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = choice.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))


def drop_attribute(model: Any, choice: Choice) -> None:
    node = _node(model, choice)
    if node.attribute:
        del node.attribute[choice.randrange(len(node.attribute))]


def swap_inputs(model: Any, choice: Choice) -> None:
    node = _node(model, choice)
    order = list(node.input)
    choice.shuffle(order)
    node.input[:] = order


def drop_input(model: Any, choice: Choice) -> None:
    node = _node(model, choice)
    if len(node.input) > 1:
        del node.input[-1]


def read_another_value(model: Any, choice: Choice) -> None:
    names = [value.name for value in model.graph.input]
    names += [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in node.output if name]
    node = _node(model, choice)
    if node.input:
        node.input[choice.randrange(len(node.input))] = choice.choice(names)


def change_operator(model: Any, choice: Choice) -> None:
    _node(model, choice).op_type = choice.choice(OPERATORS)


def change_type(model: Any, choice: Choice) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    choice.choice(values).type.tensor_type.elem_type = choice.choice(TYPES)


def change_opset(model: Any, choice: Choice) -> None:
    model.opset_import[0].version = choice.choice((1, 8, 11, 13, 17, 18, 21, 99))


def insert_identity(model: Any, choice: Choice) -> None:
    node = _node(model, choice)
    if node.input:
        name = f"i{choice.randrange(1 << 30)}"
        model.graph.node.add(op_type="Identity", input=[node.input[0]], output=[name])
        node.input[0] = name


def forget_shape(model: Any, choice: Choice) -> None:
    choice.choice(model.graph.output).type.tensor_type.ClearField("shape")


def give_out_another_value(model: Any, choice: Choice) -> None:
    made = [name for node in model.graph.node for name in node.output if name]
    model.graph.output[0].name = choice.choice(made)


MUTATIONS: tuple[Callable[[Any, Choice], None], ...] = (
    change_size_of_input, change_size_of_weight, change_attribute, drop_attribute, swap_inputs,
    drop_input, read_another_value, change_operator, change_type, change_opset, insert_identity,
    forget_shape, give_out_another_value,
)  # fmt: skip

if __name__ == "__main__":
    found, faults = run(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    print(dict(found))
    print(*faults, sep="\n")
