"""The graph of a chain: kernels against convolutions one by one, what can be numbered, files."""

from __future__ import annotations

import networkx
import pytest
import torch
import torch.nn.functional as F
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


def test_joined_channels_have_no_lines_and_it_is_said():
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
    graph = chain_graph(network, chain, x)
    assert graph.unnumbered == ("two", "three")
    assert graph.edges == ()


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
