"""Networks, options and files out of the ordinary: a plain word instead of a wrong trace."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from blame.reference import network_of
from contracts import untouched
from sparsight import compare, trace, trace_many
from sparsight.errors import (
    InputError,
    NetworkError,
    NumericalError,
    SparsightError,
    UnsupportedError,
)
from sparsight.networks import Network, load
from sparsight.traces import Trace

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def single(model: nn.Module) -> Network:
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    network = network_of(model, classes=10)
    network.model.float()
    return network


def small(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    )  # fmt: skip


class TwoSizes(nn.Module):
    """Uses one convolution before and after pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        wide, narrow = self.shared(x).relu(), self.shared(F.max_pool2d(x, 2)).relu()
        return self.fc(wide.mean((2, 3)) + narrow.mean((2, 3)))


class Frozen(nn.Module):
    """A part without gradients, and a head."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        self.skip = nn.Conv2d(3, 16, 3) if deep else None
        self.fc = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.part(x).mean((2, 3))
        if self.skip is not None:
            y = y + self.skip(x).relu().mean((2, 3))
        return self.fc(y)


@pytest.fixture(scope="module")
def embedded():
    return load("embedded")


@pytest.fixture(scope="module")
def sample():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_autocast_around_it_changes_nothing(embedded, sample):
    usual = trace(embedded, sample, augmentations=4)
    with torch.autocast("cpu", torch.bfloat16), untouched(embedded.model):
        within = trace(embedded, sample, augmentations=4)
        dense = embedded.model(sample)
        with usual.applied(embedded) as model:
            traced = model(sample)
        again = embedded.model(sample)
    assert torch.equal(within.traced_logits, usual.traced_logits)
    assert torch.equal(dense, again)
    assert not torch.equal(dense, traced), "copies of the dense weights were used"


@pytest.mark.parametrize(
    "options", [{}, {"sparsity": 0.5}, {"sparsity": 0.5, "solver": "sparsegpt"}]
)
def test_a_layer_used_at_two_sizes_stays_dense_and_says_so(options):
    found = trace(single(TwoSizes()), X, augmentations=8, **options)
    notes = {layer.name: layer.note for layer in found.layers}
    assert notes["shared"] == "used at several sizes, left dense"
    assert {layer.name for layer in found.layers if layer.sparsity} == {"fc"}


def test_layers_that_no_gradient_reaches_stay_dense_and_say_so():
    found = trace(single(Frozen(deep=True)), X, augmentations=8, sparsity="network:0.5")
    notes = {layer.name: layer.note for layer in found.layers}
    assert notes["part.2"] == "no gradient of the answer reaches it, left dense"
    assert "part.2.weight" not in found.tensors


@pytest.mark.parametrize("solver", ["compensated", "sparsegpt"])
def test_if_a_gradient_reaches_none_it_is_refused(solver):
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Frozen(deep=False)
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = self.part(x)
            return y * self.scale

    with pytest.raises(UnsupportedError, match="no gradient"):
        trace(single(Closed()), X, augmentations=8, sparsity="network:0.5", solver=solver)


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "solver": "sparsegpt"}])
def test_a_view_with_an_answer_that_is_no_number_is_named(options):
    views = torch.randn(8, 3, 12, 12)
    views[6] = 3e38
    with pytest.raises(NumericalError, match="NaN or infinity to view 7 of the sample"):
        trace(single(small()), X, augmentations=views, **options)


def test_gradients_that_are_no_number_are_refused():
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.body(x)
            return torch.where(z > 1e9, z * torch.nan, z + 0 * (z - z).sqrt())

    with pytest.raises(NumericalError, match="gradient of the answer is NaN"):
        trace(single(Bad()), X, augmentations=8)


def test_a_class_that_is_next_to_impossible_leaves_a_trace():
    model = small()
    network = single(model)
    with torch.no_grad():
        model[-1].weight.mul_(300)
    target = int(network.logits(X)[0].argmin())
    found = trace(network, X, augmentations=8, sparsity="network:0.5", target=target)
    assert all(layer.sparsity < 1 for layer in found.layers)


def test_networks_with_nothing_to_prune_but_the_stem():
    flat = single(nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 10)))
    with pytest.raises(InputError, match=r"include it \(stem=True, --stem\)"):
        trace(flat, X)
    assert trace(flat, X, stem=True, augmentations=4).sparsity > 0


def test_a_network_of_layers_that_cannot_be_seen_is_refused_with_their_names():
    up = nn.Sequential(nn.ConvTranspose2d(3, 10, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"\('0.weight': ConvTranspose2d is not supported\)"):
        trace(single(up), X)


def test_nothing_is_pruned_where_nothing_is_asked_for(embedded, sample):
    found = trace(embedded, sample, sparsity="network:0", augmentations=4)
    assert not found.tensors
    assert found.sparsity == 0
    assert found.kl == 0


@pytest.mark.parametrize(
    ("solver", "wanted"), [("magnitude", 0.995), ("refit", 0.995), ("forward", 0.995)]
)
def test_solvers_without_blocks_prune_what_is_asked(solver, wanted):
    network = single(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(800, 10)))
    found = trace(network, X, augmentations=4, sparsity=wanted, solver=solver)
    assert found.layers[-1].sparsity == pytest.approx(wanted, abs=1e-3)
    assert not found.layers[-1].note


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 0}, {"positions": 0}, {"positions": 2.5}, {"target": 1.0}, {"seed": 2**70},
        {"gradients": 0}, {"gradients": True}, {"refitted": -1}, {"refitted": None},
        {"augmentations": 2.5}, {"augmentations": 0}, {"precision": "float8"}, {"damping": -1.0},
        {"focus": 2.0}, {"sparsity": "a lot"}, {"sparsity": 1.5},
        {"pattern": "2:4", "sparsity": "network:0.9"}, {"focus": "a"}, {"damping": "a"},
        {"pattern": None}, {"augmentations": True},
    ],
    ids=str,
)  # fmt: skip
def test_options_are_refused_at_once_and_in_a_line(embedded, sample, options):
    with pytest.raises(InputError) as one:
        trace(embedded, sample, **options)
    with pytest.raises(InputError) as many:
        trace_many(embedded, [sample], **options)  # before an image is asked for
    assert str(one.value) == str(many.value)
    assert "\n" not in str(one.value)


def test_inference_mode_and_half_precision_are_told(embedded, sample):
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        trace(embedded, sample)
    model = copy.deepcopy(embedded.model).half()
    half = Network(model, embedded.preprocessing, embedded.labels, "half")
    with pytest.raises(InputError, match="this one is in float16"):
        trace(half, sample.half(), precision="bfloat16")


def test_bfloat16_is_judged_in_full(embedded, sample):
    found = trace(embedded, sample, precision="bfloat16", augmentations=8)
    assert found.settings["within"]
    assert found.kl < 0.5


def test_numbers_of_numpy_are_saved(embedded, sample, tmp_path):
    found = trace(
        embedded, sample, sparsity=np.float32(0.5), augmentations=4, damping=np.float32(0.3),
        focus=np.float64(0.5),
    )  # fmt: skip
    assert Trace.load(found.save(tmp_path / "trace")).settings["sparsity"] == 0.5


def test_many_traces_of_given_views_and_of_a_network_that_normalises(monkeypatch):
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x / x.std((1, 2, 3), keepdim=True))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    network, views = single(Normalised()), torch.randn(6, 3, 12, 12)
    ((_, found),) = trace_many(network, [X], augmentations=views)
    alone = trace(network, X, augmentations=views)
    assert all(torch.equal(found.tensors[name], value) for name, value in alone.tensors.items())


@pytest.mark.parametrize(
    "edit",
    [
        {"rows": "a"}, {"rows": 10**9}, {"groups": 0}, {"sparsity": None}, {"sparsity": 7.0},
        {"name": ["a"]}, {"parameter": "nope"}, {"error": "x"}, {"start": -1},
        {"rows": 1, "columns": 1, "groups": 1}, {"kind": "magic"}, {"error": float("nan")},
        {"sparsity": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_manifest_is_damage(embedded, sample, tmp_path, edit):
    folder = trace(embedded, sample, augmentations=4).save(tmp_path / "trace")
    manifest = json.loads((folder / "trace.json").read_text())
    manifest["layers"][3].update(edit)
    (folder / "trace.json").write_text(json.dumps(manifest))
    with pytest.raises(SparsightError, match="is damaged"):
        Trace.load(folder)


def test_a_manifest_with_other_layers_or_without_an_end_is_refused(embedded, sample, tmp_path):
    folder = trace(embedded, sample, augmentations=4).save(tmp_path / "trace")
    whole = json.loads((folder / "trace.json").read_text())
    layers, settings = whole["layers"], whole["settings"]
    for edit in (
        {"layers": []},
        {"layers": [*layers, layers[3]]},
        {"settings": settings | {"weights": {"dtype": 3}}},
        {"settings": settings | {"weights": "all"}},
    ):
        (folder / "trace.json").write_text(json.dumps(whole | edit))
        with pytest.raises(SparsightError, match="is damaged"):
            Trace.load(folder)
    (folder / "trace.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="cannot be read"):
        Trace.load(folder)


def test_layers_are_named_by_texts(embedded, sample):
    with pytest.raises(InputError, match="layers are named by texts"):
        trace(embedded, sample, sparsity={2: 0.5}, augmentations=4)


class InPlace(nn.Module):
    """Works on its input in place, before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.mul_(2).clamp_(-3, 3))


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "solver": "sparsegpt"}])
def test_a_network_that_overwrites_its_input_is_traced_and_the_image_stays(options):
    class Apart(InPlace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body((x * 2).clamp(-3, 3))

    torch.manual_seed(0)
    network, apart = single(InPlace()), single(Apart())
    x, views = X.clone(), torch.randn(8, 3, 12, 12)
    given = views.clone()
    found = trace(network, x, augmentations=views, **options)
    assert torch.equal(x, X)
    assert torch.equal(views, given)
    alone = trace(apart, X, augmentations=views, **options)
    assert torch.equal(found.dense_logits, alone.dense_logits)
    assert torch.equal(found.traced_logits, alone.traced_logits)
    grown = X.clone().requires_grad_()
    network.classifier(grown).sum().backward()
    assert grown.grad is not None


def test_traces_may_lie_over_one_another():
    network = single(small())
    first, second = (trace(network, X, augmentations=4, seed=seed) for seed in (0, 1))
    with first.applied(network):
        with second.applied(network) as model:
            assert torch.allclose(model(X)[0], second.traced_logits, atol=1e-5)
        within = trace(network, X, augmentations=4)
        with first.applied(first.network(network)):
            pass
    with within.applied(network):
        pass


def test_statistics_of_batch_norm_belong_to_a_trace():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    network = single(model)
    found = trace(network, X, augmentations=4)
    model[1].running_mean.add_(1)
    with pytest.raises(NetworkError, match="other weights than the one that was traced"):
        found.applied(network)


def test_an_attention_layer_with_zeros_of_its_own_is_saved_and_read(tmp_path):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.fc = nn.Conv2d(3, 16, 3, 3), nn.Linear(16, 10)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patches(x).flatten(2).mT
            return self.fc(self.attention(x, x, x)[0].mean(1))

    network = single(Attention())
    sparse = trace(network, X, augmentations=4, sparsity=0.5, solver="magnitude").network(network)
    found = trace(sparse, X, augmentations=4, sparsity={"attention[value]": 0.9})
    again = Trace.load(found.save(tmp_path / "trace"))
    assert again.layers == found.layers


def test_a_trace_is_of_these_weights(tmp_path):
    network, other = single(small()), single(small())
    with torch.no_grad():
        other.model[0].bias[0] += 1e-3
    found = Trace.load(trace(network, X, augmentations=4).save(tmp_path / "trace"))
    with pytest.raises(NetworkError, match="other weights than the one that was traced"):
        found.applied(other)
    with pytest.raises(NetworkError, match="other weights than the one that was traced"):
        found.network(other)
    with pytest.raises(InputError, match="networks with other weights"):
        compare(found, trace(other, X, augmentations=4))
    for options in ({}, {"memory_format": torch.channels_last}, {"dtype": torch.float16}):
        with found.applied(copy.deepcopy(network.model).to(**options)):
            pass


class Flipped(nn.Module):
    """Answers the mean over an image and its mirror image, all of them in one batch."""

    def __init__(self, by_image: bool) -> None:
        super().__init__()
        self.body, self.by_image = small(), by_image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.by_image:
            both = torch.stack([x, x.flip(3) * 0.5], 1).flatten(0, 1)
            return self.body(both).unflatten(0, (-1, 2)).mean(1)
        return self.body(torch.cat([x, x.flip(3) * 0.5])).unflatten(0, (2, -1)).mean(0)


class Around(nn.Module):
    """Something before a small network."""

    def __init__(self, before) -> None:
        super().__init__()
        self.body, self.before = small(), before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.before(x))


class OneByOne(Around):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.body(one[None]) for one in x])


class Mapped(Around):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda one: self.body(one[None])[0])(x)


def mixed(x: torch.Tensor) -> torch.Tensor:
    return x - 0.5 * x.mean(0, keepdim=True)


def less_the_first(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:1], x[1:] - x[:1]])


def summed_up(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(0)


def only_one(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, 3, 12, 12)


def refused(x: torch.Tensor) -> torch.Tensor:
    if len(x) > 1:
        raise ValueError("one image, please")
    return x


class OverImages(nn.Module):
    """A recurrent layer that takes the images for the steps of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.fc = nn.Conv2d(3, 8, 3), nn.LSTM(8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(self.conv(x).flatten(2).mT)[0].mean(1))


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "solver": "sparsegpt"}])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Flipped(by_image=False), "layer 'body.0' gives an image something else in a batch"),
        (Around(mixed), "layer 'body.0' gives an image something else in a batch"),
        (Around(less_the_first), "layer 'body.0' gives an image something else in a batch"),
        (Around(summed_up), "layer 'body.0' gives an image something else in a batch"),
        (OverImages(), "layer 'fc' gives an image something else in a batch"),
        (Around(only_one), "does not run on two images at once"),
        (Around(refused), r"does not run on two images at once \(one image, please\)"),
        (OneByOne(None), "layer 'body.0' is used 2 times for two images and 1 for one"),
        (Mapped(None), r"layer 'body.0' runs inside torch\.vmap"),
        (Around(partial(F.dropout, p=0.1)), "answers the same image otherwise each time"),
    ],
    ids=[
        *("flipped", "mixed", "first", "sum", "rnn", "batch-of-one", "refused", "one-by-one"),
        *("vmap", "random"),
    ],
)
def test_a_network_that_does_not_keep_images_apart_is_refused(model, reason, options):
    network = single(model)
    for views in (torch.randn(8, 3, 12, 12), X.expand(8, -1, -1, -1)):
        with pytest.raises(UnsupportedError, match=reason):
            trace(network, X, augmentations=views, **options)


def test_memory_that_runs_out_is_no_fault_of_the_network():
    def too_much(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            torch.empty(2**60, dtype=torch.uint8)
        return x

    with pytest.raises(RuntimeError, match="allocate memory"):
        trace(single(Around(too_much)), X, augmentations=4)


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_a_flat_image_in_a_network_that_standardises_it(grey):
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            apart = x - x.mean((1, 2, 3), keepdim=True)
            apart = apart / (x.std((1, 2, 3), keepdim=True) + 1e-6)
            first = self.body[0]
            return self.body[1:](F.conv2d(apart, first.weight))

    network = single(Standardised())
    trace(network, torch.full_like(X, grey), augmentations=torch.randn(8, 3, 12, 12))


class Squeezed(nn.Module):
    """Squeezes away the batch, too, where there is one image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)
        self.last, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu()
        gate = self.gate(x.mean((2, 3)).squeeze()).sigmoid().view(-1, 8, 1, 1)
        return self.fc(self.last(x * gate).relu().mean((2, 3)))


@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"sparsity": 0.5, "solver": "sparsegpt"}])
def test_a_network_that_squeezes_a_single_image(options):
    class Kept(Squeezed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).relu()
            gate = self.gate(x.mean((2, 3))).sigmoid().view(-1, 8, 1, 1)
            return self.fc(self.last(x * gate).relu().mean((2, 3)))

    found, wanted = (
        trace(single(model), X, augmentations=8, **options) for model in (Squeezed(), Kept())
    )
    assert torch.allclose(found.traced_logits, wanted.traced_logits, atol=1e-5)
    assert found.layers[1].sparsity == wanted.layers[1].sparsity > 0


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "solver": "sparsegpt"}])
def test_several_pictures_of_an_image_side_by_side_are_fine(options):
    found = trace(single(Flipped(by_image=True)), X, augmentations=8, **options)
    assert found.sparsity > 0


def test_a_checkpoint_that_forbids_gradients_is_told():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.body, x, use_reentrant=True)

    with pytest.raises(UnsupportedError, match="the gradient of the network's answer"):
        trace(single(Checkpointed()), X, augmentations=8)


class Hidden(nn.Module):
    """Multiplies by weights that no weight matrix holds, some of them after another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, bias=False)
        self.body = nn.Conv2d(6, 8, 3)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.bare = nn.Parameter(torch.randn(8, 8))
        self.standard = nn.Conv2d(8, 8, 3)
        self.never = nn.Linear(8, 8)
        self.query = nn.Parameter(torch.randn(1, 2, 8))  # an input, no weights
        self.ask = nn.Linear(8, 10)
        self.nothing = nn.Parameter(torch.zeros(0, 4))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.never.weight.dtype) + (torch.ones(3, 0) @ self.nothing).sum()
        x = self.body(self.up(x).relu()).relu()
        x = F.conv2d(x, self.standard.weight * 2).relu()
        x = torch.einsum("npc,dc->npd", x.flatten(2).mT, self.bare)
        asked = self.ask(self.query.expand(len(x), -1, -1)).mean(1)
        return asked + self.head(self.rnn(x)[0][:, -1] + x.mean(1) @ self.bare.t())


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "solver": "sparsegpt"}])
def test_weights_that_cannot_be_seen_are_named_and_counted(options, tmp_path):
    network = single(Hidden())
    found = trace(network, X, augmentations=8, **options)
    notes = {layer.name: layer.note for layer in found.layers}
    assert notes["up.weight"] == "ConvTranspose2d is not supported, left dense"
    assert notes["rnn.weight_hh_l0"] == "GRU is not supported, left dense"
    assert notes["bare"] == "used by an operation that is not supported, left dense"
    assert notes["standard"] == "its weights are not used as they are, left dense"
    assert notes["never"] == "not used by the forward pass"
    model = network.model
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1) - model.query.numel()
    assert sum(layer.numel for layer in found.layers) == matrices
    again = Trace.load(found.save(tmp_path / "trace"))
    assert again.layers == found.layers
    assert compare(found, again).weights.jaccard == 1
