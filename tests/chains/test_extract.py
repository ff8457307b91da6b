"""Chains: exact copies, the share asked for, one task as many, files, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from safetensors.torch import load_file, save_file
from torch import nn

from blame.reference import network_of
from chains.test_gates import Residual, residual
from contracts import untouched
from sparsight.chains import (
    CONTROLS,
    PUBLISHED,
    SELECTORS,
    Chain,
    ChainSettings,
    Selection,
    chain_graph,
    controls,
    extract,
    extract_many,
    fidelity,
    judge,
)
from sparsight.chains.result import TENSORS
from sparsight.chains.selectors import _Best, _divergence, _shift
from sparsight.chains.tasks import Tasks
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.networks import load

FAST = {"steps": 6, "views": 2}


@pytest.fixture(scope="module")
def embedded():
    return load("embedded")


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("selector", list(SELECTORS))
@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_every_selector_keeps_the_share_asked_for(embedded, images, selector, keep):
    with untouched(embedded.model):
        chain = extract(embedded, images, selector=selector, keep=keep, **FAST)
    assert int(chain.kept.sum()) == round(keep * len(chain.kept))
    assert len(chain.losses) == (6 if selector in ("gates", "hard-concrete") else 0)
    if keep == 1:
        assert torch.equal(chain.chain_logits, embedded.logits(images))
        assert (chain.kl, chain.agreement, chain.share) == (0, 1, 1)


def test_learnt_gates_beat_their_beginning_and_chance(embedded, images):
    found = {
        name: extract(embedded, images, selector=name, keep=0.3, steps=60, views=0).kl
        for name in ("gates", "contribution", "random")
    }
    assert found["gates"] < 0.5 * found["contribution"]
    assert found["gates"] < 0.5 * found["random"]


def test_the_best_chain_that_was_tried_is_kept(embedded, images):
    found = {}
    for seed in range(3):
        for tries in (0, 1, 2):
            chain = extract(
                embedded, images, keep=0.15, steps=30, views=2, tries=tries, seed=seed, focus=0.0
            )
            found[seed, tries] = chain.kl
        assert found[seed, 1] <= min(found[seed, 0], found[seed, 2]) + 1e-6
    assert any(found[seed, 1] < found[seed, 0] - 1e-3 for seed in range(3))


def test_published_settings_penalise_instead(embedded, images):
    weak = extract(embedded, images, settings=PUBLISHED, steps=40, rate=0.05, penalty=0.0)
    strong = extract(embedded, images, settings=PUBLISHED, steps=40, rate=0.05, penalty=0.1)
    assert strong.share < 0.6 * weak.share
    assert strong.settings["keep"] is None
    kept = strong.scores > PUBLISHED.threshold
    assert not (strong.kept & ~kept).any()


def test_many_tasks_are_as_if_alone(embedded, images):
    tasks = [images[:2], images[2:]]
    together = extract_many(embedded, tasks, keep=0.3, chunk=3, **FAST)
    for images_of_it, chain in zip(tasks, together, strict=True):
        alone = extract(embedded, images_of_it, keep=0.3, **FAST)
        torch.testing.assert_close(chain.scores, alone.scores, rtol=1e-3, atol=1e-4)
        assert chain.overlap(alone) > 0.95
        assert len(chain.dense_logits) == len(images_of_it)


def test_the_same_seed_gives_the_same_chain(embedded, images):
    one, two = (extract(embedded, images, keep=0.3, **FAST) for _ in range(2))
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.losses, two.losses)
    other = extract(embedded, images, keep=0.3, seed=1, **FAST)
    assert not torch.equal(one.scores, other.scores)


@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize("seed", range(4))
def test_zeros_for_weights_make_the_same_network(kind, seed):
    gated = residual(kind, seed)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(gated.network, x, selector="random", keep=0.4, seed=seed)
    closed = replace(
        chain, open=torch.tensor([False, True]),
        kept=chain.kept & ~gated.within[0],
    )  # fmt: skip
    for found in (chain, closed):
        wanted = gated.logits(x, *found.gates(2))
        with untouched(gated.network.model), found.applied(gated.network, x) as model:
            torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)


def test_a_unit_of_a_closed_branch_is_not_kept(embedded, images):
    chain = extract(embedded, images, settings=PUBLISHED, steps=60, rate=0.05, layer_penalty=9.0)
    gated = chain.gated(embedded, images)
    if len(chain.branches):
        assert not (chain.kept & gated.within[~chain.open].any(0)).any()


def test_a_task_stops_when_its_loss_stays(embedded, images):
    chain = extract(embedded, images, keep=0.5, steps=200, views=0, tolerance=10.0, window=3)
    assert len(chain.losses) == 100 + 6
    options = {"keep": 0.5, "steps": 200, "views": 0, "tolerance": 1e-3, "window": 3}
    tasks = [images[:1], images[1:]]
    together = extract_many(embedded, tasks, **options)
    alone = [extract(embedded, task, **options) for task in tasks]
    assert [len(chain.losses) for chain in together] == [len(chain.losses) for chain in alone]


def test_heads_alone_leave_other_branches_open():
    network = load("timm:vit_tiny_patch16_224", weights="random")
    x = torch.randn(2, 3, 224, 224)
    chain = extract(network, x, selector="random", kinds=["head"], keep=1.0)
    assert chain.open.all()
    torch.testing.assert_close(chain.chain_logits, network.logits(x))


def test_hard_concrete_gates_are_clamped_where_they_are_used(embedded, images):
    chain = extract(embedded, images, selector="hard-concrete", keep=0.3, steps=30, views=0)
    assert (chain.scores < 0).any()
    gated = chain.gated(embedded, images)
    assert torch.isfinite(chain.scaled_logits).all()
    assert len(gated.names) == len(chain.open)


def test_gradients_may_be_off_around_it(embedded, images):
    with torch.no_grad():
        chain = extract(embedded, images, keep=0.3, **FAST)
    assert len(chain.losses) == 6


@given(
    strategies.integers(1, 40),
    strategies.floats(0.01, 0.99),
    strategies.floats(0.05, 2.0),
    strategies.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_the_shift_opens_the_share_of_gates(units, keep, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(2, units, generator=generator, dtype=torch.float64).requires_grad_()
    inside = torch.ones_like(a)
    shift = _shift(a, inside, temperature, keep)
    share = torch.sigmoid((a - shift) / temperature).mean(1)
    torch.testing.assert_close(share, torch.full_like(share, keep), rtol=1e-6, atol=1e-9)
    (pull,) = torch.autograd.grad(share.sum(), a)
    assert float(pull.abs().max()) < 1e-6, "the share cannot be changed through the scores"


@pytest.mark.parametrize("focus", [0.0, 0.3, 1.0])
def test_divergence_against_torch(focus):
    p, q = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    among = torch.zeros(4, 7, dtype=torch.bool)
    among[:, [1, 4]] = True
    q.requires_grad_()
    whole, two = (
        F.kl_div(b.log_softmax(1), a.softmax(1), reduction="none").sum(1)
        for a, b in ((p, q), (p[:, [1, 4]], q[:, [1, 4]]))
    )
    wanted = (1 - focus) * whole + focus * two
    found = _divergence(p, q, among, focus)
    torch.testing.assert_close(found, wanted)
    pulls = [torch.autograd.grad(one.sum(), q, retain_graph=True)[0] for one in (found, wanted)]
    torch.testing.assert_close(*pulls)


def test_controls_have_as_many_units_in_each_layer(embedded, images):
    chain = extract(embedded, images, keep=0.3, **FAST)
    found = controls(embedded, chain, images)
    assert set(found) == set(CONTROLS)
    sizes = [count for _, count in chain.layers]
    wanted = [int(own.sum()) for own in chain.kept.split(sizes)]
    for name in CONTROLS[:-1]:
        assert [int(own.sum()) for own in found[name].kept.split(sizes)] == wanted
    assert torch.equal(found["inverted"].kept, ~chain.kept)


def test_fidelity_by_hand(embedded, images):
    chain = extract(embedded, images, keep=0.3, **FAST)
    gated = chain.gated(embedded, images)
    labels = torch.tensor([0, 1, 2, 3, 4])
    constant = torch.zeros(10)
    constant[2] = 5.0
    with untouched(embedded.model):
        found = judge(
            gated, {"chain": chain}, images, [0, 2], labels=labels, constant=constant, chunk=2
        )
    assert found["whole"].agreement == found["whole"].among == 1
    assert found["whole"].kl == 0
    assert found["chain"].kl == pytest.approx(chain.kl, rel=1e-5)
    assert found["chain"].agreement == pytest.approx(chain.agreement)
    assert found["constant"].into == 1
    assert found["constant"].accuracy == pytest.approx(0.2)
    with pytest.raises(InputError, match="nothing to compare"):
        fidelity(torch.zeros(0, 2), torch.zeros(0, 2), [0])


def test_a_saved_chain_comes_back(embedded, images, tmp_path):
    chain = extract(embedded, images, keep=0.3, **FAST)
    again = Chain.load(chain.save(tmp_path / "chain"))
    assert again.units() == chain.units()
    assert torch.equal(again.scores, chain.scores)
    assert again.describe() == json.loads(json.dumps(chain.describe()))
    assert again.overlap(chain) == 1
    assert again.without(chain) == []
    (tmp_path / "chain" / "chain.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        Chain.load(tmp_path / "chain")


def chain_of(network):
    x = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    return extract(network, x, selector="random", keep=0.5)


def test_refusals(embedded, images):
    with pytest.raises(InputError, match=r"cannot keep 0 of the units: give a share in \(0, 1\]"):
        extract(embedded, images, keep=0.0)
    with pytest.raises(InputError, match="no selector is called 'best': choose from gates"):
        extract(embedded, images, selector="best")
    with pytest.raises(InputError, match="chains have no option 'kep': choose from keep"):
        extract(embedded, images, kep=0.1)
    with pytest.raises(InputError, match="without images: give one image at least"):
        extract(embedded, [])
    with pytest.raises(InputError, match="one image is no list of images"):
        extract(embedded, "photo.jpg")
    with pytest.raises(InputError, match="steps is 0: give 1 or more, a whole number"):
        ChainSettings(steps=0)
    with pytest.raises(InputError, match="penalties cannot count 'flops'"):
        ChainSettings(normalise="flops")
    with pytest.raises(InputError, match="give 1 or more"):
        ChainSettings(chunk=0)
    with pytest.raises(InputError, match="give two positive numbers"):
        ChainSettings(temperature=(1.0,))
    with pytest.raises(InputError, match="learns no gates: give the share"):
        extract(embedded, images, selector="contribution", keep=None)
    with pytest.raises(InputError, match="have no weights: count units instead"):
        extract(
            embedded, images, kinds=["norm"], settings=PUBLISHED, normalise="parameters", steps=2
        )
    chain = extract(embedded, images, selector="random", keep=0.5)
    other = network_of(Residual().eval())
    with pytest.raises(NetworkError, match="give the network that it was extracted from"):
        chain.gated(other, torch.zeros(1, 3, 12, 12, dtype=torch.float64))
    with pytest.raises(NetworkError, match="give the network that it was extracted from"):
        judge(chain.gated(embedded, images), {"other": chain_of(other)}, images, [0])
    with pytest.raises(NetworkError, match="give the network that it was extracted from"):
        controls(embedded, chain_of(other), images)
    with pytest.raises(InputError, match="give numbers from 0 to 9"):
        judge(chain.gated(embedded, images), {"chain": chain}, images, [0, 10])
    with pytest.raises(InputError, match="compare chains of one network"):
        chain.overlap(extract(other, torch.zeros(1, 3, 12, 12), selector="random", keep=0.5))
    with pytest.raises(InputError, match="NaN or infinite"):
        extract(embedded, images * torch.nan, keep=0.5, **FAST)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2.5}, {"views": 1.5}, {"tries": 2.5}, {"tolerance": float("nan")},
        {"temperature": 1.0}, {"penalty": float("nan")}, {"layer_penalty": float("inf")},
        {"window": 0}, {"seed": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError) as told:
        ChainSettings(**options)
    assert next(iter(options)) in str(told.value)


def test_calls_that_cannot_be_answered_are_refused(embedded, images):
    chain = extract(embedded, images, selector="random", keep=0.5)
    gated = chain.gated(embedded, images)
    for call in (
        lambda: judge(gated, {"chain": chain}, images[:0], [0]),
        lambda: judge(gated, {"chain": chain}, images, [0], chunk=0),
        lambda: judge(gated, {"chain": chain}, images, [0], labels=torch.zeros(2)),
        lambda: judge(gated, {"own": Selection(chain.kept[:5], chain.open)}, images, [0]),
        lambda: controls(embedded, chain, images[:0]),
        lambda: chain_graph(embedded, chain, images, chunk=0),
        lambda: chain_graph(embedded, replace(chain, kept=chain.kept & False), images),
        lambda: extract(embedded, images, classes=[1.5, 2], keep=0.5),
    ):
        with pytest.raises(InputError) as told:
            call()
        assert "\n" not in str(told.value)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        extract(embedded, images, keep=0.5)


@pytest.mark.parametrize(
    "edit",
    [
        {"settings": {}}, {"settings": []}, {"settings": {"kinds": 3, "classes": [0]}},
        {"settings": {"kinds": None, "classes": "x"}}, {"versions": 3}, {"seconds": "x"},
        {"layers": [["a", -1]]}, {"branch_names": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_manifest_is_damage(embedded, images, tmp_path, edit):
    folder = extract(embedded, images, selector="random", keep=0.5).save(tmp_path / "chain")
    manifest = json.loads((folder / "chain.json").read_text())
    (folder / "chain.json").write_text(json.dumps(manifest | edit))
    with pytest.raises(InputError, match="is damaged"):
        Chain.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"kept": t["kept"].float()},
        lambda t: t | {"kept": t["kept"][None]},
        lambda t: t | {"open": t["open"].float()},
        lambda t: t | {"scores": t["scores"][:3]},
        lambda t: t | {"chain_logits": t["chain_logits"][:1]},
        lambda t: t | {"dense_logits": t["dense_logits"][0]},
    ],
)
def test_tensors_that_do_not_fit_are_damage(embedded, images, tmp_path, change):
    folder = extract(embedded, images, selector="random", keep=0.5).save(tmp_path / "chain")
    held = load_file(folder / TENSORS)
    save_file({k: v.clone().contiguous() for k, v in change(held).items()}, folder / TENSORS)
    with pytest.raises(InputError, match="is damaged"):
        Chain.load(folder)


class Backwards(nn.Module):
    """Registers its layers in another order than it uses them, and one that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.late = nn.Linear(6, 3), nn.Conv2d(4, 6, 3)
        self.early, self.never = nn.Conv2d(3, 4, 3), nn.Linear(6, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.late(self.early(x).relu()).relu().mean((2, 3)))


def test_layers_are_those_used_in_the_order_of_their_use():
    network = network_of(Backwards(), classes=3)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=1.0)
    assert chain.layers == (("early", 4), ("late", 6))
    graph = chain_graph(network, chain, x)
    assert all(graph.nodes[e.source].title == "early" for e in graph.edges)
    assert len(graph.edges) == 24


def test_weights_made_in_the_pass_are_refused():
    class Standardised(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), Standardised(4, 6, 3)
            self.fc = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.two(self.one(x).relu()).relu().mean((2, 3)))

    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="layer 'two' is computed anew in each pass"):
        extract(network_of(Net(), classes=3), x, selector="random", keep=0.5)


def test_a_task_that_stopped_is_not_tried_again(embedded, images):
    tasks = [images[:2], images[2:], images[1:3]]
    options = {"keep": 0.3, "steps": 60, "tries": 50, "tolerance": 1e-4, "window": 3, "views": 0}
    together = extract_many(embedded, tasks, **options)
    assert len({len(chain.losses) for chain in together}) > 1, "they stop at different steps"
    for own, chain in zip(tasks, together, strict=True):
        alone = extract(embedded, own, **options)
        torch.testing.assert_close(chain.scores, alone.scores, rtol=0, atol=0.02)  # rounding
        torch.testing.assert_close(chain.scaled_logits, alone.scaled_logits, rtol=1e-2, atol=1e-2)


def test_a_copy_that_answers_no_number_is_not_the_best(embedded, images):
    tasks = Tasks.of(embedded, [images])
    best = _Best(tasks, ChainSettings(keep=0.5))
    which = torch.ones(1, 1, dtype=torch.bool)
    units = torch.rand(1, len(tasks.gated.units))
    branches = torch.ones(1, len(tasks.gated.branches))
    best.see((units, branches), which)
    first = best.units.clone()
    bad = replace(tasks, answers=tasks.answers * torch.nan)
    best._tasks = bad
    best.see((units.flip(1), branches), which)
    assert torch.equal(best.units, first)
    best.require_numbers()
    none = _Best(bad, ChainSettings(keep=0.5))
    none.see((units, branches), which)
    with pytest.raises(NumericalError, match="answers NaN"):
        none.require_numbers()


def test_a_loss_that_is_not_a_number_is_said():
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).abs().log().mean((2, 3)))

    network = network_of(Logarithm())
    with pytest.raises(NumericalError, match="keep more units, or give a smaller rate"):
        extract(network, torch.rand(2, 3, 12, 12), keep=0.5, steps=30, temperature=(1e-4, 1e-4))


def test_a_network_without_units_is_refused():
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).eval())
    with pytest.raises(UnsupportedError, match="has no filters, heads or neurons"):
        extract(network, torch.zeros(1, 3, 12, 12))


def test_half_precision_extracts_and_judges():
    network = load("embedded")
    network.model.to(torch.bfloat16)
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    chain = extract(network, x, keep=0.3, steps=4, views=2)
    assert chain.share == pytest.approx(0.3, abs=1e-3)
    assert torch.isfinite(chain.chain_logits).all()
    found = judge(
        chain.gated(network, x), {"chain": chain, **controls(network, chain, x)}, x, [0, 1]
    )
    assert found["chain"].kl >= 0
