r"""Which filters and branches keep the answers: learnt gates, contributions, and controls.

Learnt gates follow Zhao et al., "Extracting Local Reasoning Chains of Deep Neural Networks"
(NeuroChains, TMLR 2022): with frozen weights, gates :math:`s = \sigma(a / T)` on filters and
:math:`b = \sigma(c / T)` on residual branches minimise

.. math::

    \frac{1}{N} \sum_n \mathrm{KL}\bigl(p(x_n) \,\|\, p_{s,b}(x_n)\bigr)
    + \lambda \sum_f w_f s_f + \lambda_g \sum_l w_l b_l .

The divergence can be mixed with that among the classes of the sub-task alone (``focus``): what
tells them apart would else be a small part of it. Instead of a penalty the share of gates that are
open can be given (``keep``): then all :math:`a` are shifted by the number :math:`\theta` for which
the gates sum up to it, through which gradients go as well. It begins at all gates and shrinks to
``keep`` half way, while the temperature falls and gates become what they are in a copy: open or
closed. From then on the copy is tried now and then and the best of them is kept: the last is often
worse than one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.chains.settings import ChainSettings
from sparsight.chains.tasks import Gated, Tasks
from sparsight.errors import InputError, NumericalError
from sparsight.traces.result import divergence

__all__ = ["SELECTORS", "Scores", "choose_selector", "choose_units"]

Progress = Callable[[str, int, int], None]

_SPREAD = 2.0  # standard deviation of the first scores, which follow the order of contributions
_OPEN = 2.0  # first score of a branch
_HALVINGS = 60
_INNER, _OUTER, _BETA = -0.1, 1.1, 2 / 3  # of hard-concrete gates, Louizos et al., ICLR 2018
_INTERVALS = 8


@dataclass(frozen=True, eq=False)
class Scores:
    """What a selector found.

    Attributes
    ----------
    units
        ``(tasks, units)``: units with the largest scores are kept.
    branches
        ``(tasks, branches)``: above one half where a branch stays.
    losses
        ``(tasks, steps)``, in nats where there is no penalty, NaN where a sub-task had stopped;
        empty if nothing was learnt.
    gates
        Whether ``units`` are gates, to which a threshold can be applied; those below 0 and above 1
        stand for 0 and 1.
    """

    units: Tensor
    branches: Tensor
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    gates: bool = False


def choose_units(gated: Gated, scores: Scores, settings: ChainSettings) -> tuple[Tensor, Tensor]:
    """Make up one's mind: which units are kept, and which branches stay open.

    Units of a closed branch are never kept; a branch that has units, and keeps none, is closed.

    Returns
    -------
    tuple of Tensor
        ``(tasks, units)`` and ``(tasks, branches)``, bool.
    """
    share = settings.keep
    if share is None:
        branches = scores.branches > settings.threshold
        kept = gated.effective(scores.units > settings.threshold, branches)
    else:
        branches = scores.branches > 0.5
        inside = gated.effective(torch.ones_like(scores.units, dtype=torch.bool), branches)
        count = max(1, round(share * len(gated.units)))
        ranked = torch.where(inside, scores.units, -torch.inf)
        kept = torch.zeros_like(inside).scatter(1, ranked.topk(count, 1).indices, True) & inside
    within = gated.within.to(kept.device)
    held = (kept[:, None] & within).any(2)
    return kept, branches & (held | ~within.any(1))


def _plain(tasks: Tasks, units: Tensor) -> Scores:
    branches = torch.ones(len(tasks), len(tasks.gated.branches), device=units.device)
    return Scores(units, branches, torch.zeros(len(tasks), 0))


def _averaged(tasks: Tasks, values: Tensor) -> Tensor:
    """Average over the images of each sub-task, ``(tasks, units)``."""
    sums = values.new_zeros(len(tasks), values.shape[1]).index_add_(0, tasks.task, values)
    return sums / tasks.sizes.to(sums)[:, None]


def _pull(tasks: Tasks, images: slice, level: float) -> Tensor:
    """Gradient of the logit that each image is answered with, for the gates of its units."""
    x, answer = tasks.images[images], tasks.answers[images].argmax(1)
    units, branches = tasks.gated.ones(len(x))
    units = (units * level).requires_grad_()
    with torch.enable_grad():
        logits = tasks.gated.logits(x, units, branches)
        (found,) = torch.autograd.grad(logits.gather(1, answer[:, None]).sum(), units)
    return found


def _contribution(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Activation times gradient, absolute, averaged over images."""
    parts = [_pull(tasks, part, 1.0).abs() for part in tasks.parts(settings.chunk)]
    return _plain(tasks, _averaged(tasks, torch.cat(parts)))


def _integrated(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Gradient times activation, averaged on the way from all gates closed to all gates open."""
    levels = [(number + 0.5) / _INTERVALS for number in range(_INTERVALS)]
    parts = []
    for part in tasks.parts(settings.chunk):
        along = [_pull(tasks, part, level) for level in levels]
        parts.append(torch.stack(along).mean(0).abs())
    return _plain(tasks, _averaged(tasks, torch.cat(parts)))


def _magnitude(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Root mean square of a unit's weights, in shares of its layer's largest."""
    found = []
    for group in tasks.gated.units.groups:
        squares = torch.zeros(group.count, dtype=torch.float64)
        for part in group.parts:
            weight = tasks.gated.network.model.get_parameter(part.matrix.parameter).detach()
            matrix = part.matrix.pack(weight).flatten(0, 1).double().cpu().square()
            lines = matrix.mean(1) if part.axis == "rows" else matrix.mean(0)
            chosen = lines[part.start : part.start + group.count * part.size]
            squares += chosen.reshape(group.count, part.size).mean(1)
        found.append((squares / squares.max().clamp_min(1e-300)).sqrt())
    scores = torch.cat(found).float().to(tasks.images.device)
    return _plain(tasks, scores.expand(len(tasks), -1))


def _random(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Random numbers."""
    generator = torch.Generator().manual_seed(settings.seed)
    scores = torch.rand(len(tasks.gated.units), generator=generator).to(tasks.images.device)
    return _plain(tasks, scores.expand(len(tasks), -1))


def _first_scores(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Tensor:
    """Begin with the order of contributions, as normal scores."""
    order = _contribution(tasks, settings, progress).units.argsort(1).argsort(1).float()
    count = order.shape[1]
    normal: Tensor = torch.special.ndtri((order + 0.5) / count)
    return _SPREAD * normal


def _learn(
    tasks: Tasks, settings: ChainSettings, progress: Progress, noise: Callable[[], Tensor] | None
) -> Scores:
    """Learn gates; with noise they are hard-concrete ones."""
    gated, count = tasks.gated, len(tasks)
    device = tasks.images.device
    weight, layer_weight = gated.penalty_weights(settings.normalise, device)
    if settings.keep is None:  # as published: all gates are open at first
        a = torch.ones(count, len(gated.units), device=device)
    else:
        a = _first_scores(tasks, settings, progress)
    first = 1.0 if settings.keep is None else _OPEN
    c = torch.full((count, len(gated.branches)), first, device=device)
    a.requires_grad_()
    c.requires_grad_()
    optimizer = torch.optim.Adam([a, c], lr=settings.rate)
    active = torch.ones(count, 1, dtype=torch.bool, device=device)
    losses: list[Tensor] = []
    views = tasks.views(settings)
    best = _Best(tasks, settings)

    def gates(temperature: float, keep: float | None, drawn: Tensor | None) -> tuple[Tensor, ...]:
        branches = torch.sigmoid(c / temperature)
        inside = gated.effective(torch.ones_like(a), branches)
        shifted = a if keep is None else a - _shift(a, inside, temperature, keep)
        if noise is None:
            return torch.sigmoid(shifted / temperature), branches
        soft = shifted / temperature if drawn is None else (shifted / temperature + drawn) / _BETA
        return torch.sigmoid(soft) * (_OUTER - _INNER) + _INNER, branches

    with torch.enable_grad():
        for step in range(settings.steps):
            temperature, keep = settings.schedule(step)
            before = a.detach().clone(), c.detach().clone()
            optimizer.zero_grad()
            images, answers = views(step)
            units, branches = gates(temperature, keep, None if noise is None else noise())
            units = units.clamp(0, 1)
            leaf = units.detach().requires_grad_(), branches.detach().requires_grad_()
            loss = torch.zeros(count, device=device)
            for part in tasks.parts(settings.chunk):
                own = tasks.task[part]
                logits = gated.logits(images[part], leaf[0][own], leaf[1][own])
                lost = _divergence(answers[part], logits, tasks.among[own], settings.focus)
                lost = lost / tasks.sizes.to(device)[own]
                lost.sum().backward()
                loss.index_add_(0, own, lost.detach().to(loss))
            pull = [one.grad if one.grad is not None else torch.zeros_like(one) for one in leaf]
            total = (units * pull[0]).sum() + (branches * pull[1]).sum()
            if keep is None:
                price = settings.penalty * (units * weight).sum(1)
                price = price + settings.layer_penalty * (branches * layer_weight).sum(1)
                loss += price.detach()
                total = total + price.sum()
            total.backward()
            optimizer.step()
            if not torch.isfinite(loss[active[:, 0]]).all():
                raise NumericalError(
                    "the loss of a chain is NaN: keep more units, or give a smaller rate"
                )
            with torch.no_grad():
                for value, old in zip((a, c), before, strict=True):
                    value.copy_(torch.where(active, value, old))
            losses.append(torch.where(active[:, 0], loss, torch.nan))
            if settings.tries_at(step):
                with torch.no_grad():
                    best.see(gates(*settings.schedule(step), None), active)
            stops = active & _settled(losses, settings)[:, None]
            if step + 1 == settings.steps:
                stops = active
            if stops.any():  # gates as firm as they would become
                with torch.no_grad():
                    best.see(gates(*settings.schedule(settings.steps - 1), None), stops)
            active = active & ~stops
            progress("chain", step + 1, settings.steps)
            if not active.any():
                break
    progress("chain", settings.steps, settings.steps)
    best.require_numbers()
    return Scores(best.units, best.branches, torch.stack(losses, 1).cpu(), gates=True)


class _Best:
    """Keeps, for each sub-task, those of the gates seen whose copy answers its images best."""

    def __init__(self, tasks: Tasks, settings: ChainSettings) -> None:
        self._tasks, self._settings = tasks, settings
        device = tasks.images.device
        self._loss = torch.full((len(tasks), 1), torch.nan, device=device)
        self.units = torch.zeros(len(tasks), len(tasks.gated.units), device=device)
        self.branches = torch.zeros(len(tasks), len(tasks.gated.branches), device=device)

    def see(self, gates: tuple[Tensor, ...], which: Tensor) -> None:
        """Try gates of units and branches, ``(tasks, ...)``, of some sub-tasks, ``(tasks, 1)``."""
        tasks, settings, (units, branches) = self._tasks, self._settings, gates
        kept, opened = choose_units(tasks.gated, Scores(units, branches), settings)
        logits = tasks.answered(kept.to(units), opened.to(units), settings.chunk)
        lost = _divergence(tasks.answers, logits, tasks.among[tasks.task], settings.focus)
        loss = _averaged(tasks, lost[:, None])
        loss = loss.nan_to_num(nan=torch.inf)
        better = which & ((loss < self._loss) | self._loss.isnan())  # the first always is
        self._loss = torch.where(better, loss, self._loss)
        self.units = torch.where(better, units, self.units)
        self.branches = torch.where(better, branches, self.branches)

    def require_numbers(self) -> None:
        """Refuse copies none of which answers a number.

        Raises
        ------
        NumericalError
            If that is so of a sub-task.
        """
        if not torch.isfinite(self._loss).all():
            raise NumericalError("a chain answers NaN to its images: keep more units")


def _settled(losses: list[Tensor], settings: ChainSettings) -> Tensor:
    """Tell which sub-tasks stop: their loss has changed by less than the tolerance for a while."""
    window = settings.window
    early = settings.tolerance == 0 or len(losses) < settings.settles + 2 * window
    if early:
        return torch.zeros_like(losses[-1], dtype=torch.bool)
    before, now = (
        torch.stack(part).mean(0) for part in (losses[-2 * window : -window], losses[-window:])
    )
    return (before - now).abs() < settings.tolerance


def _shift(a: Tensor, inside: Tensor, temperature: float, keep: float) -> Tensor:
    """Find the shift after which gates, times those of their branches, make up a share.

    The last line is a Newton step from the solution: it changes nothing, but gives the shift the
    gradient of an implicit function.
    """

    def share(shift: Tensor) -> Tensor:
        return (torch.sigmoid((a - shift) / temperature) * inside).mean(1, keepdim=True)

    with torch.no_grad():
        low = a.amin(1, keepdim=True) - 20 * temperature
        high = a.amax(1, keepdim=True) + 20 * temperature
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            more = share(middle) > keep
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        shift = (low + high) / 2
        gate = torch.sigmoid((a - shift) / temperature)
        slope = (gate * (1 - gate) * inside).mean(1, keepdim=True) / temperature
    return shift + (share(shift) - keep) / slope.clamp_min(1e-9)


def _divergence(answers: Tensor, logits: Tensor, among: Tensor, focus: float) -> Tensor:
    """Mix the divergence over all classes with that among some, ``(N, classes)`` bool."""
    lost = (1 - focus) * divergence(answers, logits)
    if not focus:
        return lost
    own, theirs = (torch.where(among, x, -torch.inf) for x in (answers, logits))
    return lost + focus * divergence(own, theirs)


def _gates(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Learnt sigmoid gates."""
    return _learn(tasks, settings, progress, None)


def _hard_concrete(tasks: Tasks, settings: ChainSettings, progress: Progress) -> Scores:
    """Learnt hard-concrete gates."""
    generator = torch.Generator().manual_seed(settings.seed)
    device, units = tasks.images.device, len(tasks.gated.units)

    def noise() -> Tensor:
        drawn = torch.rand(units, generator=generator).clamp(1e-6, 1 - 1e-6)
        return torch.logit(drawn).to(device)  # the same for all sub-tasks: each is as if alone

    return _learn(tasks, settings, progress, noise)


Selector = Callable[[Tasks, ChainSettings, Progress], Scores]

SELECTORS: dict[str, Selector] = {
    "gates": _gates,
    "hard-concrete": _hard_concrete,
    "contribution": _contribution,
    "integrated": _integrated,
    "magnitude": _magnitude,
    "random": _random,
}
"""Ways to choose the units of a chain."""


def choose_selector(name: str) -> Selector:
    """Find a selector by name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in SELECTORS:
        raise InputError(f"no selector is called {name!r}: choose from {', '.join(SELECTORS)}")
    return SELECTORS[name]
