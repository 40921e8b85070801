"""Every block of a checkpoint becomes one convolution, from names and arrays alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.architectures import recognise
from reparam.checkpoint.blocks import BlockMatch, Found, block_tree, find_blocks, group_count
from reparam.checkpoint.files import Arrays
from reparam.checkpoint.report import FusedBlock, FusionReport, Left
from reparam.checkpoint.stored_forms import is_floating
from reparam.conv import Conv, fuse
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.conv.rounding import round_once
from reparam.errors import CheckpointError, NotFusibleError

_LISTED = 5  # how many names an error message lists before it says "and N more"


def fuse_arrays(
    arrays: Mapping[str, np.ndarray[Any, Any]], *, epsilon: float | None = None
) -> tuple[Arrays, FusionReport]:
    """Return the deploy form of ``arrays`` and the report; the argument is not changed.

    Computed in float64 and rounded once, to the dtype of the block's widest kernel. Arrays that
    belong to no block are the same objects in the result. Fusing twice is fusing once.

    Args:
        epsilon: of the BatchNorms, in place of what the family says.

    Raises:
        CheckpointError: a block is not whole, shapes contradict, or values are not finite.
        NotFusibleError: a fused value does not fit the dtype of its block.
    """
    shapes = {key: array.shape for key, array in arrays.items()}
    recognised = recognise(shapes)
    if recognised is not None:
        _need_whole(recognised)
    found = find_blocks(shapes)
    need_finite(arrays)
    fused, replaced = [], {}
    for match in found.blocks:
        eps = match.family.epsilon if epsilon is None else epsilon
        conv = fuse(block_tree(match, arrays, eps))
        wide = arrays[f"{match.prefix}{match.family.wide.conv_key}"]
        weight, bias, flushed = _rounded(match, conv, wide.dtype)
        replaced[match] = {match.weight_key: weight, match.bias_key: bias}
        fused.append(_record(match, arrays, conv, flushed))
    result = _merged(arrays, replaced)
    report = FusionReport(
        architecture=recognised.name if recognised else None,
        epsilon=_epsilon(found, epsilon),
        epsilon_source=_epsilon_source(found, epsilon),
        fused=tuple(fused),
        already=recognised.deployed if recognised else tuple(w for w, _ in found.deployed),
        left=tuple(Left(where, reason) for where, reason in found.doubts),
        carried=sum(key in arrays and result[key] is arrays[key] for key in result),
        notices=tuple(_notices(found, arrays, replaced, recognised, epsilon)),
    )
    return result, report


def fuse_names(names: Mapping[str, str], report: FusionReport, kept: Arrays) -> dict[str, str]:
    """Return Paddle's table of parameter names for the deploy form.

    The fused convolution takes over the static name of the wide branch's weight.
    """
    table = {key: name for key, name in names.items() if key in kept}
    for block in report.fused:
        weight, bias = block.keys
        prefix = "" if block.where == "(root)" else f"{block.where}."
        name = names.get(f"{prefix}{block.branches[0]}.conv.weight")
        if name:
            table[weight] = name
            table[bias] = name.replace(".w_", ".b_") if ".w_" in name else f"{name}.bias"
    return table


def need_finite(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse arrays with NaN or infinity in them.

    Raises:
        CheckpointError: names the first such array and position.
    """
    for key, array in arrays.items():
        if is_floating(array.dtype) and not np.isfinite(array).all():
            index = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
            where = ", ".join(str(int(i)) for i in index)
            raise CheckpointError(
                f"'{key}' holds a value that is not finite",
                found=f"{array[index]} at [{where}]",
                why="a network with NaN or infinity in its weights computes nothing of use",
                hint="take an earlier checkpoint of the training",
            )


def listing(names: tuple[str, ...]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more


def _need_whole(recognised: Any) -> None:
    if recognised.missing:
        raise CheckpointError(
            f"the checkpoint is a {recognised.name} that lacks {len(recognised.missing)} key(s)",
            found=f"missing: {listing(recognised.missing)}",
            why="a network with a weight left out or renamed is another network",
            hint="save the whole state dict: paddle.save(model.state_dict(), 'x.pdparams')",
        )
    if recognised.mismatched:
        key, found, needed = recognised.mismatched[0]
        raise CheckpointError(
            f"the checkpoint is a {recognised.name} with {len(recognised.mismatched)} "
            "key(s) of the wrong shape",
            found=f"'{key}' has the shape {tuple(found)}; needed: {tuple(needed)}",
        )


def _rounded(
    match: BlockMatch, conv: Conv, dtype: np.dtype[Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    if dtype.name not in UNIT_ROUNDOFF:
        raise CheckpointError(
            f"block '{match.where}' has weights of {dtype.name}",
            found="needed: float32, float16, bfloat16 or float64",
            why="values of that dtype cannot be fused",
            hint="save the checkpoint in float32",
        )
    try:
        weight, tiny_weights = round_once(conv.weight, dtype.newbyteorder("="))
        bias, tiny_biases = round_once(conv.bias, dtype.newbyteorder("="))
    except NotFusibleError as error:
        raise error.located(f"cannot fuse block '{match.where}': {error.what}") from error
    return weight, bias, tiny_weights + tiny_biases


def _record(
    match: BlockMatch, arrays: Mapping[str, np.ndarray[Any, Any]], conv: Conv, flushed: int
) -> FusedBlock:
    convs = [arrays[match.prefix + branch.conv_key] for branch in match.branches if branch.conv_key]
    statistics = ("_mean", "_variance")
    learned = [key for key in match.branch_keys if not key.endswith(statistics)]
    groups = group_count(match, {key: arrays[key].shape for key in match.branch_keys})
    return FusedBlock(
        where=match.where,
        family=match.family.name,
        branches=tuple(branch.name for branch in match.branches),
        kernel=conv.kernel,
        channels=(conv.out_channels, conv.in_channels if groups else None),
        groups=groups,
        alpha=float(arrays[match.factors[0]].item()) if match.factors else None,
        parameters_before=sum(int(arrays[key].size) for key in learned),
        parameters_after=conv.parameters,
        macs_before=sum(int(weight.size) for weight in convs),
        macs_after=conv.macs,
        flushed=flushed,
        keys=(match.weight_key, match.bias_key),
    )


def _merged(
    arrays: Mapping[str, np.ndarray[Any, Any]], replaced: Mapping[BlockMatch, Arrays]
) -> Arrays:
    """Put each fused convolution where the first key of its block stood."""
    owner = {key: match for match in replaced for key in match.branch_keys}
    done: set[str] = {key for new in replaced.values() for key in new}
    result: Arrays = {}
    for key, array in arrays.items():
        if key in owner:
            result.update(replaced[owner[key]])
        elif key not in done:
            result[key] = array
    return result


def _epsilon(found: Found, given: float | None) -> float | None:
    if given is not None or not found.blocks:
        return given
    return found.blocks[0].family.epsilon


def _epsilon_source(found: Found, given: float | None) -> str:
    if given is not None:
        return "--epsilon"
    return "; ".join(dict.fromkeys(match.family.epsilon_source for match in found.blocks))


def _notices(
    found: Found,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    replaced: Mapping[BlockMatch, Arrays],
    recognised: Any,
    epsilon: float | None,
) -> list[str]:
    notices = []
    if recognised is None and found.blocks:
        notices.append("the network as a whole is not one that reparam knows; blocks were told "
                       "by their names and shapes")  # fmt: skip
    if recognised is not None and recognised.unexpected:
        notices.append(f"carried over, but no part of a {recognised.name}: "
                       f"{listing(recognised.unexpected)}")  # fmt: skip
    families = {match.family for match in found.blocks}
    notices += [
        family.remark
        for family in families
        if family.remark and recognised is None and epsilon is None
    ]
    notices += _factor_notices(found, arrays)
    for match, new in replaced.items():
        if match.has_deploy:
            same = _same(arrays, new)
            what = "left from an earlier fusion" if same else "a placeholder, never used"
            notices.append(f"'{match.weight_key}' beside the branches was {what}; "
                           "the branches decide")  # fmt: skip
    fresh = [match.where for match in found.blocks if _fresh(match, arrays)]
    if fresh:
        notices.append(
            f"BatchNorm statistics as in a network never trained: {listing(tuple(fresh))}"
        )
    return notices


def _factor_notices(found: Found, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[str]:
    zero = [key for match in found.blocks for key in match.factors if not arrays[key].any()]
    if not zero:
        return []
    return [
        f"exactly 0, so the branch it multiplies is gone: {listing(tuple(zero))}. PaddleDetection "
        "takes 0 for 'no factor' there and would add the branch with factor 1"
    ]


def _same(arrays: Mapping[str, np.ndarray[Any, Any]], new: Arrays) -> bool:
    """Whether a deploy form found beside its branches is theirs, but for its own rounding."""
    for key, value in new.items():
        old = arrays.get(key)
        if old is None or old.shape != value.shape:
            return False
        slack = 64 * UNIT_ROUNDOFF[value.dtype.name] * max(float(np.abs(value).max()), 1e-30)
        if not np.allclose(old.astype(np.float64), value.astype(np.float64), rtol=0, atol=slack):
            return False
    return True


def _fresh(match: BlockMatch, arrays: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    means = [arrays[match.prefix + branch.norm_keys[2]] for branch in match.branches]
    variances = [arrays[match.prefix + branch.norm_keys[3]] for branch in match.branches]
    return not any(mean.any() for mean in means) and all((v == 1).all() for v in variances)
