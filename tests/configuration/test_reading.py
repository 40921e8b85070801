"""YAML with includes: merged as PaddleDetection does, and nothing in it ever constructed."""

from __future__ import annotations

import os

import pytest
import yaml
from packaging.version import Version

from reparam.configuration import read_yaml
from reparam.configuration.documents import Opaque, shown
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
    "code": (
        "a: !!python/object/apply:os.system ['touch PWNED']",
        "the tag !!python/object",
    ),
    "no yaml": ("a: [1, 2", "at line 1"),
    "a list": ("- 1\n- 2", "list; needed: names and values"),
    "empty": ("", "NoneType; needed"),
    "missing include": ("_BASE_: none.yml", "No such file"),
    "an include that is no path": ("_BASE_: [3]", "3; needed: the path"),
    "itself": ("_BASE_: top.yml", "'top.yml' includes 'top.yml'"),
    "a folder": ("_BASE_: .", "a directory; needed: a file"),
    "a device": ("_BASE_: /dev/zero", "outside of"),
    "a folder above": ("_BASE_: ../../../x.yml", "outside of"),
    "a link that leads outside": ("_BASE_: outside.yml", "outside of"),
    "a NUL": ('_BASE_: "a\\0b"', "cannot follow"),
    "the home of nobody": ("_BASE_: ~nobody-is-called-so/x.yml", "No such file"),
    "a pipe": ("_BASE_: pipe.yml", "a pipe; needed: a file"),
    "a tag for a truth value": ("a: !!bool x", "the tag !!bool, which"),
    "a tag for a date": ("a: !!timestamp x", "the tag !!timestamp, which"),
    "a tag written out": ("a: !<tag:yaml.org,2002:set> {x, y}", "the tag !!set, which"),
    "a tag of a list": ("a: !!omap [x: 1]", "the tag !!omap, which"),
    "a number of many digits": (f"a: {'1' * 5000}", "a number of 5,000 digits at line 1"),
    "a number of many hexadecimal digits": (f"a: 0x{'1' * 5000}", "a number of 5,002 digits"),
    "many values": ("a: [" + "1," * 50_000 + "]", "more than 20,000 values"),
    "aliases that grow": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64)),
        "with aliases written out",
    ),
    "an alias to itself": ("a: &a [*a]", "with aliases written out"),
    "deep": ("a: " + "[" * 5000, "more than 64 levels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.yml")
    (tmp_path / "outside.yml").symlink_to("/etc/passwd")
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
        with pytest.raises(ConfigurationError, match="merges of more than 20,000 values"):
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
    with pytest.raises(ConfigurationError, match=r"more than 262,144 bytes"):
        read_yaml(write("large.yml", "a: 1\n" * 300_000))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "top.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_yaml(tmp_path / "top.yml")
    (tmp_path / "null.yml").write_bytes(b"a: \x00")
    with pytest.raises(ConfigurationError):
        read_yaml(tmp_path / "null.yml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"), ("1:1:1.5", "1:1:1.5"), ("2001-01-01", "2001-01-01"), ("=", "="),
        ("1_000", 1000), ("0x1F", 31), ("0b11", 3), ("017", 15), ("-5", -5), ("+5", 5), ("0", 0),
        ("1.5", 1.5), ("-.5", -0.5), ("1.0e-3", 0.001), ("1e-3", "1e-3"), (".inf", float("inf")),
        ("~", None), ("", None), ("null", None), ("yes", True), ("Off", False), ("x", "x"),
        ("'1'", "1"), ("09", "09"), ("1:" * 50_000 + "1", "1:" * 50_000 + "1"),
    ],
)  # fmt: skip
def test_plain_scalars(write, text, value):
    found = read_yaml(write("top.yml", f"a: {text}")).values["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("top", "base", "allowed"),
    [
        ("configs/a/b/c/top.yml", "../../../x.yml", True),
        ("configs/a/b/c/top.yml", "../../../../x.yml", False),
        ("configs/a/configs/b/top.yml", "../../x.yml", False),
        ("a/b/c/top.yml", "../../x.yml", True),
        ("a/b/c/top.yml", "../../../x.yml", False),
    ],
)
def test_the_folder_that_includes_stay_in(write, tmp_path, top, base, allowed):
    path = write(top, f"_BASE_: {base}")
    write(str((path.parent / base).resolve().relative_to(tmp_path)), "a: 1")
    if allowed:
        assert read_yaml(path).values == {"a": 1}
    else:
        with pytest.raises(ConfigurationError, match="includes a file outside of"):
            read_yaml(path)


@pytest.mark.parametrize("name", ["loop.yml", "a\0.yml", "folder"])
def test_a_path_that_is_no_file(tmp_path, name):
    (tmp_path / "loop.yml").symlink_to("loop.yml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_yaml(tmp_path / name)


def test_merges_of_one_large_mapping_are_counted(write):
    large = ", ".join(f"k{i}: 1" for i in range(100))
    merged = "".join(f"b{i}: {{<<: *a}}\n" for i in range(300))
    with pytest.raises(ConfigurationError, match="merges of more than 20,000 values"):
        read_yaml(write("top.yml", f"a: &a {{{large}}}\n{merged}"))


def test_a_message_shows_the_beginning_of_a_large_value():
    assert len(shown([["x" * 1000] * 1000] * 1000)) < 1000
