"""Code of the user's own: found where they work, and every way in which it can fail, told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reparam.adapters.foreign_import import build_foreign, first_line, is_factory
from reparam.adapters.paddle_models import import_paddle
from reparam.errors import UnsupportedModelError

COUNTER = iter(range(1000))

GOOD = """
import paddle
print("imported")
class Net(paddle.nn.Layer):
    def __init__(self, width=4):
        super().__init__()
        self.fc = paddle.nn.Linear(width, 2)
def build(width=4):
    print("built")
    net = Net(width)
    net.train()
    return net
def needs(width, depth):
    return Net(width)
def raises():
    raise ValueError("the first line\\nthe second")
def leaves():
    raise SystemExit(3)
def number():
    return 7
class Space:
    build = staticmethod(build)
LIMIT = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module into the working folder: its name, new each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text: str, package: bool = False) -> str:
        name = f"own_{next(COUNTER)}"
        path = tmp_path / name / "net.py" if package else tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return f"{name}.net" if package else name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_a_factory_in_the_working_folder(module, capsys):
    name = module(GOOD)
    layer = build_foreign(f"{name}:build", {"width": 6})
    assert tuple(layer.fc.weight.shape) == (6, 2)
    assert not layer.training
    assert capsys.readouterr() == ("", "imported\nbuilt\n")


def test_a_package_without_init_and_a_nested_attribute(module):
    name = module(GOOD, package=True)
    assert build_foreign(f"{name}:Space.build", {}).fc is not None
    assert build_foreign(f"{name}:Net", {}).fc is not None


def test_the_working_folder_goes_from_first_to_last(module):
    seen = module("import sys\nPATH = list(sys.path)\n" + GOOD)
    build_foreign(f"{seen}:build", {})
    here = str(Path.cwd())
    assert sys.modules[seen].PATH[0] == here
    assert sys.path[-1] == here
    assert sys.path.count(here) == 1


def test_a_file_named_like_a_package_shadows_nothing_later(module, monkeypatch):
    import yaml

    Path("yaml.py").write_text("MINE = True\n")
    monkeypatch.delitem(sys.modules, "yaml")
    name = module("import yaml\nassert yaml.MINE\n" + GOOD)
    build_foreign(f"{name}:build", {})
    import yaml as again

    assert again.__file__ == yaml.__file__


def test_what_the_code_changes_is_put_back(module, tmp_path):
    Path("elsewhere").mkdir()
    text = "import os, paddle\npaddle.enable_static()\nos.chdir('elsewhere')\n"
    name = module(text + "def build():\n    paddle.disable_static()\n"
                  "    net = paddle.nn.Linear(2, 2)\n    paddle.enable_static()\n"
                  "    return net\n")  # fmt: skip
    layer = build_foreign(f"{name}:build", {})
    assert Path.cwd() == tmp_path
    assert layer(import_paddle().ones([1, 2])).numpy().shape == (1, 2)


REFUSED = {
    "no colon": ("{}", "no ':'"),
    "no module": ("nothing_like_it:build", "no 'nothing_like_it' in"),
    "no submodule": ("{}.deeper:build", "no '{}.deeper' in"),
    "no attribute": ("{}:bild", "try:   one of build"),
    "a path": ("./{}.py:build", "a module and an attribute"),
    "nothing after the colon": ("{}:", "a module and an attribute"),
    "not callable": ("{}:LIMIT", "cannot be called"),
    "needs arguments": ("{}:needs", "missing a required argument: 'width'"),
    "raises": ("{}:raises", "ValueError: the first line ("),
    "ends the process": ("{}:leaves", "SystemExit: 3"),
    "no layer": ("{}:number", "a value of type int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_built_is_refused(name, module):
    spec, message = REFUSED[name]
    own = module(GOOD)
    with pytest.raises(UnsupportedModelError) as caught:
        build_foreign(spec.format(own), {})
    assert message.format(own) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_argument_that_the_factory_does_not_take(module):
    with pytest.raises(UnsupportedModelError, match="unexpected keyword argument 'depth'"):
        build_foreign(f"{module(GOOD)}:build", {"depth": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
        ("def build(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported(text, message, module):
    name = module(text)
    with pytest.raises(UnsupportedModelError, match=f"cannot import '{name}'") as caught:
        build_foreign(f"{name}:build", {})
    assert message in caught.value.found
    if "Syntax" not in message:
        assert f"{name}.py, line 1" in caught.value.found


def test_an_error_is_told_with_the_line_of_the_users_code(module):
    name = module(GOOD)
    with pytest.raises(UnsupportedModelError) as caught:
        build_foreign(f"{name}:raises", {})
    line = GOOD.splitlines().index('    raise ValueError("the first line\\nthe second")') + 1
    assert f"{name}.py, line {line}" in caught.value.found


def test_an_error_without_text_is_named():
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_names_are_told_from_factories():
    assert not is_factory("repvgg_a0")
    assert all(map(is_factory, ("a:b", "models.net", "models/net.py")))
