"""The docs hold together: links lead somewhere, examples run, generated parts are current."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tables

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _script(path: Path) -> ModuleType:
    name = f"_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s+", "-", title) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", _prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{_name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(file), f"{_name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_python_block_is_an_example_that_runs(page):
    for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            assert ">>>" in body, f"{_name(page)}: mark a block that cannot run as text"
        if ">>>" in body:
            assert language == "python"
            assert body.endswith("\n\n"), f"{_name(page)}: end the block with a blank line"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"[\w/-]+\.md", navigation))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_index_of_errors_is_current():
    errors = _script(DOCS / "make_errors.py")
    remedies = json.loads(errors.REMEDIES.read_text(encoding="utf-8"))
    wanted = errors.page(errors.messages(), remedies)
    assert errors.PAGE.read_text(encoding="utf-8") == wanted, "run: make errors"


def test_messages_of_errors_are_found_with_what_is_filled_in(tmp_path, monkeypatch):
    errors = _script(DOCS / "make_errors.py")
    (tmp_path / "a.py").write_text(
        'def f(x):\n    raise InputError(f"no {x!r}" " here: " + hint)\n'
        "def g():\n    raise ValueError('not ours')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(errors, "SOURCE", tmp_path)
    assert [(m.text, m.kind) for m in errors.messages()] == [("no … here: …", "InputError")]


def test_the_coverage_table_shows_the_committed_results():
    coverage = _script(ROOT / "benchmarks" / "coverage.py")
    rows = json.loads(coverage.RESULTS.read_text(encoding="utf-8"))["rows"]
    text = coverage.PAGE.read_text(encoding="utf-8")
    table = text.partition(tables.BEGIN)[2].partition(tables.END)[0].strip()
    assert table == coverage.table(rows)
    assert {row["network"] for row in rows} >= set(coverage.SPECS)


def test_pictures_are_small():
    for picture in (DOCS / "images").glob("*"):
        assert picture.stat().st_size < 300_000, f"{picture.name} is large"
