"""Record blocks of branches of Paddle's own projects: run where paddlepaddle and the package are.

python produce_branches_paddle.py paddleclas    # or paddleslim
"""

from __future__ import annotations

import sys

from produce_repvgg_paddle import CLAS, SLIM, record
from recording import without_init


def paddleclas() -> None:
    from paddleclas.ppcls.arch.backbone.base.dbb.dbb_block import DiverseBranchBlock

    about = {"family": "DiverseBranchBlock", "source": CLAS, "layer": "DiverseBranchBlock"}
    for seed, groups, stride in ((1, 1, 1), (2, 2, 2)):
        block = DiverseBranchBlock(4, 6, 3, stride=stride, groups=groups)
        geometry = {"stride": [stride, stride], "groups": groups}
        record(f"dbb_clas_g{groups}", block, 4, seed, **geometry, **about)


def paddleslim() -> None:
    without_init("paddleslim", "dygraph", "dygraph.rep", "dygraph.rep.reper")
    from paddleslim.dygraph.rep.reper.acblock import ACBlock
    from paddleslim.dygraph.rep.reper.diversebranchblock import DiverseBranchBlock

    for seed, kernel, groups, stride in ((1, 3, 1, 1), (2, 5, 2, 2)):
        geometry = {"stride": [stride, stride], "groups": groups, "source": SLIM}
        block = ACBlock(4, 4, kernel, stride, groups, kernel // 2)
        about = {"family": "ACBlock", "layer": "ACBlock"}
        record(f"slim_acb_k{kernel}", block, 4, seed, **geometry, **about)
    block = DiverseBranchBlock(4, 4, 3, padding=1)
    about = {"family": "DiverseBranchBlock", "layer": "DiverseBranchBlock", "source": SLIM}
    record("slim_dbb", block, 4, 3, **about)


if __name__ == "__main__":
    {"paddleclas": paddleclas, "paddleslim": paddleslim}[sys.argv[1]]()
