"""The operators of a static program, looked at before anything relies on their form.

Paddle 3 writes an operator as an object: ``#`` its name, ``A`` its attributes, ``I`` its inputs,
``O`` its outputs. A parameter is one of the name ``p``, its attributes a list of four, the last
of which is a name, its output one with a type and a shape.
"""

from __future__ import annotations

from typing import Any

from reparam.errors import ExportError

OPERATORS = 500_000
"""As many as a graph may have nodes (:mod:`reparam.graph.looking`)."""
AXES = 32
"""Of one array: NumPy before version 2 has no more."""

_NAME = 3  # where the attributes of a parameter have its name


def operators_of(content: Any) -> list[Any]:
    """Return the operators of a program, as parsed from JSON, in the form that they must have.

    Raises:
        ExportError: they have another one.
    """
    try:
        operators = content["program"]["regions"][0]["blocks"][0]["ops"]
    except (KeyError, IndexError, TypeError) as error:
        raise _unlike("it has no list of operators") from error
    if not isinstance(operators, list) or len(operators) > OPERATORS:
        raise _unlike(f"its operators are no list of at most {OPERATORS:,}")
    for number, operator in enumerate(operators):
        found = _fault(operator)
        if found:
            raise _unlike(f"operator {number} {found}")
    return operators


def _fault(operator: Any) -> str:
    """Return what of an operator is not as it must be, or nothing."""
    if not isinstance(operator, dict) or not isinstance(operator.get("#"), str):
        return "has no name '#'"
    if operator["#"] == "p":
        return _fault_of_parameter(operator)
    operands, attributes = operator.get("I"), operator.get("A")
    if not isinstance(operands, list) or not all(map(_is_numbered, operands)):
        return "has no list of numbered inputs 'I'"
    if not isinstance(attributes, list) or not all(map(_is_attribute, attributes)):
        return "has no list of named attributes 'A'"
    return ""


def _fault_of_parameter(operator: dict[str, Any]) -> str:
    attributes, output = operator.get("A"), operator.get("O")
    if not isinstance(attributes, list) or not isinstance(_at(attributes, _NAME), str):
        return "is a parameter without a name in 'A'"
    if not isinstance(output, dict) or not _is_numbered(output):
        return "is a parameter without a numbered output 'O'"
    told = _at(output.get("TT"), "D")
    dtype, shape = _at(told, 0), _at(told, 1)
    if not isinstance(_at(dtype, "#"), str):
        return "is a parameter whose type has no 'D' with a data type"
    if not isinstance(shape, list) or len(shape) > AXES or not all(map(_is_size, shape)):
        return f"is a parameter whose shape is no list of at most {AXES} numbers"
    return ""


def _at(holder: Any, key: Any) -> Any:
    """Return an entry of a list or an object, None where there is none."""
    try:
        return holder[key] if isinstance(holder, dict | list) else None
    except (KeyError, IndexError, TypeError):
        return None


def _is_numbered(value: Any) -> bool:
    return isinstance(_at(value, "%"), int)


def _is_attribute(entry: Any) -> bool:
    """Whether it has a name and a value; a list of scales is one of typed values."""
    value = _at(entry, "AT")
    if not isinstance(_at(entry, "N"), str) or not isinstance(_at(value, "#"), str):
        return False
    scales = _at(value, "D") if entry["N"] == "scale" else None
    return not isinstance(scales, list) or all(isinstance(_at(s, "#"), str) for s in scales)


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool)


def _unlike(found: str) -> ExportError:
    return ExportError("the program is not as paddle 3 writes it", found=found)
