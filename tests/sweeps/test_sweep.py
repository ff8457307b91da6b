"""A sweep: rows as each image alone gives them, bad images, interruptions, other settings."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import sparsight
from contracts import untouched
from sparsight.attribution import attribute
from sparsight.blame import statistics
from sparsight.errors import InputError, NetworkError, UnsupportedError
from sparsight.networks import Network
from sparsight.storage import read_manifest
from sparsight.sweeps import Sweep, SweepSettings, sweep
from sparsight.sweeps.items import Item
from sparsight.sweeps.measures import measure
from sparsight.sweeps.pool import Setup
from sparsight.sweeps.result import MANIFEST, SCHEMA

FAST = {"augmentations": 2, "sparsity": 0.5, "shard": 2}


@pytest.fixture(scope="module")
def network() -> Network:
    return sparsight.load("embedded")


def pictures(count: int, size: int = 64) -> list[tuple[Image.Image, int]]:
    rng = np.random.default_rng(0)
    return [
        (Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)), n % 3)
        for n in range(count)
    ]


def shards_of(folder: Path) -> Path:
    return next(folder.glob("shards-*"))


def plain(found: Sweep) -> list[dict]:
    """The table but for how long things took."""
    table = found.table
    return table.drop_columns(
        [c for c in table.column_names if c.startswith("seconds")]
    ).to_pylist()


@pytest.mark.usefixtures("one_thread")
def test_a_row_says_what_the_image_alone_gives(network: Network, tmp_path: Path) -> None:
    images = pictures(3)
    with untouched(network.model):
        found = sweep(network, images, tmp_path / "out", methods="saliency,lrp", **FAST)
    for number, (image, label) in enumerate(images):
        row = found.table.to_pylist()[number]
        alone = sparsight.trace(network, image, augmentations=2, sparsity=0.5)
        shares = alone.dense_logits.double().softmax(-1)
        assert (row["number"], row["label"], row["problem"]) == (number, label, None)
        assert row["prediction"] == alone.prediction[0]
        assert row["prediction_name"] == network.label(alone.prediction[0])
        assert row["confidence"] == float(shares.max())
        assert row["label_confidence"] == float(shares[label])
        assert row["wrong"] == (alone.prediction[0] != label)
        assert row["held_out_agree"] == alone.settings["held_out"]["agree"]
        assert (row["kl"], row["sparsity"]) == (alone.kl, pytest.approx(alone.sparsity))
        for layer in alone.layers:
            assert row[f"sparsity.{layer.name}"] == pytest.approx(layer.sparsity)
        x = network.prepare(image)
        dense = attribute(network, x, alone.prediction[0], "lrp")
        with alone.applied(network):
            after = attribute(network, x, alone.prediction[0], "lrp")
        assert row["lrp.dense.gap"] == dense.gap
        assert row["lrp.traced.gini"] == measure(after.heat())["gini"]
        maps = found.maps(number)
        assert set(maps) == {(m, s) for m in ("saliency", "lrp") for s in ("dense", "traced")}
        scale = float(after.heat().abs().max())
        assert torch.allclose(maps["lrp", "traced"], after.heat(), atol=1e-3 * scale)
        assert np.abs(np.asarray(found.picture(number), int) - np.asarray(image, int)).max() <= 1
        kept = found.trace(number)
        assert all(torch.equal(kept.tensors[k], v) for k, v in alone.tensors.items())
        assert kept.layers == alone.layers


def test_blame_is_against_all_images_of_the_sweep(network: Network, tmp_path: Path) -> None:
    images = pictures(6)
    found = sweep(network, images, tmp_path / "out", do="blame", shard=2)
    samples = [(network.prepare(image)[0], label) for image, label in images]
    whole = statistics(network, samples, profiles=True)
    ours = found.statistics(profiles=True)
    assert torch.allclose(ours.raw.mean, whole.raw.mean, rtol=1e-5)
    assert torch.allclose(ours.profiles, whole.profiles, rtol=1e-3, atol=1e-9)
    shares = whole.profiles.double() / whole.profiles.double().mean(1, keepdim=True)
    scores = (shares - shares.mean(0)) / shares.std(0)
    for number, row in enumerate(found.table.to_pylist()):
        named = {
            "{}:{}".format(*whole.units(network).locate(i)): float(value)
            for i, value in enumerate(scores[number])
        }
        for name, value in zip(row["blame.units"], row["blame.scores"], strict=True):
            assert value == pytest.approx(named[name], rel=1e-2)
        assert row["blame.scores"][0] == pytest.approx(max(named.values()), rel=1e-2)
        assert len(row["blame.units"]) == 10
    assert "kl" not in found.table.column_names


def test_bad_images_get_a_row_that_says_why(network: Network, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    pictures(1)[0][0].save(good)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:300])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    nan = torch.full((3, 64, 64), float("nan"))
    array = np.zeros((3, 64, 64), np.float32)
    samples = [tmp_path / n for n in ("text.png", "good.png", "none.png", "cut.png", "dot.png")]
    found = sweep(network, [*samples, nan, array, good], tmp_path / "out", **FAST)
    rows = found.table.to_pylist()
    assert [row["number"] for row in rows] == list(range(8))
    assert [row["prediction"] is None for row in rows] == [
        1,
        0,
        1,
        1,
        rows[4]["problem"] is not None,
        1,
        1,
        0,
    ]
    for number, words in (
        (0, "not an image"),
        (2, "no such"),
        (3, "decoded"),
        (5, "NaN"),
        (6, "uint8"),
    ):
        assert words in rows[number]["problem"]
    assert rows[1]["confidence"] == rows[7]["confidence"]
    assert rows[0]["blame.units"] is None
    assert rows[1]["blame.units"] is not None
    assert str(tmp_path / "text.png") in dict(found.bad)
    with pytest.raises(InputError, match="was not kept"):
        found.trace(0)
    with pytest.raises(InputError, match=r"none of 2 images can be used, the first: .*text"):
        sweep(network, [tmp_path / "text.png", nan], tmp_path / "all", **FAST)


@pytest.mark.parametrize("shard", [1, 3, 100])
def test_rows_do_not_depend_on_shards(network: Network, tmp_path: Path, shard: int) -> None:
    options = {**FAST, "do": "trace,attribute"}
    two = sweep(network, pictures(5), tmp_path / "two", **options)
    other = sweep(network, pictures(5), tmp_path / "other", **(options | {"shard": shard}))
    assert plain(two) == plain(other)


def test_goes_on_where_it_was_interrupted(network: Network, tmp_path: Path) -> None:
    whole = sweep(network, pictures(7), tmp_path / "whole", **FAST)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(network, pictures(7), tmp_path / "out", **FAST, progress=stop)
    with pytest.raises(InputError, match="is not finished: run the same command again"):
        Sweep.load(tmp_path / "out")
    home = shards_of(tmp_path / "out")
    there = sorted(home.iterdir())
    assert [p.name for p in there] == ["000000", "000001"]
    times = [(p / "rows.parquet").stat().st_mtime_ns for p in there]
    (home / ".000002.abcd.partial").mkdir()  # what a killed worker leaves
    seen = []
    found = sweep(
        network, pictures(7), tmp_path / "out", **FAST, progress=lambda *call: seen.append(call)
    )
    assert plain(found) == plain(whole)
    assert ("images", 5, 7) in seen
    assert min(done for stage, done, _ in seen if stage == "images") == 4
    assert [(p / "rows.parquet").stat().st_mtime_ns for p in there] == times
    assert not list(home.glob(".*"))
    assert not list((tmp_path / "out").glob("at-*"))
    again = sweep(network, pictures(7), tmp_path / "out", **FAST)
    assert again.table.equals(found.table)


def test_files_that_changed_are_done_again_and_no_others(network: Network, tmp_path: Path) -> None:
    files = []
    for number, (image, label) in enumerate(pictures(4)):
        image.save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png", label))
    good = files[3][0].read_bytes()
    files[3][0].write_text("no image")
    out, options = tmp_path / "out", FAST | {"shard": 2}
    assert len(sweep(network, files, out, **options).bad) == 1
    home = shards_of(out)
    times = [(home / f"{n:06d}" / "rows.parquet").stat().st_mtime_ns for n in range(2)]
    first = Sweep.load(out).digest
    files[3][0].write_bytes(good)
    found = sweep(network, files, out, **options)
    assert not found.bad
    assert found.digest != first
    assert found.table.schema.metadata is None
    again = [(home / f"{n:06d}" / "rows.parquet").stat().st_mtime_ns for n in range(2)]
    assert again[0] == times[0]
    assert again[1] > times[1]
    os.utime(files[0][0], ns=(1, 1))  # another time alone is no change
    files[1][0].unlink()  # and what was found of a file that is gone is kept
    kept = sweep(network, files, out, **options)
    assert kept.digest == found.digest
    assert [(home / f"{n:06d}" / "rows.parquet").stat().st_mtime_ns for n in range(2)] == again
    for file, _ in files:
        file.unlink(missing_ok=True)
    assert sweep(network, files, out, **options).digest == found.digest


def test_a_worker_that_saw_other_images_is_noticed(network: Network, tmp_path: Path) -> None:
    """One of a sweep that was killed, and whose files changed before the next one."""
    file, out = tmp_path / "a.png", tmp_path / "out"
    pictures(1)[0][0].save(file)
    former = [Item.of(0, file, None)]
    changed: list[bool] = []

    def intrude(stage: str, done: int, total: int) -> None:
        if not changed:
            changed.append(True)
            now = file.read_bytes()
            file.write_bytes(before)
            token = read_manifest(out, MANIFEST, "sweep", SCHEMA)["token"]
            Setup(network, "cpu", SweepSettings.of(**FAST), former, out, token).work(network, 0)
            file.write_bytes(now)

    before = file.read_bytes()
    pictures(2)[1][0].save(file)
    with pytest.raises(InputError, match=r"images of shard 0 changed meanwhile: run it again"):
        sweep(network, [file], out, **FAST, progress=intrude)
    assert not sweep(network, [file], out, **FAST).bad


def test_a_full_disk_loses_nothing(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsight.sweeps import shards

    whole = sweep(network, pictures(5), tmp_path / "whole", **FAST)
    real, calls = shards.write_tensors, []

    def full(*arguments: object) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(shards, "write_tensors", full)
    with pytest.raises(InputError, match="No space left"):
        sweep(network, pictures(5), tmp_path / "out", **FAST)
    monkeypatch.undo()
    assert len(list(shards_of(tmp_path / "out").iterdir())) == 1
    assert plain(sweep(network, pictures(5), tmp_path / "out", **FAST)) == plain(whole)


def test_refuses_to_mix_or_to_lose(network: Network, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(network, pictures(2), out, **FAST)
    for images, options in (
        (pictures(3), FAST),
        (pictures(2), FAST | {"seed": 1}),
        ([image for image, _ in pictures(2)], FAST),
    ):
        with pytest.raises(InputError, match="holds a sweep of other images, weights, settings or"):
            sweep(network, images, out, **options)
    found = sweep(network, pictures(3), out, **FAST, overwrite=True)
    assert len(found) == 3
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"holds thesis\.txt, which is no part of a sweep"):
        sweep(network, pictures(1), other, **FAST, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        sweep(network, pictures(1), other / "thesis.txt", **FAST)
    with (
        FileLock(out / ".lock"),
        pytest.raises(InputError, match="another sweep is at work"),
    ):
        sweep(network, pictures(3), out, **FAST)


def test_says_what_cannot_be_used(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        sweep(network, [], tmp_path / "a", **FAST)
    with pytest.raises(InputError, match="image 1 has no class, others have one"):
        sweep(network, [pictures(1)[0], pictures(1)[0][0]], tmp_path / "a", **FAST)
    with pytest.raises(InputError, match="unicorn"):
        sweep(network, [(pictures(1)[0][0], "unicorn")], tmp_path / "a", **FAST)
    with pytest.raises(InputError, match="no thing to do is called 'dance': choose from trace"):
        SweepSettings.of(do="trace,dance")
    with pytest.raises(InputError, match="shard 0 is too small"):
        SweepSettings.of(shard=0)
    with pytest.raises(InputError, match="no thing to keep"):
        SweepSettings.of(keep="all")
    with pytest.raises(InputError, match="chunk 0 is too small"):
        SweepSettings.of(chunk=0)
    with pytest.raises(InputError, match="settings and seed are given"):
        sweep(network, pictures(1), tmp_path / "a", SweepSettings.of(), seed=1)
    with pytest.raises(InputError, match="-1 workers"):
        sweep(network, pictures(1), tmp_path / "a", **FAST, workers=-1)
    with pytest.raises(InputError, match="without workers"):
        sweep(network, pictures(1), tmp_path / "a", **FAST, address="ray://no.where:1")
    with pytest.raises(InputError, match="is no saved sweep"):
        Sweep.load(tmp_path / "nothing")
    network.model.train()
    try:
        with pytest.raises(NetworkError, match="training"):
            sweep(network, pictures(1), tmp_path / "a", **FAST)
    finally:
        network.model.eval()


def test_a_network_that_cannot_be_traced_stops_the_sweep(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 62**2, 3)
    ).eval()
    torch.nn.utils.parametrizations.weight_norm(model[0])
    model.eval()
    base = sparsight.load("embedded")
    weird = Network(model, base.preprocessing, ("a", "b", "c"))
    with pytest.raises(UnsupportedError):
        sweep(weird, pictures(2), tmp_path / "out", **FAST)


def test_what_is_not_kept_is_not_there(network: Network, tmp_path: Path) -> None:
    found = sweep(network, pictures(2), tmp_path / "out", **FAST, do="trace,attribute", keep="")
    assert found.maps(0) == {}
    with pytest.raises(InputError, match="was not kept: sweep again"):
        found.trace(1)
    with pytest.raises(InputError, match="picture of image 1 was not kept"):
        found.picture(1)
    with pytest.raises(InputError, match="no image 2 in this sweep"):
        found.trace(2)
    with pytest.raises(InputError, match="did not look at blame"):
        found.statistics()
    files = {p.name for p in (shards_of(tmp_path / "out") / "000000").iterdir()}
    assert files == {"rows.parquet"}


def test_damage_is_named_and_mended_as_it_says(network: Network, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = sweep(network, pictures(4), out, **FAST)
    before = plain(found)
    shard = shards_of(out) / "000000"
    file = shard / "traces.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="delete its folder, and run the sweep again"):
        found.trace(0)
    shutil.rmtree(shard)
    assert sweep(network, pictures(4), out, **FAST).trace(0).layers
    (shard / "rows.parquet").write_bytes(b"PAR1")  # cut off by a loss of power
    again = sweep(network, pictures(4), out, **FAST)
    assert plain(again) == before
    assert again.trace(0).layers
    (out / "table.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"table\.parquet cannot be read"):
        Sweep.load(out)


def test_a_finished_sweep_is_done_again_only_when_told(network: Network, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(network, pictures(2), out, **FAST)
    first = (out / "table.parquet").stat().st_mtime_ns
    sweep(network, pictures(2), out, **FAST)
    assert (out / "table.parquet").stat().st_mtime_ns == first
    sweep(network, pictures(2), out, **FAST, overwrite=True)
    assert (out / "table.parquet").stat().st_mtime_ns > first
    renamed = Network(network.model, network.preprocessing, tuple(map(str, range(10))))
    with pytest.raises(InputError, match="--overwrite"):
        sweep(renamed, pictures(2), out, **FAST)


def test_who_works_on_a_sweep_that_was_replaced_changes_nothing(
    network: Network, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sweep(network, pictures(2), out, **FAST)
    orphan = Setup(
        network, "cpu", SweepSettings.of(**FAST), [Item(0, "old", pictures(1)[0][0], 0)], out,
        "f" * 64,
    )  # fmt: skip
    now = sweep(network, pictures(3), out, **FAST, overwrite=True)
    orphan.work(network, 0)
    assert plain(Sweep.load(out)) == plain(now)
    assert now.trace(1).layers


def test_arrays_and_names_of_all_kinds(network: Network, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    pictures(1)[0][0].save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", odd)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in
              ((3, 64, 64), (64, 64, 3), (2, 64, 64), (1, 64, 64))]  # fmt: skip
    found = sweep(network, [odd, *arrays, odd], tmp_path / "out", **FAST)
    rows = found.table.to_pylist()
    assert [row["problem"] is None for row in rows] == [True, True, False, False, True, True]
    assert rows[0]["name"].endswith("caf?.png")
    assert "of one channel or three" in rows[2]["problem"]


def test_a_file_that_goes_away_stops_the_sweep(network: Network, tmp_path: Path) -> None:
    """As a machine of a cluster that does not see the data; else its rows would be of no images."""
    file = tmp_path / "a.png"
    pictures(1)[0][0].save(file)

    def remove(stage: str, done: int, total: int) -> None:
        file.unlink(missing_ok=True)

    with pytest.raises(InputError, match="give images that stay"):
        sweep(
            network, [pictures(1)[0][0], file], tmp_path / "out", **(FAST | {"shard": 1}),
            progress=remove,
        )  # fmt: skip


def test_gradients_that_are_not_finite_are_a_problem_of_their_image(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsight.sweeps import look

    real = look.statistics
    bad = network.prepare(pictures(3)[1][0])[0]

    def statistics(network: Network, samples: list, **options: object) -> object:
        found = real(network, samples, **options)
        if any(torch.equal(x, bad) for x, _ in samples):
            found.profiles[:] = float("nan")
        return found

    monkeypatch.setattr(look, "statistics", statistics)
    found = sweep(network, pictures(3), tmp_path / "out", do="blame", shard=3)
    assert [row["problem"] is None for row in found.table.to_pylist()] == [True, False, True]
    assert found.statistics().samples == 2


def test_pandas_reads_it_in_one_line(network: Network, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    sweep(network, pictures(3), tmp_path / "out", **FAST)
    frame = pandas.read_parquet(tmp_path / "out" / "table.parquet")
    assert len(frame) == 3
    assert frame["sparsity"].between(0, 1).all()
