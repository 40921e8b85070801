"""paddledet's PP-YOLOE, made, loaded and run; imports paddle and ppdet, and nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from ppdet.modeling.architectures.ppyoloe import PPYOLOE, PPYOLOEWithAuxHead
from ppdet.modeling.backbones.cspresnet import CSPResNet
from ppdet.modeling.heads.ppyoloe_head import PPYOLOEHead, SimpleConvHead
from ppdet.modeling.layers import MultiClassNMS
from ppdet.modeling.necks.custom_pan import CustomCSPPAN

Arrays = dict[str, np.ndarray]

# As the configurations of PP-YOLOE have it.
DEFAULT_NMS = {"nms_top_k": 1000, "keep_top_k": 300, "score_threshold": 0.01, "nms_threshold": 0.7}


def made(settings: Mapping[str, Any]) -> Any:
    """Return the original's network, put together as its configurations have it done.

    ``settings`` holds the arguments of ``backbone``, ``neck`` and ``head``, and those of ``aux``
    where there is an auxiliary head.
    """
    backbone = CSPResNet(**settings["backbone"])
    widths = [one.channels for one in backbone.out_shape]
    neck = CustomCSPPAN(in_channels=widths, spp=True, **{"act": "swish", **settings["neck"]})
    outs = [one.channels for one in neck.out_shape]
    head = PPYOLOEHead(in_channels=outs, nms=MultiClassNMS(**DEFAULT_NMS), **settings["head"])
    if "aux" in settings:
        aux = SimpleConvHead(**settings["aux"])
        network = PPYOLOEWithAuxHead(backbone, neck, head, aux, post_process=None)
    else:
        network = PPYOLOE(backbone, neck, head, post_process=None, ssod_loss=None)
    network.eval()
    return network


def loaded(settings: Mapping[str, Any], state: Arrays, dtype: str) -> Any:
    """Return the network with ``state`` in it, in ``dtype``."""
    layer = made(settings)
    missing, unexpected = layer.set_state_dict(dict(state))
    assert (missing, unexpected) == ([], []), (missing, unexpected)
    return layer.to(dtype=dtype)


def features(layer: Any, x: np.ndarray) -> Any:
    return layer.neck(layer.backbone({"image": paddle.to_tensor(x)}), False)


def answers(layer: Any, x: np.ndarray) -> Arrays:
    """Return what the network makes of ``x`` on the way and in the end.

    cls0, reg0, cls1, ...: what the last convolutions of each level give. boxes (N, A, 4) in
    pixels of the input, scores (N, C, A).
    """
    head, found = layer.yolo_head, {}

    def recorder(name: str) -> Any:
        return lambda _, __, output: found.__setitem__(name, output.numpy())

    parts = [(f"cls{i}", part) for i, part in enumerate(head.pred_cls)]
    parts += [(f"reg{i}", part) for i, part in enumerate(head.pred_reg)]
    hooks = [part.register_forward_post_hook(recorder(name)) for name, part in parts]
    outs = list(head.forward_eval(features(layer, x)))
    for hook in hooks:
        hook.remove()
    outs[2:] = [one.astype(outs[0].dtype) for one in outs[2:]]  # half numbers: exact in any dtype
    head.exclude_nms = True
    boxes, scores, _ = head.post_process(outs, paddle.ones([x.shape[0], 2], outs[0].dtype))
    head.exclude_nms = False
    return {**found, "boxes": boxes.numpy(), "scores": scores.numpy()}


def trained(layer: Any, x: np.ndarray) -> Arrays:
    """Return what the head hands to its losses in training: (N, A, C) and (N, A, 4 * bins)."""
    head = layer.yolo_head
    head.get_loss = lambda outs, targets, aux: outs
    scores, distributions, *_ = head.forward_train(features(layer, x), {})
    del head.get_loss
    return {"train_scores": scores.numpy(), "train_distributions": distributions.numpy()}


def selected(layer: Any, x: np.ndarray, factors: np.ndarray, nms: Mapping[str, Any]) -> Any:
    """Return the rows (class, score, x1, y1, x2, y2) and how many of them each image has.

    ``factors`` is (N, 2), float32: y, x of each image.
    """
    head = layer.yolo_head
    head.nms = MultiClassNMS(**nms)
    rows, count, _ = head.post_process(
        head.forward_eval(features(layer, x)), paddle.to_tensor(factors)
    )
    return rows.numpy(), count.numpy()


def settled(layer: Any, x: np.ndarray, choose: Any) -> Arrays:
    """Return the state of the network after every BatchNorm was given statistics while ``x`` ran.

    ``choose(prefix, mean, variance)`` is told what the BatchNorm at ``prefix`` is about to see,
    and returns the factors of the convolution in front, the mean and the variance that it is to
    have. What runs behind sees the effect.
    """

    def hook(prefix: str, convolution: Any) -> Any:
        def settle(norm: Any, inputs: Any) -> Any:
            values = inputs[0].numpy()
            chosen = choose(prefix, values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3)))
            factor, mean, variance = (paddle.to_tensor(one) for one in chosen)
            convolution.weight.set_value(convolution.weight * factor.reshape([-1, 1, 1, 1]))
            norm._mean.set_value(mean)
            norm._variance.set_value(variance)
            return (inputs[0] * factor.reshape([1, -1, 1, 1]),)

        return settle

    layer.to(dtype="float64")
    parts = [(key, part) for key, part in layer.named_sublayers() if hasattr(part, "bn")]
    hooks = [p.bn.register_forward_pre_hook(hook(f"{key}.bn", p.conv)) for key, p in parts]
    layer.yolo_head.forward_eval(features(layer, x))
    for one in hooks:
        one.remove()
    return {key: value.numpy().astype(np.float32) for key, value in layer.state_dict().items()}


def nudged(layer: Any, seed: int) -> Any:
    """Return ``layer``, in float64, with every number in it off by one rounding of float32."""
    rng = np.random.default_rng(seed)
    for value in layer.state_dict().values():
        signs = np.asarray(rng.choice([-1.0, 1.0], value.shape))
        value.set_value(np.asarray(value.numpy() * (1 + 2.0**-24 * signs)))
    return layer


def converted(layer: Any) -> tuple[Arrays, list[str]]:
    """Return the arrays that the original's conversion adds, and all keys of its deploy form."""
    before = set(layer.state_dict())
    for part in layer.sublayers():
        if hasattr(part, "convert_to_deploy"):
            part.convert_to_deploy()
    state = layer.state_dict()
    return {key: v.numpy() for key, v in state.items() if key not in before}, list(state)
