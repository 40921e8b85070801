"""``reparam export``: what it says, and that no file is left where it fails."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from reparam.adapters import converter
from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A checkpoint alone in its folder; temporary files go where a test can see them."""
    folder, temporary = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(folder)
    return write(folder, repvgg_arrays())


def left(source: Path) -> list[str]:
    temporary = source.parents[1] / "temporary"
    return sorted(p.name for p in (*source.parent.iterdir(), *temporary.iterdir()))


def use_child(monkeypatch, tmp_path, body: str) -> None:
    """Put another script in the place of the converter's process."""
    script = tmp_path / "child.py"
    script.write_text(f"import os, sys, time\nOUTPUT = sys.argv[3]\n{body}\n")
    monkeypatch.setattr(converter, "CHILD", script)


EVERYTHING = ("--onnx", "--paddle", "--external-data", "--input-size", "32")

FAILURES = {
    "aborts": ("print('[ERROR] no such op', flush=True); os.abort()", "SIGABRT", "no such op"),
    "exits": ("raise SystemExit('RuntimeError: what it was')", "exit status 1", "what it was"),
    "hangs": ("time.sleep(600)", "did not finish", "after 1 s"),
    "writes nothing": ("pass", "wrote no model", "printed nothing"),
    "writes garbage": (
        "open(OUTPUT, 'wb').write(bytes(range(256)))", "wrote no model", "256 bytes",
    ),
    "goes on": (
        "open(OUTPUT, 'wb').write(b'x'); print('[ERROR] lost it')", "went on", "lost it",
    ),
    "loses the weights": (
        "import shutil; shutil.copyfile(os.environ['MODEL'], OUTPUT)",
        "not the network",
        "inputs ['y']; needed: 'x'",
    ),
}  # fmt: skip


@needs_converter
class TestConverterThatFails:
    @pytest.mark.parametrize("name", FAILURES)
    def test_is_told_and_leaves_nothing(self, name, run, source, tmp_path, monkeypatch):
        body, ending, cause = FAILURES[name]
        use_child(monkeypatch, tmp_path, body)
        monkeypatch.setenv("MODEL", str(another_model(tmp_path)))
        code, out, err = run("export", source, *EVERYTHING, "--timeout", "1")
        assert code == 2
        assert out == ""
        assert ending in err
        assert cause in err
        assert left(source) == ["ckpt.pdparams"]

    def test_keeps_what_was_there(self, run, source, tmp_path, monkeypatch):
        use_child(monkeypatch, tmp_path, "os.abort()")
        for name in ("ckpt.onnx", "ckpt.onnx.data", "ckpt.json", "ckpt.pdiparams"):
            source.with_name(name).write_text(f"old {name}")
        assert run("export", source, *EVERYTHING, "--force")[0] == 2
        for name in ("ckpt.onnx", "ckpt.onnx.data", "ckpt.json", "ckpt.pdiparams"):
            assert source.with_name(name).read_text() == f"old {name}"
        assert len(left(source)) == 5

    def test_another_network_is_refused(self, run, source, tmp_path, monkeypatch):
        """The converter's own model, every Relu of it made a Sigmoid."""
        real = converter.CHILD
        wrapper = (
            "import runpy, onnx\n"
            f"sys.path.insert(0, '')\nrunpy.run_path({str(real)!r}, run_name='__main__')\n"
            "model = onnx.load(OUTPUT)\n"
            "for node in model.graph.node:\n"
            "    node.op_type = 'Sigmoid' if node.op_type == 'Relu' else node.op_type\n"
            "onnx.save(model, OUTPUT)\n"
        )
        use_child(monkeypatch, tmp_path, wrapper)
        code, _, err = run("export", source, *EVERYTHING)
        assert code == 1
        assert "is not that of the network" in err
        assert left(source) == ["ckpt.pdparams"]


def another_model(folder: Path) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["y"], ["fetch_name_0"])],
        "another",
        [value("y", onnx.TensorProto.FLOAT, ["N", 3, 32, 32])],
        [value("fetch_name_0", onnx.TensorProto.FLOAT, ["N", 3, 32, 32])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    path = folder / "another.onnx"
    onnx.save(model, str(path))
    return path


class TestParametersFile:
    @needs_converter
    def test_missing(self, run, source, monkeypatch):
        from reparam.exporter import onnx_export

        def lose(static, target):
            heavy = lighten(static, target)
            target[1].unlink()
            return heavy

        lighten = onnx_export.lighten
        monkeypatch.setattr(onnx_export, "lighten", lose)
        code, _, err = run("export", source, "--onnx", "--input-size", "32")
        assert code == 2
        assert "no parameters at" in err
        assert left(source) == ["ckpt.pdparams"]

    def test_of_another_network(self, run, source, monkeypatch):
        """A program for Paddle Inference holds the weights of the network, bit for bit."""
        from reparam.exporter import paddle_export

        def spoil(origin, target):
            content = bytearray(Path(origin).read_bytes())
            content[-1] ^= 1
            Path(target).write_bytes(content if Path(origin).suffix == ".pdiparams" else
                                     Path(origin).read_bytes())  # fmt: skip

        monkeypatch.setattr(paddle_export.shutil, "copyfile", spoil)
        code, _, err = run("export", source, "--paddle", "--input-size", "32")
        assert code == 2
        assert "is not as in the network" in err
        assert left(source) == ["ckpt.pdparams"]


class TestPythonWithoutConverter:
    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "paddle2onnx" else find(name)
        )

    def test_where_there_is_one(self, run, source, monkeypatch):
        monkeypatch.setattr(converter, "FIRST_WITHOUT", (4, 0))
        code, _, err = run("export", source, "--onnx")
        assert code == 2
        assert "pip install" in err
        assert "[export]" in err
        assert left(source) == ["ckpt.pdparams"]

    def test_where_there_is_none(self, run, source, monkeypatch):
        monkeypatch.setattr(converter, "FIRST_WITHOUT", sys.version_info[:2])
        code, _, err = run("export", source, "--onnx")
        assert code == 2
        assert re.search(r"Python 3\.\d+ or older for --onnx; --paddle works here", err)
        assert "pip install" not in err

    def test_program_needs_none(self, run, source):
        code, out, _ = run("export", source, "--paddle", "--input-size", "32", "--json")
        report = json.loads(out)
        assert code == 0
        assert report["output"] is None
        assert report["paddle"]["worst"]["verdict"] == report["verdict"] == "equal"
        assert left(source) == ["ckpt.json", "ckpt.pdiparams", "ckpt.pdparams"]


class TestOptions:
    @needs_converter
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--batch", "2", "--dynamic", "batch,height"], "fixed and open"),
            (["--dynamic", "depth"], "no axis 'depth'"),
            (["--output-names", "a,a"], "both be named 'a'"),
            (["--output-names", "a,b"], "2 names; needed: 1"),
            (["--output-names", "x"], "cannot be named 'x'"),
            (["--precision", "float8"], "float8"),
            (["--opset", "22"], "22"),
            (["--timeout", "0"], "timeout"),
            (["--paddle", "nowhere/deploy"], "no folder 'nowhere'"),
            (["-o", "y.pdparams"], "does not end in .onnx"),
            (["-o", "y"], "name it y.onnx"),
            (["--onnx", "y.pdparams"], "does not end in .onnx"),
            (["--onnx", "y.onnx", "-o", "z.onnx"], "leave one out"),
            (["--paddle", "-o", "z.onnx"], "give each its own path"),
        ],
        ids=" ".join,
    )
    def test_that_cannot_be(self, arguments, said, run, source):
        code, out, err = run("export", source, "--onnx", "--input-size", "32", *arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert left(source) == ["ckpt.pdparams"]

    def test_without_effect_are_told(self, run, source):
        code, _, err = run(
            "export", source, "--paddle", "--input-size", "32", "--opset", "13",
            "--output-names", "a", "--timeout", "5", "--external-data", "--no-keep-io",
        )  # fmt: skip
        assert code == 0
        for option in ("opset", "output-names", "timeout", "external-data", "keep-io"):
            assert f"note: --{option} has no effect" in err

    @needs_converter
    def test_everything_at_once(self, run, source):
        code, out, err = run(
            "export", source, *EVERYTHING, "--precision", "float16", "--dynamic",
            "batch,height,width", "--output-names", "scores", "--opset", "15",
        )  # fmt: skip
        assert code == 0
        assert "--input-size is only the size to check with" in err
        assert "x float32 (batch, 3, height, width)" in out
        assert "scores float32 (batch, 5)" in out
        assert "keep fewer bits" in " ".join(out.split())
        assert left(source) == [
            "ckpt.json", "ckpt.onnx", "ckpt.onnx.data", "ckpt.pdiparams", "ckpt.pdparams",
        ]  # fmt: skip

    @needs_converter
    def test_keep_io_needs_float16(self, run, source):
        code, _, err = run("export", source, "--onnx", "--input-size", "32", "--keep-io")
        assert code == 0
        assert "no effect without --precision float16" in err

    def test_output_of_the_only_form(self, run, source):
        code, _, _ = run("export", source, "--paddle", "-o", "y.json", "--input-size", "32")
        assert code == 0
        assert left(source) == ["ckpt.pdparams", "y.json", "y.pdiparams"]

    @needs_converter
    def test_output_without_a_form_is_an_onnx_file(self, run, source):
        assert run("export", source, "-o", "y.onnx", "--input-size", "32")[0] == 0
        assert left(source) == ["ckpt.pdparams", "y.onnx"]

    def test_checkpoint_behind_an_option(self, run, source):
        assert run("export", "--paddle", source.name, "--input-size", "32")[0] == 0
        assert left(source) == ["ckpt.json", "ckpt.pdiparams", "ckpt.pdparams"]


@needs_converter
class TestFloat16:
    def test_weight_that_is_too_large(self, run, source):
        arrays = repvgg_arrays(deploy=True)
        arrays["stage2.1.rbr_reparam.weight"][1, 2, 0, 0] = 7e4
        source.unlink()
        write(source.parent, arrays)
        code, _, err = run("export", "--onnx", "--precision", "float16", "--input-size", "32")
        assert code == 2
        assert "'stage2.1.rbr_reparam.weight' does not fit float16" in err
        assert "70000 at [1, 2, 0, 0]" in err
        assert left(source) == ["ckpt.pdparams"]

    def test_value_inside_that_is_too_large(self, run, source):
        """Outputs are small again: only the values inside show it."""
        arrays = repvgg_arrays(deploy=True)
        arrays["stage1.0.rbr_reparam.weight"] *= np.float32(1e3)
        arrays["stage2.0.rbr_reparam.weight"] *= np.float32(1e3)
        arrays["stage2.1.rbr_reparam.weight"] *= np.float32(1e-3)
        arrays["linear.weight"] *= np.float32(1e-3)
        source.unlink()
        write(source.parent, arrays)
        code, _, err = run("export", "--onnx", "--precision", "float16", "--input-size", "32")
        assert code == 2
        assert "does not fit float16" in err
        assert "on a made-up image" in err
        assert left(source) == ["ckpt.pdparams"]
