"""Which BatchNorm takes the output of a convolution, and nobody else, by the flow of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models.paddle_api import paddle
from reparam.models.training.running import call, evaluating

nn = paddle.nn

Pairs = dict[str, str]


def norms_by_flow(model: Any, convs: Mapping[str, Any], batch: Any) -> Pairs:
    """Return, by the path of a convolution, the path of the BatchNorm that alone takes its output.

    First the network is run as it is, to see which BatchNorm is given the very tensor that a
    convolution returned, each of them called once. Then it is run with NaN as the output of the
    convolution, which the BatchNorm alone gets in truth: where the outputs of the network are the
    same to the bit, nobody else looked at it.
    """
    norms = {
        path: layer for path, layer in model.named_sublayers() if isinstance(layer, nn.BatchNorm2D)
    }
    watch = _Watch(convs, norms)
    with evaluating(model, watch.hooks):
        outputs = list(_tensors(call(model, batch)))
    pairs = watch.pairs()
    if not outputs or not pairs:
        return {}
    if _unnoticed(model, batch, outputs, convs, norms, pairs):
        return pairs
    one_by_one = ({conv: norm} for conv, norm in pairs.items())
    alone = [pair for pair in one_by_one if _unnoticed(model, batch, outputs, convs, norms, pair)]
    return {conv: norm for pair in alone for conv, norm in pair.items()}


class _Watch:
    """Hooks that keep what convolutions return and BatchNorms are given."""

    def __init__(self, convs: Mapping[str, Any], norms: Mapping[str, Any]) -> None:
        self.returned: dict[str, list[Any]] = {path: [] for path in convs}
        self.given: dict[str, list[Any]] = {path: [] for path in norms}
        self.hooks = [
            conv.register_forward_post_hook(lambda _, _x, y, path=path: self._keep(path, y))
            for path, conv in convs.items()
        ] + [
            norm.register_forward_pre_hook(
                lambda _, inputs, path=path: self.given[path].append(inputs[0])
            )
            for path, norm in norms.items()
        ]

    def _keep(self, path: str, output: Any) -> None:
        self.returned[path].append(output)

    def pairs(self) -> Pairs:
        once = {path: given[0] for path, given in self.given.items() if len(given) == 1}
        return {
            conv: norm
            for conv, returned in self.returned.items()
            for norm, given in once.items()
            if len(returned) == 1 and returned[0] is given
        }


def _unnoticed(
    model: Any,
    batch: Any,
    outputs: list[Any],
    convs: Mapping[str, Any],
    norms: Mapping[str, Any],
    pairs: Pairs,
) -> bool:
    """Whether outputs stay the same where NaN takes the place of what goes to a BatchNorm."""
    truths: dict[str, Any] = {}

    def swap(path: str, y: Any) -> Any:
        truths[pairs[path]] = y
        return paddle.full_like(y, float("nan"))

    hooks = []
    for conv, norm in pairs.items():
        hooks += [
            convs[conv].register_forward_post_hook(lambda _, _x, y, path=conv: swap(path, y)),
            norms[norm].register_forward_pre_hook(lambda _, _x, path=norm: (truths[path],)),
        ]
    try:
        with evaluating(model, hooks):
            found = list(_tensors(call(model, batch)))
    except UnsupportedModelError:  # its code looks for NaN, so it looks at the output
        return False
    same = zip(found, outputs, strict=True) if len(found) == len(outputs) else [(None, None)]
    return all(a is not None and a.equal_all(b).item() for a, b in same)


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, paddle.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
