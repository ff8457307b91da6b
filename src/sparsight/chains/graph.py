r"""A chain as a graph: which kept unit feeds which, and how much of the answer runs there.

The edge from unit *i* to unit *j* of a later layer has the weight

.. math::

    e_{ji} = \sum_k W_{jik} \, \frac{\partial z}{\partial W_{jik}}
           = \sum_{n, p} \frac{\partial z}{\partial y_{jnp}} \, (W_{ji} * x_i)_{np} :

what passes through the kernel between them, times the gradient of what is asked about, *z*, the
logit that each image is answered with. It is the activation-times-gradient contribution of that
kernel. Where several layers add to one stream, the input channel is theirs together, and each of
them gets the whole edge. Units contribute likewise, through the gate after their normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import networkx
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparsight.chains.result import Chain
from sparsight.chains.tasks import Gated
from sparsight.errors import InputError
from sparsight.networks import Network, shared_view
from sparsight.networks.outputs import LogitsOnly

__all__ = ["ChainGraph", "Edge", "Node", "chain_graph"]

_MIXES = {
    getattr(owner, name)
    for owner in (torch, torch.Tensor, F)
    for name in (
        "cat", "concat", "stack", "chunk", "split", "unbind", "transpose", "permute", "roll",
        "movedim", "channel_shuffle", "pixel_shuffle", "view", "reshape", "__getitem__", "pad",
        "fold", "unfold", "matmul", "bmm", "einsum", "scaled_dot_product_attention",
        "multi_head_attention_forward",
    )
    if hasattr(owner, name)
}  # fmt: skip
"""Functions after which a channel need not be the one that it was."""


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
    """

    layer: int
    title: str
    number: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Edge:
    """A kernel between two nodes, by their numbers, and its contribution in each group."""

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
        Those drawn; of each layer the units that contribute most.
    unnumbered
        Titles of drawn layers, but the first, to which no edge leads: heads and neurons read a
        stream through no single kernel, and where channels are joined or renumbered on the way it
        cannot be told which unit is read.
    """

    groups: tuple[str, ...]
    layers: tuple[tuple[str, int, int], ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    unnumbered: tuple[str, ...]

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
                    "weights": list(node.weights),
                }
                for node in self.nodes
            ],
            "edges": [
                {"source": edge.source, "target": edge.target, "weights": list(edge.weights)}
                for edge in self.edges
            ],
            "unnumbered": list(self.unnumbered),
        }  # fmt: skip

    def write_graphml(self, file: str | Path) -> None:
        """Write the graph as GraphML, for Gephi, yEd, Cytoscape or networkx."""
        graph = networkx.DiGraph()
        for number, node in enumerate(self.nodes):
            named = {f"weight {g}": w for g, w in zip(self.groups, node.weights, strict=True)}
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
    if most < 1:
        raise InputError(f"{most} units of each layer cannot be drawn: give 1 or more")
    gated = chain.gated(network, images)
    if groups is None:
        groups = [
            network.label(int(answer))
            for part in images.split(chunk)
            for answer in network.logits(part).argmax(1)
        ]
    if len(groups) != len(images):
        raise InputError(f"{len(groups)} groups for {len(images)} images: give each image its own")
    names = tuple(dict.fromkeys(groups))
    weights, kernels = [], []
    for name in names:
        own = images[torch.tensor([group == name for group in groups], device=images.device)]
        units, passed = _contributions(gated, chain, own, chunk)
        weights.append(units)
        kernels.append(passed)
    reads = _reads(gated, images[:1])
    return _assemble(gated, chain, names, torch.stack(weights), kernels, reads, most)


def _contributions(
    gated: Gated, chain: Chain, images: Tensor, chunk: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean contributions of units ``(units,)``, and of kernels ``(rows, columns)`` by layer."""
    view = cast(LogitsOnly, shared_view(gated.network)).model
    one = replace(gated, view=replace(gated.network, model=view))
    matrices = {matrix.name: matrix for matrix in gated.plan.matrices}
    held = {
        m.parameter: view.get_parameter(m.parameter).requires_grad_() for m in matrices.values()
    }
    units = torch.zeros(len(gated.units), dtype=torch.float64)
    sums = {name: torch.zeros_like(parameter) for name, parameter in held.items()}
    for part in images.split(chunk):
        gates, branches = (g.to(part.device).contiguous() for g in chain.gates(len(part)))
        gates = gates.clone().requires_grad_()
        with torch.enable_grad():
            logits = one.logits(part, gates, branches)
            asked = logits.gather(1, gated.network.logits(part).argmax(1)[:, None]).sum()
        pulls = torch.autograd.grad(asked, [gates, *held.values()], allow_unused=True)
        assert pulls[0] is not None
        units += (pulls[0] * gates.detach()).sum(0).double().cpu()
        for total, pull in zip(sums.values(), pulls[1:], strict=True):
            if pull is not None:
                total += pull
    kernels = {}
    for name, matrix in matrices.items():
        product = sums[matrix.parameter] * held[matrix.parameter].detach()
        packed = matrix.pack(product)
        each = packed.reshape(*packed.shape[:2], -1, _positions(matrix.kind, product))
        kernels[name] = each.sum(-1).double().cpu() / len(images)
    return units / len(images), kernels


def _positions(kind: str, parameter: Tensor) -> int:
    return parameter[0, 0].numel() if kind == "conv" else 1


class _Sources(TorchFunctionMode):
    """Tells from which layers a tensor comes with its channels numbered as they were."""

    def __init__(self, by_weight: Mapping[int, str]) -> None:
        super().__init__()
        self.reads: dict[str, frozenset[str]] = {}
        self._by_weight = by_weight
        self._from: dict[int, frozenset[str]] = {}
        self._held: list[Tensor] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor)]
        layers = [self._by_weight[id(one)] for one in given if id(one) in self._by_weight]
        found: frozenset[str] = frozenset()
        flat = isinstance(output, Tensor) and output.ndim == 2
        if given and (func not in _MIXES or (flat and func not in _JOINS)):
            found = found.union(*(self._from.get(id(one), frozenset()) for one in given))
        for layer in layers:
            self.reads[layer] = self._from.get(id(given[0]), frozenset())
            found = frozenset([layer])
        for made in [output] if isinstance(output, Tensor) else []:
            self._from[id(made)] = found
            self._held.append(made)
        return output


_JOINS = {torch.cat, torch.concat, torch.stack}


def _reads(gated: Gated, x: Tensor) -> dict[str, frozenset[str]]:
    """Tell which layers each layer reads from, as far as channels keep their numbers."""
    parameters = {
        m.name: gated.network.model.get_parameter(m.parameter) for m in gated.plan.matrices
    }
    watch = _Sources({id(parameter): name for name, parameter in parameters.items()})
    with torch.no_grad(), watch:
        gated.network(x)
    return watch.reads


def _assemble(
    gated: Gated,
    chain: Chain,
    names: tuple[str, ...],
    weights: Tensor,
    kernels: Sequence[Mapping[str, Tensor]],
    reads: Mapping[str, frozenset[str]],
    most: int,
) -> ChainGraph:
    """Choose the nodes, and find the kernels between them."""
    nodes: list[Node] = []
    drawn: dict[str, dict[int, int]] = {}
    layers: list[tuple[str, int, int]] = []
    parts = gated.units.split(weights).values()
    for group, own, kept in zip(
        gated.units.groups, parts, gated.units.split(chain.kept).values(), strict=True
    ):
        if not kept.any():
            continue
        strength = torch.where(kept, own.abs().amax(0), -1.0)
        chosen = strength.argsort(descending=True, stable=True)[: min(most, int(kept.sum()))]
        for number in chosen.tolist():
            drawn.setdefault(group.title, {})[number] = len(nodes)
            of_groups = tuple(float(w) for w in own[:, number])
            nodes.append(Node(len(layers), group.title, number, of_groups))
        layers.append((group.title, int(kept.sum()), group.count))
    edges = list(_edges(gated, drawn, kernels, reads))
    reached = {nodes[edge.target].title for edge in edges}
    alone = tuple(title for title, _, _ in layers[1:] if title not in reached)
    return ChainGraph(names, tuple(layers), tuple(nodes), tuple(edges), alone)


def _edges(
    gated: Gated,
    drawn: Mapping[str, Mapping[int, int]],
    kernels: Sequence[Mapping[str, Tensor]],
    reads: Mapping[str, frozenset[str]],
) -> Iterator[Edge]:
    counts = {group.title: group.count for group in gated.units.groups}
    for matrix in gated.plan.matrices:
        targets = drawn.get(matrix.name, {})
        for source in sorted(reads.get(matrix.name, ())):
            sources = drawn.get(source, {})
            each = [layer[matrix.name] for layer in kernels]
            columns = each[0].shape[2]
            width = columns * matrix.groups
            if not sources or not targets or width % counts[source]:
                continue
            positions = width // counts[source]  # more than one where a plane was flattened
            for number, target in targets.items():
                block, row = divmod(number, matrix.rows)
                for unit, origin in sources.items():
                    place = unit * positions - block * columns
                    if not 0 <= place < columns:
                        continue  # another group's
                    part = tuple(
                        float(kernel[block, row, place : place + positions].sum())
                        for kernel in each
                    )
                    if any(part):
                        yield Edge(origin, target, part)
