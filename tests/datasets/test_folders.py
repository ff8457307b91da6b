"""Files and folders of images, and label tables."""

from __future__ import annotations

import pytest

from sparsight.datasets.folders import list_images, read_label_table
from sparsight.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", ".hidden.png", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_are_listed_sorted_without_hidden_files(folder):
    names = [str(path.relative_to(folder)) for path in list_images(folder)]
    assert names == ["a.JPG", "b.png", "sub/c.webp"]


def test_files_keep_their_order_and_come_once(folder):
    given = [folder / "b.png", str(folder), folder / "b.png"]
    assert [path.name for path in list_images(given)] == ["b.png", "a.JPG", "c.webp"]


@pytest.mark.parametrize("name", ["nowhere", "notes.txt"])
def test_unusable_paths_are_refused_by_name(folder, name):
    with pytest.raises(InputError, match=name):
        list_images(folder / name)


def test_nothing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no image given"):
        list_images([])
    with pytest.raises(InputError, match="holds no image"):
        list_images(tmp_path)


def test_label_table_is_read_relative_to_its_folder(folder):
    table = folder / "labels.csv"
    table.write_text("file,label\nb.png,fish\nsub/c.webp, 3\n", encoding="utf-8-sig")
    assert read_label_table(table) == {folder / "b.png": "fish", folder / "sub/c.webp": "3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("file,label\n", "empty"),
        ("name,label\nb.png,fish\n", "row 1"),
        ("file,label\nb.png,\n", "row 1"),
        ("file,label\nb.png,fish\nb.png,car\n", "row 2.*twice"),
        ("file,label\ngone.png,fish\n", "gone.png"),
    ],
)
def test_malformed_label_tables_are_refused(folder, text, message):
    table = folder / "labels.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        read_label_table(table)


def test_label_table_must_be_a_text_file(folder):
    with pytest.raises(InputError, match="no such label table"):
        read_label_table(folder / "labels.csv")
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="no CSV text"):
        read_label_table(folder / "labels.csv")
