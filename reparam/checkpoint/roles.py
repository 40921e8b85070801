"""What names in a checkpoint say: whose weights they are, and what was saved along with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from reparam.checkpoint.stored_forms import stored_array

WEIGHTS, AVERAGED, STUDENT, TEACHER = "weights", "averaged weights", "student", "teacher"
QUANTISED = "quantisation-aware training"

ROLES = {
    AVERAGED: {"ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema",
               "model_ema_state_dict", "ema_model_state_dict"},
    STUDENT: {"student", "student_model", "model_student"},
    TEACHER: {"teacher", "teacher_model", "model_teacher"},
    WEIGHTS: {"model", "module", "net", "network", "state_dict", "model_state_dict", "params",
              "weights"},
}  # fmt: skip
# What trainers and wrappers put before every name of the network within.
WRAPPERS = {"backbone", "_layers", "_model", "_orig_mod"}.union(*ROLES.values())
# Saved with the weights, and never weights.
TRAINING = {"optimizer", "optimizers", "optimizer_state_dict", "optim", "opt", "lr_scheduler",
             "scheduler", "scaler", "grad_scaler", "optimizer_states", "lr_schedulers", "callbacks",
             "loops", "amp", "amp_scaler", "loss_scaler", "message_hub", "param_schedulers",
             "random_state", "random_states"}  # fmt: skip
_GENERATOR = "rng_state"  # in every name that the state of random numbers is saved under
_ACCUMULATOR = re.compile(
    r"_(moment\d?|velocity|beta\d_pow_acc|mean_square|mean_grad|inf_norm|_avg_squared_\w+)_\d+$"
)
# Sub-layers that paddle.quantization, paddle.nn.quant and PaddleSlim put into a network to train
# the scales of a quantisation (read off state dicts of paddle 3.3.1), then PyTorch's names.
_QUANTISERS = {"weight_quanter", "activation_quanter", "_observer", "_fake_quant_weight",
               "_fake_quant_input", "_fake_quant_output", "_fake_quant_x", "_fake_quant_y",
               "_ma_output_scale", "_act_preprocess", "_weight_preprocess",
               "weight_fake_quant", "activation_post_process"}  # fmt: skip
_OBSERVED = {"_layer", "_observed"}  # what they wrap


def role_of(name: str) -> str | None:
    """Return whose weights stand under ``name``, None where the name does not tell."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def is_training(name: str) -> bool:
    """Return whether what stands under ``name`` belongs to the training, and is no weight."""
    return name.lower() in TRAINING or _GENERATOR in name.lower()


def kind_within(name: str, before: str) -> str:
    """Return what weights under ``name`` are, within something that is ``before``."""
    role = role_of(name)
    return role if role in (AVERAGED, STUDENT, TEACHER) else before


def deployed_of(names: tuple[str, ...]) -> str | None:
    """Return which of several sets of weights gets deployed, None where no rule tells."""
    roles = {name: role_of(name) for name in names}
    of = {role: [name for name in names if roles[name] == role] for role in ROLES}
    if len(of[STUDENT]) == 1 and of[TEACHER] and not of[AVERAGED]:
        return of[STUDENT][0]
    if len(of[AVERAGED]) == 1 and len(of[WEIGHTS]) == len(names) - 1:
        return of[AVERAGED][0]
    return None


def averaged_in(node: Mapping[Any, Any]) -> str | None:
    """Return which part holds the average although its name does not say so, None if none does.

    MMEngine exchanges the two before it saves: ``ema_state_dict`` holds the weights in training.
    Source: ``EMAHook.before_save_checkpoint`` of mmengine 0.10.
    """
    names = ("state_dict", "ema_state_dict")
    exchanged = "message_hub" in node and all(isinstance(node.get(n), dict) for n in names)
    return names[0] if exchanged else None


def is_optimizer_state(node: Mapping[Any, Any]) -> bool:
    """Return whether a dict is what an optimizer saves: accumulators, or a scheduler's state."""
    if "LR_Scheduler" in node or "master_weights" in node or "param_groups" in node:
        return not any(role_of(str(key)) and isinstance(item, dict) for key, item in node.items())
    arrays = [key for key, item in node.items() if stored_array(item) is not None]
    accumulators = sum(bool(_ACCUMULATOR.search(str(key))) for key in arrays)
    return bool(arrays) and 2 * accumulators > len(arrays)


def is_quantised(keys: Iterable[str]) -> bool:
    """Return whether the names are those of a network in quantisation-aware training."""
    return any(_QUANTISERS & set(key.split(".")[:-1]) for key in keys)


def without_quantisers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that the network had before its quantisers were put in."""
    return {
        ".".join(word for word in key.split(".") if word not in _OBSERVED): shape
        for key, shape in shapes.items()
        if not _QUANTISERS & set(key.split(".")[:-1])
    }
