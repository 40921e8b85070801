"""Classes from a number, a list, or a file; and against the number that a detector has."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reparam.detection.classes import COCO_NAMES, Classes, check_classes, read_classes
from reparam.errors import ConfigurationError


@given(st.integers(1, 100_000))
def test_a_number(count):
    assert read_classes(str(count)) == Classes(count)


@pytest.mark.parametrize("text", ["coco", "COCO", " coco "])
def test_coco(text):
    classes = read_classes(text)
    assert classes == Classes(80, COCO_NAMES)
    assert len(set(COCO_NAMES)) == 80
    assert (COCO_NAMES[0], COCO_NAMES[11], COCO_NAMES[79]) == ("person", "stop sign", "toothbrush")


@given(st.lists(st.sampled_from(["cat", "traffic light", "a.b", "x/y", "人"]), min_size=1))
def test_names_with_commas(names):
    assert read_classes(",".join(names) + ",").names == tuple(names)
    assert read_classes(" , ".join([*names, "last"])).names == (*names, "last")


def test_a_file_with_a_name_a_line(tmp_path):
    path = tmp_path / "label_list.txt"
    path.write_bytes("\ufeffcat\r\n traffic light \n\na,b\n人\n".encode())
    assert read_classes(str(path)) == Classes(4, ("cat", "traffic light", "a,b", "人"))


def test_annotations_in_the_order_of_training(tmp_path):
    """Which is that of the file, since pycocotools does not sort (cocoapi, PythonAPI, coco.py)."""
    path = tmp_path / "instances.json"
    categories = [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat", "supercategory": "animal"}]
    path.write_text(json.dumps({"images": [], "categories": categories}))
    assert read_classes(str(path)) == Classes(2, ("dog", "cat"))


REFUSED = {
    "": "needed: a number, coco",
    "person": "needed: a number, coco",
    "0": "needed: a number from 1 to 100,000",
    "-3": "needed: a number from 1",
    "100001": "needed: a number from 1",
    "9" * 5000: "needed: a number from 1",
    "a,,b": "a name between two commas is empty",
    ",": "a name between two commas is empty",
    "none.txt": "No such file",
    "none.json": "No such file",
    "nul\0.txt": "null",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        read_classes(text)
    assert REFUSED[text] in caught.value.found
    assert "cannot read the classes" in caught.value.what
    assert caught.value.exit_code == 2
    assert len(caught.value.what) < 300


def test_a_single_word_says_how_to_mean_it():
    with pytest.raises(ConfigurationError) as caught:
        read_classes("person")
    assert "'person,' is one class" in caught.value.hint


FILES = {
    "empty.txt": (b"\n\n", "0 names in it"),
    "many.txt": (b"x\n" * 100_001, "100,001 names"),
    "bytes.txt": (b"\xff\xfe", "not UTF-8"),
    "broken.json": (b"{", "no JSON"),
    "deep.json": (b"[" * 100_000, "no JSON"),
    "list.json": (b"[]", "no list 'categories'"),
    "none.json": (b'{"categories": []}', "no list 'categories'"),
    "word.json": (b'{"categories": "cat"}', "no list 'categories'"),
    "no_id.json": (b'{"categories": [{"name": "cat"}]}', "needed: a whole number as 'id'"),
    "flag.json": (b'{"categories": [{"id": true, "name": "cat"}]}', "needed: a whole number"),
    "no_name.json": (b'{"categories": [{"id": 1, "name": " "}]}', "and a 'name'"),
    "number.json": (b'{"categories": [7]}', "a category that is 7"),
    "twice.json": (
        b'{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "with the id 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_refused(name, tmp_path):
    content, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_classes(str(path))
    assert message in caught.value.found
    assert name in caught.value.what


def test_a_folder_and_a_file_too_large(tmp_path):
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match="directory"):
        read_classes(str(folder))
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate((1 << 24) + 1)
    with pytest.raises(ConfigurationError, match="more than 16,777,216 bytes"):
        read_classes(str(large))


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_against_a_detector(given_, found):
    if given_ == found:
        check_classes(Classes(given_), found)
        return
    with pytest.raises(ConfigurationError) as caught:
        check_classes(Classes(given_), found)
    assert caught.value.found == f"{given_} classes were given, the checkpoint has {found}"
