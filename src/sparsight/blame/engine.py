"""Which units are to blame for an answer, and which pixels drive them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.blame.inputmap import OBJECTIVES, InputMap, input_map
from sparsight.blame.saliency import SaliencyOf
from sparsight.blame.scores import SCORES, score, spread
from sparsight.blame.usual import Statistics
from sparsight.errors import InputError
from sparsight.networks import Network, Units
from sparsight.traces import Trace

__all__ = ["Blame", "blame"]

TOP = 10
"""Units that a map is of, and that are listed, by default."""


@dataclass(frozen=True, eq=False)
class Blame:
    """How much each unit of a network is to blame for an answer.

    Attributes
    ----------
    units
        The units that everything is about.
    label, predicted
        The class that the loss is of, and the answer.
    loss
        Its value.
    saliency
        Mean absolute gradient over each unit's weights, ``(units,)``, float64.
    scores
        ``(units,)`` each, float64, by name; see :data:`sparsight.blame.SCORES`.
    by
        Which of them ranks.
    map
        Of the pixels that drive the top units, if it was asked for.
    settings
        How it was computed, and what the statistics are of.
    """

    units: Units
    label: int
    predicted: int
    loss: float
    saliency: Tensor
    scores: dict[str, Tensor]
    by: str
    map: InputMap | None
    settings: dict[str, Any]

    @property
    def ranking(self) -> Tensor:
        """Units from the most to the least to blame."""
        return self.scores[self.by].argsort(descending=True, stable=True)

    def top(self, count: int = TOP) -> list[tuple[str, int, float]]:
        """Title of the layer, number in it, and score of the units most to blame."""
        values = self.scores[self.by]
        return [
            (*self.units.locate(index), float(values[index]))
            for index in self.ranking[:count].tolist()
        ]

    @property
    def raised(self) -> float:
        """Share of units with a z-score above zero: near 1 where the loss is large."""
        return float((self.scores["z"] > 0).double().mean())

    def depth(self, count: int = 50) -> list[tuple[str, float, float]]:
        """Title of each layer, its share of the units most to blame, and its share of all."""
        counts = torch.zeros(len(self.units), dtype=torch.float64)
        top = self.ranking[:count]
        counts[top] = 1 / len(top)
        return [
            (title, float(own.sum()), len(own) / len(self.units))
            for title, own in self.units.split(counts).items()
        ]


def blame(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    label: int | str | None = None,
    *,
    statistics: Statistics,
    by: str = "z",
    top: int = TOP,
    objective: str | None = "match",
    boost: float = 100.0,
    trace: Trace | None = None,
) -> Blame:
    """Find the units to blame for an answer.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    image
        A path, a PIL image, or a normalised tensor of the network's input size.
    label
        What the answer should be, by number or name; the prediction if not given, which says what
        the answer hangs on.
    statistics
        What is usual, of the same network, preferably over other images.
    by
        Which score ranks the units, one of :data:`sparsight.blame.SCORES`.
    top
        How many units the map is of.
    objective
        What the map is the gradient of: ``match``, as published, or ``sum``; ``None`` for no map.
    boost
        Of ``match``: factor for the top units.
    trace
        Measure this trace of the network instead, against the same statistics.

    Raises
    ------
    InputError
        Unusable image or class, statistics of another network, no such score or objective.
    NetworkError
        A network in training mode.
    NumericalError
        A loss of NaN or infinity.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.blame import statistics
    >>> network = sparsight.load("embedded")
    >>> images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> usual = statistics(network, [(image, 1) for image in images])
    >>> found = blame(network, images[0], 2, statistics=usual)
    >>> len(found.top(3)), found.map.gradient.shape
    (3, torch.Size([3, 64, 64]))

    References
    ----------
    Levin et al., "Where do models go wrong? Parameter-space saliency maps for explainability",
    NeurIPS 2022: equations 1 to 4.
    """
    units = statistics.units(network)
    if by not in SCORES:
        raise InputError(f"no score is called {by!r}: choose from {', '.join(SCORES)}")
    if objective is not None and objective not in OBJECTIVES:
        raise InputError(
            f"no map is called {objective!r}: choose from {', '.join(OBJECTIVES)}, or none"
        )
    if not 1 <= top <= len(units):
        raise InputError(f"the top {top} units: give 1 to {len(units)}")
    x = network.prepare(image)
    with nullcontext() if trace is None else trace.applied(network):
        predicted = int(network.logits(x)[0].argmax())
        index = predicted if label is None else network.class_index(label)
        measured = SaliencyOf(network, units, statistics.loss)(
            x, torch.tensor([index], device=x.device)
        )
        saliency = measured.saliency[0].double().cpu()
        scores = {name: score(name, saliency, statistics) for name in _possible(by)}
        pixels = None
        if objective is not None:
            chosen = scores[by].argsort(descending=True, stable=True)[:top]
            slopes = OBJECTIVES[objective](scores["z"], chosen, boost) / spread(statistics.raw)
            pixels = input_map(network, x, index, units, slopes.to(x.device), statistics.loss)
    settings = {
        "by": by,
        "top": top,
        "objective": objective,
        "boost": boost,
        "kinds": list(statistics.kinds),
        "loss": statistics.loss,
        "statistics": {"samples": statistics.samples, "correct": statistics.correct},
        "computed": None if pixels is None else pixels.computed,
    }
    return Blame(
        units, index, predicted, float(measured.loss[0]), saliency, scores, by, pixels, settings
    )


def _possible(by: str) -> Sequence[str]:
    """Name the scores that are cheap, and the one that was asked for."""
    costly = ("percentile", "tail")
    return [name for name in SCORES if name == by or name not in costly]
