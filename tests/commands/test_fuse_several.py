"""``reparam fuse`` of several files, of a folder, and of names that no file has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.weights import cspresnet_arrays, repvgg_arrays, write


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two train-time checkpoints, one in deploy form, and a file that is no checkpoint."""
    write(tmp_path, repvgg_arrays(), "a.pdparams")
    write(tmp_path, cspresnet_arrays(), "b.pdparams")
    write(tmp_path, repvgg_arrays(deploy=True), "c.pdparams")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deploy_forms(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.deploy*.pdparams"))


def test_every_file_has_its_line_and_its_output(run, folder):
    code, out, _ = run("fuse", "a.pdparams", "b.pdparams", "c.pdparams")
    assert code == 0
    assert out.splitlines() == [
        "a.pdparams: 7 blocks fused, wrote a.deploy.pdparams",
        "b.pdparams: 3 blocks fused, wrote b.deploy.pdparams",
        "c.pdparams: already fused, nothing written",
        "3 files: 2 fused, 1 already fused",
    ]
    assert deploy_forms(folder) == ["a.deploy.pdparams", "b.deploy.pdparams"]


@pytest.mark.parametrize("named", [".", "{folder}", "../{name}/"])
def test_a_folder_stands_for_what_is_in_it(run, folder, named):
    code, out, _ = run("fuse", named.format(folder=folder, name=folder.name))
    assert (code, out.splitlines()[-1]) == (0, "3 files: 2 fused, 1 already fused")
    assert deploy_forms(folder) == ["a.deploy.pdparams", "b.deploy.pdparams"]


def test_outputs_go_into_a_folder(run, folder):
    (folder / "fused").mkdir()
    assert run("fuse", "a.pdparams", "b.pdparams", "-o", "fused")[0] == 0
    assert deploy_forms(folder) == []
    assert deploy_forms(folder / "fused") == ["a.deploy.pdparams", "b.deploy.pdparams"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.pdparams", "b.pdparams", "-o", "x.pdparams"], "x.pdparams is no folder"),
        (["a.pdparams", "sub/a.pdparams", "-o", "fused"], "would both become"),
        (["fused"], "nothing in the folder 'fused' can be fused"),
        (["a.pdparams", "fused"], "nothing in the folder 'fused' can be fused"),
    ],
)
def test_what_names_no_outputs_or_no_inputs_stops_it_all(run, folder, arguments, said):
    (folder / "fused").mkdir()
    code, out, err = run("fuse", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert deploy_forms(folder) == []


@pytest.mark.parametrize(
    ("bad", "options", "expected"),
    [("notes.txt", [], 2), ("d.pdparams", [], 2), ("c.pdparams", ["--strict"], 1)],
)
def test_what_fails_is_told_and_the_rest_is_fused(run, folder, bad, options, expected):
    code, out, err = run("fuse", bad, "a.pdparams", *options)
    assert code == expected
    assert out.splitlines() == [
        f"{bad}: failed",
        "a.pdparams: 7 blocks fused, wrote a.deploy.pdparams",
        "2 files: 1 failed, 1 fused",
    ]
    assert err.count("Error:") == 1
    assert deploy_forms(folder) == ["a.deploy.pdparams"]


def test_json_is_one_object_of_all_files(run, folder):
    code, out, _ = run("fuse", "a.pdparams", "notes.txt", "c.pdparams", "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["schema"]) == (2, "failed", "reparam.fuse_several/1")
    assert [one["verdict"] for one in told["files"]] == ["fused", "failed", "already fused"]
    assert len(told["files"][0]["fused"]) == 7
    assert "notes.txt" in told["files"][1]["error"]["what"]


def test_an_option_without_effect_is_told_once(run, folder):
    _, _, err = run("fuse", "a.pdparams", "b.pdparams", "--merge-siblings")
    assert err.count("--merge-siblings has no effect") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("-", "standard input is not read"),
        ("*.pth", "no file matches it"),
        ("*.pdparams", "3 files match it"),
        ("a.pdparam", "did you mean 'a.pdparams'?"),
        ("nothing.like.it", "No such file"),
    ],
)
def test_a_name_that_no_file_has(run, folder, name, said):
    for command in ("fuse", "inspect"):
        code, out, err = run(command, name)
        assert (code, out) == (2, "")
        assert said in err


def test_nothing_done_nothing_written(run, folder):
    before = sorted(folder.iterdir())
    code, out, _ = run("fuse", "c.pdparams")
    assert code == 0
    assert out.splitlines()[-2].startswith("already fused")
    assert "nothing was written" in out
    assert sorted(folder.iterdir()) == before
    assert run("fuse", "c.pdparams", "--strict", "-o", "d.pdparams")[0] == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["fuse", "unfuse"])
def test_nothing_done_copies_the_input_under_the_name_given(run, folder, command):
    source = folder / {"fuse": "c.pdparams", "unfuse": "a.pdparams"}[command]
    assert run(command, source)[0] == 0
    assert not list(folder.glob("*.train.*")) + list(folder.glob("*.deploy.*"))
    assert run(command, source, "-o", "d.pdparams")[0] == 0
    assert (folder / "d.pdparams").read_bytes() == source.read_bytes()
    assert run(command, source, "-o", "d.safetensors")[0] == 0
    assert run("verify", source, "d.safetensors", "--no-network")[0] == 0


def test_what_is_called_a_deploy_form_and_has_branches_is_finished(run, folder):
    (folder / "a.pdparams").rename("a.deploy.pdparams")
    assert run("fuse", "a.deploy.pdparams")[0] == 0
    assert (folder / "a.deploy-2.pdparams").exists()


@pytest.mark.parametrize("name", [".", "/"])
def test_unfuse_takes_no_folder(run, folder, name):
    code, _, err = run("unfuse", name)
    assert code == 2
    assert "a directory; needed: a file" in err
