"""``import reparam``: its names, signatures, and what its reports are in a notebook."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest

import reparam
from reparam.exporter import Options
from reparam.version import tool_version
from tests.weights import repvgg_arrays, write


def test_only_public_names_are_listed():
    assert dir(reparam) == sorted([*reparam.__all__, "__version__"])
    assert reparam.__version__ == tool_version()


@pytest.mark.parametrize("name", ["fuse", "export", "verify", "benchmark", "unfuse", "inspect"])
def test_every_option_is_a_parameter(name):
    parameters = inspect.signature(getattr(reparam, name)).parameters.values()
    assert all(one.kind is not one.VAR_KEYWORD for one in parameters)


def test_export_has_every_choice_with_its_default():
    parameters = inspect.signature(reparam.export).parameters
    for field in dataclasses.fields(Options):
        if field.name != "default_head":  # of bench alone
            assert field.name in parameters
            if field.default is not dataclasses.MISSING:
                assert parameters[field.name].default == field.default


@pytest.fixture
def reports(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    fusion = reparam.fuse(source)
    return {
        "7 blocks fused, wrote": fusion,
        "already fused, nothing written": reparam.fuse(fusion.output),
        "7 blocks unfused": reparam.unfuse(fusion.output, tmp_path / "back.pdparams"),
        "repvgg, 7 blocks, train-time": reparam.inspect(source),
        "equivalent: ": reparam.verify(source, probing=reparam.Probing(network=False)),
    }


def test_reports_are_one_line_and_a_table(reports):
    for said, report in reports.items():
        line = repr(report)
        assert said in line
        assert line.startswith(f"<{type(report).__name__} ")
        assert "\n" not in line
        assert len(line) < 400
        shown = report._repr_html_()
        assert shown.startswith("<pre>")
        assert len(shown.splitlines()) > 2
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_what_is_shown_is_what_the_command_prints_and_is_escaped(tmp_path):
    (tmp_path / "<b>").mkdir()
    fusion = reparam.fuse(write(tmp_path / "<b>", repvgg_arrays()), dry_run=True)
    shown = fusion._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;/ckpt.pdparams: repvgg" in shown
    assert "dry run: nothing was written" in shown


def test_a_checkpoint_does_not_print_its_weights(tmp_path):
    found = repr(reparam.load_checkpoint(write(tmp_path, repvgg_arrays())))
    assert found.endswith("arrays, pdparams>")
    assert len(found) < 400
