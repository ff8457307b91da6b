"""``sparsight explain`` when all goes well: cases, galleries, resuming, reproducing."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from cli.command_kit import Run, noise
from sparsight.casefile import DEFAULT_METHODS
from sparsight.cli.options import command_line
from sparsight.cli.places import case_names
from sparsight.reports import read_case


def command_of(page: Path) -> str:
    match = re.search(r"sparsight explain[^<]*", page.read_text())
    assert match
    return html.unescape(match.group())


def test_one_image_becomes_one_case_without_a_gallery(explain: Run, home: Path) -> None:
    result = explain("a.png", "--out", "cases")
    assert (result.code, result.err) == (0, "")
    assert result.out.rstrip().endswith("cases/a/index.html")
    assert sorted(p.name for p in (home / "cases").rglob("*")) == [
        "a",
        "case.json",
        "index.html",
        "maps.safetensors",
    ]
    case = read_case(home / "cases" / "a")
    assert [pair.method for pair in case.maps] == ["saliency"]
    assert set(case.maps[0].heats) == {"dense", "traced"}
    assert [layer.name for layer in case.layers] == ["conv1", "conv2", "fc"]


def test_default_methods_are_those_of_the_library(run: Run, home: Path) -> None:
    result = run("explain", "a.png", "--model", "net.py:network", "--augmentations", "2", "--json")
    assert tuple(m["method"] for m in result.json["cases"][0]["methods"]) == DEFAULT_METHODS
    assert (home / "sparsight-out" / "a" / "index.html").is_file()


def test_methods_may_be_spelled_loosely_and_refusals_are_listed(explain: Run) -> None:
    result = explain("a.png", "--methods", "Grad-CAM, SALIENCY,saliency,guided backprop", "--json")
    found = {m["method"]: m["refused"] for m in result.json["cases"][0]["methods"]}
    assert list(found) == ["grad_cam", "saliency", "guided_backprop"]
    assert found["saliency"] is None


def test_folders_and_equal_names_get_folders_of_their_own(explain: Run, home: Path) -> None:
    result = explain("a.png", "more", "-o", "out")
    assert result.code == 0
    folders = {p.parent.name for p in (home / "out").glob("*/case.json")}
    assert folders == {"a", "a-2", "b", "my dog"}
    assert read_case(home / "out" / "a-2").image_name == "a.jpg"
    gallery = (home / "out" / "index.html").read_text()
    assert all(f"{name}/index.html" in gallery for name in ("a", "a-2", "b", "my%20dog"))


def test_names_collide_with_nothing() -> None:
    given = ["x/dog.png", "DOG.jpg", "dog-2.png", "index.html.png", ".png", "\u00e4" * 150 + ".png"]
    names = case_names([Path(name) for name in given])
    assert len({name.casefold() for name in names}) == len(names)
    assert "index.html" not in names
    assert not any(name.startswith(".") for name in names)
    assert max(len(name.encode()) for name in names) <= 200


def test_json_alone_is_on_standard_output(explain: Run) -> None:
    result = explain("more", "--json", "--out", "out")
    assert result.err == ""
    summary = result.json
    assert len(summary["cases"]) == 3
    assert summary["failed"] == []
    assert summary["index"] == "out/index.html"
    case = summary["cases"][0]
    assert case["page"] == "out/b/index.html"
    assert not case["skipped"]
    assert 0 <= case["prediction"]["dense"]["dense"] <= 1
    assert case["target"]["label"] == case["prediction"]["dense"]["label"]


def test_the_same_command_skips_what_is_there(explain: Run, home: Path) -> None:
    explain("a.png", "--out", "out")
    before = (home / "out" / "a" / "case.json").stat().st_mtime_ns
    result = explain("a.png", "more/b.png", "--out", "out", "--json")
    assert [case["skipped"] for case in result.json["cases"]] == [True, False]
    assert (home / "out" / "a" / "case.json").stat().st_mtime_ns == before
    again = explain("a.png", "--out", "out")
    assert "there already" in again.out


@pytest.mark.parametrize(
    "change", [("--seed", "1"), ("--target", "bee"), ("--augmentations", "4"), ("--chunk", "1")]
)
def test_other_settings_are_refused_until_told_to_overwrite(
    explain: Run, home: Path, change: tuple[str, ...]
) -> None:
    explain("a.png", "--out", "out")
    before = (home / "out" / "a" / "case.json").read_bytes()
    assert "--overwrite" in explain("a.png", "--out", "out", *change).error
    assert (home / "out" / "a" / "case.json").read_bytes() == before
    assert explain("a.png", "--out", "out", *change, "--overwrite").code == 0
    assert (home / "out" / "a" / "case.json").read_bytes() != before


def test_another_image_of_the_same_name_and_changed_code_are_noticed(
    explain: Run, home: Path
) -> None:
    explain("a.png", "--out", "out")
    noise(home / "a.png", 9)
    assert "another image" in explain("a.png", "--out", "out").error
    noise(home / "a.png", 0)
    assert explain("a.png", "--out", "out").code == 0
    (home / "net.py").write_text((home / "net.py").read_text() + "\n# changed\n")
    assert "other settings" in explain("a.png", "--out", "out").error


def test_a_damaged_case_is_made_again_only_when_told(explain: Run, home: Path) -> None:
    explain("a.png", "--out", "out")
    (home / "out" / "a" / "index.html").write_text("changed")
    assert "damaged" in explain("a.png", "--out", "out").error
    assert explain("a.png", "--out", "out", "--overwrite").code == 0
    assert (home / "out" / "a" / "index.html").read_text() != "changed"


def test_the_command_on_the_page_makes_the_same_case(run: Run, explain: Run, home: Path) -> None:
    explain("more", "--out", "out", "--target", "dog", "--seed", "3")
    command = command_of(home / "out" / "my dog" / "index.html")
    assert str(home) not in (home / "out" / "my dog" / "index.html").read_text()
    words = shlex.split(command)
    assert words[:3] == ["sparsight", "explain", "more/my dog.png"]
    first = read_case(home / "out" / "my dog")
    words[words.index("out")] = "again"
    assert run(*words[1:]).code == 0
    second = read_case(home / "again" / "my dog")
    assert second.kl == first.kl
    for one, two in zip(first.maps, second.maps, strict=True):
        assert all((one.heats[side] == two.heats[side]).all() for side in ("dense", "traced"))


def test_neurons_are_visualized_and_named_in_the_command(explain: Run, home: Path) -> None:
    wanted = ["--neuron", "target", "--neuron", "conv2:1 - class:cat", "--steps", "2"]
    result = explain("a.png", "--out", "out", *wanted)
    assert (result.code, result.err) == (0, "")
    case = read_case(home / "out" / "a")
    assert [view.title for view in case.views] == [case.target_label, "conv2:1 - class:cat"]
    assert case.views[0].neuron == f"class:{case.target_index}"
    assert not (case.views[0].dense == case.views[0].traced).all()
    assert shlex.join(wanted) in command_of(home / "out" / "a" / "index.html")
    assert explain("a.png", "--out", "out", *wanted).code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--neuron", "nowhere:1"], "no layer 'nowhere'"),
        (["--neuron", "class:unicorn"], "unicorn"),
        (["--steps", "3"], "name neurons with --neuron"),
    ],
)
def test_neurons_that_cannot_be_are_refused_before_any_work(
    explain: Run, home: Path, options: list[str], said: str
) -> None:
    result = explain("a.png", "--out", "out", *options)
    assert result.code == 2
    assert said in result.error
    assert not (home / "out").exists()


def test_command_lines_are_quoted() -> None:
    line = command_line(
        "explain", Path("-it's; rm *.png"), {"target": "a b", "chunk": None, "stem": True}
    )
    assert shlex.split(line) == [
        *("sparsight", "explain", "./-it's; rm *.png", "--target", "a b", "--stem")
    ]


def test_class_names_never_become_markup(explain: Run, home: Path) -> None:
    label = "[bold]<script>alert(1)</script>[/bold]"
    result = explain("a.png", "--target", label, "--out", "out")
    assert result.code == 0
    assert "[bold]<script>" in result.out
    page = (home / "out" / "a" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_warnings_name_what_the_reader_must_know(explain: Run) -> None:
    result = explain("a.png", "--target", "bee", "--sparsity", "0.99", "--json")
    warnings = " ".join(result.json["cases"][0]["warnings"])
    assert "unsure" in warnings
    predicted = result.json["cases"][0]["prediction"]["dense"]["label"]
    assert ("not the prediction" in warnings) == (predicted != "bee")
    assert ("changed the prediction" in warnings) != result.json["cases"][0]["prediction"]["kept"]


def test_classes_are_the_top_five_of_both(explain: Run, home: Path) -> None:
    explain("a.png", "--out", "out", "--sparsity", "0.9")
    rows = read_case(home / "out" / "a").classes
    assert len({row.index for row in rows}) == len(rows) >= 5
    best = sorted(range(len(rows)), key=lambda i: -rows[i].dense)[:5]
    assert set(best) <= set(range(len(rows)))


@pytest.mark.parametrize("sparsity", ["0", "ramp:0.8", "rules.json"])
def test_sparsity_as_number_ramp_and_file(explain: Run, home: Path, sparsity: str) -> None:
    (home / "rules.json").write_text('{"conv*": 0.5, "fc": 0.25}')
    result = explain("a.png", "--sparsity", sparsity, "--out", "out", "--json")
    assert result.code == 0
    layers = {row.name: row.requested for row in read_case(home / "out" / "a").layers}
    expected = {"0": (0, 0), "ramp:0.8": (0, 0.8), "rules.json": (0.5, 0.25)}[sparsity]
    assert (layers["conv2"], layers["fc"]) == expected
