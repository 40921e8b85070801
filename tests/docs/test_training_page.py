"""What docs/training.md shows is run as it stands there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import reparam
from reparam.__main__ import main
from reparam.example import example_checkpoints
from reparam.models.paddle_api import paddle
from reparam.models.training.makers import MAKERS, maker_named

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in FENCED if language == "python"]
SHELL = [lines for language, lines in FENCED if not language]


@pytest.mark.filterwarnings("ignore:When training:UserWarning:paddle")
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "finetune", raising=False)
    paddle.seed(0)  # new branches start at random
    finetune, back = PYTHON
    Path("finetune.py").write_text(finetune, encoding="utf-8")
    Path("back.py").write_text(back, encoding="utf-8")
    commands, more = SHELL
    for line in commands.splitlines():
        run(line, capsys)
    runpy.run_path("back.py", run_name="__main__")
    assert "biases taken into stem.conv1.bn, stem.conv2.bn" in capsys.readouterr().out
    for line in more.splitlines():
        run(line, capsys)
    before = reparam.load_checkpoint(example_checkpoints()["cspresnet"])
    after = reparam.load_checkpoint("plain.pdparams")
    assert after.shapes == before.shapes
    assert any((after.arrays[key] != array).any() for key, array in before.arrays.items())
    assert np.isfinite(after.arrays["stem.conv1.conv.weight"]).all()
    assert Path("plain.deploy.pdparams").exists()


def run(line: str, capsys) -> None:
    program, *arguments = shlex.split(line)
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
        return
    assert program == "reparam"
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert not caught.value.code, (line, capsys.readouterr())


def test_the_table_has_every_block_and_its_settings():
    rows = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `")]
    found = {row[0].strip(" `"): re.findall(r"`(\w+)`", row[3]) for row in rows}
    assert list(found) == list(dict.fromkeys(found))
    assert found.keys() == MAKERS.keys()
    for name, settings in found.items():
        assert {*settings, "epsilon"} == set(maker_named(name, {}).settings()), name
