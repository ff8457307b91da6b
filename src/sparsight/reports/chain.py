"""A chain as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InputError

__all__ = ["ChainAnswer", "ChainReport", "Drawn", "Line", "Score"]

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A unit of the picture.

    Attributes
    ----------
    layer
        Number of its column.
    title, number
        Name of its layer, and its own.
    weights
        Contribution to each group's answers.
    crops
        Where it answers most, ``(H, W, 3)`` in 0..1, the best first.
    direct
        The part of its contributions that comes through no other layer of units, if it is known.
    """

    layer: int
    title: str
    number: int
    weights: Sequence[float]
    crops: Sequence[Array] = ()
    direct: Sequence[float] = ()


@dataclass(frozen=True)
class Line:
    """An edge of the picture: numbers of two units, and its contribution in each group."""

    source: int
    target: int
    weights: Sequence[float]


@dataclass(frozen=True)
class Score:
    """How true one selection is on one set of images; shares in 0..1, divergence in nats."""

    selection: str
    images: str
    kl: float
    agreement: float
    among: float
    accuracy: float | None
    into: float


@dataclass(frozen=True, eq=False)
class ChainReport:
    """Everything about a chain that a page shows.

    Attributes
    ----------
    classes
        Names of what it tells apart.
    network
        Whose chain it is.
    kept, units
        Units kept, and units.
    closed, branches
        Residual branches closed, and branches.
    layers
        Title, units kept and units of every layer.
    groups
        What contributions are told apart for.
    columns
        Titles of the layers of the picture.
    nodes, edges
        Of the picture.
    scores
        How true it is, and what it is compared with.
    images
        Name, and picture, of what it was extracted from.
    facts
        Settings to print, name and value.
    notes
        What the picture cannot show.
    """

    classes: Sequence[str]
    network: str
    kept: int
    units: int
    closed: int
    branches: int
    layers: Sequence[tuple[str, int, int]]
    groups: Sequence[str]
    columns: Sequence[str]
    nodes: Sequence[Drawn]
    edges: Sequence[Line]
    scores: Sequence[Score] = ()
    images: Sequence[tuple[str, Array]] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InputError("a chain without units: there is nothing to draw, keep more of them")


@dataclass(frozen=True, eq=False)
class ChainAnswer:
    """What a chain makes of one image.

    Attributes
    ----------
    report
        The chain, drawn for this image; ``scores`` and ``images`` are of its extraction, and empty.
    classes
        Name, probability by the network, and by the chain, of the classes that it tells apart and
        of those that either answers with.
    kl
        Divergence of the chain's answer from the network's, in nats.
    agrees
        Whether they are the same.
    traced
        Share of weights that the trace of the image kept, in units of the chain and in all.
    blamed
        How many of the units most to blame are in the chain, of how many that it could have, and
        the share of all units that are; if blame was asked for.
    """

    report: ChainReport
    classes: Sequence[tuple[str, float, float]]
    kl: float
    agrees: bool
    traced: tuple[float, float]
    blamed: tuple[int, int, float] | None = None

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest; pictures are in :meth:`arrays`."""
        report = {
            name: value
            for name, value in vars(self.report).items()
            if name not in ("nodes", "edges", "scores", "images")
        }
        nodes = [
            {
                "layer": n.layer,
                "title": n.title,
                "number": n.number,
                "weights": list(n.weights),
                "direct": list(n.direct),
            }
            for n in self.report.nodes
        ]
        edges = [asdict(edge) for edge in self.report.edges]
        own = {name: value for name, value in vars(self).items() if name != "report"}
        return {"report": {**report, "nodes": nodes, "edges": edges}, **own}

    def arrays(self) -> dict[str, Array]:
        """Crops, by the number of their unit and their own."""
        return {
            f"{number}/{place}": np.ascontiguousarray(crop, np.float32)
            for number, node in enumerate(self.report.nodes)
            for place, crop in enumerate(node.crops)
        }

    @classmethod
    def read(cls, described: Mapping[str, Any], arrays: Mapping[str, Array]) -> ChainAnswer:
        """Put together what :meth:`describe` and :meth:`arrays` took apart.

        Raises
        ------
        KeyError, TypeError
            If something is missing.
        """
        body = dict(described)
        report = dict(body.pop("report"))
        crops: dict[int, list[Array]] = {}
        for name in sorted(arrays, key=lambda one: [int(part) for part in one.split("/")]):
            crops.setdefault(int(name.partition("/")[0]), []).append(arrays[name])
        report["nodes"] = [
            Drawn(**node, crops=crops.get(number, ()))
            for number, node in enumerate(report["nodes"])
        ]
        report["edges"] = [Line(**edge) for edge in report["edges"]]
        for name in ("traced", "blamed"):
            body[name] = None if body[name] is None else tuple(body[name])
        return cls(ChainReport(**report), **body)
