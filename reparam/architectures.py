"""The one door to ``reparam.models``: architectures, and blocks to train with.

Everything behind it is imported on the first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reparam.models import Recognised
    from reparam.models.training import Contraction, Expansion


def create_model(name: str, deploy: bool = False, **settings: Any) -> Any:
    """Return the paddle Layer registered as ``name``, with random weights.

    Args:
        deploy: build it in deploy form, every block as one convolution.
        settings: override those of the variant.

    Raises:
        UnsupportedModelError: the name or a setting is unknown, or a value is not possible.
        MissingDependencyError: paddle is not installed.
    """
    from reparam.models import create_model as build

    return build(name, deploy=deploy, **settings)


def list_models() -> list[str]:
    """Return the names that create_model knows, sorted."""
    from reparam.models import list_models as names

    return names()


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Recognised | None:
    """Return the architecture whose state dict has these names and shapes, None if none known.

    A network of PyTorch in deploy form has the names of Paddle's; its linear layers, which are
    turned, tell it apart. A detector with a part that the zoo lacks is none of ours, however many
    of its keys are those of one that is in it.
    """
    from reparam.checkpoint.detectors import detector_of
    from reparam.models import recognise as find

    if detector_of(shapes) is not None:
        return None
    found = find(shapes)
    wrong = found.mismatched if found is not None else ()
    turned = [len(old) == 2 and tuple(old) == tuple(needed)[::-1] for _, old, needed in wrong]
    return None if turned and all(turned) else found


def train_time_shapes(
    shapes: Mapping[str, tuple[int, ...]], branches: int | None = None
) -> dict[str, tuple[int, ...]] | None:
    """Return names and shapes of the recognised network in train-time form, None if none known.

    Args:
        branches: of each block, in a network that counts them.
    """
    from reparam.models.recognition import train_time_shapes as whole

    return whole(shapes, branches) if recognise(shapes) is not None else None


def expand(
    model: Any,
    block: str = "dbb",
    where: str | Sequence[str] | Callable[[str, Any], bool] | None = None,
    *,
    data: Any = None,
    **settings: Any,
) -> Expansion:
    """Put train-time blocks in the place of plain convolutions, in place, and return what was done.

        before:  x -- Conv KxK ------------------------------------------- y
        after:   x -+- Conv KxK, the same weight -- BatchNorm as identity -+- sum -- y
                    +- other branches -- BatchNorm with gamma 0 -----------+

    In evaluation mode the network computes what it computed before: the main branch holds the
    weight, and its BatchNorm changes nothing; the other branches enter at zero. Each block is
    proved before it stays (by at most a few roundings of the weights, for every input), and a
    refusal leaves the network as it was. Branches that start at random and are subtracted from the
    main branch would keep that function as well, but in training, where statistics are those of a
    batch, they would not cancel; at zero they do.

    In training mode a BatchNorm normalises by the batch, so there the function is the same only as
    far as the statistics and the batch agree. Where a BatchNorm follows the convolution, it undoes
    the difference. Elsewhere give ``data``: the statistics, gamma and beta are then set from what
    the network itself makes of it. The running statistics of a BatchNorm that follows were kept
    for the old scale, so ``data`` spares it a few dozen batches as well.

    Make the optimizer afterwards, so that it knows the new parameters. Bring the network to deploy
    form with ``convert_to_deploy`` or ``reparam fuse``, or back to plain convolutions with
    :func:`contract`.

    Args:
        model: a paddle Layer.
        block: "acb", "dbb", "dilated", "large_kernel", "learnable_rep", "mobileone", "qarepvgg",
            "rep_mixer" or "repvgg".
        where: a pattern or patterns of paths (``"features.*"``; a path of a Layer means all in
            it), or a predicate of path and Conv2D. None: every one with a kernel larger than 1x1.
        data: a batch, or an iterable of batches: each is what the network is called with, an
            array, a tensor, a tuple of arguments, or a mapping of keyword arguments.
        settings: of the block, such as ``small_kernel=3``.

    Returns:
        What became a block, and each convolution that did not, with the reason.

    Raises:
        UnsupportedModelError: no block or no setting has that name, a pattern matches nothing, or
            no convolution can be replaced.
        NotEquivalentError: a block would not be the same function (NaN in a weight).
    """
    from reparam.models.training import expand as put_blocks

    return put_blocks(model, block, where, data=data, **settings)


def contract(model: Any) -> Contraction:
    """Put plain convolutions back where :func:`expand` put blocks, in place; return which.

    The state dict then has the keys that it had before expanding, and loads into the network that
    was expanded. Blocks may be in train-time or in deploy form. A convolution that had no bias
    gets one, unless it is zero or the BatchNorm after it is known: that takes the bias off its
    running mean, which is the same in evaluation mode and makes no difference in training.

    All blocks are fused before the first is changed, so that a refusal leaves the model as it was.

    Raises:
        ReparamError: a block cannot be fused; the message names it.
    """
    from reparam.models.training import contract as put_convolutions

    return put_convolutions(model)


def in_paddle_spelling(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays that PyTorch wrote of a recognised network as its Layer names them."""
    from reparam.models.spelling import in_paddle_spelling as respelt

    return respelt(arrays)
