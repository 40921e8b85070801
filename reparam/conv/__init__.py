"""The mathematics of re-parameterization: exact, float64, NumPy only."""

from reparam.conv.algebra import (
    add,
    affine_of,
    average_pool_as_conv,
    expand_groups,
    identity_as_conv,
    scale_and_shift,
)
from reparam.conv.block import Block, Parallel, Sequential, fuse
from reparam.conv.bounds import gamma, rounding_count
from reparam.conv.composing import compose
from reparam.conv.magnitudes import error_bound
from reparam.conv.operators import Affine, AvgPool, BatchNorm, Conv, Identity, Operator
from reparam.conv.reference import evaluate, evaluate_magnitude

__all__ = [
    "Affine",
    "AvgPool",
    "BatchNorm",
    "Block",
    "Conv",
    "Identity",
    "Operator",
    "Parallel",
    "Sequential",
    "add",
    "affine_of",
    "average_pool_as_conv",
    "compose",
    "error_bound",
    "evaluate",
    "evaluate_magnitude",
    "expand_groups",
    "fuse",
    "gamma",
    "identity_as_conv",
    "rounding_count",
    "scale_and_shift",
]
