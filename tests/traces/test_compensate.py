"""Pruning front to back: positions, costs and fits against their definitions, in float64."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from contracts import untouched
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import (
    LayerCall,
    LayerInput,
    Network,
    Preprocessing,
    Recording,
    overlay,
    weight_matrices,
)
from sparsight.networks.matrices import weight_of
from sparsight.traces import trace
from sparsight.traces.allocation import network_rule
from sparsight.traces.compensate import compensate, keep_by_layer, keep_over_network
from sparsight.traces.observe import Sampling, observe
from sparsight.traces.plan import make_plan
from sparsight.traces.positions import draw, inputs_at, outputs_at
from sparsight.traces.result import against_rest, divergence
from sparsight.traces.solvers.patterns import Pattern


def wrap(model: nn.Module, size: int = 8, channels: int = 3) -> Network:
    preprocessing = Preprocessing((size, size), size)
    return Network(model.double().eval(), preprocessing, tuple("abcd"))


def everything(images: int, focus: float = 0.5, scored: int | None = None) -> Sampling:
    return Sampling(images, scored or images, 10**6, focus, 0, 2)


class Twice(nn.Module):
    """A convolution that is used twice, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.shared(self.stem(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Attention with the batch in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).permute(2, 0, 1)
        return self.head(self.attention(x, x, x)[0].mean(0))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


@given(
    per_image=st.integers(1, 60),
    images=st.integers(1, 6),
    count=st.integers(1, 80),
    focus=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_positions_are_distinct_sorted_and_weighted(
    per_image: int, images: int, count: int, focus: float
) -> None:
    drawn = draw(per_image, images, count, focus, torch.Generator().manual_seed(1))
    pairs = list(zip(drawn.image.tolist(), drawn.position.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) > 0
    assert pairs == sorted(pairs)
    assert drawn.position.max() < per_image
    assert float(drawn.weight.sum()) == pytest.approx(1)
    if images > 1:
        assert float(drawn.weight[drawn.image == 0].sum()) == pytest.approx(focus, abs=1e-6)
    assert len(pairs) <= count + images


def test_all_positions_are_drawn_if_there_are_no_more() -> None:
    drawn = draw(7, 3, 1000, 0.5, torch.Generator())
    assert drawn.image.tolist() == [i for i in range(3) for _ in range(7)]
    assert drawn.position.tolist() == list(range(7)) * 3


@pytest.mark.parametrize("model", [chain, Twice, Tokens], ids=["chain", "twice", "tokens"])
def test_columns_and_products_are_read_where_they_are(model: type[nn.Module]) -> None:
    """All positions of all images together are the recorded columns and products."""
    torch.manual_seed(0)
    net = wrap(model())
    plan = make_plan(net, torch.randn(1, 3, 8, 8).double())
    images = torch.randn(3, 3, 8, 8).double()
    checked = []

    def check(call: LayerCall) -> None:
        checked.append(call.matrix.name)
        shapes = plan.shapes[call.matrix.name]
        where = draw(shapes.positions, 3, 10**6, 0.5, torch.Generator())
        x = inputs_at(call, where, 3, shapes.input)
        y = outputs_at(call, where, 3, shapes.output)
        product = x @ weight_of(net.model, call.matrix).mT
        torch.testing.assert_close(product, y)
        expected = call.columns()
        torch.testing.assert_close(x.mT @ x, expected @ expected.mT)
        few = draw(shapes.positions, 3, 4, 0.5, torch.Generator())
        some = inputs_at(call, few, 3, shapes.input)
        index = few.image * shapes.positions + few.position
        torch.testing.assert_close(some, x[:, index])

    with torch.no_grad(), Recording(net.model, weight_matrices(net.model), check):
        net(images)
    assert set(checked) == {matrix.name for matrix in plan.order}


def test_a_layer_that_mixes_images_is_refused() -> None:
    matrix = weight_matrices(nn.Linear(4, 2))[0]
    use = LayerInput(matrix, torch.zeros(5, 4))
    with pytest.raises(UnsupportedError, match="which part belongs"):
        inputs_at(use, draw(1, 3, 3, 0.5, torch.Generator()), 3, torch.Size([1, 4]))


def evidence(logits: torch.Tensor, target: int) -> torch.Tensor:
    """Log-odds of a class, by the definition."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1)
    return logits[:, target] - others.logsumexp(1)


def test_the_cost_of_a_linear_layer_is_its_squared_first_order_effect() -> None:
    """With one position the cost is exactly ``(w dm/dw)^2``, summed over weighted views."""
    torch.manual_seed(0)
    net = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    images = torch.randn(3, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    matrix = plan.order[0]
    observed = observe(net, images, [matrix], plan.shapes, everything(3, 0.6), 2)
    weight = net.model[1].weight.detach().clone().requires_grad_()
    expected = torch.zeros_like(weight)
    for image, share in zip(images, (0.6, 0.2, 0.2), strict=True):
        logits = image.flatten()[None] @ weight.T + net.model[1].bias.detach()
        (slope,) = torch.autograd.grad(evidence(logits, 2).sum(), weight)
        expected += share * logits.detach().softmax(1)[0, 2] * (weight.detach() * slope) ** 2
    torch.testing.assert_close(observed.cost(net, matrix)[0], expected.detach())


@pytest.mark.parametrize("model", [chain, Twice], ids=["chain", "twice"])
def test_costs_sum_squared_inputs_times_squared_gradients(model: type[nn.Module]) -> None:
    """Unfolded by hand: at every position, of every use, of every view."""
    torch.manual_seed(0)
    net = wrap(model())
    images = torch.randn(3, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    observed = observe(net, images, plan.order, plan.shapes, everything(3, 0.6), 2)
    for module in net.model.modules():  # outputs are to stay what the gradient is taken at
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected: dict[str, torch.Tensor] = {}
    for image, share in zip(images, (0.6, 0.2, 0.2), strict=True):
        x = image[None].clone().requires_grad_()
        calls: list[LayerCall] = []
        with Recording(net.model, plan.order, calls.append):
            logits = net(x)
        slopes = torch.autograd.grad(evidence(logits, 2).sum(), [c.output for c in calls])
        share = share * float(logits.detach().softmax(1)[0, 2])
        for call, slope in zip(calls, slopes, strict=True):
            matrix = call.matrix
            columns = call.columns().detach().square()
            if call.geometry is None:
                rows = slope.reshape(-1, matrix.units).T.reshape(1, matrix.units, -1)
            else:
                rows = slope.reshape(matrix.groups, matrix.rows, -1)
            cost = share * rows.square() @ columns.mT
            cost = cost * weight_of(net.model, matrix).detach().square()
            expected[matrix.name] = expected.get(matrix.name, torch.zeros(())) + cost
    for matrix in plan.order:
        torch.testing.assert_close(observed.cost(net, matrix), expected[matrix.name])


def test_one_output_means_nothing_to_a_trace_and_is_refused() -> None:
    net = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 1)))
    for sparsity in ("auto", "network:0.5"):
        with pytest.raises(UnsupportedError, match="one output"):
            trace(net, torch.randn(1, 3, 8, 8), augmentations=8, sparsity=sparsity)


class InPlace(nn.Module):
    """What the second layer gets is overwritten after its use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1)) * 1
        y = self.second(x)
        x.add_(1)
        return y


def test_an_input_that_is_overwritten_is_named() -> None:
    net = wrap(InPlace())
    for parameter in net.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UnsupportedError, match=r"layer 'second' gets is overwritten in place"):
        trace(net, torch.randn(1, 3, 8, 8), augmentations=4)


def test_observation_does_not_depend_on_the_chunk() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    images = torch.randn(5, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    sampling = Sampling(4, 3, 10, 0.4, 7, 1)
    one, two = (observe(net, images, plan.order, plan.shapes, sampling, chunk) for chunk in (2, 5))
    torch.testing.assert_close(one.logits, two.logits)
    torch.testing.assert_close(one.energy, two.energy)
    for matrix in plan.order:
        torch.testing.assert_close(one.passed[matrix.name], two.passed[matrix.name])
        torch.testing.assert_close(
            torch.cat(one.targets[matrix.name, 0], 1), torch.cat(two.targets[matrix.name, 0], 1)
        )


def brute_force(
    net: Network,
    images: torch.Tensor,
    keep: dict[str, torch.Tensor],
    focus: float,
    most: int = 10**6,
) -> dict[str, torch.Tensor]:
    """Layer after layer by the definition: unfold everything, solve every row with ``solve``."""
    dense: dict[str, list[LayerCall]] = {}
    matrices = [m for m in weight_matrices(net.model) if m.name in keep]
    with (
        torch.no_grad(),
        Recording(net.model, matrices, lambda c: dense.setdefault(c.matrix.name, []).append(c)),
    ):
        net(images)
    copy = wrap(type(net.model)() if not isinstance(net.model, nn.Sequential) else chain())
    copy.model.load_state_dict(net.model.state_dict())
    result = {}
    for matrix in matrices:
        now: list[LayerCall] = []
        with (
            torch.no_grad(),
            Recording(
                copy.model,
                [m for m in weight_matrices(copy.model) if m.name == matrix.name],
                now.append,
            ),
        ):
            copy(images)
        uses = dense[matrix.name]
        x = torch.cat([now[0].columns(), *(call.columns() for call in uses[1:])], 2)
        weight = weight_of(net.model, matrix)
        y = torch.cat([weight @ call.columns() for call in uses], 2)
        each = x.shape[2] // len(images) // len(uses)
        share = torch.full((len(images),), (1 - focus) / (len(images) - 1) / each).double()
        share[0] = focus / each
        omega = share.repeat_interleave(each).repeat(len(uses)).double()
        out = torch.zeros_like(weight)
        for g in range(matrix.groups):
            moment = (x[g] * omega) @ x[g].T
            diagonal = moment.diagonal()
            ridge = 0.01 * diagonal[diagonal > 0].mean()
            for row in range(matrix.rows):
                kept = (keep[matrix.name][g, row] & (diagonal > 0)).nonzero().flatten()
                out[g, row, kept] = weight[g, row, kept]
                passed = out[g, row].square() * diagonal
                kept = kept[passed[kept].argsort(descending=True)[:most]]
                out[g, row, kept] = 0
                left = y[g, row] - out[g, row] @ x[g]
                system = moment[kept][:, kept] + ridge * torch.eye(len(kept)).double()
                right = (x[g][kept] * omega) @ left + ridge * weight[g, row, kept]
                out[g, row, kept] = torch.linalg.solve(system, right)
        result[matrix.name] = out
        matrix.write(copy.model.get_parameter(matrix.parameter).data, out)
    return result


@pytest.mark.parametrize("model", [chain, Twice], ids=["chain", "twice"])
@pytest.mark.parametrize(("sparsity", "most"), [(0.3, 512), (0.3, 5), (0.9, 512)])
def test_layers_are_fitted_as_defined(model: type[nn.Module], sparsity: float, most: int) -> None:
    torch.manual_seed(0)
    net = wrap(model())
    images = torch.randn(6, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    chosen = plan.order[1:]
    with untouched(net.model):
        observed = observe(net, images, chosen, plan.shapes, everything(6, 0.3), 4)
        keep = keep_over_network(net, observed, chosen, sparsity)
        found = compensate(net, images, chosen, plan.shapes, observed, keep, 0.01, most, 6, 1)
    expected = brute_force(net, images, keep, 0.3, most)
    for matrix in chosen:
        solved = matrix.pack(found.tensors[matrix.parameter])
        torch.testing.assert_close(solved, expected[matrix.name], rtol=1e-6, atol=1e-8)
        assert ((solved != 0) <= keep[matrix.name]).all()


def test_images_beyond_those_fitted_are_only_answered() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    images = torch.randn(7, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    chosen = plan.order[1:]
    observed = observe(net, images, chosen, plan.shapes, everything(4, 0.3), 4)
    keep = keep_over_network(net, observed, chosen, 0.6)
    alone, found = (
        compensate(net, x, chosen, plan.shapes, observed, keep, 0.01, 128, 4, 2)
        for x in (images[:4], images)
    )
    assert all(torch.equal(found.tensors[name], value) for name, value in alone.tensors.items())
    with overlay(net.model, found.tensors):
        torch.testing.assert_close(found.logits, net.logits(images).double())


@given(
    count=st.integers(1, 200),
    share=st.floats(0, 1),
    ties=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**20),
)
def test_the_smallest_but_so_many(
    count: int, share: float, ties: bool, dtype: torch.dtype, seed: int
) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    values = (4 * values).round() if ties else values
    number = 1 + round(share * (count - 1))
    found = sys.modules["sparsight.traces.compensate"]._smallest(values, number)
    assert found.dtype == dtype
    assert torch.equal(found, values.sort().values[number - 1])


def test_masks_keep_as_much_as_was_asked() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    images = torch.randn(4, 3, 8, 8).double()
    plan = make_plan(net, images[:1])
    observed = observe(net, images, plan.order, plan.shapes, everything(4), 4)
    total = sum(m.numel for m in plan.order)
    *hidden, classes = plan.order
    inner = sum(m.numel for m in hidden)
    kept = keep_over_network(net, observed, hidden, 0.75)
    assert sum(int(mask.sum()) for mask in kept.values()) == inner - round(0.75 * inner)
    kept = keep_over_network(net, observed, plan.order, 0.75)
    assert sum(int(mask.sum()) for mask in kept.values()) - (total - round(0.75 * total)) in range(
        4 * 4 + 1
    )
    ratios = {m.name: 0.1 * i for i, m in enumerate(plan.order)}
    for matrix in plan.order:
        mask = keep_by_layer(net, observed, plan.order, ratios, Pattern("weight"))[matrix.name]
        size = matrix.rows * matrix.columns
        expected = size - round(ratios[matrix.name] * size)
        assert mask.sum((1, 2)).tolist() == [expected] * matrix.groups
    none = keep_over_network(net, observed, plan.order, 0.0)
    assert all(mask.all() for mask in none.values())
    least = keep_over_network(net, observed, hidden, 1 - 1e-12)
    assert sum(int(mask.sum()) for mask in least.values()) == 1
    least = keep_over_network(net, observed, plan.order, 1 - 1e-12)[classes.name]
    passed = net.model[6].weight.square() * observed.energy
    best = passed.topk(4, dim=1).indices
    assert all(
        set(best[row].tolist()) <= set(least[0, row].nonzero()[:, 0].tolist()) for row in range(4)
    )


def test_the_rule_takes_the_largest_sparsity_within_its_tolerance() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    x = torch.randn(1, 3, 8, 8)
    loose = trace(net, x, sparsity="auto:10", augmentations=8)
    assert loose.settings["level"] == network_rule("auto").levels[0]
    tight = trace(net, x, sparsity="auto:1e-4", augmentations=8)
    target = tight.settings["target"]
    answers = (against_rest(a, target) for a in (tight.dense_logits, tight.traced_logits))
    assert tight.settings["within"]
    assert float(divergence(*answers)) <= 1e-4
    never = trace(net, x, sparsity="auto:0", augmentations=8)
    assert never.settings["level"] == network_rule("auto").levels[-1]
    assert not never.settings["within"]


def test_within_a_wide_tolerance_the_class_still_stays() -> None:
    levels = set()
    for seed in range(12):
        torch.manual_seed(seed)
        found = trace(wrap(chain()), torch.randn(1, 3, 8, 8), sparsity="auto:10", augmentations=4)
        assert found.agrees or not found.settings["within"]
        levels.add(found.settings["level"])
    assert len(levels) > 1  # the class is what refused the others


def test_network_wide_shares_work_for_every_layerwise_solver() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    x = torch.randn(1, 3, 8, 8)
    found = trace(net, x, sparsity="network:0.7", augmentations=4, solver="wanda")
    pruned = [layer for layer in found.layers if layer.requested]
    size = sum(layer.numel for layer in pruned)
    assert sum(layer.sparsity * layer.numel for layer in pruned) / size == pytest.approx(
        0.7, abs=0.02
    )
    assert len({layer.requested for layer in pruned}) > 1


def test_views_that_are_held_out_do_not_matter_to_the_fit() -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    x, views = torch.randn(1, 3, 8, 8), torch.randn(32, 3, 8, 8)
    other = views.clone()
    other[-8:] = torch.randn(8, 3, 8, 8)
    one, two = (
        trace(net, x, augmentations=given, sparsity="network:0.8") for given in (views, other)
    )
    assert one.settings["held_out"]["views"] == 8
    assert one.settings["held_out"]["kl"] != two.settings["held_out"]["kl"]
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])


@pytest.mark.parametrize("pattern", ["kernel", "input", "2:4"])
def test_patterns_hold_in_the_trace(pattern: str) -> None:
    torch.manual_seed(0)
    net = wrap(chain())
    found = trace(net, torch.randn(1, 3, 8, 8), augmentations=8, pattern=pattern)
    assert found.settings["pattern"] == pattern
    for matrix in weight_matrices(net.model)[1:]:
        kept = matrix.pack(found.tensors[matrix.parameter]) != 0
        if pattern == "2:4":
            columns = matrix.columns // 4 * 4
            assert (kept[:, :, :columns].unflatten(2, (-1, 4)).sum(3) <= 2).all()
            continue
        kernels = kept.unflatten(2, (-1, matrix.block)).any(3)
        whole = kept.unflatten(2, (-1, matrix.block)).all(3)
        assert (kernels == whole).all()
        if pattern == "input":
            assert (kernels == kernels[:, :1]).all()


def test_patterns_need_the_default_solver_and_a_sparsity_that_they_allow() -> None:
    net = wrap(chain())
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(InputError, match="needs the solver"):
        trace(net, x, pattern="kernel", solver="wanda", sparsity=0.5)
    with pytest.raises(InputError, match="2:4"):
        trace(net, x, pattern="2:4", sparsity=0.9, augmentations=2)
    with pytest.raises(InputError):
        trace(net, x, pattern="diagonal")


def test_an_answer_without_a_gradient_is_refused() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.inner(x)

    net = wrap(Cut())
    with pytest.raises(UnsupportedError, match="no gradient"):
        trace(net, torch.randn(1, 3, 8, 8), augmentations=2)


@pytest.mark.parametrize("bad", ["auto:-1", "auto:nan", "network:", "network:x", "network:1"])
def test_bad_rules_name_the_remedy(bad: str) -> None:
    with pytest.raises(InputError) as caught:
        network_rule(bad)
    assert "\n" not in str(caught.value)


def test_compensation_beats_layers_by_themselves() -> None:
    """What the whole way is for: at equal masks the answer strays less."""
    torch.manual_seed(0)
    lost = {"compensated": 0.0, "refit": 0.0}
    for _ in range(5):
        net = wrap(chain())
        x = torch.randn(1, 3, 8, 8)
        for solver in lost:
            found = trace(net, x, sparsity="network:0.8", augmentations=16, solver=solver)
            lost[solver] += found.kl
    assert lost["compensated"] < 0.2 * lost["refit"]
