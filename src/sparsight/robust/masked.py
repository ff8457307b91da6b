r"""A classifier with masks: learnt at first, then fixed, at last written into its weights.

The global budget, as the paper has it, is
:math:`L_{hw} = \max\bigl(\sum_l n_l a_l / N / a_t - 1,\, 0\bigr)` for weights; for channels it is
the same with multiplications, of which a layer has a share that is the product of the rates of the
channels that it reads and of those that it makes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.networks.classifier import PixelClassifier
from sparsight.robust.layers import prunable_weights
from sparsight.robust.masks import FixedMask, Scores
from sparsight.robust.parts import ChannelParts, Parts, WeightParts
from sparsight.robust.rates import ALLOCATIONS, kept_of
from sparsight.robust.slicing import cut_channels

__all__ = ["FIRST_SCORES", "MODES", "Kept", "Masked", "first_scores"]

MODES = ("weights", "channels")
"""What can be pruned."""

FIRST_SCORES = ("magnitude", "gradient", "traces", "random")
"""What scores begin with: weights, alone, times gradients or times the share of traces of attacked
images that keep them; or random numbers."""


@dataclass(frozen=True)
class Kept:
    """What is left of a layer, or of channels: name, how many, of how many."""

    name: str
    kept: int
    size: int

    @property
    def rate(self) -> float:
        """Share that is left."""
        return self.kept / self.size


def first_scores(weight: Tensor, how: str, worth: Tensor | None, generator: Any) -> Tensor:
    """Make the first scores of a weight, between 0 and ``sqrt(6 / inputs)`` as published.

    Parameters
    ----------
    weight
        ``(outputs, inputs, ...)``.
    how
        One of :data:`FIRST_SCORES`.
    worth
        What the weight is multiplied with, for ``gradient`` and ``traces``.
    generator
        For ``random``.
    """
    if how == "random":
        found = torch.rand(weight.shape, generator=generator).to(weight)
    elif how == "magnitude":
        found = weight.detach().abs()
    else:
        assert worth is not None, f"scores from {how} need what weights are worth"
        found = (weight.detach() * worth).abs()
    bound = (6.0 / max(1, weight[0].numel())) ** 0.5
    scaled: Tensor = bound * found / found.max().clamp_min(1e-30)
    return scaled


class Masked:
    """A classifier with masks on its weights or channels.

    Parameters
    ----------
    classifier
        Changed in place: its weights get parametrizations.
    mode
        One of :data:`MODES`.
    target
        Share of weights, or of multiplications, that is kept, in (0, 1).
    x
        ``(1, C, H, W)``, pixels, for a look at the layers.
    scores
        One of :data:`FIRST_SCORES`.
    start
        Rate that layers begin with, or an allocation of :data:`sparsight.robust.ALLOCATIONS` at
        the target.
    least
        Smallest rate of a layer, in shares of the target.
    learn_scores, learn_rates
        What is learnt.
    worth
        What weights are multiplied with, by parameter name, for scores from gradients and traces.
    seed
        Of random scores.

    Raises
    ------
    InputError
        If a setting is out of range.
    UnsupportedError
        If there is nothing to prune, channels are joined, or the network answers otherwise once
        they are cut out.
    """

    def __init__(
        self,
        classifier: PixelClassifier,
        mode: str,
        target: float,
        x: Tensor,
        *,
        scores: str = "magnitude",
        start: float | str = 0.1,
        least: float = 0.1,
        learn_scores: bool = True,
        learn_rates: bool = True,
        worth: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        _check(mode, target, scores, start, least)
        self.classifier, self.mode, self.target = classifier, mode, target
        model = classifier.model
        if mode == "channels":
            self.parts: Parts = ChannelParts(model, (x - classifier.mean) / classifier.std)
        else:
            self.parts = WeightParts(model)
        generator = torch.Generator().manual_seed(seed)
        own = self.parts.gather({
            name: first_scores(w, scores, (worth or {}).get(name), generator)
            for name, w in prunable_weights(model).items()
        })  # fmt: skip
        if isinstance(start, str):
            rates = self.parts.allocate(target, start)
        else:
            rates = dict.fromkeys(own, float(start))
        self._plain = copy.deepcopy(classifier)
        self.layers = {
            name: Scores(
                values, rates[name], least * target, learn_scores=learn_scores,
                learn_rate=learn_rates,
            )
            for name, values in own.items()
        }  # fmt: skip
        for parameter, mask in self.parts.masks(self.layers).items():
            parametrize.register_parametrization(*_place(classifier, parameter), mask)
        if mode == "channels":
            self._require_cut(x)

    def _require_cut(self, x: Tensor) -> None:
        """Cut channels out on trial: better refused now than after days of training."""
        made, _ = self.fixed()
        chosen = self.chosen(dict(made.named_buffers()))
        plain = bake(made).eval()
        assert isinstance(plain, PixelClassifier)
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((2, *x.shape[1:]), generator=generator).to(x)
        cut_channels(plain, chosen, images)

    @contextmanager
    def cached(self) -> Iterator[None]:
        """Compute every mask once within the block, however often the classifier runs.

        It is done at the beginning, with gradients: what runs first may be without.
        """
        with parametrize.cached():
            with torch.enable_grad():
                for parameter in self.parts.parameters:
                    owner, name = _place(self.classifier, parameter)
                    getattr(owner, name)
            yield

    def _value(self, name: str) -> Tensor:
        """Return a parameter or buffer of the classifier that has no mask."""
        owner, _, own = name.rpartition(".")
        found: Tensor = getattr(self.classifier.get_submodule(owner), own)
        return found

    def originals(self) -> dict[str, nn.Parameter]:
        """Weights under the masks, by parameter name."""
        found = {}
        for parameter in self.parts.parameters:
            owner, name = _place(self.classifier, parameter)
            found[parameter] = cast(Any, owner).parametrizations[name].original
        return found

    def rates(self) -> dict[str, Tensor]:
        """Rates by name of the layer, or of channels."""
        return {name: scores.rate for name, scores in self.layers.items()}

    def share(self) -> Tensor:
        """Share of weights, or of multiplications, that the rates keep."""
        return self.parts.share(self.rates())

    def over_budget(self) -> Tensor:
        """How far the budget is exceeded, in shares of it; zero if it is not."""
        return (self.share() / self.target - 1).clamp_min(0)

    def counts(self) -> dict[str, int]:
        """Whole numbers to keep that meet the budget exactly; in channels, from below.

        Rates are scaled together until they do. A layer keeps one at least.
        """
        rates = {name: float(rate.detach()) for name, rate in self.rates().items()}
        return self.parts.counts(rates, self.target)

    def masks(self, counts: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """Masks of weights by parameter name, bool; as the rates say, or with counts."""
        found = {}
        for name, scores in self.layers.items():
            rate = float(scores.rate.detach())
            count = kept_of(rate, self.parts.sizes[name]) if counts is None else counts[name]
            found[name] = scores.choose(count)
        return self.parts.spread(found)

    def chosen(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read what is left, by layer or channels, off a classifier that is fixed.

        Parameters
        ----------
        buffers
            Of the classifier, by name.
        """
        masks = {name: buffers[_buffer(name)].cpu() for name in self.parts.parameters}
        return self.parts.collect(masks)

    def fixed(self) -> tuple[PixelClassifier, tuple[Kept, ...]]:
        """Copy the classifier with masks chosen for good, within the budget exactly.

        Returns
        -------
        tuple
            The copy, whose weights under the masks learn again, and what is left, by layer.
        """
        counts = self.counts()
        masks = self.masks(counts)
        made = copy.deepcopy(self._plain).train(self.classifier.training)
        under = {f"model.{name}": weight for name, weight in self.originals().items()}
        with torch.no_grad():
            for name, value in made.state_dict().items():
                value.copy_(under[name] if name in under else self._value(name))
        for parameter, mask in masks.items():
            parametrize.register_parametrization(*_place(made, parameter), FixedMask(mask))
        for weight in made.parameters():
            weight.requires_grad_()
        kept = (Kept(name, counts[name], size) for name, size in self.parts.sizes.items())
        return made, tuple(kept)


def _place(classifier: PixelClassifier, parameter: str) -> tuple[nn.Module, str]:
    """Find the module of the user's network that holds a parameter, and its name there."""
    owner, _, name = parameter.rpartition(".")
    return classifier.model.get_submodule(owner), name


def _buffer(parameter: str) -> str:
    """Name of the mask of a parameter in a classifier that is fixed."""
    owner, _, name = parameter.rpartition(".")
    inside = f"model.{owner}" if owner else "model"
    return f"{inside}.parametrizations.{name}.0.mask"


def bake(model: nn.Module) -> nn.Module:
    """Write masks into the weights, and take the parametrizations away.

    Examples
    --------
    >>> conv = nn.Conv2d(1, 1, 2)
    >>> parametrize.register_parametrization(conv, "weight", FixedMask(torch.zeros(1, 1, 2, 2)))
    ParametrizedConv2d(
      1, 1, kernel_size=(2, 2), stride=(1, 1)
      (parametrizations): ModuleDict(
        (weight): ParametrizationList(
          (0): FixedMask()
        )
      )
    )
    >>> bool(bake(conv).weight.any())
    False
    """
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def check_start(start: float | str) -> None:
    """Refuse a rate or an allocation that layers cannot begin with.

    Raises
    ------
    InputError
        With what can be given.
    """
    if isinstance(start, str) and start not in ALLOCATIONS:
        raise InputError(f"no allocation is called {start!r}: choose from {', '.join(ALLOCATIONS)}")
    if not isinstance(start, str) and not 0 < start <= 1:
        raise InputError(f"layers cannot begin with a rate of {start:g}: give one in (0, 1]")


def _check(mode: str, target: float, scores: str, start: float | str, least: float) -> None:
    if mode not in MODES:
        raise InputError(f"cannot prune {mode!r}: choose {' or '.join(MODES)}")
    if not 0 < target < 1:
        raise InputError(f"target {target:g}: give a share to keep in (0, 1), such as 0.01")
    if scores not in FIRST_SCORES:
        raise InputError(f"no scores are called {scores!r}: choose from {', '.join(FIRST_SCORES)}")
    check_start(start)
    if not 0 < least < 1:
        raise InputError(f"smallest rate {least:g} of the target: give a share in (0, 1)")
