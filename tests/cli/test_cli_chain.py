"""``sparsight chain``: a folder for each sub-task, what is there already, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli.command_kit import Run
from sparsight.chains import Chain
from sparsight.datasets.scenes import render_scene

CLASSES = ("mug", "guitar", "tree")
FAST = ("--steps", "3", "--each", "2", "--keep", "0.3")


@pytest.fixture
def scenes(home: Path) -> str:
    for number in range(12):
        folder = Path("scenes") / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        render_scene(CLASSES[number % 3], seed=number).picture().save(folder / f"{number}.png")
    return "scenes"


def test_a_sub_task_gets_a_page_a_picture_and_a_graph(run: Run, scenes: str) -> None:
    result = run("chain", scenes, "--classes", "mug,tree", "--out", "out", *FAST)
    assert (result.code, result.err) == (0, "")
    folder = Path("out/mug-or-tree")
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "graph.json", "graph.graphml", "chain.svg", "chain"
    }  # fmt: skip
    chain = Chain.load(folder / "chain")
    assert chain.share == pytest.approx(0.3, abs=0.001)
    assert len(chain.dense_logits) == 4
    page = (folder / "index.html").read_text(encoding="utf-8")
    for told in ("other images of these classes", "other classes", "one constant answer"):
        assert told in page
    picture = ElementTree.parse(folder / "chain.svg").getroot()
    assert picture.attrib["width"]
    assert "stroke" in (picture.findtext("{http://www.w3.org/2000/svg}style") or "")
    graph = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    assert len(graph["asked"]["images"]) == 4
    assert graph["nodes"]
    assert f"page {folder}/index.html" in result.out


def test_what_is_complete_is_passed_over(run: Run, scenes: str) -> None:
    first = run("chain", scenes, "-c", "mug,tree", "-o", "out", "--json", *FAST)
    before = Path("out/mug-or-tree/index.html").stat().st_mtime_ns
    both = run("chain", scenes, "-c", "mug,tree", "-c", "tree,guitar", "-o", "out", "--json", *FAST)
    assert Path("out/mug-or-tree/index.html").stat().st_mtime_ns == before
    told = json.loads(both.out)["chains"]
    assert told[0] == json.loads(first.out)["chains"][0]
    assert [one["classes"] for one in told] == ["mug or tree", "tree or guitar"]


def test_other_settings_are_no_resumption(run: Run, scenes: str) -> None:
    assert run("chain", scenes, "-c", "mug,tree", "-o", "out", *FAST).code == 0
    before = Path("out/mug-or-tree/index.html").read_bytes()
    result = run("chain", scenes, "-c", "mug,tree", "-o", "out", *FAST[:-1], "0.5")
    assert result.code == 2
    assert "other settings" in result.err
    assert Path("out/mug-or-tree/index.html").read_bytes() == before
    result = run("chain", scenes, "-c", "mug,tree", "-o", "out", *FAST[:-1], "0.5", "--overwrite")
    assert result.code == 0
    assert Chain.load("out/mug-or-tree/chain").share == pytest.approx(0.5, abs=0.001)
    assert Path("out/mug-or-tree/chain").stat().st_mode & 0o500 == 0o500


def test_the_answer_can_be_the_class(run: Run, scenes: str, home: Path) -> None:
    flat = Path("flat")
    flat.mkdir()
    for file in Path(scenes).rglob("*.png"):
        file.rename(flat / file.name)
    result = run("chain", "flat", "-c", "mug,tree", "-o", "out", "--by-answer", *FAST)
    assert (result.code, result.err) == (0, "")
    page = Path("out/mug-or-tree/index.html").read_text(encoding="utf-8")
    assert "100 %</td><td>–</td>" in page.replace("\u202f", " ").replace("\u00a0", " ")
    refused = run("chain", "flat", "-c", "mug,tree", "-o", "other", *FAST)
    assert refused.code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-c", "mug"), "two or more classes"),
        (("-c", "mug,mug"), "give different ones"),
        (("-c", "mug,unicorn"), "unicorn"),
        (("-c", "mug,umbrella"), "give images of every class"),
        (("-c", "mug,tree", "--published", "--keep", "0.1"), "leave out --keep"),
        (("-c", "mug,tree", "--published", "--selector", "random"), "learns no gates"),
        (("-c", "mug,tree", "--keep", "1.5"), "give a share in (0, 1]"),
        (("-c", "mug,tree", "--selector", "best"), "choose from gates"),
    ],
)
def test_refusals_are_one_line_and_lose_nothing(
    run: Run, scenes: str, arguments: tuple[str, ...], told: str
) -> None:
    result = run("chain", scenes, "-o", "out", "--steps", "2", *arguments)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert told in result.err
    assert not list(Path().glob("out/*"))


def test_a_case_file_shows_the_chain(run: Run, scenes: str) -> None:
    assert run("chain", scenes, "-c", "mug,tree", "-o", "out", *FAST).code == 0
    asked = ("explain", "scenes/mug/0.png", "--methods", "saliency", "--augmentations", "2")
    result = run(*asked, "--chain", "out/mug-or-tree", "--out", "cases")
    assert (result.code, result.err) == (0, "")
    assert "chain of mug, tree" in result.out
    page = Path("cases/0/index.html").read_text(encoding="utf-8")
    assert "What a chain makes of it" in page
    assert "--chain out/mug-or-tree" in Path("cases/0/case.json").read_text(encoding="utf-8")
    again = run(*asked, "--chain", "out/mug-or-tree/chain", "--out", "cases")
    assert "there already" not in again.err


@pytest.mark.parametrize("folder", ["scenes", "nowhere"])
def test_a_folder_without_a_chain_is_refused(run: Run, scenes: str, folder: str) -> None:
    result = run("explain", "scenes/mug/0.png", "--chain", folder, "--out", "cases")
    assert result.code == 2
    assert "chain.json" in result.err
    assert not Path("cases").exists()
