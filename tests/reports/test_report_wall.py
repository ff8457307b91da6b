"""A wall of thousands: whole or not at all, harmless whatever it names, fast to filter and sort."""

import json
import re
import weakref

import numpy as np
import pytest
from PIL import Image

from reports.synthetic_case import make_case
from reports.test_report_browser import EVIL
from sparsight.errors import InputError
from sparsight.reports import WallItem, write_case, write_wall
from sparsight.reports.wall_page import Tile, render_wall

CLASSES = ("cat", "dog", "fish", "train")
SEPARATORS = "\u2028\u2029"


def picture(seed=0, height=24, width=24):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def item(name="a.png", **changes):
    values = {
        "picture": picture(), "label": "dog", "predicted": "cat", "confidence": 0.75,
        "traced": "cat", "kl": 0.25, "sparsity": 0.95,
    }  # fmt: skip
    return WallItem(name, **(values | changes))


def many(count):
    """Three of four right, every tenth unlabelled, every fiftieth unread, numbers that differ."""
    for number in range(count):
        name = f"{CLASSES[number % 4]}/{number}.png"
        if number % 50 == 49:
            yield item(name, picture=None, predicted=None, confidence=None, traced=None, kl=None,
                       sparsity=None, problem="the file is cut short")  # fmt: skip
            continue
        predicted = CLASSES[(number + (number % 4 == 3)) % 4]
        yield item(
            name,
            picture=picture(number),
            label=None if number % 10 == 0 else CLASSES[number % 4],
            predicted=predicted,
            traced="fish" if number % 20 == 1 else predicted,
            confidence=(number * 7919 % count) / count,
            kl=(number * 104729 % count) / 100,
            sparsity=0.9 + (number % 13) / 200,
            suspicion=(number % 17) / 17 if number % 2 else None,
            heat=np.eye(8, dtype=np.float32) if number % 3 else None,
            link="cases/one/index.html" if number == 2 else None,
        )


def tree(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def data_of(text):
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return block.group(1)


def test_what_an_item_says():
    assert (item().wrong, item().changed) == (True, False)
    assert item(label=None).wrong is None
    assert item(predicted=None).wrong is None
    assert item(predicted=None).changed is None
    assert item(traced="dog").changed is True
    assert item(sparsity=1 + 1e-7).sparsity == 1.0
    assert repr(item()) == "WallItem('a.png', label='dog', predicted='cat')"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": float("nan")}, "confidence is nan: give"),
        ({"confidence": 1.5}, "confidence is 1.5: give"),
        ({"sparsity": -0.1}, "sparsity is -0.1: give"),
        ({"suspicion": float("inf")}, "suspicion is inf: give"),
        ({"kl": float("nan")}, "kl is nan: give"),
        ({"kl": -1.0}, "kl is -1.0: give"),
        ({"label": ""}, "label is empty text: give None"),
        ({"picture": np.zeros((4, 4), np.uint8)}, "picture is uint8 of shape .*: give bytes"),
        ({"picture": np.zeros((4, 4, 3))}, "picture is float64 of shape .*: give bytes"),
        ({"picture": np.zeros((0, 4, 3), np.uint8)}, "picture is .*: give bytes"),
        ({"heat": np.zeros((4, 4, 3), np.float32)}, "heat has shape .*: give"),
        ({"heat": np.full((4, 4), np.nan, np.float32)}, "NaN or infinite values: leave"),
        ({"heat": -np.ones((4, 4), np.float32)}, "negative values: pass signed=True"),
        ({"link": "/etc/passwd"}, "give a path below"),
        ({"link": "cases/../../x"}, "give a path below"),
        ({"link": "//example.org"}, "give a path below"),
    ],
)
def test_bad_items_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=f"^a.png: its .*{message}"):
        item(**changes)


def test_files_and_their_pictures(tmp_path):
    heat = np.zeros((2, 2), np.float32)
    heat[0, 0] = 1
    page = write_wall(
        tmp_path / "wall",
        [
            item("small.png", heat=heat),
            item("large.png", picture=picture(1, 300, 400), heat=-heat, signed=True),
            item("plain.png", heat=0 * heat),
            item("gone.png", picture=None, problem="cut short"),
        ],
        title="t",
    )
    files = tree(page.parent)
    assert sorted(files) == [
        "index.html", "thumbnails/00000.map.png", "thumbnails/00000.png",
        "thumbnails/00001.jpg", "thumbnails/00001.map.jpg", "thumbnails/00002.png",
    ]  # fmt: skip
    open_ = {name: np.asarray(Image.open(page.parent / name)) for name in files if "thumb" in name}
    np.testing.assert_array_equal(open_["thumbnails/00000.png"], picture())
    assert open_["thumbnails/00001.jpg"].shape == (120, 160, 3)
    assert open_["thumbnails/00001.map.jpg"].shape == (120, 160, 3)
    hot = open_["thumbnails/00000.map.png"].astype(int)
    assert hot[:12, :12].max() < 110
    assert hot[12:].min() > 90
    cold = open_["thumbnails/00001.map.jpg"][:50, :70].reshape(-1, 3).mean(axis=0)
    assert cold[2] > cold[0] + 40  # against: blue


def test_names_and_labels_stay_data(tmp_path):
    evil = EVIL + "<!-- </script>" + SEPARATORS + "\u202e\x00\udcff"
    odd = item(evil, label=evil, predicted=evil + "2", traced=evil, link='x"><script>/javascript:1')
    bad = item(evil, picture=None, predicted=None, problem=evil)
    page = write_wall(tmp_path / "wall", [odd, bad], title=evil, facts=[(evil, evil)])
    text = page.read_text("utf-8")
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert not re.search(r"https?:", text)
    assert str(tmp_path) not in text
    block = data_of(text)
    assert not set("<>&" + SEPARATORS) & set(block)
    rows = json.loads(block)["rows"]
    assert rows[0][0].startswith(EVIL)
    links = {row[13] for row in rows}
    assert links == {"", "x%22%3E%3Cscript%3E/javascript%3A1"}


def test_numbers_that_json_cannot_hold(tmp_path):
    page = write_wall(tmp_path / "wall", [item(kl=float("inf"), confidence=None)], title="t")
    row = json.loads(data_of(page.read_text("utf-8")))["rows"][0]
    assert row[9:13] == [None, "inf", 0.95, None]


def test_names_are_in_the_order_of_a_reader():
    names = ["b10.png", "b9.png", "a/2", "B1.png", "a/02", "9" * 5000]
    tiles = [Tile(name, n, "", "", *[None] * 8, "x") for n, name in enumerate(names)]
    rows = json.loads(data_of(render_wall(tiles, "t")))["rows"]
    assert [row[0] for row in rows] == ["9" * 5000, "a/02", "a/2", "B1.png", "b9.png", "b10.png"]


def test_the_same_items_make_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_wall(tmp_path / name, many(60), title="t", facts=[("seed", "0")])
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_pictures_are_let_go_as_they_come(tmp_path):
    alive = []

    def stream():
        for number in range(20):
            own = picture(number)
            alive.append(weakref.ref(own))
            yield item(f"{number}.png", picture=own)
            del own
            assert sum(ref() is not None for ref in alive) <= 1

    write_wall(tmp_path / "wall", stream(), title="t")


def test_no_items_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"no image to show in .*: give at least one"):
        write_wall(tmp_path / "wall", [], title="t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [InputError("broken"), KeyboardInterrupt()])
def test_after_an_interruption_the_former_wall_is_there(tmp_path, fault):
    def stops(fresh):
        write_case(make_case(size=32, methods=1), fresh / "cases" / "a")
        yield item()
        raise fault

    write_wall(tmp_path / "wall", many(5), title="former")
    former = tree(tmp_path)
    with pytest.raises(type(fault)):
        write_wall(tmp_path / "wall", stops, title="t", overwrite=True)
    assert tree(tmp_path) == former


def test_a_wall_with_cases_is_renewed_as_a_whole(tmp_path):
    def filled(fresh):
        write_case(make_case(size=32, methods=1), fresh / "cases" / "a b" / "c#1")
        (fresh / "rows.csv").write_text("a,b\n")
        yield item(link="cases/a b/c#1/index.html")

    for _ in range(2):
        write_wall(tmp_path, filled, title="t", beside=["rows.csv"], overwrite=True)
        assert "cases/a b/c#1/case.json" in tree(tmp_path)
    with pytest.raises(InputError, match=r"not empty.*--overwrite"):
        write_wall(tmp_path, filled, title="t")
    page = write_wall(tmp_path, many(2), title="t", beside=["rows.csv"], overwrite=True)
    assert not (tmp_path / "cases").exists()
    assert page.is_file()


@pytest.mark.parametrize(
    "strange",
    ["notes.txt", "index.html", "thumbnails/mine.png", "cases/a/notes.txt", "rows.csv/x"],
)
def test_what_is_foreign_is_kept(tmp_path, strange):
    if strange != "index.html":
        write_wall(tmp_path, many(2), title="t")
    (tmp_path / strange).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / strange).write_text("mine")
    before = tree(tmp_path)
    name = strange.removesuffix("/x")
    with pytest.raises(InputError, match=f"holds {name}, .*: move it away"):
        write_wall(tmp_path, many(2), title="t", beside=["rows.csv"], overwrite=True)
    assert tree(tmp_path) == before


def test_a_link_to_elsewhere_is_foreign(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_wall(tmp_path / "wall", many(2), title="t")
    (tmp_path / "wall" / "cases").symlink_to(other)
    with pytest.raises(InputError, match=r"holds cases, .*: move it away"):
        write_wall(tmp_path / "wall", many(2), title="t", overwrite=True)
