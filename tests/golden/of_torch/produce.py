"""Write the golden files of torch.save of this folder, with PyTorch itself.

Nothing in the project imports this script. README.md says how to make the environments it runs in.

    python produce.py FOLDER NAME     FOLDER/NAME_zip.pth, NAME_legacy.pth and NAME.npz
"""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

CHANNELS = 3


def conv_bn(size: int) -> nn.Sequential:
    """Return a convolution and a BatchNorm under the names of the original RepVGG."""
    conv = nn.Conv2d(CHANNELS, CHANNELS, size, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(CHANNELS)))


class Block(nn.Module):
    """The sum of a RepVGG block, without what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(CHANNELS)
        self.rbr_dense = conv_bn(3)
        self.rbr_1x1 = conv_bn(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)


def fill(block: nn.Module, rng: np.random.Generator) -> None:
    """Give every BatchNorm statistics as training leaves them, and every kernel values."""
    with torch.no_grad():
        for key, tensor in block.state_dict().items():
            values = rng.normal(size=tuple(tensor.shape))
            if key.endswith("running_var"):
                values = rng.uniform(0.2, 3.0, tuple(tensor.shape))
            if key.endswith("num_batches_tracked"):
                values = np.array(7)
            tensor.copy_(torch.from_numpy(values))


def odd_tensors(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Return tensors of every layout and dtype that a state dict may hold."""
    base = torch.from_numpy(rng.normal(size=(4, 3, 2, 2)).astype(np.float32))
    numbers = torch.arange(-3, 9).reshape(3, 4)
    found = {
        "transposed": base.transpose(0, 1),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "part": base[1:3, ::2],
        "the_whole_of_part": base,
        "expanded": base[:1, :1].expand(2, 3, 2, 2),
        "scalar": torch.tensor(0.37),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base[0].clone()),
        "frozen": nn.Parameter(base[1].clone(), requires_grad=False),
        "bool": numbers > 2,
        "double": base.double(),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
    }
    integers = ("int64", "int32", "int16", "int8", "uint8")
    found.update({name: numbers.abs().to(getattr(torch, name)) for name in integers})
    if hasattr(torch, "uint16"):  # kept with the dtype beside the storage, since PyTorch 2.3
        found["uint16"] = numbers.abs().to(torch.uint16)
    found["parameter"].note = "an attribute of a tensor"
    return found


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return the values; bfloat16 as its bits."""
    tensor = tensor.detach().clone()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def main(folder: Path, name: str) -> None:
    """Write the files of one version of PyTorch."""
    rng = np.random.default_rng(20)
    block = Block()
    fill(block, rng)
    network = nn.Sequential(OrderedDict(block=block))
    state = nn.DataParallel(network).state_dict()
    odd = odd_tensors(rng)
    for key, tensor in odd.items():
        state[f"module.odd.{key}"] = tensor
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1, momentum=0.9)
    arguments = argparse.Namespace(out=Path("runs"), size=torch.Size([2]), kinds={1, 2}, lr=0.1)
    value = {
        "epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "args": arguments,
        "best": np.float64(0.5), "dtype": torch.float16, "device": torch.device("cpu"),
    }  # fmt: skip
    for kind in ("zip", "legacy"):
        path = folder / f"{name}_{kind}.pth"
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    x = torch.from_numpy(rng.normal(size=(2, CHANNELS, 5, 7)))
    truth = {key[len("module.") :]: as_numpy(tensor) for key, tensor in state.items()}
    with torch.no_grad():
        output = block.eval().double()(x).numpy()
    np.savez_compressed(folder / f"{name}.npz", input=x, output=output,
                        **{f"state/{key}": array for key, array in truth.items()})  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
