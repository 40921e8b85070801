"""Write the golden data of this folder by running the two public implementations.

Nothing in the project imports this script or what it imports. README.md says how to make the two
virtual environments it runs in. Every number is drawn from a seeded NumPy generator, so a second
run writes the same bytes.

    python produce.py FOLDER                   every case, and .pdparams under this NumPy
    python produce.py FOLDER --only-pdparams   the .pdparams alone (for the NumPy 1 environment)
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from ppdet.modeling.backbones.cspresnet import CSPResNet, RepVggBlock

PADDLEDET, PADDLECLAS = "paddledet 2.6.0", "paddleclas 2.6.0"


@dataclass(frozen=True)
class Case:
    """One Layer of a peer: how to make it, what to feed it, and what it is called here."""

    name: str
    peer: str
    layer: str
    settings: dict[str, Any]
    input_shape: tuple[int, int, int, int]
    make: Callable[[], Any]


def det_block(name: str, ch_in: int, ch_out: int, alpha: bool) -> Case:
    """Return a case of paddledet's RepVggBlock."""
    settings = {"ch_in": ch_in, "ch_out": ch_out, "act": "relu", "alpha": alpha}
    shape = (2, ch_in, 7, 9)
    return Case(name, PADDLEDET, "RepVggBlock", settings, shape, lambda: RepVggBlock(**settings))


def det_network(name: str, shape: tuple[int, int, int, int], **settings: Any) -> Case:
    """Return a case of paddledet's CSPResNet."""
    return Case(name, PADDLEDET, "CSPResNet", settings, shape, lambda: CSPResNet(**settings))


def clas_block(name: str, **settings: int) -> Case:
    """Return a case of paddleclas' RepVGGBlock."""
    from paddleclas.ppcls.arch.backbone.model_zoo.repvgg import RepVGGBlock

    settings = {"kernel_size": 3, "padding": 1, **settings}
    shape = (2, settings["in_channels"], 7, 9)
    return Case(name, PADDLECLAS, "RepVGGBlock", settings, shape, lambda: RepVGGBlock(**settings))


def clas_network(
    name: str, shape: tuple[int, int, int, int], groups: dict[int, int], **settings: Any
) -> Case:
    """Return a case of paddleclas' RepVGG; ``groups`` maps a layer's number to its groups."""
    from paddleclas.ppcls.arch.backbone.model_zoo.repvgg import RepVGG

    described = {**settings, "override_groups_map": {str(k): v for k, v in groups.items()}}

    def make() -> Any:
        return RepVGG(override_groups_map=groups, **settings)

    return Case(name, PADDLECLAS, "RepVGG", described, shape, make)


def cases() -> list[Case]:
    """Return every case, small enough that all files together stay far under a megabyte."""
    return [
        det_block("det_block", 5, 5, alpha=False),
        det_block("det_block_alpha", 4, 6, alpha=True),
        det_network(
            "det_cspresnet",
            (1, 3, 33, 47),
            channels=[8, 8, 12, 16, 20],
            layers=[1, 2, 1, 1],
            act="relu",
            return_idx=[0, 1, 2, 3],
        ),
        det_network(
            "det_cspresnet_alpha",
            (1, 3, 40, 56),
            channels=[8, 12, 16, 20, 24],
            layers=[1, 1, 2, 1],
            act="swish",
            return_idx=[1, 2, 3],
            use_large_stem=True,
            use_alpha=True,
        ),
        clas_block("clas_block_s1_g1", in_channels=5, out_channels=5, stride=1, groups=1),
        clas_block("clas_block_s1_g1_widening", in_channels=4, out_channels=6, stride=1, groups=1),
        clas_block("clas_block_s1_g2", in_channels=6, out_channels=6, stride=1, groups=2),
        clas_block("clas_block_s2_g1", in_channels=6, out_channels=6, stride=2, groups=1),
        clas_block("clas_block_s2_g2", in_channels=4, out_channels=8, stride=2, groups=2),
        clas_network(
            "clas_repvgg",
            (2, 3, 37, 45),
            {3: 2},
            num_blocks=[1, 2, 1, 1],
            width_multiplier=[0.125, 0.125, 0.0625, 0.0625],
            class_num=10,
        ),
        clas_network(
            "clas_repvgg_se",
            (2, 3, 32, 32),
            {},
            num_blocks=[1, 2, 1, 1],
            width_multiplier=[0.25, 0.125, 0.0625, 0.03125],
            class_num=10,
            use_se=True,
        ),
        clas_network(
            "clas_repvgg_g4",
            (2, 3, 41, 35),
            {2: 4, 4: 4, 6: 4},
            num_blocks=[2, 2, 2, 1],
            width_multiplier=[0.125, 0.0625, 0.0625, 0.0625],
            class_num=10,
        ),
    ]


def random_state(layer: Any, name: str) -> dict[str, np.ndarray]:
    """Return float32 values for every weight of ``layer``, BatchNorm statistics far from fresh."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    state = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    norms = {key.removesuffix("._mean") for key in state if key.endswith("._mean")}
    values = {}
    for key, shape in state.items():
        prefix, _, leaf = key.rpartition(".")
        if leaf == "_variance":
            value = rng.uniform(0.2, 3.0, shape)
        elif prefix in norms and leaf == "weight":
            value = rng.uniform(0.3, 1.7, shape) * rng.choice([-1.0, 1.0], shape)
        elif leaf == "alpha":
            value = np.full(shape, 0.37) + rng.normal(0.0, 0.1, shape) * ("." in key)
        elif len(shape) > 1:
            fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
            value = rng.normal(0.0, fan_in**-0.5, shape)
        else:
            value = rng.normal(0.0, 1.0, shape)
        values[key] = value.astype(np.float32)
    return values


def loaded(case: Case, state: dict[str, np.ndarray]) -> Any:
    """Return a fresh layer of ``case`` in evaluation mode with the values of ``state``."""
    layer = case.make()
    missing, unexpected = layer.set_state_dict(dict(state))
    assert (missing, unexpected) == ([], []), (missing, unexpected)
    layer.eval()
    return layer


def outputs(case: Case, layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """Return everything ``layer`` makes of ``x``."""
    tensor = paddle.to_tensor(x)
    with paddle.no_grad():
        found = layer({"image": tensor} if case.layer == "CSPResNet" else tensor)
    return [one.numpy() for one in (found if isinstance(found, list) else [found])]


def deploy_weights(layer: Any) -> dict[str, np.ndarray]:
    """Return the weights that the peer's own conversion adds; ``layer`` is converted."""
    before = set(layer.state_dict())
    for part in [layer, *layer.sublayers()]:
        for method in ("convert_to_deploy", "re_parameterize"):
            if hasattr(part, method):
                getattr(part, method)()
    return {k: v.numpy() for k, v in layer.state_dict().items() if k not in before}


def write_case(case: Case, folder: Path) -> None:
    """Write ``<name>.npz``: weights, input, outputs in float64 and float32, deploy weights.

    Of a RepVGG also the output of the peer's deploy form.
    """
    paddle.seed(0)
    state = random_state(case.make(), case.name)
    x = np.random.default_rng(1).normal(0.0, 1.0, case.input_shape).astype(np.float32)
    exact = loaded(case, state)
    exact.to(dtype="float64")
    truth = outputs(case, exact, x.astype(np.float64))
    assert all(one.dtype == np.float64 for one in truth)
    plain = loaded(case, state)
    entries = {f"state/{key}": value for key, value in state.items()}
    entries |= {f"output/{i}": value for i, value in enumerate(truth)}
    entries |= {f"output32/{i}": value for i, value in enumerate(outputs(case, plain, x))}
    entries |= {f"deploy/{key}": value for key, value in deploy_weights(plain).items()}
    if case.layer == "RepVGG":
        entries |= {f"deployed32/{i}": v for i, v in enumerate(outputs(case, plain, x))}
    about = {"peer": case.peer, "layer": case.layer, "settings": case.settings}
    np.savez_compressed(
        folder / f"{case.name}.npz", about=json.dumps(about, sort_keys=True), input=x, **entries
    )


def write_pdparams(folder: Path) -> None:
    """Write one small block with ``paddle.save`` in protocols 2 and 4, under this NumPy."""
    case = det_block("det_block_alpha", 4, 6, alpha=True)
    layer = loaded(case, random_state(case.make(), case.name))
    major = np.__version__.partition(".")[0]
    for protocol in (2, 4):
        path = folder / f"numpy{major}_protocol{protocol}.pdparams"
        paddle.save(layer.state_dict(), str(path), protocol=protocol)


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--only-pdparams", action="store_true", help="skip the .npz cases")
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    write_pdparams(arguments.folder)
    if not arguments.only_pdparams:
        for case in cases():
            write_case(case, arguments.folder)


if __name__ == "__main__":
    main()
