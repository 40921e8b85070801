"""Every block of a checkpoint becomes one convolution, from names and arrays alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reparam.architectures import recognise
from reparam.checkpoint.blocks import BlockMatch
from reparam.checkpoint.epsilons import epsilon_of, need_epsilons, used_epsilons
from reparam.checkpoint.families import FAMILIES
from reparam.checkpoint.files import Arrays
from reparam.checkpoint.finite import need_finite
from reparam.checkpoint.notices import listing, notices_of
from reparam.checkpoint.plan import plan_of
from reparam.checkpoint.report import FusedBlock, FusionReport
from reparam.checkpoint.rows import FusedArrays, fuse_rows
from reparam.checkpoint.stored_forms import name_of
from reparam.checkpoint.trees import norm_of
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.errors import CheckpointError, ReparamError

_KERNEL_AXES = 3  # of a weight, at least

__all__ = ["Fusing", "fuse_arrays", "listing", "need_finite"]


def fuse_arrays(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    *,
    epsilon: float | None = None,
    fold_bn: bool = False,
    skip: Sequence[str] = (),
    families: Sequence[str] = (),
) -> tuple[Arrays, FusionReport]:
    """Return the deploy form of ``arrays`` and the report; the argument is not changed.

    Computed in float64 and rounded once, to the dtype of the block's widest kernel. Arrays that
    belong to no block are the same objects in the result. Fusing twice is fusing once.

    Args:
        epsilon: of the BatchNorms, in place of what the family says.
        fold_bn: fold a BatchNorm outside blocks into its convolution as well, where the names
            prove that it follows one.
        skip: blocks to leave as they are, names or patterns.
        families: names of families that come first where names and shapes leave it open.

    Raises:
        CheckpointError: a block is not whole, shapes contradict, values are not finite, ``skip``
            or ``families`` names nothing, or only the user can tell a family or an epsilon.
        NotFusibleError: a fused value does not fit the dtype of its block.
    """
    fusing = Fusing(arrays, epsilon=epsilon, fold_bn=fold_bn, skip=skip, families=families)
    result = dict(fusing)
    return result, fusing.report()


class Fusing:
    """The deploy form of ``arrays``, made one block at a time as it is iterated over.

    Yields names and arrays in the order of the file, each convolution where the first key of its
    block stood. Arguments and errors are those of :func:`fuse_arrays`.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        *,
        epsilon: float | None = None,
        fold_bn: bool = False,
        skip: Sequence[str] = (),
        families: Sequence[str] = (),
    ) -> None:
        self.arrays = arrays
        self.given_epsilon = epsilon
        self.families = tuple(families)
        shapes = {key: array.shape for key, array in arrays.items()}
        self.recognised = recognise(shapes)
        if self.recognised is not None:
            need_whole(self.recognised)
        deployed = self.recognised.deployed if self.recognised else None
        self.plan = plan_of(
            shapes, deployed=deployed, fold_bn=fold_bn, skip=skip, families=families
        ).without_finished(arrays)
        need_epsilons(self.plan.matches, epsilon, shapes)
        self._records: dict[BlockMatch, FusedBlock] = {}
        self._carried = 0
        self._leftovers: dict[BlockMatch, bool] = {}

    def __iter__(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        self._records, self._leftovers, self._carried = {}, {}, 0
        owner = {key: match for match in self.plan.matches for key in match.branch_keys}
        replaced = {key for m in self.plan.matches for key in (m.weight_key, m.bias_key)}
        for key, array in self.arrays.items():
            match = owner.get(key)
            if match is None:
                if key not in replaced:
                    need_finite({key: array})
                    self._carried += 1
                    yield key, array
                continue
            if match not in self._records:
                made = self._fused(match)
                yield match.weight_key, made.weight
                yield match.bias_key, made.bias
            if key in match.neutral_keys:
                yield key, np.full_like(array, match.neutral_keys[key])

    def report(self) -> FusionReport:
        """Return what was done, once the iteration has ended."""
        plan, records, known = self.plan, self._records, self.recognised
        if len(records) < len(plan.matches):
            raise RuntimeError("the report of a fusion that has not come to its end")
        return FusionReport(
            architecture=known.name if known else None,
            epsilons=used_epsilons(plan.matches, self.given_epsilon),
            fused=tuple(records[match] for match in plan.blocks),
            folded=tuple(records[match] for match in plan.pairs),
            already=plan.deployed,
            left=plan.left,
            carried=self._carried,
            families=self.families,
            notices=tuple(
                notices_of(plan, self.arrays, known, self.given_epsilon, self._leftovers)
            ),
        )

    def names(self, table: Mapping[str, str]) -> dict[str, str]:
        """Return Paddle's table of parameter names for the deploy form.

        The fused convolution takes over the static name of the wide branch's weight.
        """
        gone = {key for match in self.plan.matches for key in match.branch_keys}
        kept = {key: name for key, name in table.items() if key in self.arrays and key not in gone}
        for match in self.plan.matches:
            name = table.get(match.wide_key)
            if name:
                kept[match.weight_key] = name
                bias = name.replace(".w_", ".b_") if ".w_" in name else f"{name}.bias"
                kept[match.bias_key] = table.get(match.bias_key, bias)
        return kept

    def _fused(self, match: BlockMatch) -> FusedArrays:
        arrays = {key: self.arrays[key] for key in match.branch_keys}
        need_finite({key: array for key, array in arrays.items() if array.ndim < _KERNEL_AXES})
        _need_dtype(match, self.arrays[match.wide_key].dtype)
        epsilon = epsilon_of(match, self.given_epsilon)
        try:
            for norm in match.norms:  # as a whole: an error in a part counts from its start
                norm_of(norm, arrays, epsilon)
            made = fuse_rows(match, arrays, epsilon)
        except ReparamError as error:
            need_finite(arrays)  # kernels are read once; what is wrong with one shows here
            where = error.located(f"cannot fuse block '{match.where}': {error.what}")
            where.hint = where.hint or _ways_out(match)
            raise where from error
        self._records[match] = _record(match, self.arrays, made)
        if match.has_deploy:
            self._leftovers[match] = _same(match, self.arrays, made)
        return made


def need_whole(recognised: Any) -> None:
    """Refuse a checkpoint that lacks something of the architecture it was recognised as."""
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


def _ways_out(match: BlockMatch) -> str:
    """Return what to try with a block that is no convolution."""
    others = (one for one in FAMILIES if one.on_request and one.anchors == match.family.anchors)
    asked = (f"--family '{one.name}': {one.remark}" for one in others)
    return "; ".join((f"--skip {match.where} leaves the block as it is", *asked))


def _need_dtype(match: BlockMatch, dtype: np.dtype[Any]) -> None:
    if name_of(dtype) not in UNIT_ROUNDOFF:
        raise CheckpointError(
            f"block '{match.where}' has weights of {dtype.name}",
            found="needed: float32, float16, bfloat16 or float64",
            why="values of that dtype cannot be fused",
            hint="save the checkpoint in float32",
        )


def _record(
    match: BlockMatch, arrays: Mapping[str, np.ndarray[Any, Any]], made: FusedArrays
) -> FusedBlock:
    geometry = match.geometry
    alpha = next((key for key in match.factors if arrays[key].size == 1), None)
    channels = None if geometry.groups is None else geometry.per_group * geometry.groups
    return FusedBlock(
        where=match.where,
        family=match.family.name,
        branches=match.labels,
        kernel=geometry.kernel,
        channels=(geometry.outputs, channels),
        groups=geometry.groups,
        alpha=None if alpha is None else float(arrays[alpha].item()),
        parameters_before=sum(int(arrays[key].size) for key in match.learned_keys),
        parameters_after=int(made.weight.size + made.bias.size),
        macs_before=sum(int(arrays[key].size) for key in match.kernel_keys),
        macs_after=int(made.weight.size),
        flushed=made.certificate.flushed,
        wide=match.wide_key,
        keys=(match.weight_key, match.bias_key),
        certificate=made.certificate,
    )


def _same(match: BlockMatch, arrays: Mapping[str, np.ndarray[Any, Any]], made: FusedArrays) -> bool:
    """Whether a deploy form found beside its branches is theirs, but for its own rounding."""
    for key, value in ((match.weight_key, made.weight), (match.bias_key, made.bias)):
        old = arrays.get(key)
        if old is None or old.shape != value.shape:
            return False
        slack = 64 * UNIT_ROUNDOFF[name_of(value.dtype)] * max(float(np.abs(value).max()), 1e-30)
        if not np.allclose(old.astype(np.float64), value.astype(np.float64), rtol=0, atol=slack):
            return False
    return True
