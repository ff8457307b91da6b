"""The index links what it can read, says what it cannot, and overwrites only itself."""

import re

import pytest

from reports.synthetic_case import make_case
from sparsight.errors import InputError
from sparsight.reports import ClassRow, write_case, write_index


@pytest.fixture
def folder(tmp_path):
    write_case(make_case(size=32, methods=1), tmp_path / "plain")
    odd = make_case(
        size=48,
        maps=(),
        title="<script>alert(1)</script>",
        classes=(ClassRow(0, "<b>a</b>", 0.6, 0.1), ClassRow(1, "<i>b</i>", 0.3, 0.8)),
    )
    write_case(odd, tmp_path / 'odd #1?"><script>')
    broken = write_case(make_case(size=32, methods=1), tmp_path / "broken")
    broken.write_text("changed")
    return tmp_path


def test_cards_links_and_reasons(folder):
    page = write_index(folder, title="<u>All</u>")
    text = page.read_text("utf-8")
    assert re.findall(r'<a href="([^"]+)"', text) == [
        "odd%20%231%3F%22%3E%3Cscript%3E/index.html",
        "plain/index.html",
    ]
    assert "<script" not in text
    assert "<b>" not in text
    assert "<u>" not in text
    assert "trace says <bdi>&lt;i&gt;b" in text
    assert "was changed after" in text
    assert str(folder) not in text
    assert not re.search(r"https?:", text)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_an_index_is_renewed_and_other_pages_are_kept(folder):
    write_index(folder)
    write_index(folder)
    (folder / "index.html").write_text("my page")
    with pytest.raises(InputError, match="move it away"):
        write_index(folder)
    with pytest.raises(InputError, match="itself a case"):
        write_index(folder / "plain")
