"""Whole traces: the model untouched, the definition met, everything reproducible."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from contracts import untouched
from sparsight.datasets.scenes import render_scene
from sparsight.errors import (
    InputError,
    NetworkError,
    NumericalError,
    SparsightError,
    UnsupportedError,
)
from sparsight.networks import Network, Preprocessing, load, weight_matrices
from sparsight.networks.matrices import weight_of
from sparsight.networks.outputs import LogitsOnly
from sparsight.traces import COMPENSATED, SOLVERS, Augmentation, Trace, trace
from sparsight.traces.solvers import sparsegpt


class Small(nn.Module):
    """A reused in-place ReLU, a skip, a depthwise, a grouped and a reused convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, stride=2)
        self.twice = nn.Conv2d(8, 8, 1)
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.depthwise(x) + x)
        x = self.relu(self.grouped(x))
        x = self.relu(self.twice(self.relu(self.twice(x))))
        return self.head(x.mean((2, 3)))


def network(model: nn.Module | None = None, size: int = 16) -> Network:
    torch.manual_seed(0)
    model = Small() if model is None else model
    preprocessing = Preprocessing((size, size), size)
    return Network(model.eval(), preprocessing, tuple("abcde"))


IMAGE = Image.effect_noise((40, 30), 80).convert("RGB")
FAST = {"augmentations": 6, "sparsity": 0.5, "solver": "sparsegpt"}
DEFAULTS = {"augmentations": 6}
BOTH = pytest.mark.parametrize("settings", [FAST, DEFAULTS], ids=["sparsegpt", "defaults"])


@BOTH
def test_the_model_is_untouched(settings: dict[str, object]) -> None:
    net = network()
    net.model.head.weight.grad = torch.ones(5, 8)
    with untouched(net.model):
        found = trace(net, IMAGE, **settings)
        with found.applied(net):
            pass
        found.network(net)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_at", range(1, 8))
@BOTH
def test_the_model_is_untouched_when_something_fails(
    error: type[BaseException],
    fails_at: int,
    settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the plan, with two images, each alone and together, asked for a layout, and so on."""
    net = network()
    calls = 0
    forward = Small.forward

    def failing(self: Small, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise error
        return forward(self, x)

    monkeypatch.setattr(Small, "forward", failing)
    told = UnsupportedError if error is RuntimeError and fails_at == 4 else error
    with untouched(net.model), pytest.raises(told):
        trace(net, IMAGE, **settings)


def test_layers_are_solved_as_defined() -> None:
    """Dense inputs, dense targets: each layer from its own recorded columns."""
    net = network()
    views = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = trace(
        net, net.prepare(IMAGE), augmentations=views, sparsity=0.6, solver="sparsegpt", chunk=3
    )
    with torch.no_grad():
        x = net.model.relu(net.model.norm(net.model.stem(views)))
        y = net.model.relu(net.model.depthwise(x) + x)
    inputs = {"depthwise": x, "grouped": y}
    for matrix in weight_matrices(net.model):
        if matrix.name not in inputs:
            continue
        layer = net.model.get_submodule(matrix.name)
        columns = F.unfold(inputs[matrix.name], layer.kernel_size, 1, layer.padding, layer.stride)
        columns = columns.reshape(7, matrix.groups, matrix.columns, -1)
        columns = columns.permute(1, 2, 0, 3).reshape(matrix.groups, matrix.columns, -1).double()
        weight = weight_of(net.model, matrix).double()
        moment = columns @ columns.transpose(1, 2)
        expected = sparsegpt(weight, moment, 0.6, matrix.block).weight
        result = matrix.pack(found.tensors[matrix.parameter]).double()
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
        row = next(r for r in found.layers if r.name == matrix.name)
        lost = ((weight - expected) @ columns).norm() / (weight @ columns).norm()
        assert row.error == pytest.approx(float(lost), rel=1e-3)
        assert row.sparsity == pytest.approx(float((result == 0).double().mean()))


def test_no_layer_is_emptied_by_rounding() -> None:
    """A head of five classes and 3x3 kernels of one channel, at a sparsity that rounds to all."""
    net = network()
    found = trace(net, IMAGE, augmentations=4, sparsity=0.97, solver="sparsegpt")
    rows = {layer.name: layer for layer in found.layers}
    depthwise = net.model.depthwise.weight
    kept = (found.tensors["depthwise.weight"] != 0).flatten(1).sum(1)
    live = "always zero" not in rows["depthwise"].note
    assert not live or kept.tolist() == [1] * len(depthwise)
    assert "one weight kept of each 9" in rows["depthwise"].note
    assert (found.tensors["head.weight"] != 0).any()
    assert rows["depthwise"].requested == 0.97


def test_stem_biases_norms_and_unused_layers_stay() -> None:
    net = network()
    found = trace(net, IMAGE, **FAST)
    assert set(found.tensors) == {
        f"{name}.weight" for name in ("depthwise", "grouped", "twice", "head")
    }
    notes = {layer.name: layer.note for layer in found.layers}
    assert notes["stem"] == "stem, left dense"
    assert notes["unused"] == "not used by the forward pass"
    assert "stem.weight" in trace(net, IMAGE, stem=True, **FAST).tensors


def test_zero_sparsity_changes_nothing() -> None:
    net = network()
    found = trace(net, IMAGE, augmentations=2, sparsity={"grouped": 0.0, "head": 0.5})
    assert set(found.tensors) == {"head.weight"}
    nothing = trace(net, IMAGE, augmentations=2, sparsity=0.0)
    assert nothing.kl == 0
    assert nothing.sparsity == 0


def test_applied_and_copied_networks_answer_alike() -> None:
    net = network()
    found = trace(net, IMAGE, **FAST)
    x = net.prepare(IMAGE)
    for target in (net, net.model, LogitsOnly(net.model)):
        with found.applied(target) as model, torch.no_grad():
            assert torch.equal(model(x)[0], found.traced_logits)
    with torch.no_grad():
        assert torch.equal(found.network(net)(x)[0], found.traced_logits)
        assert torch.equal(found.network(net.model)(x)[0], found.traced_logits)
        assert torch.equal(net(x)[0], found.dense_logits)


def test_a_backward_pass_inside_leaves_no_trace() -> None:
    net = network()
    found = trace(net, IMAGE, **FAST)
    with untouched(net.model), found.applied(net) as model:
        model(net.prepare(IMAGE))[0, 0].backward()


@BOTH
def test_same_seed_same_bytes(settings: dict[str, object]) -> None:
    net = network()
    one, two, other = (trace(net, IMAGE, seed=seed, **settings) for seed in (3, 3, 4))
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])
    assert any(not torch.equal(v, other.tensors[k]) for k, v in one.tensors.items())


def test_sample_and_views_share_a_pass_where_memory_lets_them() -> None:
    net = network()
    sizes: list[int] = []
    hook = net.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    trace(net, IMAGE, augmentations=50)
    hook.remove()
    assert 41 in sizes
    assert not set(sizes) - {1, 41, 33, 8, 2}  # 8 views are only answered, 2 ask for the layout


@BOTH
def test_chunks_do_not_matter(settings: dict[str, object]) -> None:
    net = network()
    one, two = (trace(net, IMAGE, chunk=chunk, **settings) for chunk in (1, 6))
    for name, value in one.tensors.items():
        torch.testing.assert_close(value, two.tensors[name], rtol=1e-3, atol=1e-5)


def test_layers_with_the_same_input_share_their_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsight.traces import independent

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.attention(x, x, x)[0].mean(1))

    made = []
    original = independent.moment_for
    monkeypatch.setattr(
        independent, "moment_for", lambda *a: made.append(a[0].matrix.name) or original(*a)
    )
    found = trace(network(Block()), IMAGE, **FAST)
    assert made == ["attention[query]", "attention.out_proj", "head"]
    pruned = [layer for layer in found.layers if layer.requested > 0]
    assert len(pruned) == 5
    assert all(layer.error > 0 for layer in pruned)


@BOTH
def test_save_and_load_are_exact(tmp_path: Path, settings: dict[str, object]) -> None:
    net = network()
    found = trace(net, IMAGE, **settings)
    again = Trace.load(found.save(tmp_path / "t"))
    for name, value in found.tensors.items():
        assert torch.equal(value, again.tensors[name])
    assert again.layers == found.layers
    assert again.settings == found.settings
    assert torch.equal(again.traced_logits, found.traced_logits)
    with pytest.raises(InputError, match="not empty"):
        found.save(tmp_path / "t")
    found.save(tmp_path / "t", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t"]


@pytest.mark.parametrize("damage", ["no manifest", "schema", "tensors", "absent"])
def test_damaged_traces_are_refused(tmp_path: Path, damage: str) -> None:
    folder = trace(network(), IMAGE, **FAST).save(tmp_path / "t")
    manifest = folder / "trace.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "schema":
        manifest.write_text(manifest.read_text().replace('"schema": 2', '"schema": 99'))
    elif damage == "tensors":
        (folder / "trace.safetensors").write_bytes(b"junk")
    else:
        folder = tmp_path / "nowhere"
    with pytest.raises(InputError) as caught:
        Trace.load(folder)
    assert str(folder) in str(caught.value)


def test_nothing_is_left_of_an_interrupted_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trace(network(), IMAGE, **FAST)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsight.traces.result.write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_of_another_network_is_refused() -> None:
    found = trace(network(), IMAGE, **FAST)
    with pytest.raises(NetworkError), found.applied(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("solver", ["sparsegpt", COMPENSATED])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype, solver: str) -> None:
    torch.manual_seed(0)
    net = network(Small().to(dtype))
    found = trace(net, IMAGE, **FAST | {"solver": solver})
    assert found.tensors["head.weight"].dtype == dtype
    live = [layer for layer in found.layers if layer.requested and not layer.note]
    assert live
    assert all(layer.sparsity == pytest.approx(0.5, abs=0.06) for layer in live)
    assert torch.isfinite(found.traced_logits).all()


@pytest.mark.parametrize(
    "image", [Image.new("RGB", (9, 9), "black"), Image.new("RGB", (9, 9), "white")]
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("solver", [COMPENSATED, *SOLVERS])
def test_constant_images_and_single_augmentations(
    image: Image.Image, count: int, solver: str
) -> None:
    found = trace(network(), image, augmentations=count, sparsity=0.9, solver=solver)
    assert torch.isfinite(found.traced_logits).all()
    assert found.sparsity > 0.5


class Broken(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sparsity": 1.0}, InputError),
        ({"solver": "magic"}, InputError),
        ({"augmentations": 0}, InputError),
        ({"augmentations": torch.zeros(2, 3, 8, 8)}, InputError),
        ({"augmentations": torch.full((2, 3, 16, 16), float("inf"))}, InputError),
        ({"damping": 0.0}, InputError),
        ({"focus": 1.5}, InputError),
        ({"positions": 0}, InputError),
        ({"sparsity": "auto:x"}, InputError),
        ({"sparsity": "network:1.5"}, InputError),
        ({"sparsity": "auto", "solver": "sparsegpt"}, InputError),
        ({"image": "absent.png"}, InputError),
        ({"image": Image.new("RGB", (1, 1))}, InputError),
        ({"network": network(Broken())}, NumericalError),
    ],
)
def test_bad_input(change: dict[str, object], error: type[SparsightError]) -> None:
    arguments = {"network": network(), "image": IMAGE, "augmentations": 2, **change}
    with pytest.raises(error) as caught:
        trace(arguments.pop("network"), arguments.pop("image"), **arguments)
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused() -> None:
    net = network()
    net.model.norm.train()
    with pytest.raises(NetworkError, match=r"'norm'.*eval"):
        trace(net, IMAGE)


def test_progress_is_reported() -> None:
    seen = []
    for settings in (FAST, DEFAULTS):
        trace(network(), IMAGE, progress=lambda *a: seen.append(a), chunk=2, **settings)
    assert {stage for stage, _, _ in seen} == {"recording", "observing", "solving"}
    assert all(0 <= done < total for _, done, total in seen)


def test_settings_say_what_was_done() -> None:
    found = trace(network(), IMAGE, sparsity={"head": 0.5}, augmentations=Augmentation(count=2))
    assert found.settings["sparsity"] == {"head": 0.5}
    assert found.settings["augmentations"]["count"] == 2
    assert found.versions["torch"]
    assert "KL" in repr(found)


def test_views_beyond_what_positions_can_tell_are_left_out() -> None:
    network, x = load("embedded"), torch.randn(1, 3, 64, 64)
    many = trace(network, x, augmentations=40, positions=64, sparsity="network:0.9")
    assert many.settings["views_used"] == 16
    assert many.settings["held_out"]["views"] == 4
    few = trace(network, x, augmentations=12, positions=64, sparsity="network:0.9")
    assert few.settings["views_used"] == 12


def test_weights_that_are_not_refitted_keep_their_values() -> None:
    network, x = load("embedded"), torch.randn(1, 3, 64, 64)
    found = trace(network, x, augmentations=4, sparsity="network:0.9", refitted=1, gradients=2)
    for matrix in weight_matrices(network.model):
        if matrix.parameter in found.tensors:
            dense = matrix.pack(network.model.get_parameter(matrix.parameter))
            traced = matrix.pack(found.tensors[matrix.parameter])
            moved = (traced != dense) & (traced != 0)
            assert int(moved.sum(-1).max()) == 1
    assert (found.settings["refitted"], found.settings["gradients"]) == (1, 2)


@pytest.mark.parametrize("solver", ["compensated", "sparsegpt", "refit"])
def test_passes_in_bfloat16_change_little(solver: str) -> None:
    network = load("embedded")
    x = network.prepare(render_scene("mug", seed=5).picture())
    options = {"solver": solver, "sparsity": "network:0.5", "augmentations": 8}
    full = trace(network, x, **options)  # type: ignore[arg-type]
    low = trace(network, x, precision="bfloat16", **options)  # type: ignore[arg-type]
    assert low.settings["precision"] == "bfloat16"
    assert low.agrees
    assert {t.dtype for t in low.tensors.values()} == {torch.float32}
    assert low.traced_logits.dtype == torch.float32
    assert not all(torch.equal(full.tensors[name], low.tensors[name]) for name in full.tensors)
    both = sum(int(((full.tensors[n] != 0) & (low.tensors[n] != 0)).sum()) for n in full.tensors)
    any_ = sum(int(((full.tensors[n] != 0) | (low.tensors[n] != 0)).sum()) for n in full.tensors)
    assert both / any_ > 0.9
    assert abs(low.kl - full.kl) < 0.05
    with pytest.raises(InputError, match="unknown precision 'half': choose from full, bfloat16"):
        trace(network, x, precision="half")
