"""A network of a user who trains with our blocks; ``tests.training_network:build`` names it."""

from __future__ import annotations

from typing import Any

import reparam
from reparam.adapters.paddle_models import import_paddle
from reparam.models import RepVGGBlock, training
from tests.own_network import randomised

nn = import_paddle().nn


class Network(nn.Layer):
    def __init__(self, width: int, expand: str | None) -> None:
        super().__init__()
        whole = {"groups": width}
        self.stem = training.ACBlock(3, width, stride=2)
        self.body = nn.Sequential(
            training.DiverseBranchBlock(width, width),
            training.DiverseBranchBlock(width, width, 5, **whole),
            training.QARepVGGBlock(width, width, groups=2),
            training.QARepVGGBlock(width, width, version=1),
            training.RepMixer(width, layer_scale=0.3),
            RepVGGBlock(width, width, 5, act="hardswish"),
        )
        self.large = nn.Sequential(
            training.LargeKernelBlock(width, width, 7, small_kernel=3, **whole),
            training.DilatedReparamBlock(width, width, 9, **whole),
        )
        self.plain = nn.Sequential(nn.Conv2D(width, width, 3, padding=1), nn.BatchNorm2D(width))
        self.head = nn.Linear(width, 5)
        if expand:
            reparam.expand(self.plain, expand)

    def forward(self, x):
        return self.head(self.plain(self.large(self.body(self.stem(x)))).mean([2, 3]))


def build(width: int = 6, expand: str | None = "dbb") -> Any:
    return Network(width, expand)


def weights(**arguments: Any) -> dict[str, Any]:
    layer = randomised(build(**arguments))
    return {key: tensor.numpy() for key, tensor in layer.state_dict().items()}
