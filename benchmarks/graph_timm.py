"""Networks of timm as ONNX files, unfused and re-parameterized by timm itself.

    PEER_PYTHON benchmarks/graph_timm.py FOLDER [NETWORK ...] [--size PIXELS]

Runs in an environment with torch and timm, and imports nothing of this project. For each network
FOLDER gets

    NAME.train.onnx   unfused: BatchNorms kept, constants as the tracer leaves them
    NAME.plain.onnx   unfused, exported as usual: the exporter folds the BatchNorms it can fold
    NAME.own.onnx     after timm's own re-parameterization, exported as usual
    NAME.npz          images, and what the unfused network makes of them in float64

The weights are random, scaled so that values keep their size through the layers. BatchNorms get
the statistics of an image, disturbed, and gammas of both signs; layer scales and biases that are
born at one value are filled with noise, so that nothing can vanish by luck. A JSON line says what
was written; a network that cannot be built or exported has a line with the reason.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

OPSET = 17
SMALL = 96  # pixels: enough for five halvings

# Networks that take images of no other size, and one that has to be told the size.
FIXED = (
    "levit_128s",
    "levit_conv_128s",
    "efficientvit_m0",
    "tiny_vit_5m_224",
    "iformer_t",
    "efficientvim_m1",
    "swiftformer_xs",
    "efficientformer_l1",
)
FIXED_SIZE = 224
TOLD = ("vit_tiny_patch16_224",)

# Networks that re-parameterize or fuse themselves, then plain ones.
OWN = (
    "repvgg_a0",
    "mobileone_s0",
    "mobileone_s1",
    "fastvit_t8",
    "fastvit_sa12",
    "fastvit_mci0",
    "repvit_m0_9",
    "repvit_m1",
    "repghostnet_050",
    "repghostnet_100",
    "ghostnetv3_050",
    "ghostnetv3_100",
    "lcnetv2_small",
    "lcnetv2_base",
    "levit_128s",
    "levit_conv_128s",
    "nextvit_small",
    "efficientvit_m0",
    "tiny_vit_5m_224",
    "shvit_s1",
    "iformer_t",
    "efficientvim_m1",
)
PLAIN = (
    "resnet18",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "swiftformer_xs",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientvit_b0",
    "densenet121",
    "cspdarknet53",
    "inception_next_atto",
    "poolformer_s12",
    "starnet_s1",
    "fasternet_t0",
    "mobilevit_xxs",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="*", default=[*OWN, *PLAIN], metavar="NETWORK")
    parser.add_argument("--size", type=int, help="of images, in pixels; the smallest that do")
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in options.networks:
        try:
            made = make(name, options.folder, options.size)
            print(json.dumps({"network": name, **made}), flush=True)
        except Exception as error:  # noqa: BLE001 - every kind, told, and the next one is tried
            first = (str(error).splitlines() or [""])[0]
            told = {"network": name, "failed": f"{type(error).__name__}: {first}"}
            print(json.dumps(told), flush=True)
    return 0


def make(name: str, folder: Path, pixels: int | None = None) -> dict[str, Any]:
    """Write the files of one network; return their operators, and how far its own form is off."""
    import numpy as np
    import timm
    import torch
    from timm.utils.model import reparameterize_model

    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = FIXED_SIZE if name in FIXED else pixels or SMALL
    settings = {"img_size": size} if name in TOLD else {}
    network = timm.create_model(name, pretrained=False, exportable=True, **settings).eval()
    images = torch.randn(2, 3, size, size)
    fill(network)
    with torch.no_grad():
        calibrate(network, images)
        exact = copy.deepcopy(network).double()
        truth = outputs_of(exact(images.double()))
        own = reparameterize_model(copy.deepcopy(network)).eval()
        torch.set_default_dtype(torch.float64)  # what some fuse into is made in the default
        exact_own = outputs_of(reparameterize_model(exact).eval()(images.double()))
        torch.set_default_dtype(torch.float32)
    np.savez(folder / f"{name}.npz", images=images.numpy(),
             **{f"truth_{n}": value.numpy() for n, value in enumerate(truth)})  # fmt: skip
    forms = {"train": (network, False), "plain": (network, True), "own": (own, True)}
    told: dict[str, Any] = {"size": size, "outputs": len(truth), "torch": torch.__version__,
                            "timm": timm.__version__}  # fmt: skip
    for form, (model, usual) in forms.items():
        path = folder / f"{name}.{form}.onnx"
        export(model, images, path, usual=usual)
        told[form] = ops_of(path)
    if not told["train"].get("BatchNormalization") and has_norms(network):
        raise RuntimeError("the exporter folded the BatchNorms of the unfused form")
    told["own_off"] = max(off(a, b) for a, b in zip(truth, exact_own, strict=True))
    return told


def fill(network: Any) -> None:
    """Give every parameter a random value of a size that suits what it is."""
    import torch

    with torch.no_grad():
        for name, value in network.named_parameters():
            kind = name.rpartition(".")[2]
            if "attention_bias" in kind:  # sharp: what is an average of all places is all but 0
                value.normal_(std=2.0)
            elif value.numel() > 1 and value.numel() != max(value.shape):
                value.normal_().div_(fan_in(value) ** 0.5)
            elif "bias" in kind or kind == "beta":
                value.normal_(std=0.3)
            else:  # gammas, layer scales, learned factors: never 0, never 1, of both signs
                value.uniform_(0.4, 1.2).mul_(torch.randn_like(value).sign())


def fan_in(value: Any) -> int:
    return max(1, value[0].numel()) if value.dim() in (2, 4) else value.shape[-1]


def calibrate(network: Any, images: Any) -> None:
    """Give every BatchNorm the statistics of what reaches it, disturbed."""
    import torch

    def measure(norm: Any, inputs: tuple[Any, ...]) -> None:
        value = inputs[0]
        rest = [axis for axis in range(value.dim()) if axis != 1]
        variance, mean = torch.var_mean(value, rest, correction=0)
        variance += 0.1 * variance.mean()  # of a channel that is all but dead: not blown up
        noise = torch.randn_like(mean)
        norm.running_mean.copy_(mean + noise * (variance + norm.eps).sqrt())
        norm.running_var.copy_(variance * torch.empty_like(mean).uniform_(0.2, 3.0))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms_of(network)]
    network(images)
    for hook in hooks:
        hook.remove()


def norms_of(network: Any) -> list[Any]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def has_norms(network: Any) -> bool:
    return bool(norms_of(network))


def outputs_of(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def off(truth: Any, found: Any) -> float:
    """Return the largest difference in units of the largest value of the truth."""
    return float((truth - found).abs().max() / truth.abs().max())


def export(network: Any, images: Any, path: Path, *, usual: bool) -> None:
    """Write an ONNX file with an open batch.

    Unless ``usual``, the exporter is asked for the mode that the network is in, which is the one
    way to keep it from folding BatchNorms; it leaves constants alone then.
    """
    import torch

    mode = torch.onnx.TrainingMode.EVAL if usual else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        network, (images,), str(path), opset_version=OPSET, dynamo=False, training=mode,
        do_constant_folding=usual, input_names=["image"], dynamic_axes={"image": {0: "batch"}},
    )  # fmt: skip


def ops_of(path: Path) -> dict[str, int]:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(collections.Counter(node.op_type for node in nodes).most_common())


if __name__ == "__main__":
    sys.exit(main())
