"""Statistics of saliency: streamed, merged, resumed, saved, and scores against them."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import stats as laws
from torch import Tensor

import sparsight
from blame.reference import network_of
from blame.test_saliency import Odd, models
from contracts import untouched
from sparsight.blame import (
    SCORES,
    Moments,
    SaliencyOf,
    Statistics,
    blame,
    default_kinds,
    neighbours,
    score,
    statistics,
    tail_probability,
)
from sparsight.errors import InputError


def samples(number: int = 11, seed: int = 0) -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 3, 12, 12, generator=generator, dtype=torch.float64)
    return list(zip(images, torch.randint(5, (number,), generator=generator).tolist(), strict=True))


def same(a: Statistics, b: Statistics, exactly: bool = False) -> None:
    """Everything equal; sums up to rounding unless exactly."""

    def agree(x: object, y: object) -> bool:
        if isinstance(x, Moments):
            return all(agree(getattr(x, f.name), getattr(y, f.name)) for f in fields(Moments))
        if isinstance(x, Tensor):
            return torch.equal(x, y) if exactly else torch.allclose(x, y, rtol=1e-6, atol=1e-12)
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(agree(x[key], y[key]) for key in x)
        if isinstance(x, tuple) and x and isinstance(x[0], float):
            return x == y if exactly else np.allclose(x, y)
        return x == y

    for field in fields(Statistics):
        assert agree(getattr(a, field.name), getattr(b, field.name)), field.name


ALL = {"split": ["correct", "class"], "tail": 6, "profiles": True}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_moments_do_not_depend_on_the_parts(sizes, seed):
    generator = np.random.default_rng(seed)
    parts = [generator.exponential(size=(n, 3)) * 10 + 100 for n in sizes]
    whole = np.concatenate(parts)
    found = Moments.none(3)
    for part in parts:
        found = found.merge(Moments.of(torch.from_numpy(part)))
    assert found.count == len(whole)
    if len(whole) > 1:
        assert np.allclose(found.mean, whole.mean(0), rtol=1e-12)
        assert np.allclose(found.std, whole.std(0, ddof=1), rtol=1e-9)
        assert np.allclose(found.skewness, laws.skew(whole, 0), atol=1e-7)
        assert np.allclose(found.kurtosis, laws.kurtosis(whole, 0, fisher=False), atol=1e-7)


def test_statistics_are_those_of_all_profiles():
    network, given = network_of(Odd()), samples()
    with untouched(network.model):
        found = statistics(network, given, kinds=["filter", "row"], batch=4, **ALL)
    units = found.units(network)
    images = torch.stack([image for image, _ in given])
    labels = torch.tensor([label for _, label in given])
    measured = SaliencyOf(network, units)(images, labels)
    profiles = measured.saliency
    assert torch.allclose(found.raw.mean, profiles.mean(0), rtol=1e-10)
    assert torch.allclose(found.raw.std, profiles.std(0), rtol=1e-8, atol=1e-15)
    shares = profiles / profiles.mean(1, keepdim=True)
    assert torch.allclose(found.normalised.mean, shares.mean(0), rtol=1e-10)
    assert torch.allclose(found.profiles, profiles.float())
    assert torch.allclose(found.largest, profiles.float().sort(0, descending=True).values[:6])
    right = network.logits(images).argmax(1) == labels
    assert found.correct == int(right.sum())
    assert torch.allclose(found.splits["wrong"].mean, profiles[~right].mean(0), rtol=1e-10)
    assert torch.allclose(found.splits["class 2"].mean, profiles[labels == 2].mean(0), rtol=1e-10)
    assert "unused" in found.untouched


@given(st.integers(1, 11), st.integers(1, 10))
@settings(max_examples=8, deadline=None)
def test_batches_and_workers_do_not_matter(batch, cut):
    network, given = network_of(Odd()), samples()
    named = [(image, label) for image, label in given]
    whole = statistics(network, named, **ALL)
    same(statistics(network, named, batch=batch, **ALL), whole)
    parts = [statistics(network, part, **ALL) for part in (named[:cut], named[cut:])]
    merged = parts[0].merge(parts[1])
    assert merged.samples == 11
    assert torch.allclose(merged.raw.m4, whole.raw.m4, rtol=1e-6)
    assert torch.allclose(merged.largest, whole.largest)


def test_what_does_not_belong_together_is_not_merged():
    network, given = network_of(Odd()), samples(3)
    one = statistics(network, given)
    with pytest.raises(InputError, match="differ in kinds"):
        one.merge(statistics(network, given, kinds=["norm"]))
    with pytest.raises(InputError, match="differ in loss"):
        one.merge(statistics(network, given, loss="logit"))
    with pytest.raises(InputError, match="differ in tail"):
        one.merge(statistics(network, given, tail=5))
    with pytest.raises(InputError, match="of the same units"):
        Moments.none(2).merge(Moments.none(3))


def test_a_file_brings_everything_back(tmp_path):
    network = network_of(Odd())
    found = statistics(network, samples(), **ALL)
    file = found.save(tmp_path / "deep" / "usual.safetensors")
    same(Statistics.load(file), found, exactly=True)
    with pytest.raises(InputError, match="there already"):
        found.save(file)
    found.save(file, overwrite=True)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Statistics.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        Statistics.load(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no statistics"):
        Statistics.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="cannot write"):
        statistics(network_of(Odd()), samples(2)).save(tmp_path / "text" / "below.safetensors")


def test_an_interrupted_pass_goes_on_with_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.blame.survey._SAVE_EVERY", 0.0)
    network, given, state = network_of(Odd()), samples(), tmp_path / "state.safetensors"

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        statistics(network, given, batch=3, state=state, progress=stop, **ALL)
    assert state.exists()
    with pytest.raises(InputError, match="another pass"):
        statistics(network, given[1:], batch=3, state=state, **ALL)
    seen = []
    found = statistics(
        network, given, batch=3, state=state, progress=lambda *step: seen.append(step[1]), **ALL
    )
    assert seen == [6, 9]
    same(found, statistics(network, given, batch=3, **ALL), exactly=True)


def test_files_whose_parts_do_not_fit_are_refused(tmp_path):
    network = network_of(Odd())
    file = statistics(network, samples(), **ALL).save(tmp_path / "usual")
    with safe_open(file, "pt") as stored:
        metadata, whole = stored.metadata(), {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118
    about = json.loads(whole["about"].numpy().tobytes())

    def described(**change: object) -> Tensor:
        return torch.tensor(list(json.dumps(about | change).encode()), dtype=torch.uint8)

    width = len(whole["raw.mean"])
    damages = [
        {"about": described(labels=[1])},
        {"about": described(labels=["a"] * 11)},
        {"about": described(network=5)},
        {"about": described(losses=["a"] * 11)},
        {"about": described(surplus=1)},
        {"normalised.mean": torch.zeros(3, dtype=torch.float64)},
        {"largest": torch.zeros(9, width)},
        {"profiles": torch.zeros(2, width)},
        {"raw.m2": torch.full((width,), float("nan"), dtype=torch.float64)},
    ]
    for damage in damages:
        save_file(whole | damage, file, metadata)
        with pytest.raises(InputError, match="cannot be read as statistics"):
            Statistics.load(file)
    save_file(whole, file, metadata)
    Statistics.load(file)
    save_file(whole, file, metadata | {"schema": "9"})
    with pytest.raises(InputError, match="schema 9"):
        Statistics.load(file)


def test_a_state_of_other_pictures_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.blame.survey._SAVE_EVERY", 0.0)
    network, state = network_of(Odd()), tmp_path / "state"
    statistics(network, samples(6), batch=3, state=state)
    with pytest.raises(InputError, match="another pass"):
        statistics(network, samples(6, seed=1), batch=3, state=state)


def test_other_weights_are_another_network():
    network = network_of(Odd())
    found = statistics(network, samples(3))
    with torch.no_grad():
        network.model.fc.weight[0, 0] += 1
    with pytest.raises(InputError, match="other weights"):
        blame(network, samples(1)[0][0], 1, statistics=found)


def test_bad_samples_are_named():
    network = sparsight.load("embedded")
    good = Image.new("RGB", (64, 64), "red")
    with pytest.raises(InputError, match="no samples"):
        statistics(network, [])
    with pytest.raises(InputError, match="sample 1: the image is 1x1"):
        statistics(network, [(good, 1), (Image.new("RGB", (1, 1)), 0)])
    with pytest.raises(InputError, match=r"sample none\.png: no such image"):
        statistics(network, [("none.png", 1)])
    with pytest.raises(InputError, match="class 99"):
        statistics(network, [(good, 99)])
    with pytest.raises(InputError, match="no split"):
        statistics(network, [(good, 1)], split=["half"])
    with pytest.raises(InputError, match="tells nothing"):
        statistics(network, [(good, 1)], tail=2)
    with pytest.raises(InputError, match=r"sample 0: .*'unicorn'"):
        statistics(network, [(good, "unicorn")])
    with pytest.raises(InputError, match="batches of 0"):
        statistics(network, [(good, 1)], batch=0)


def test_kinds_follow_the_network():
    assert default_kinds(models()["vit"]) == ("head", "neuron")
    assert default_kinds(models()["odd"]) == ("filter",)
    assert default_kinds(torch.nn.Sequential(torch.nn.Linear(4, 3))) == ("row",)


def test_one_sample_and_dead_units_give_numbers():
    network = network_of(Odd())
    usual = statistics(network, samples(1), kinds=["filter", "row"])
    found = blame(network, samples(1, seed=3)[0][0], 1, statistics=usual, objective=None)
    assert all(torch.isfinite(values).all() for values in found.scores.values())
    dead = found.units.index("stem", 0)
    assert found.saliency[dead] == 0
    assert found.scores["z"][dead] == 0


def test_percentiles_count_ties_half():
    network = network_of(Odd())
    usual = statistics(network, samples(), profiles=True)
    found = score("percentile", usual.profiles, usual)
    ranks = (laws.rankdata(usual.profiles.double(), axis=0) - 0.5) / 11
    assert np.allclose(found, ranks)


def test_tails_fit_pareto_laws():
    generator = np.random.default_rng(0)
    for shape in (-0.2, 0.0, 0.3):
        values = laws.genpareto(shape, scale=2.0).rvs(20000, random_state=generator)
        largest = torch.from_numpy(np.sort(values)[::-1][:2000].copy())[:, None]
        points = np.quantile(values, [0.95, 0.99, 0.999])
        found = tail_probability(torch.from_numpy(points)[:, None], largest, len(values))[:, 0]
        assert np.allclose(found, [0.05, 0.01, 0.001], rtol=0.25), (shape, found)
    flat = torch.ones(6, 1, dtype=torch.float64)
    both = tail_probability(torch.tensor([[1.0], [2.0]], dtype=torch.float64), flat, 10)
    assert both[:, 0].tolist() == [1.0, 0.0]
    usual = statistics(network_of(Odd()), samples(20), tail=10)
    rising = usual.largest[0] * torch.tensor([1.5, 3.0, 1e3, 1e6])[:, None]
    scores = score("tail", rising, usual)
    assert bool((scores.diff(dim=0) >= 0).all())
    assert bool((scores[-1] > scores[-2])[usual.largest[0] > 0].all())
    with pytest.raises(InputError, match="tells nothing"):
        tail_probability(flat, flat[:3], 10)


def test_scores_need_what_they_need():
    network = network_of(Odd())
    usual = statistics(network, samples(), tail=6, profiles=True)
    for name in SCORES:
        assert score(name, usual.profiles, usual).shape == usual.profiles.shape
    plain = statistics(network, samples())
    image = samples(1)[0][0]
    for name, words in (("percentile", "profiles=True"), ("tail", "tail=100"), ("x", "no score")):
        with pytest.raises(InputError, match=words):
            blame(network, image, 1, statistics=plain, by=name)
    with pytest.raises(InputError, match="same kinds"):
        score("z", torch.zeros(3), plain)
    with pytest.raises(InputError, match="profiles=True"):
        neighbours(blame(network, image, 1, statistics=plain, objective=None), plain)


def test_shares_do_not_know_the_loss():
    network = network_of(Odd())
    usual = statistics(network, samples(), loss="logit")
    profile = usual.raw.mean * 3
    assert torch.allclose(score("share", profile, usual), score("share", usual.raw.mean, usual))


def test_neighbours_are_the_most_similar_profiles():
    network = network_of(Odd())
    given = samples(20)
    usual = statistics(network, given, profiles=True)
    found = blame(network, given[7][0], given[7][1], statistics=usual, objective=None)
    near = neighbours(found, usual, 4, wrong=False)
    assert near[0].name == "sample 7"
    z = score("z", usual.profiles, usual)
    order = torch.cosine_similarity(z, z[7:8]).argsort(descending=True)[:4]
    assert [n.name for n in near] == [f"sample {i}" for i in order.tolist()]
    for near in neighbours(found, usual, 50):
        assert near.label != near.predicted
