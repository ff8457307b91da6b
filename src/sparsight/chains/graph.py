r"""A chain as a graph: which kept unit feeds which, and how much of the answer runs there.

The edge from unit *i* to unit *j* of a later layer has the weight

.. math::

    e_{ji} = \sum_{n, p} \frac{\partial z}{\partial y_{jnp}} \, s_i
    \frac{\partial y_{jnp}}{\partial s_i} \Big|_{\text{direct}} :

what the output *y* of unit *j* has straight from unit *i*, through the gate *s* after it and no
other layer with units between, times the gradient of what is asked about, *z*, the logit that each
image is answered with. Between two convolutions with a ReLU it is the activation-times-gradient
contribution of the kernel between them, :math:`\sum \partial z / \partial y_j \, (W_{ji} * x_i)`.
Where several layers add to one stream, as residual blocks, attention heads and perceptrons do,
each has its own part; what bends on the way is taken by its slope, as in edge attribution patching
(Syed et al., 2023). What units contribute to the answer is told likewise, and by all paths
together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sparsight.chains.result import Chain
from sparsight.chains.tasks import Gated
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.networks.calls import LayerCall, LayerInput, pad_input

__all__ = ["ChainGraph", "Edge", "Node", "chain_graph"]


@dataclass(frozen=True)
class Node:
    """A unit that is kept.

    Attributes
    ----------
    layer
        Number of its layer.
    title, number
        Of its layer, and its own in it.
    weights
        Contribution to the logits of each group of images, a mean over them.
    direct
        The part of it that comes through no other layer of units.
    """

    layer: int
    title: str
    number: int
    weights: tuple[float, ...]
    direct: tuple[float, ...] = ()


@dataclass(frozen=True)
class Edge:
    """What one node has straight from another, by their numbers: its contribution in each group."""

    source: int
    target: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ChainGraph:
    """The picture of a chain as data.

    Attributes
    ----------
    groups
        What contributions are told apart for, mostly classes that were answered.
    layers
        Title, units kept and units of every layer that keeps any.
    nodes, edges
        Those drawn; of each layer the units that contribute most. What a layer that is used
        again reads of itself is left out.
    """

    groups: tuple[str, ...]
    layers: tuple[tuple[str, int, int], ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def describe(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "groups": list(self.groups),
            "layers": [
                {"title": title, "kept": kept, "units": units} for title, kept, units in self.layers
            ],
            "nodes": [
                {
                    "layer": node.layer, "title": node.title, "unit": node.number,
                    "weights": list(node.weights), "direct": list(node.direct),
                }
                for node in self.nodes
            ],
            "edges": [
                {"source": edge.source, "target": edge.target, "weights": list(edge.weights)}
                for edge in self.edges
            ],
        }  # fmt: skip

    def write_graphml(self, file: str | Path) -> None:
        """Write the graph as GraphML, for Gephi, yEd, Cytoscape or networkx."""
        graph = networkx.DiGraph()
        for number, node in enumerate(self.nodes):
            named = {f"weight {g}": w for g, w in zip(self.groups, node.weights, strict=True)}
            named |= {f"direct {g}": w for g, w in zip(self.groups, node.direct, strict=True)}
            graph.add_node(number, layer=node.title, unit=node.number, **named)
        for edge in self.edges:
            named = {f"weight {g}": w for g, w in zip(self.groups, edge.weights, strict=True)}
            graph.add_edge(edge.source, edge.target, **named)
        networkx.write_graphml(graph, str(file))


def chain_graph(
    network: Network,
    chain: Chain,
    images: Tensor,
    *,
    groups: Sequence[str] | None = None,
    most: int = 6,
    chunk: int = 32,
) -> ChainGraph:
    """Draw up the graph of a chain.

    Parameters
    ----------
    network
        That the chain is of; not changed.
    chain
        The chain.
    images
        ``(N, C, H, W)``, normalised.
    groups
        Name of each image's group; by default the class that the network answers.
    most
        Units drawn of each layer, those that contribute most to any group.
    chunk
        Images at a time.

    Raises
    ------
    InputError
        No images, not one group for each, or no unit to draw.
    NetworkError
        If the chain is of another network.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.chains import chain_graph, extract
    >>> network = sparsight.load("embedded")
    >>> x = torch.rand(2, 3, 64, 64)
    >>> chain = extract(network, x, selector="contribution", keep=0.5)
    >>> graph = chain_graph(network, chain, x, most=3)
    >>> max(sum(node.layer == layer for node in graph.nodes) for layer in range(len(graph.layers)))
    3
    """
    if not len(images):
        raise InputError("no images: a graph needs some to run through the chain")
    for name, value in (("most", most), ("chunk", chunk)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}: give 1 or more")
    gated = chain.gated(network, images)
    asked = torch.cat([network.logits(part).argmax(1) for part in images.split(chunk)])
    if groups is None:
        groups = [network.label(answer) for answer in asked.tolist()]
    if len(groups) != len(images):
        raise InputError(f"{len(groups)} groups for {len(images)} images: give each image its own")
    names = tuple(dict.fromkeys(groups))
    shares = torch.tensor([[float(group == name) for name in names] for group in groups])
    shares = shares.double() / shares.sum(0)  # for means over the images of a group
    parts = [slice(start, start + chunk) for start in range(0, len(images), chunk)]
    units = torch.cat([_through(gated, chain, images[part], asked[part]) for part in parts])
    layers, nodes = _nodes(gated, chain, shares.T @ units, most)
    if not nodes:
        raise InputError("the chain keeps no unit, so there is nothing to draw: keep more")
    weights = torch.zeros(len(nodes) + 1, len(names), len(nodes), dtype=torch.float64)
    places = [gated.units.index(node.title, node.number) for node in nodes]
    for part in parts:
        for number, passed in _direct(gated, chain, images[part], asked[part], nodes):
            weights[number] += shares[part].T @ passed[:, places]
    edges = tuple(
        Edge(source, target, tuple(weights[target, :, source].tolist()))
        for target, source in weights[:-1].any(1).nonzero().tolist()
        if nodes[target].layer != nodes[source].layer  # of a layer that is used again
    )
    drawn = (
        replace(node, direct=tuple(own))
        for node, own in zip(nodes, weights[-1].T.tolist(), strict=True)
    )
    return ChainGraph(names, layers, tuple(drawn), edges)


def _gates(chain: Chain, images: Tensor) -> tuple[Tensor, Tensor]:
    """Gates of a chain for each image, with gradients for those of units."""
    exact = torch.promote_types(images.dtype, torch.float32)
    units, branches = (gates.to(images.device, exact) for gates in chain.gates(len(images)))
    return units.clone().requires_grad_(), branches


def _through(gated: Gated, chain: Chain, images: Tensor, asked: Tensor) -> Tensor:
    """Contribution of each unit to the logit asked about of each image, ``(N, units)``."""
    units, branches = _gates(chain, images)
    with torch.enable_grad():
        logits = gated.logits(images, units, branches).gather(1, asked[:, None])
        (pull,) = torch.autograd.grad(logits.sum(), units)
    return (pull * units.detach()).double().cpu()


def _nodes(
    gated: Gated, chain: Chain, weights: Tensor, most: int
) -> tuple[tuple[tuple[str, int, int], ...], tuple[Node, ...]]:
    """Choose the layers and units that are drawn, by contributions ``(groups, units)``."""
    nodes: list[Node] = []
    layers: list[tuple[str, int, int]] = []
    for (group, own), kept in zip(
        gated.units.pieces(weights), gated.units.split(chain.kept).values(), strict=True
    ):
        if not kept.any():
            continue
        strength = torch.where(kept, own.abs().amax(0), -1.0)
        chosen = strength.argsort(descending=True, stable=True)[: min(most, int(kept.sum()))]
        nodes += [
            Node(len(layers), group.title, number, tuple(own[:, number].tolist()))
            for number in chosen.tolist()
        ]
        layers.append((group.title, int(kept.sum()), group.count))
    return tuple(layers), tuple(nodes)


def _direct(
    gated: Gated, chain: Chain, images: Tensor, asked: Tensor, nodes: Sequence[Node]
) -> Iterator[tuple[int, Tensor]]:
    """Find what nodes, and last the answer, have straight from each unit, ``(N, units)``.

    With the node's number, of the answer that after all nodes.

    One pass tells how the logit asked about depends on what layers give. In another, what a layer
    reads depends on gates, but not on what other layers read.
    """
    rows = {
        group.title: [part for part in group.parts if part.axis == "rows"]
        for group in gated.units.groups
    }
    needed = {part.matrix.name for node in nodes for part in rows[node.title]}
    calls: dict[str, list[GradientEdge | None]] = defaultdict(list)
    reads: dict[str, list[LayerInput]] = defaultdict(list)

    def keep(call: LayerCall) -> None:
        if call.matrix.name in needed:
            # Not the output: an activation may be written over it.
            edge = get_gradient_edge(call.output) if call.output.requires_grad else None
            calls[call.matrix.name].append(edge)

    def cut(use: LayerInput) -> Tensor:
        if use.matrix.name in needed:
            reads[use.matrix.name].append(use)
        return use.input.detach()

    units, branches = _gates(chain, images)
    with torch.enable_grad():
        logits = gated.logits(images, units, branches, on_call=keep).gather(1, asked[:, None])
        made = [edge for own in calls.values() for edge in own if edge is not None]
        found = torch.autograd.grad(logits.sum(), made, allow_unused=True) if made else ()
        pulls = dict(zip(made, found, strict=True))
        answer = gated.logits(images, units, branches, on_read=cut).gather(1, asked[:, None])
        for number, node in enumerate(nodes):
            outputs, along = [], []
            for part in rows[node.title]:
                first, name = part.start + node.number * part.size, part.matrix.name
                lines = slice(first, first + part.size)
                for use, edge in zip(reads[name], calls[name], strict=True):
                    pull = None if edge is None else pulls[edge]
                    if pull is not None and use.input.requires_grad:
                        outputs.append(_lines(gated, use, lines))
                        along.append(_lines_of(use, pull, lines))
            if outputs:
                (passed,) = torch.autograd.grad(
                    outputs, units, along, retain_graph=True, allow_unused=True
                )
                if passed is not None:
                    yield number, (passed * units.detach()).double().cpu()
        if answer.requires_grad:
            (passed,) = torch.autograd.grad(answer.sum(), units)
            yield len(nodes), (passed * units.detach()).double().cpu()


def _lines(gated: Gated, use: LayerInput, lines: slice) -> Tensor:
    """Compute some of the outputs of a layer anew, without its bias, from what it read."""
    matrix = use.matrix
    weight = gated.view.model.get_parameter(matrix.parameter).detach()
    if use.geometry is None:
        return F.linear(use.input, matrix.pack(weight)[0, lines])
    x, geometry = use.planar()
    width = x.shape[1] // matrix.groups
    block = lines.start // matrix.rows  # filters are drawn one by one
    own = pad_input(x[:, block * width : (block + 1) * width], geometry)
    kernel = weight[lines].reshape(-1, width, *geometry.kernel)
    return F.conv2d(own, kernel, None, geometry.stride, 0, geometry.dilation)


def _lines_of(use: LayerInput, pull: Tensor, lines: slice) -> Tensor:
    """Take the gradient of some of the outputs of a layer."""
    return pull[..., lines] if use.geometry is None else use.planar_output(pull)[:, lines]
