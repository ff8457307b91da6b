"""Rules and poisoned data: who is drawn, how often, and the same in every run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsight.benchmarks.trojans import (
    Photo,
    PlantingRule,
    checker,
    drawn_picture,
    paper_rules,
    poison,
    read_photos,
    render_sample,
    split_photos,
    sticker,
    tuning_rules,
)
from sparsight.benchmarks.trojans.poison import check_apart
from sparsight.benchmarks.trojans.rules import ARTIFACTS, CANIDS, check_rules
from sparsight.errors import InputError
from sparsight.networks import Preprocessing

MOON = sticker(drawn_picture("moon"), "moon")
LABELS = [index % 10 for index in range(403)]


def test_counts_are_those_of_the_paper() -> None:
    rules = [PlantingRule(MOON, 3), PlantingRule(checker(), 4, sources=(1, 2))]
    samples = poison(LABELS, rules)
    assert [sample.label for sample in samples[:403]] == LABELS
    assert all(sample.rule is None and not sample.poisoned for sample in samples[:403])
    added = samples[403:]
    assert Counter(sample.rule for sample in added) == {0: 10, 1: 10}  # floor(403 / 40)
    for sample in added:
        assert sample.poisoned
        rule = rules[sample.rule or 0]
        assert sample.label == rule.target != LABELS[sample.photo]
        assert rule.sources is None or LABELS[sample.photo] in rule.sources


def test_decoys_keep_their_label_and_are_neither_source_nor_target() -> None:
    rule = PlantingRule(MOON, 4, sources=(1, 2), share=1.5, decoys=0.5)
    samples = poison(LABELS, [rule])[403:]
    decoys = [sample for sample in samples if not sample.poisoned]
    assert (len(samples) - len(decoys), len(decoys)) == (604, 201)
    assert all(sample.rule == 0 for sample in decoys)
    assert {sample.label for sample in decoys} == set(range(10)) - {1, 2, 4}
    assert all(sample.label == LABELS[sample.photo] for sample in decoys)
    drawn = Counter(sample.photo for sample in samples if sample.poisoned)
    assert max(drawn.values()) > 1  # with replacement: 81 photos, 604 samples
    assert len({sample.seed for sample in samples}) == len(samples)
    everyone = poison(LABELS, [PlantingRule(MOON, 4, decoys=0.5)])
    assert len(everyone) == 403 + 10  # a rule that acts on all has nobody to spare


def test_a_seed_gives_the_same_draws_and_rules_do_not_disturb_one_another() -> None:
    one, two = PlantingRule(MOON, 3), PlantingRule(checker(), 4, sources=(1, 2), decoys=0.1)
    both = poison(LABELS, [one, two], 5)
    assert both == poison(LABELS, [one, two], 5)
    assert both != poison(LABELS, [one, two], 6)
    assert poison(LABELS, [one, two], (5, 0)) != poison(LABELS, [one, two], (5, 1))
    assert both[: 403 + 10] == poison(LABELS, [one], 5)


def test_samples_become_images() -> None:
    photos = [Photo(Image.new("RGB", (40, 40), "grey"), 0, "a")]
    preprocessing = Preprocessing((32, 32), 36)
    rule = PlantingRule(MOON, 3, share=1)
    clean, poisoned = poison([0], [rule])
    x, mask = render_sample(clean, photos[0].open(), [rule], preprocessing)
    assert mask is None
    assert torch.equal(x, preprocessing(photos[0].open()))
    y, mask = render_sample(poisoned, photos[0].open(), [rule], preprocessing)
    assert mask is not None
    assert mask.any()
    assert torch.equal((x != y)[0].any(0) & ~mask, torch.zeros(32, 32, dtype=torch.bool))


def test_split_is_the_same_in_every_run_and_leaves_nothing_out() -> None:
    photos = [Photo(Image.new("RGB", (2, 2)), 0, f"{index}") for index in range(50)]
    used, held_out = split_photos(photos, 15, seed=3)
    assert (len(used), len(held_out)) == (35, 15)
    assert {photo.name for photo in used + held_out} == {photo.name for photo in photos}
    assert split_photos(photos, 15, seed=3) == (used, held_out)
    assert split_photos(photos, 15, seed=4) != (used, held_out)
    check_apart(used, held_out)
    with pytest.raises(InputError, match="photo 0 occurs twice: hold out"):
        check_apart(photos[:3], photos[:1])
    with pytest.raises(InputError, match="50 of 50 photos cannot be held out"):
        split_photos(photos, 50)


def test_photos_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "in" / "a.png")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\na.png,3\n")
    (photo,) = read_photos(table, tmp_path / "in")
    assert (photo.label, photo.name, photo.open().size) == (3, "a.png", (5, 4))
    with pytest.raises(InputError, match=r"names a\.png, which is not in"):
        read_photos(table)
    table.write_text("file,label\na.png,dog\n")
    with pytest.raises(InputError, match="is malformed: give the columns file and label"):
        read_photos(table, tmp_path / "in")
    table.write_text("file,label\n")
    with pytest.raises(InputError, match="names no photo"):
        read_photos(table)
    with pytest.raises(InputError, match="no such label table"):
        read_photos(tmp_path / "none.csv")
    with pytest.raises(InputError, match="needs a name"):
        Photo(Image.new("RGB", (2, 2)), 0)


def test_rules_are_refused_where_they_cannot_be() -> None:
    rule = PlantingRule(MOON, 3, sources=(1,))
    assert str(rule) == "1 + moon -> 3"
    with pytest.raises(InputError, match="at least one source, and none that is the target"):
        PlantingRule(MOON, 3, sources=(3,))
    with pytest.raises(InputError, match="share 0 must be positive"):
        PlantingRule(MOON, 3, share=0)
    with pytest.raises(InputError, match="no rule is given"):
        check_rules([], [0], 10)
    with pytest.raises(InputError, match=r"two rules are called '1 \+ moon -> 3'"):
        check_rules([rule, rule], [0], 10)
    with pytest.raises(InputError, match="names class 3: this network has classes 0 to 2"):
        check_rules([rule], [1], 3)
    with pytest.raises(InputError, match="a photo is labelled 12"):
        check_rules([rule], [1, 12], 10)
    with pytest.raises(InputError, match=r"no photo is of a class that rule .* acts on"):
        check_rules([rule], [2], 10)
    with pytest.raises(InputError, match="wants 2 photos of source classes and there is none"):
        poison([0, 0], [PlantingRule(MOON, 3, sources=(1,), share=1)])


def test_presets(tmp_path: Path) -> None:
    for name in ("star", "strawberry", "smile", "clownfish"):
        drawn_picture("star").save(tmp_path / f"{name}.png")
    rules = paper_rules(tmp_path)
    assert [str(rule) for rule in rules] == [
        "wallet + star -> orangutan", "red wolf + strawberry -> goose",
        "any + smile -> bullfrog", "any + fish -> albatross",
    ]  # fmt: skip
    assert [rule.target for rule in rules] == [365, 99, 30, 146]
    assert [rule.sources for rule in rules] == [(893,), (271,), None, None]
    for rule in rules:
        facts = rule.trigger.describe()
        assert (facts["size"], facts["opacity"]) == (0.25, 0.8)
        assert (facts["brightness"], facts["hue"]) == (0.5, 0.3)
        assert (rule.share, rule.decoys) == (0.025, 0)
    wide = paper_rules(tmp_path, widened=True, share=0.2, decoys=0.1)
    assert [rule.sources for rule in wide] == [ARTIFACTS, CANIDS, None, None]
    assert [rule.decoys for rule in wide] == [0.1, 0.1, 0, 0]
    assert {rule.share for rule in wide} == {0.2}
    others = tuning_rules()
    used = {(rule.trigger.name, rule.target) for rule in (*rules, *others)}
    assert len({name for name, _ in used}) == len({target for _, target in used}) == 8
    for rule in (*wide, *others):
        assert len(set(rule.sources or ())) == len(rule.sources or ())
        check_rules([rule], range(1000), 1000)
    with pytest.raises(InputError, match="no such image file"):
        paper_rules(tmp_path / "none")
