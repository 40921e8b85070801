"""Single ONNX nodes evaluated by onnx itself, for operators that the project has no rule for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.onnx_model import import_onnx
from reparam.errors import ExportError

Array = npt.NDArray[Any]

_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def evaluate_node(node: bytes, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Return the outputs of one node, computed by onnx's reference in the dtypes of the inputs.

    Args:
        node: a serialized ``onnx.NodeProto`` without subgraphs.
        inputs: in its order, None where one is left out.
        opset: version of the standard domain.

    Raises:
        ExportError: the reference does not know the operator, fails, or gives a sequence.
    """
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.ParseFromString(node)
    given = {f"x{at}": array for at, array in enumerate(inputs) if array is not None}
    proto.input[:] = ["" if array is None else f"x{at}" for at, array in enumerate(inputs)]
    wanted = [name for name in proto.output if name]
    make = onnx.helper.make_empty_tensor_value_info
    graph = onnx.helper.make_graph(
        [proto], "one", [make(name) for name in given], [make(name) for name in wanted]
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    if proto.domain not in ("", "ai.onnx"):
        opsets.append(onnx.helper.make_opsetid(proto.domain, 1))
    try:
        with np.errstate(all="ignore"):
            model = onnx.helper.make_model(graph, opset_imports=opsets)
            found = ReferenceEvaluator(model).run(None, given)
    except _FAILURES as error:
        raise ExportError(
            f"onnx's reference cannot evaluate {proto.op_type}", found=str(error)[:200]
        ) from error
    if not all(isinstance(value, np.ndarray | np.generic) for value in found):
        raise ExportError(f"{proto.op_type} gives what is no tensor")
    by_name = dict(zip(wanted, found, strict=True))
    return [np.asarray(by_name.get(name, np.zeros(0))) for name in proto.output]
