"""YAML with includes: merged as PaddleDetection does, and nothing in it ever constructed."""

from __future__ import annotations

import pytest
import yaml
from packaging.version import Version

from reparam.configuration import read_yaml
from reparam.configuration.reading import Opaque
from reparam.errors import ConfigurationError


@pytest.fixture
def write(tmp_path):
    def one(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return one


def test_later_files_win_key_by_key(write):
    write("base/first.yml", "a: 1\nb: {x: 1, y: {p: 1, q: 1}}\nlist: [1, 2, 3]\n")
    write("base/second.yml", "_BASE_: [third.yml]\nb: {y: {q: 2}}\nc: 2\n")
    write("base/third.yml", "a: 3\nc: 3\nd: 3\n")
    path = write("top.yml", "_BASE_: ['base/first.yml', './base/second.yml']\nlist: [9]\nd: 0\n")
    document = read_yaml(path)
    assert document.values == {
        "a": 3,
        "b": {"x": 1, "y": {"p": 1, "q": 2}},
        "list": [9],
        "c": 2,
        "d": 0,
    }
    assert [file.name for file in document.files] == [
        "first.yml", "third.yml", "second.yml", "top.yml",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["_BASE_", "_base_"])
@pytest.mark.parametrize("base", ["base.yml", "[base.yml]", "[]", "~"])
def test_includes_as_text_or_list(key, base, write):
    write("base.yml", "a: 1")
    values = read_yaml(write("top.yml", f"{key}: {base}\nb: 2")).values
    assert values == ({"a": 1, "b": 2} if "base" in base else {"b": 2})


def test_an_absolute_include_and_one_in_the_home_folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("home/one.yml", "a: 1")
    other = write("other/two.yml", "b: 2")
    assert read_yaml(write("top.yml", f"_BASE_: ['~/one.yml', '{other}']")).values == {
        "a": 1,
        "b": 2,
    }


def test_a_mapping_over_something_else_and_back(write):
    write("base.yml", "a: {x: 1}\nb: 1")
    assert read_yaml(write("top.yml", "_BASE_: base.yml\na: 2\nb: {y: 1}")).values == {
        "a": 2,
        "b": {"y": 1},
    }


def test_tags_of_applications_are_opaque(write):
    text = "sample: [!RandomCrop {}, !Resize {size: [1, 2]}]\none: !Experiment\n  x: 1\n"
    values = read_yaml(write("top.yml", text)).values
    assert values == {
        "sample": [Opaque("!RandomCrop"), Opaque("!Resize")],
        "one": Opaque("!Experiment"),
    }


def test_anchors(write):
    assert read_yaml(write("top.yml", "h: &h 640\nshape: [3, *h, *h]")).values["shape"] == [
        3,
        640,
        640,
    ]


REFUSED = {
    "code": ("a: !!python/object/apply:os.system ['touch PWNED']", "could not determine"),
    "no yaml": ("a: [1, 2", "at line 1"),
    "a list": ("- 1\n- 2", "list; needed: names and values"),
    "empty": ("", "NoneType; needed"),
    "missing include": ("_BASE_: none.yml", "no such file"),
    "an include that is no path": ("_BASE_: [3]", "3; needed: the path"),
    "itself": ("_BASE_: top.yml", "'top.yml' includes 'top.yml'"),
    "a folder": ("_BASE_: .", "s a directory"),
    "aliases that grow": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64)),
        "with aliases written out",
    ),
    "an alias to itself": ("a: &a [*a]", "with aliases written out"),
    "deep": ("a: " + "[" * 5000, "is no configuration"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = REFUSED[name]
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(write("top.yml", text))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "PWNED").exists()


def test_merges_that_grow(write):
    """PyYAML to 6.0.3 doubles a mapping with every merge, which is refused; 6.0.4 does not."""
    lines = (f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 64))
    path = write("top.yml", "a0: &a0 {k: 1}\n" + "".join(lines))
    if Version(yaml.__version__) < Version("6.0.4"):
        with pytest.raises(ConfigurationError, match="a mapping of more than 100,000 values"):
            read_yaml(path)
    else:
        assert read_yaml(path).values == {f"a{i}": {"k": 1} for i in range(64)}


def test_includes_in_a_circle(write):
    write("one.yml", "_BASE_: two.yml")
    write("two.yml", "_BASE_: one.yml")
    with pytest.raises(ConfigurationError, match=r"'one.yml' includes 'two.yml' includes 'one"):
        read_yaml(write("one.yml", "_BASE_: two.yml"))


def test_the_same_include_twice_is_no_circle(write):
    write("base.yml", "a: 1")
    write("one.yml", "_BASE_: base.yml")
    assert read_yaml(write("top.yml", "_BASE_: [one.yml, base.yml]")).values == {"a": 1}


def test_a_missing_include_says_who_wants_it(write):
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(write("top.yml", "_BASE_: deep/none.yml"))
    assert "none.yml" in caught.value.what
    assert "top.yml' includes it" in caught.value.why


def test_too_many_and_too_large(write):
    for index in range(70):
        write(f"{index}.yml", "a: 1")
    with pytest.raises(ConfigurationError, match="more than 64 files"):
        read_yaml(write("top.yml", f"_BASE_: [{', '.join(f'{i}.yml' for i in range(70))}]"))
    with pytest.raises(ConfigurationError, match=r"more than 1,048,576 bytes"):
        read_yaml(write("large.yml", "a: 1\n" * 300_000))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "top.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_yaml(tmp_path / "top.yml")
    (tmp_path / "null.yml").write_bytes(b"a: \x00")
    with pytest.raises(ConfigurationError):
        read_yaml(tmp_path / "null.yml")
