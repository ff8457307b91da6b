"""Feature visualization: raise what a network says by changing the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network
from sparsight.visualization.layers import Layer, find_layer, list_layers
from sparsight.visualization.objectives import LOGITS, Objective, Term
from sparsight.visualization.parametrizations import Parametrization, parametrization
from sparsight.visualization.result import Visualization
from sparsight.visualization.robustness import Robustness
from sparsight.visualization.watch import Watch

__all__ = ["visualize"]

Progress = Callable[[str, int, int], None]
_CHUNK = 16  # images per pass
_GAIN = 0.01  # of the score's size: less than that in so many steps is standing still
_PRECISIONS = ("full", "bfloat16", "float16")


def visualize(
    network: Network,
    objectives: Objective | Sequence[Objective],
    *,
    images: int = 1,
    parametrization: str = "fourier",
    steps: int = 256,
    rate: float | None = None,
    robustness: Robustness | None = None,
    variation: float = 0.0,
    diversity: float = 0.0,
    diversity_layer: str | None = None,
    patience: int | None = None,
    precision: str = "full",
    chunk: int = _CHUNK,
    seed: int = 0,
    progress: Progress | None = None,
) -> Visualization:
    """Optimise images for objectives.

    All objectives are worked on side by side; each gets what it would get alone, up to rounding.
    For what a trace sees, give ``trace.network(network)``.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    objectives
        One, or several.
    images
        How many for each objective.
    parametrization
        ``fourier``, ``maco``, ``pixels`` or ``cppn``, see
        :mod:`sparsight.visualization.parametrizations`.
    steps
        Of Adam.
    rate
        Learning rate; the parametrization's own by default.
    robustness
        How images are moved in each step; :class:`Robustness` by default.
    variation
        Weight of the total variation, the mean absolute difference of neighbouring pixels.
    diversity
        Weight that pushes apart the images of one objective: the mean cosine similarity of their
        Gram matrices.
    diversity_layer
        Where these are taken; by default the layer of the objective's first term, and for a class
        the last layer with places.
    patience
        Stop when the mean score has gained less than 1 % over so many steps.
    precision
        What the network runs in: ``full`` (its own), ``bfloat16`` or ``float16``.
    chunk
        Images per pass; objectives beyond it are worked on one after another.
    seed
        Of first values and moves.
    progress
        Called as ``progress("visualizing", done, steps)``.

    Returns
    -------
    Visualization

    Raises
    ------
    InputError
        An objective that the network does not have, or a setting out of range.
    NetworkError
        A network in training mode.
    NumericalError
        If the objective is no longer finite.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> from sparsight.visualization import channel, logit
    >>> network = load("embedded")
    >>> found = visualize(network, [logit(3), channel("stage3", 5)], steps=2)
    >>> found.images.shape, found.objectives
    (torch.Size([2, 1, 3, 64, 64]), ('class:3', 'stage3:5'))
    """
    asked = [objectives] if isinstance(objectives, Objective) else list(objectives)
    if not asked or any(not one.terms for one in asked):
        raise InputError("nothing to visualize: give an objective, such as logit(3)")
    if chunk < 1:
        raise InputError(f"chunk is {chunk}: give 1 or more")
    how = _How(
        parametrization, images, steps, rate, robustness or Robustness(), variation, diversity,
        diversity_layer, patience, precision, seed,
    )  # fmt: skip
    network.require_eval()
    started = perf_counter()
    size = max(1, chunk // images)
    groups = [asked[i : i + size] for i in range(0, len(asked), size)]
    parts = []
    for number, group in enumerate(groups):

        def told(done: int, first: int = number * steps) -> None:
            if progress is not None:
                progress("visualizing", first + done, len(groups) * steps)

        parts.append(_Run(network, group, how).run(told))
    history = [part.history for part in parts]
    longest = max(map(len, history))
    kept = torch.stack([torch.cat([h, h[-1:].expand(longest - len(h))]) for h in history])
    return Visualization(
        images=torch.cat([part.images for part in parts]),
        transparency=torch.cat([part.transparency for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        history=kept.mean(0),
        objectives=tuple(one.describe() for one in asked),
        network=network.spec,
        settings=how.describe(),
        seconds=perf_counter() - started,
        steps=longest,
    )


@dataclass(frozen=True)
class _How:
    """Settings as used, checked."""

    parametrization: str
    images: int
    steps: int
    rate: float | None
    robustness: Robustness
    variation: float
    diversity: float
    diversity_layer: str | None
    patience: int | None
    precision: str
    seed: int

    def __post_init__(self) -> None:
        counts = {"images": self.images, "steps": self.steps, "patience": self.patience or 1}
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} is {value}: give 1 or more")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise InputError(f"rate {self.rate} must be positive: 0.05 is usual")
        if not 0 <= self.variation < float("inf") or not 0 <= self.diversity < float("inf"):
            raise InputError(
                f"variation {self.variation} and diversity {self.diversity} are weights: 0 or "
                "more, and finite"
            )
        if self.diversity and self.images < 2:
            raise InputError("diversity needs two images of an objective or more: raise images")
        if self.precision not in _PRECISIONS:
            raise InputError(
                f"unknown precision {self.precision!r}: choose from {', '.join(_PRECISIONS)}"
            )

    def describe(self) -> dict[str, Any]:
        return {**vars(self), "robustness": self.robustness.describe()}


@dataclass(frozen=True)
class _Part:
    images: Tensor
    transparency: Tensor
    scores: Tensor
    history: Tensor


class _Run:
    """A few objectives, side by side in one batch."""

    def __init__(self, network: Network, objectives: Sequence[Objective], how: _How) -> None:
        self.network, self.objectives, self.how = network, objectives, how
        terms = [term for one in objectives for term in one.terms]
        self.asked = {id(one): one for one in (network, *(t.network or network for t in terms))}
        known = {key: list_layers(one) for key, one in self.asked.items()}
        wanted: dict[int, set[str]] = {key: set() for key in self.asked}
        self.layers: dict[int, Layer | None] = {}  # by the term's id
        for term in terms:
            asked = term.network or network
            self.layers[id(term)] = term.check(asked, known[id(asked)])
            wanted[id(asked)].add(term.layer)
        self.apart: list[Layer] = []
        if how.diversity:
            self.apart = [self._gram_layer(one, known[id(network)]) for one in objectives]
            wanted[id(network)].update(found.name for found in self.apart)
        self.watches = {key: Watch(one, wanted[key]) for key, one in self.asked.items()}

    def run(self, told: Callable[[int], None]) -> _Part:
        how, count = self.how, len(self.objectives)
        images = self._first()
        optimizer = torch.optim.Adam(images.values, how.rate or images.rate)
        generator = torch.Generator().manual_seed(how.seed + 1)
        worked = torch.zeros(())
        history: list[float] = []
        for step in range(how.steps):
            shown = images.images()
            state = generator.get_state()
            moved = []
            for part in shown.split(how.images):  # every objective sees the same moves
                generator.set_state(state)
                moved.append(how.robustness(part, generator))
            scores, loss = self._judge(torch.cat(moved))
            if how.variation:
                loss = loss + how.variation * _variation(shown).sum()
            if not torch.isfinite(loss):
                raise NumericalError(
                    f"the objective is no longer finite after {step} steps: choose a smaller rate, "
                    "or full precision"
                )
            gradients = torch.autograd.grad(loss, [shown, *images.values])
            for value, gradient in zip(images.values, gradients[1:], strict=True):
                value.grad = gradient
            optimizer.step()
            worked = worked + gradients[0].abs().mean(1).float().cpu()
            history.append(float(scores.detach().mean()))
            told(step + 1)
            if self._still(history):
                break
        with torch.no_grad():
            shown = images.images()
            scores, _ = self._judge(shown)
        reach = worked.flatten(1)
        most = reach.quantile(0.9, dim=1).clamp_min(torch.finfo(reach.dtype).tiny)
        opaque = (reach / most[:, None]).clamp(0, 1).reshape(count, how.images, *shown.shape[2:])
        return _Part(
            shown.float().cpu().unflatten(0, (count, how.images)),
            opaque,
            scores.float().cpu().unflatten(0, (count, how.images)),
            torch.tensor(history),
        )

    def _first(self) -> Parametrization:
        """Draw first values: the same for every objective."""
        preprocessing = self.network.preprocessing
        shape = (self.how.images, preprocessing.channels, *preprocessing.size)
        images = parametrization(self.how.parametrization, shape, seed=self.how.seed)
        count = len(self.objectives)
        images.values = [v.repeat(count, *[1] * (v.ndim - 1)) for v in images.values]
        return images.to(self.network.device)

    def _judge(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's score, and the loss of all."""
        seen = {}
        for key, watch in self.watches.items():
            asked = self.asked[key]
            x = asked.preprocessing.normalize(shown.to(asked.device)).to(asked.dtype)
            with self._lowered(asked):
                seen[key] = {name: out.float() for name, out in watch(x).items()}
        scores = []
        apart = shown.new_zeros(())
        for number, objective in enumerate(self.objectives):
            rows = slice(number * self.how.images, (number + 1) * self.how.images)
            own = {key: {n: out[rows] for n, out in outs.items()} for key, outs in seen.items()}
            total = shown.new_zeros(self.how.images)
            for term in objective.terms:
                outputs = own[id(term.network or self.network)]
                total = total + term.value(outputs, self.layers[id(term)]).to(total)
            scores.append(total)
            if self.apart:
                layer = self.apart[number]
                apart = apart + _likeness(layer.first(own[id(self.network)][layer.name])).to(apart)
        found = torch.cat(scores)
        return found, self.how.diversity * apart - found.sum()

    def _lowered(self, asked: Network) -> AbstractContextManager[object]:
        low = self.how.precision != "full"
        kind = torch.float16 if self.how.precision == "float16" else torch.bfloat16
        return torch.autocast(asked.device.type, kind, enabled=low)

    def _gram_layer(self, objective: Objective, layers: Sequence[Layer]) -> Layer:
        named = self.how.diversity_layer or _first_layer(objective.terms)
        if named:
            return find_layer(self.network, named, layers)
        places = [layer for layer in layers if len(layer.first(_empty(layer))[0, 0]) > 1]
        if not places:
            raise InputError("no layer has places to tell images apart by: name a diversity_layer")
        return places[-1]

    def _still(self, history: Sequence[float]) -> bool:
        wait = self.how.patience
        if wait is None or len(history) < 2 * wait:
            return False
        before, now = (sum(part) / wait for part in (history[-2 * wait : -wait], history[-wait:]))
        return now - before < _GAIN * max(abs(now), abs(before))


def _first_layer(terms: Sequence[Term]) -> str:
    return next((t.layer for t in terms if t.layer != LOGITS and t.network is None), "")


def _empty(layer: Layer) -> Tensor:
    return torch.empty((1, *layer.shape), device="meta")


def _variation(images: Tensor) -> Tensor:
    """Total variation, ``(N,)``."""
    rows = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    return rows + (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))


def _likeness(units: Tensor) -> Tensor:
    """Mean cosine similarity of Gram matrices of units ``(N, channels, places)``, a scalar."""
    grams = torch.einsum("nkp,nlp->nkl", units, units).flatten(1)
    grams = grams / grams.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alike = grams @ grams.t()
    count = len(alike)
    others: Tensor = alike.sum() - alike.diagonal().sum()
    return others / (count * (count - 1))
