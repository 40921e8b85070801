"""What people see: help, tables in narrow terminals, colours, slow steps, completion, typos."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time

import click
import pytest
from rich.console import Console

from reparam.__main__ import cli
from reparam.commands import progress as progress_module
from reparam.commands.command import _GROUPS
from reparam.commands.output import QUIET, VERBOSE
from reparam.commands.progress import progress
from reparam.commands.tables import stdout, table
from tests.commands.processes import REPARAM, reparam, with_environment
from tests.weights import cspresnet_arrays, repvgg_arrays, write

COMMANDS = cli.list_commands(click.Context(cli))


def context_of(*words: str) -> click.Context:
    """Parse a command line as it would be, and run nothing."""
    group = click.Context(cli, info_name="reparam")
    _, command, rest = cli.resolve_command(group, list(words))
    assert command is not None
    return command.make_context(words[0], rest, parent=group)


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_examples_are_command_lines_that_parse(self, run, name):
        code, out, _ = run(name, "--help")
        assert code == 0
        examples = [
            line
            for line in out.partition("Example:")[2].partition("\n\n")[0].splitlines()
            if "reparam " in line
        ]
        assert examples
        for line in examples:
            written = re.search(r"reparam (\w+.*?)(\)\"|  |>|$)", line)
            assert written, line
            words = shlex.split(written[1])
            assert words[0] == name
            context_of(*words)

    def test_an_option_that_is_not_there_would_be_noticed(self):
        with pytest.raises(click.UsageError):
            context_of("fuse", "x.pdparams", "--nope")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_option_says_what_it_does(self, name):
        command = context_of(name, *["bash"] * (name == "completion")).command
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help or parameter.show_default, parameter.name

    def test_the_list_says_what_each_command_says(self, run):
        _, out, _ = run("--help")
        for name in COMMANDS:
            assert re.search(rf"^  {name} +\w", out, re.MULTILINE)

    def test_without_arguments_it_is_the_help(self, run):
        assert run() == run("--help")
        assert run("help") == run("--help")
        assert run("help", "fuse") == run("fuse", "--help")
        assert run()[0] == 0

    @pytest.mark.parametrize(("typed", "meant"), [
        (["fsue"], "'fuse'"), (["insepct", "x"], "'inspect'"), (["fuse", "--stritc"], "'--strict'"),
        (["verify", "--imput-size", "3"], "'--input-size'"), (["help", "exprot"], "'export'"),
    ])  # fmt: skip
    def test_typos(self, run, typed, meant):
        code, out, err = run(*typed)
        assert (code, out) == (2, "")
        assert re.search(f"Did you mean .*{meant}", err)

    @pytest.mark.parametrize("typed", ["--gpu", "--optimize", "--cuda"])
    def test_what_is_no_slip_gets_no_suggestion(self, run, typed):
        assert "Did you mean" not in run("fuse", "x", typed)[2]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_example_comes_first_and_options_in_groups(self, run, name):
        _, out, _ = run(name, "--help")
        titles = re.findall(r"^([A-Z][\w ]+):", out, re.MULTILINE)
        assert titles[:2] == ["Usage", "Example"]
        assert titles[-2:] == ["Output", "Advanced"]

    def test_every_group_names_options_that_there_are(self):
        names = {
            parameter.name
            for name in COMMANDS
            for parameter in context_of(name, *["bash"] * (name == "completion")).command.params
        }
        assert {name for group in _GROUPS.values() for name in group} <= names

    def test_quiet_and_verbose(self, run, tmp_path):
        source = write(tmp_path, cspresnet_arrays(layers=(20, 20)))
        assert run("fuse", source, "--dry-run", "--quiet", "--merge-siblings") == (0, "", "")
        code, out, err = run("fuse", tmp_path / "none.pdparams", "-q")
        assert (code, out) == (2, "")
        assert "No such file" in err
        assert json.loads(run("inspect", source, "-q", "--json")[1])
        assert "--verbose lists all" in run("fuse", source, "--dry-run")[1]
        _, out, err = run("fuse", source, "--dry-run", "--verbose")
        assert sum("conv2  " in line for line in out.splitlines()) == 40
        assert f"fusing {source} ..." in err
        assert run("fuse", source, "-q", "-v")[0] == 2

    def test_a_file_without_a_command(self, run, tmp_path):
        code, _, err = run(write(tmp_path, repvgg_arrays()))
        assert code == 2
        assert "a command comes first" in err

    @pytest.mark.parametrize("arguments", [["fuse", "--nope", "--json"], ["fus", "--json"],
                                           ["bench", "--rounds", "no", "--json"],
                                           ["verify", "--input-size", "x", "--json"]])  # fmt: skip
    def test_wrong_usage_is_json_too(self, run, arguments):
        code, out, err = run(*arguments)
        report = json.loads(out)
        assert code == 2
        assert report["schema"] == "reparam.error/1"
        assert report["error"]["what"] in err
        assert report["error"]["try"].startswith("reparam")


def rendered(grid, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, markup=False)
    with console.capture() as kept:
        console.print(grid)
    return [line.rstrip() for line in kept.get().splitlines()]


@pytest.fixture
def wide_table():
    grid = table("model", "#median ms", "#IQR", "#p99", "#runs", "#speedup", "95 %", "verdict")
    grid.add_row("repvgg.pdparams (train-time form)", "0.074", "0.004", "0.194", "99,289", "", "",
                 "baseline")  # fmt: skip
    grid.add_row("a_long_name_without_any_space.deploy.onnx", "12345.678", "0.004", "0.138",
                 "100,000", "1.331x", "1.297 to 1.390", "faster")  # fmt: skip
    return grid


class TestTables:
    @pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
    def test_numbers_are_never_cut(self, wide_table, width):
        lines = rendered(wide_table, width)
        assert all(len(line) <= width for line in lines)
        words = " ".join(lines).split()
        for number in ("0.074", "99,289", "12345.678", "100,000", "1.331x"):
            assert number in words

    def test_text_gives_way_to_numbers(self):
        grid = table("block", "#parameters")
        grid.add_row("one word after the other, forty letters", "1,234,567 -> 1,234,567")
        assert any("1,234,567 -> 1,234,567" in line for line in rendered(grid, 40))

    def test_a_narrow_terminal_gets_lines(self, wide_table):
        lines = rendered(wide_table, 60)
        assert "median ms  12345.678" in lines
        assert lines.count("") == 1  # between the two rows

    def test_a_wide_one_gets_columns(self, wide_table):
        assert len(rendered(wide_table, 120)) == 3

    def test_labels_and_texts_stay_side_by_side(self):
        grid = table("", "")
        grid.show_header = False
        grid.add_row("sha256", "0123456789abcdef" * 4)
        lines = rendered(grid, 60)
        assert lines[0].startswith("sha256  0123")
        assert "".join(line[8:] for line in lines) == "0123456789abcdef" * 4

    def test_wide_letters_count_twice(self):
        grid = table("块", "#参数")
        grid.add_row("阶段" * 4, "1,234")
        assert all(len(line) <= 20 for line in rendered(grid, 20))

    def test_outside_a_terminal_a_line_is_a_line(self, capsys):
        path = "/".join(["folder"] * 40)
        stdout().print(f"wrote {path}")
        assert capsys.readouterr().out == f"wrote {path}\n"

    def test_outside_a_terminal_a_table_is_as_wide_as_it_has_to_be(
        self, wide_table, capsys, monkeypatch
    ):
        wide_table.add_row("x" * 300, "1", verdict := "one word after the other, forty letters")
        monkeypatch.delenv("COLUMNS", raising=False)
        stdout().print(wide_table)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        assert "x" * 300 in lines[3]
        assert verdict in lines[3]
        assert all(line == line.rstrip() for line in lines)
        monkeypatch.setenv("COLUMNS", "60")
        stdout().print(wide_table)
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 60

    def test_outside_a_terminal_there_are_no_codes(self, capsys):
        stdout().print("text", style="bold red")
        assert capsys.readouterr().out == "text\n"


def in_terminal(arguments, **changes) -> str:
    """Return what a command shows in a terminal of its own, both streams."""
    ours, theirs = pty.openpty()
    changes = {"NO_COLOR": None, "FORCE_COLOR": None, "TERM": "xterm-256color", **changes}
    with subprocess.Popen(
        [*REPARAM, *map(str, arguments)], stdout=theirs, stderr=theirs, stdin=theirs,
        env=with_environment(**changes),
    ) as child:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert child.returncode is not None
    return shown.decode()


class TestColours:
    @pytest.fixture
    def source(self, tmp_path):
        return write(tmp_path, repvgg_arrays())

    def test_reports(self, source):
        arguments = ["verify", source, "--no-network"]
        assert "\x1b[1m" in in_terminal(arguments, COLUMNS="60")
        assert "\x1b" not in in_terminal(arguments, COLUMNS="60", NO_COLOR="1")
        assert "\x1b" not in reparam(*arguments).stdout
        forced = reparam(*arguments, env=with_environment(FORCE_COLOR="1", NO_COLOR=None))
        assert "\x1b[1m" in forced.stdout

    def test_errors(self, tmp_path):
        arguments = ["fuse", tmp_path / "none.pdparams"]
        assert "\x1b[31m\x1b[1mError:\x1b[0m" in in_terminal(arguments)
        assert "\x1b" not in in_terminal(arguments, NO_COLOR="1")
        assert "\x1b" not in in_terminal(arguments, TERM="dumb")
        assert "\x1b" not in reparam(*arguments).stderr

    @pytest.mark.parametrize("columns", ["40", "60"])
    def test_every_line_fits(self, source, columns):
        for arguments in (["inspect", source], ["fuse", source, "--dry-run"]):
            shown = in_terminal(arguments, COLUMNS=columns, NO_COLOR="1")
            assert max(map(len, shown.replace("\r", "").splitlines())) <= int(columns)


class TestProgress:
    def test_what_is_soon_over_is_not_told(self, capsys):
        with progress("reading") as tell:
            tell("writing")
        assert capsys.readouterr() == ("", "")

    def test_what_lasts_is_told_on_stderr_with_all_that_follows(self, capsys, monkeypatch):
        monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
        with progress("reading") as tell:
            told = ""
            while "reading" not in told:
                time.sleep(0.005)
                told += capsys.readouterr().err
            tell("writing")
        out, err = capsys.readouterr()
        assert (told, out, err) == ("reading ...\n", "", "writing ...\n")

    def test_steps_are_numbered_and_long_ones_say_their_seconds(self, capsys, monkeypatch):
        monkeypatch.setattr(progress_module, "loudness", lambda: VERBOSE)
        monkeypatch.setattr(progress_module.time, "monotonic", itertools.count(0, 0.7).__next__)
        with progress(steps=2) as tell:
            tell("reading")
            tell("writing")
        assert capsys.readouterr().err.splitlines() == ["[1/2] reading ...", "[2/2] writing ..."]
        monkeypatch.setattr(progress_module.time, "monotonic", itertools.count(0, 1.5).__next__)
        with progress("reading", steps=1):
            pass
        assert capsys.readouterr().err.splitlines()[-1] == "[1/1] reading: 1.5 s"

    def test_a_bar_in_a_terminal(self, monkeypatch):
        monkeypatch.setattr(progress_module, "loudness", lambda: VERBOSE)
        shown = io.StringIO()
        shown.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", shown)
        for name, value in (("COLUMNS", "80"), ("TERM", "xterm"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
        with progress("reading", steps=2) as tell:
            tell("writing")
        assert re.search(r"\[2/2\] writing +\S{10}.* 0 s", shown.getvalue())

    def test_quiet(self, capsys, monkeypatch):
        monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
        monkeypatch.setattr(progress_module, "loudness", lambda: QUIET)
        with progress("reading"):
            time.sleep(0.02)
        assert capsys.readouterr() == ("", "")

    def test_in_a_terminal_it_is_a_line_that_goes_away(self, tmp_path):
        path = write(tmp_path, repvgg_arrays())
        script = (
            "import time\nfrom reparam.commands import inspect, progress\n"
            "progress.PATIENCE = 0.0\nlook = inspect.inspect\n"
            "def slow(path, **options):\n    time.sleep(0.5)\n    return look(path, **options)\n"
            "inspect.inspect = slow\n"
        )
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", f"{script}from reparam.__main__ import main\nmain()"]
        done = subprocess.run([*command, "inspect", str(path)], stderr=theirs, text=True,
                              stdout=subprocess.PIPE,
                              env=with_environment(TERM="xterm", COLUMNS="50"))  # fmt: skip
        shown = os.read(ours, 65536).decode()
        os.close(theirs)
        os.close(ours)
        assert f"reading {path}"[:40] + "..." in shown
        assert shown.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the line is gone
        assert "reading" not in done.stdout
        assert "\x1b" not in done.stdout


class TestUnused:
    def test_bench_of_onnx_files(self, run, tmp_path):
        path = tmp_path / "x.onnx"
        path.write_bytes(b"no model")
        code, _, err = run("bench", path, "--input-size", "32", "--epsilon", "1e-3")
        assert code == 2  # for the file, not for the options
        assert "note: --input-size has no effect" in err
        assert "note: --epsilon has no effect" in err
        assert "--threads" not in err

    def test_verify_without_the_network(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        arguments = ("verify", source, "--no-network", "--json")
        code, out, err = run(*arguments, "--input-size", "32", "--model-arg", "act=relu")
        assert code == 0
        said = ["--input-size has no effect: the network was not run",
                "--model-arg has no effect: the network was not run"]  # fmt: skip
        assert json.loads(out)["notices"] == said
        assert all(f"note: {text}" in err for text in said)
        _, out, err = run(*arguments)
        assert (json.loads(out)["notices"], err) == ([], "")


class TestCompletion:
    def complete(self, line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        environment = with_environment(
            _REPARAM_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
        )
        return reparam(env=environment).stdout.splitlines()

    def test_commands(self):
        assert self.complete("reparam ") == [f"plain,{name}" for name in COMMANDS]
        assert self.complete("reparam ins") == ["plain,inspect"]

    def test_options(self):
        assert self.complete("reparam fuse --st") == ["plain,--strict"]
        assert self.complete("reparam completion z") == ["plain,zsh"]

    def test_files_are_left_to_the_shell(self):
        for line in ("reparam fuse ck", "reparam verify a ck", "reparam fuse -o ck"):
            assert self.complete(line) == ["file,ck"]

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script(self, run, shell, monkeypatch):
        code, out, _ = run("completion", shell)
        assert code == 0
        assert f"_REPARAM_COMPLETE={shell}_complete" in out
        monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
        assert run("completion")[1] == out

    def test_a_shell_that_is_not_known(self, run, monkeypatch):
        monkeypatch.setenv("SHELL", "/bin/tcsh")
        assert run("completion")[0] == 2
        monkeypatch.delenv("SHELL")
        assert run("completion")[0] == 2

    def test_bash_uses_it(self, tmp_path):
        (tmp_path / "reparam").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reparam "$@"\n')
        (tmp_path / "reparam").chmod(0o755)
        script = (
            'eval "$(reparam completion bash)"\ncompopt() { printf "%s " "$@"; }\n'
            "COMP_CWORD=2\nCOMP_WORDS=(reparam fuse --st)\n_reparam_completion reparam\n"
            'echo "${COMPREPLY[@]}"\n'
            "COMP_WORDS=(reparam fuse ckpt)\n_reparam_completion reparam\n"
        )
        environment = with_environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True,
                              env=environment)  # fmt: skip
        assert done.stdout.splitlines() == ["--strict", "-o default "], done.stderr
