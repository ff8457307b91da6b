"""A sweep as a page: every image on it, a case behind each, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import sparsight
from sparsight.casefile import explain
from sparsight.errors import InputError
from sparsight.gallery import case_of, write_gallery
from sparsight.sweeps import Sweep, sweep
from sweeps.test_sweep import pictures

OPTIONS = {"augmentations": 2, "sparsity": 0.5, "methods": "saliency,lrp"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    home = tmp_path_factory.mktemp("sweep")
    files = []
    for number, (image, label) in enumerate(pictures(3)):
        image.save(home / f"{number} <b>.png")
        files.append((home / f"{number} <b>.png", label))
    (home / "bad.png").write_text("no image")
    files.append((home / "bad.png", 1))
    return sweep(sparsight.load("embedded"), files, home / "out", **OPTIONS, shard=2)


def _rows(page: Path) -> list[list]:
    text = page.read_text("utf-8")
    block = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    return json.loads(block[1])["rows"]


@pytest.mark.usefixtures("one_thread")
def test_a_case_is_the_one_that_the_image_alone_has(found: Sweep) -> None:
    network = sparsight.load("embedded")
    ours = case_of(found, 1)
    with Image.open(found.row(1)["name"]) as image:
        alone = explain(network, image.copy(), **OPTIONS, image_name=ours.image_name)
    assert ours.title == alone.title
    assert ours.layers == alone.layers
    assert (ours.kl, ours.sparsity) == (alone.kl, alone.sparsity)
    for a, b in zip(ours.classes, alone.classes, strict=True):
        assert (a.label, a.dense) == (b.label, pytest.approx(b.dense, rel=1e-5))
    for a, b in zip(ours.maps, alone.maps, strict=True):
        assert (a.method, a.signed, a.gap_of) == (b.method, b.signed, b.gap_of)
        assert (a.dense_gap is None) == (b.dense_gap is None)
        assert a.dense_gap is None or a.dense_gap == pytest.approx(b.dense_gap, abs=1e-4)
        assert abs(a.dense - b.dense).max() <= 1e-3 * abs(b.dense).max()
    assert abs(ours.image - alone.image).max() <= 1 / 255
    assert ours.warnings == alone.warnings
    assert "stands out most in this sweep" in ours.notes


def test_every_image_is_there_and_links_to_its_case(found: Sweep, tmp_path: Path) -> None:
    seen = []
    page = write_gallery(found, tmp_path / "wall", progress=lambda *call: seen.append(call))
    rows = _rows(page)
    assert len(rows) == 4
    links = [row[13] for row in rows]
    assert sum(map(bool, links)) == 3
    for link in links:
        if link:
            text = (page.parent / link).read_text("utf-8")
            assert "maps.safetensors" not in text  # which is not beside it
            assert "&lt;b&gt;" in text
    assert seen[-1] == ("gallery", 3, 4)
    other = write_gallery(found, tmp_path / "bare", cases="none")
    assert not (other.parent / "cases").exists()
    odd = _rows(write_gallery(found, tmp_path / "odd", cases="odd"))
    table = found.table.to_pylist()
    strange = [bool(row["wrong"] or row["changed"]) for row in table]
    assert [bool(row[13]) for row in odd] == [
        flag for _, flag in sorted(zip([r["name"] for r in table], strange, strict=True))
    ]


def test_says_what_is_missing(found: Sweep, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image 3 could not be used: .*bad\.png"):
        case_of(found, 3)
    with pytest.raises(InputError, match="no choice of cases is called 'some'"):
        write_gallery(found, tmp_path / "a", cases="some")
    network = sparsight.load("embedded")
    plain = sweep(network, pictures(1), tmp_path / "plain", do="attribute", keep="pictures")
    with pytest.raises(InputError, match=r"kept no traces: .*--cases none"):
        write_gallery(plain, tmp_path / "a")
    write_gallery(plain, tmp_path / "a", cases="none")
    with pytest.raises(InputError, match="is not empty"):
        write_gallery(plain, tmp_path / "a", cases="none")
    bare = sweep(network, pictures(1), tmp_path / "bare", do="attribute", keep="")
    with pytest.raises(InputError, match="kept no pictures"):
        write_gallery(bare, tmp_path / "b", cases="none")
