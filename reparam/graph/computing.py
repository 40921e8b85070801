"""The numbers of a form, from those of what it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from reparam.graph.forms import Form, Law
from reparam.graph.laws import Summing
from reparam.graph.numbers import Numbers, Pointwise


def numbers_of(form: Form) -> Numbers:
    """Return the numbers of a form; each part is computed once, however often it is read."""
    done: dict[int, Numbers] = {}
    readers = Counter(id(part) for one in form.behind() for part in one.parts)
    waiting = [form]
    while waiting:
        top = waiting[-1]
        law, parts = _flattened(top, readers)
        missing = [part for part in parts if id(part) not in done]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if id(top) not in done:
            found = [done[id(part)] for part in parts]
            done[id(top)] = Pointwise.nothing() if law is None else law.numbers(found)
    return done[id(form)]


def _flattened(form: Form, readers: Mapping[int, int]) -> tuple[Law | None, Sequence[Form]]:
    """Return the law and the parts of a form, with a sum of sums as one: it is written once."""
    if not isinstance(form.law, Summing):
        return form.law, form.parts
    waiting = list(zip(form.parts, form.law.signs, strict=True))
    parts, signs = [], []
    while waiting:
        part, sign = waiting.pop()
        if isinstance(part.law, Summing) and readers[id(part)] == 1:
            waiting += [(p, sign * s) for p, s in zip(part.parts, part.law.signs, strict=True)]
        else:
            parts.append(part)
            signs.append(sign)
    return Summing(tuple(signs)), parts
