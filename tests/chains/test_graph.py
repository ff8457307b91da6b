"""The graph of a chain: kernels against convolutions one by one, what can be numbered, files."""

from __future__ import annotations

from collections import defaultdict

import networkx
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from blame.reference import network_of
from contracts import untouched
from sparsight.chains import chain_graph, extract
from sparsight.errors import InputError


class Plain(nn.Module):
    """Two convolutions with a normalisation between, a flattened plane, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.hidden, self.fc = nn.Linear(6 * 16, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.one(x)))
        x = torch.flatten(F.relu(self.two(x)), 1)
        return self.fc(F.relu(self.hidden(x)))


class Stream(nn.Module):
    """A stem and a block that write into one stream, without any bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.last, self.fc = nn.Conv2d(4, 5, 1, bias=False), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.relu(x + self.block(x))
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


class Layer(nn.Module):
    """A block of a vision transformer with torch's attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches, two such blocks, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.one, self.two, self.fc = Layer(16), Layer(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.two(self.one(x)).mean(1))


def transformer(attention: str) -> nn.Module:
    if attention == "torch":
        return Transformer()
    return VisionTransformer(
        img_size=12, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=4, mlp_ratio=2
    )


@pytest.fixture
def given():
    torch.manual_seed(3)
    network = network_of(Plain())
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=1.0)
    return network, x, chain


def test_edges_are_contributions_of_kernels(given):
    network, x, chain = given
    with untouched(network.model):
        graph = chain_graph(network, chain, x, groups=["all"] * 3, most=9)
    model = network.model
    first = F.relu(model.norm(model.one(x))).detach()
    second = model.two(first).detach().requires_grad_()
    plane = F.relu(second).flatten(1)
    third = model.hidden(plane)
    plane = plane.detach()
    asked = model.fc(F.relu(third))
    chosen = asked.gather(1, network.logits(x).argmax(1)[:, None]).sum()
    pull, deep = torch.autograd.grad(chosen, [second, third])
    place = {(n.title, n.number): number for number, n in enumerate(graph.nodes)}
    found = {(e.source, e.target): e.weights[0] for e in graph.edges}
    assert len(place) == 4 + 6 + 5
    for out in range(6):
        for i in range(2):
            channel = i + 2 * (out // 3)
            passed = F.conv2d(
                first[:, channel : channel + 1],
                model.two.weight[out : out + 1, i : i + 1].detach(),
                None,
                2,
            )
            wanted = float((passed[:, 0] * pull[:, out]).sum()) / 3
            got = found.get((place["one", channel], place["two", out]), 0.0)
            assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        other = 2 if out < 3 else 0
        assert (place["one", other], place["two", out]) not in found, "another group's channel"
    for out in range(5):
        for channel in range(6):
            weights = model.hidden.weight[out].detach().reshape(6, 16)[channel]
            passed = plane.reshape(3, 6, 16)[:, channel] @ weights
            wanted = float((passed * deep[:, out]).sum()) / 3
            got = found.get((place["two", channel], place["hidden", out]), 0.0)
            assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_units_contribute_through_their_gates(given):
    network, x, chain = given
    graph = chain_graph(network, chain, x, groups=["all"] * 3, most=9)
    answers = network.logits(x).argmax(1)
    gated = chain.gated(network, x)
    step = 1e-6
    for number, node in enumerate(graph.nodes):
        index = gated.units.index(node.title, node.number)
        moved = []
        for sign in (1, -1):
            gates, branches = (g.clone().double() for g in chain.gates(3))
            gates[:, index] += sign * step
            moved.append(gated.logits(x, gates, branches).gather(1, answers[:, None]).mean())
        slope = float(moved[0] - moved[1]) / (2 * step)
        assert graph.nodes[number].weights[0] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_only_kept_units_are_drawn_and_of_each_layer_the_strongest(given):
    network, x, _ = given
    chain = extract(network, x, selector="random", keep=0.6, seed=1)
    graph = chain_graph(network, chain, x, most=2)
    kept = set(chain.units())
    assert {(node.title, node.number) for node in graph.nodes} <= kept
    for layer, (_, own, _) in enumerate(graph.layers):
        assert sum(node.layer == layer for node in graph.nodes) == min(2, own)
    assert all(
        graph.nodes[edge.source].layer < graph.nodes[edge.target].layer for edge in graph.edges
    )


def test_edges_lead_to_joined_channels_by_kernels_too():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.three, self.fc = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.three(torch.cat([self.one(x), self.two(x)], 1))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    network = network_of(Joined())
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=1.0)
    graph = chain_graph(network, chain, x, groups=["all"] * 2)
    place = {(n.title, n.number): number for number, n in enumerate(graph.nodes)}
    found = {(e.source, e.target): e.weights[0] for e in graph.edges}
    assert len(found) == 8 * 4
    model, answers = network.model, network.logits(x).argmax(1)
    joined = torch.cat([model.one(x), model.two(x)], 1).mean((2, 3)).detach()
    for i in range(8):
        for j in range(4):
            passed = joined[:, i] * model.three.weight[j, i, 0, 0] * model.fc.weight[answers, j]
            source = place["one", i] if i < 4 else place["two", i - 4]
            wanted = float(passed.mean().detach())
            assert found[source, place["three", j]] == pytest.approx(wanted, rel=1e-9)


def numeric_edge(gated, chain, x, source, target):
    """Slope of a unit's outputs in the gate of another, all other layers reading what they did."""
    group = next(g for g in gated.units.groups if g.title == target.title)
    rows = [part for part in group.parts if part.axis == "rows"]
    names = {part.matrix.name for part in rows}
    answers = gated.network.logits(x).argmax(1)
    first: dict[str, torch.Tensor] = {}

    def passed(gates, branches, freeze):
        own = {}

        def read(use):
            name = use.matrix.name
            if not freeze:
                first[name] = use.input.detach()
                return None
            if name in names:
                own[name] = use.input  # as it comes from gates that moved
            return first[name]

        gated.logits(x, gates, branches, on_read=read)
        return own

    gates, branches = (g.double() for g in chain.gates(len(x)))
    passed(gates, branches, False)
    index = gated.units.index(source.title, source.number)
    calls = {}

    def see(call):
        calls[call.matrix.name] = call.output

    moving = gates.clone().requires_grad_()
    with torch.enable_grad():
        logits = gated.logits(x, moving, branches, on_call=see)
        picked = logits.gather(1, answers[:, None]).sum()
    slopes = dict(zip(names, torch.autograd.grad(picked, [calls[n] for n in names]), strict=True))
    moved = []
    for sign in (1, -1):
        nudged = gates.clone()
        nudged[:, index] += sign * 1e-6
        inputs = passed(nudged, branches, True)
        total = 0.0
        for part in rows:
            lines = slice(part.start + target.number * part.size, None)
            lines = slice(lines.start, lines.start + part.size)
            matrix = part.matrix
            weight = matrix.pack(gated.network.model.get_parameter(matrix.parameter))[0, lines]
            made = inputs[matrix.name] @ weight.T.detach()
            total += float((made * slopes[matrix.name][..., lines]).sum())
        moved.append(total)
    return (moved[0] - moved[1]) / 2e-6 / len(x)


@pytest.mark.parametrize("attention", ["timm", "torch"])
def test_heads_and_neurons_have_edges_through_the_stream(attention):
    torch.manual_seed(1)
    network = network_of(transformer(attention))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=0.7, seed=2)
    with untouched(network.model):
        graph = chain_graph(network, chain, x, groups=["all"] * 2, most=2)
    gated = chain.gated(network, x)
    kinds = {(graph.nodes[e.source].title.split()[-1], graph.nodes[e.target].title.split()[-1])
             for e in graph.edges}  # fmt: skip
    assert {("heads", "neurons"), ("neurons", "heads"), ("heads", "heads")} <= kinds
    through = [own.layer for own in graph.nodes if any(own.direct)]
    assert len(set(through)) > 1, "writers of the stream reach the answer, not only the last"
    last = max(own.layer for own in graph.nodes)
    for own in graph.nodes:
        if own.layer == last:
            assert own.direct[0] == pytest.approx(own.weights[0], rel=1e-9)
    for edge in graph.edges[:: len(graph.edges) // 20]:
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        assert source.layer < target.layer
        wanted = numeric_edge(gated, chain, x, source, target)
        assert edge.weights[0] == pytest.approx(wanted, rel=1e-4, abs=1e-8)


def test_an_activation_in_place_does_not_change_edges():
    def edges(inplace: bool) -> dict[tuple[int, int], float]:
        torch.manual_seed(5)
        body = nn.Sequential(nn.Linear(12, 24), nn.ReLU(inplace), nn.Linear(24, 12))
        model = nn.Sequential(
            nn.Conv2d(3, 12, 12), nn.Flatten(), nn.ReLU(inplace), body, nn.ReLU(inplace),
            nn.Linear(12, 3),
        )  # fmt: skip
        network = network_of(model, classes=3)
        x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
        chain = extract(network, x, selector="random", keep=0.6, kinds=["filter", "neuron"])
        graph = chain_graph(network, chain, x, groups=["all"] * 3, most=30)
        assert {graph.nodes[e.target].title for e in graph.edges} == {"3.0 neurons"}
        return {(e.source, e.target): e.weights[0] for e in graph.edges}

    assert edges(True) == edges(False)


def test_writers_of_a_stream_share_its_edges():
    """What a layer reads, all but its bias, is the sum of what comes straight from each unit."""
    torch.manual_seed(4)
    network = network_of(Stream())
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=1.0)
    graph = chain_graph(network, chain, x, groups=["all"] * 2, most=9)
    node = {(n.title, n.number): n for n in graph.nodes}
    into: dict[int, float] = defaultdict(float)
    for edge in graph.edges:
        if graph.nodes[edge.target].title == "last":
            into[graph.nodes[edge.target].number] += edge.weights[0]
    assert {graph.nodes[e.source].title for e in graph.edges} == {"stem", "block"}
    for own in graph.nodes:  # others reach the answer through the last layer alone
        assert own.direct == (own.weights if own.title == "last" else (0.0,))
    for number, total in into.items():  # nothing else is read, and no bias made
        assert total == pytest.approx(node["last", number].weights[0], rel=1e-9)


def test_files_and_refusals(given, tmp_path):
    network, x, chain = given
    graph = chain_graph(network, chain, x, groups=["a", "b", "a"])
    graph.write_graphml(tmp_path / "graph.graphml")
    again = networkx.read_graphml(tmp_path / "graph.graphml")
    assert again.number_of_nodes() == len(graph.nodes)
    assert again.number_of_edges() == len(graph.edges)
    first = graph.edges[0]
    assert again.edges[str(first.source), str(first.target)]["weight a"] == first.weights[0]
    assert graph.describe()["groups"] == ["a", "b"]
    with pytest.raises(InputError, match="1 groups for 3 images: give each image its own"):
        chain_graph(network, chain, x, groups=["a"])
    with pytest.raises(InputError, match="no images: a graph needs some"):
        chain_graph(network, chain, x[:0])
