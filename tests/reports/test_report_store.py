"""A case is written whole or not at all, and read only as it was written."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from reports.synthetic_case import make_case
from sparsight.errors import InputError
from sparsight.reports import read_case, read_manifest, render_page, store, write_case

FILES = {"index.html", "maps.safetensors", "case.json"}


@pytest.fixture(scope="module")
def case():
    return make_case(size=32, methods=2, layers=4)


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_three_files_and_their_hashes(case, tmp_path):
    page = write_case(case, tmp_path / "deep" / "case")
    assert page == tmp_path / "deep" / "case" / "index.html"
    assert {path.name for path in page.parent.iterdir()} == FILES
    manifest = read_manifest(page.parent)
    assert manifest["schema_version"] == 1
    assert manifest["seed"] == 0
    assert {"sparsight", "torch", "python", "numpy"} <= set(manifest["versions"])
    for name, facts in manifest["files"].items():
        data = (page.parent / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    maps = load_file(page.parent / "maps.safetensors")
    assert np.array_equal(maps["maps/saliency/traced"], case.maps[0].heats["traced"])


def test_the_manifest_comes_last(case, tmp_path, monkeypatch):
    seen = []
    dumps = json.dumps

    def spy(manifest, **options):
        (partial,) = tmp_path.glob(".case.*.partial")
        seen.append({path.name for path in partial.iterdir()})
        return dumps(manifest, **options)

    monkeypatch.setattr(store.json, "dumps", spy)
    write_case(case, tmp_path / "case")
    assert seen == [FILES - {"case.json"}]


@pytest.mark.parametrize("former", [False, True], ids=["new", "overwriting"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["render_page", "save_file", "_digest", "_flush", "_described"])
def test_a_failure_leaves_nothing_half_written(case, tmp_path, monkeypatch, step, error, former):
    if former:
        write_case(make_case(seed=1, size=32, methods=1), tmp_path / "case")
    before = everything(tmp_path)

    def fail(*_, **__):
        raise error("now")

    monkeypatch.setattr(store, step, fail)
    with pytest.raises(error):
        write_case(case, tmp_path / "case", overwrite=True)
    assert everything(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["case"] if former else [])


@pytest.mark.parametrize("which", [1, 2])
def test_an_interrupted_swap_is_undone(case, tmp_path, monkeypatch, which):
    write_case(make_case(seed=1, size=32, methods=1), tmp_path / "case")
    before = everything(tmp_path)
    rename, calls = Path.rename, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == which:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_case(case, tmp_path / "case", overwrite=True)
    assert everything(tmp_path) == before


def test_a_case_is_replaced_only_when_asked(case, tmp_path):
    write_case(case, tmp_path / "case")
    with pytest.raises(InputError, match="overwrite=True"):
        write_case(case, tmp_path / "case")
    write_case(make_case(size=32, methods=1, title="second"), tmp_path / "case", overwrite=True)
    assert read_manifest(tmp_path / "case")["case"]["title"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    (tmp_path / "empty").mkdir()
    write_case(case, tmp_path / "empty")


def test_other_files_are_never_deleted(case, tmp_path):
    write_case(case, tmp_path / "case")
    (tmp_path / "case" / "thoughts.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thoughts\.txt"):
        write_case(case, tmp_path / "case", overwrite=True)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "case")
    for name in ("file", "link", "file/below"):
        with pytest.raises(InputError):
            write_case(case, tmp_path / name, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_case_comes_back_as_it_went(case, tmp_path):
    back = read_case(write_case(case, tmp_path / "case").parent)
    assert np.array_equal(back.image, case.image)
    assert np.array_equal(back.truth_mask, case.truth_mask)
    assert (back.classes, back.layers) == (case.classes, case.layers)
    for one, two in zip(back.views, case.views, strict=True):
        assert (one.neuron, one.title, one.dense_score) == (two.neuron, two.title, two.dense_score)
        assert np.array_equal(one.dense, two.dense)
        assert np.array_equal(one.traced, two.traced)
    assert render_page(back) == render_page(case)


def test_odd_values_survive_the_manifest(tmp_path):
    case = make_case(
        size=32,
        methods=1,
        kl=float("inf"),
        title="a\udcffb",
        settings={"path": Path("x"), "nan": float("nan"), "n": np.float32(0.5), "s": (1, 2)},
    )
    folder = write_case(case, tmp_path / "case").parent
    assert read_case(folder).kl == float("inf")
    assert read_manifest(folder)["case"]["settings"] == {
        "path": "x",
        "nan": "nan",
        "n": 0.5,
        "s": [1, 2],
    }


def test_the_same_case_gives_the_same_bytes(case, tmp_path):
    for name in ("a", "b"):
        write_case(case, tmp_path / name)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def damage_page(folder):
    (folder / "index.html").write_text("changed")


def damage_maps(folder):
    (folder / "maps.safetensors").unlink()


def edit(**changes):
    def apply(folder):
        path = folder / "case.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_page, "was changed"),
        (damage_maps, "missing"),
        (edit(schema_version=99), "schema version 99"),
        (edit(schema="other"), "not a sparsight.case"),
        (edit(files={"../secret": {"sha256": "0"}}), "does not list"),
        (lambda folder: (folder / "case.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "case.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda folder: (folder / "case.json").unlink(), "no case"),
    ],
)
def test_what_was_changed_is_refused(case, tmp_path, damage, words):
    folder = write_case(case, tmp_path / "case").parent
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_makes_no_case_is_refused(case, tmp_path):
    folder = write_case(case, tmp_path / "case").parent
    edit(case={"title": "alone"})(folder)
    with pytest.raises(InputError, match="does not describe a case"):
        read_case(folder)
