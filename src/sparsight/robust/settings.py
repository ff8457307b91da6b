"""How a network is hardened."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from sparsight.errors import InputError
from sparsight.robust.attacks import Attack
from sparsight.robust.masked import FIRST_SCORES, MODES, check_start
from sparsight.robust.objectives import OBJECTIVES
from sparsight.robust.rates import ALLOCATIONS

__all__ = ["BASELINES", "BATCH_NORMS", "METHODS", "PUBLISHED", "HardenSettings"]

METHODS = ("harp", "scores", "rates")
"""What is learnt in the pruning stage: both, scores at rates that are given, or rates alone."""

BASELINES = ("uniform", "global", "lamp", "erk", "random", "dense")
"""Masks that nothing is learnt for: largest magnitudes by an allocation, any weights, or all."""

BATCH_NORMS = ("train", "statistics", "frozen")
"""What normalisations do while masks are learnt: all, running statistics alone, or nothing."""

_MOST = 0.8  # of the multiplications that channels begin with
_COSINE = 0.8  # mean of a cosine over the first half of its fall
_MARGIN = 3.0  # layers are not alike, and the loss pulls as well

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Of Lightning Fabric; weights stay in single precision."""


@dataclass(frozen=True)
class HardenSettings:
    """How a network is hardened and pruned.

    Attributes
    ----------
    mode
        ``weights`` or ``channels``.
    target
        Share of weights, or of multiplications, that is kept, in (0, 1).
    method
        One of :data:`METHODS` or :data:`BASELINES`.
    scores
        What scores begin with, one of :data:`sparsight.robust.FIRST_SCORES`.
    start
        Rate that layers begin with, by default 0.1 or the target; of channels, the one that costs
        about twice the target. Or ``uniform``, ``global``, ``lamp`` or ``erk``, an allocation
        at the target, which ``scores`` needs and where it is the default.
    least
        Smallest rate of a layer, in shares of the target.
    objective
        One of :data:`sparsight.robust.OBJECTIVES`.
    epsilon, attack_step, attack_steps
        Of the attack while training, in pixels of [0, 1].
    replays
        Of ``free``.
    epochs
        Of the three stages: before pruning (0 if the network is robust already), of masks, after.
    rates
        Largest learning rates of the three stages; each falls as a cosine.
    momentum, weight_decay, batch
        Of stochastic gradient descent; scores, quotas and normalisations do not decay.
    gamma
        By how much the budget weighs more with each epoch, in shares of the target. By default 1,
        as published, or where a stage has few steps as much more as :meth:`enough` says.
    clip
        Largest gradient of a quota, which is a sum over all weights of a layer: without it, as
        published, one step can throw a layer to a rate of 1, where its gradient vanishes. ``None``
        for none.
    batch_norm
        One of :data:`BATCH_NORMS`.
    validation
        Share of the images that is set apart to choose epochs by.
    judged
        Most images of these.
    augment
        Whether images are shifted by an eighth and mirrored at random.
    seed
        Of everything drawn.
    precision
        One of :data:`PRECISIONS`.
    devices, accumulate
        Devices that share a batch, and batches that make up a step.
    workers
        Processes that read images.
    """

    mode: str = "weights"
    target: float = 0.01
    method: str = "harp"
    scores: str = "magnitude"
    start: float | str | None = None
    least: float = 0.1
    objective: str = "pgd"
    epsilon: float = 8 / 255
    attack_step: float = 2 / 255
    attack_steps: int = 10
    replays: int = 4
    epochs: tuple[int, int, int] = (100, 20, 100)
    rates: tuple[float, float, float] = (0.1, 0.1, 0.01)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 128
    gamma: float | None = None
    clip: float | None = 1.0
    batch_norm: str = "train"
    validation: float = 0.1
    judged: int = 1000
    augment: bool = True
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1
    accumulate: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, MODES),
            ("method", self.method, (*METHODS, *BASELINES)),
            ("scores", self.scores, FIRST_SCORES),
            ("objective", self.objective, OBJECTIVES),
            ("batch_norm", self.batch_norm, BATCH_NORMS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise InputError(f"no {name} is called {value!r}: choose from {', '.join(known)}")
        if not 0 < self.target < 1:
            raise InputError(f"target {self.target:g}: give a share to keep in (0, 1)")
        if len(self.epochs) != 3 or min(self.epochs) < 0:
            raise InputError(f"epochs {self.epochs}: give three numbers, none negative")
        if not self.epochs[0] and self.method == "dense":
            raise InputError("method 'dense' is the first stage alone: give it an epoch")
        if not self.epochs[1] and self.method in METHODS:
            raise InputError(f"method {self.method!r} learns masks: give the second stage an epoch")
        if len(self.rates) != 3 or not all(isfinite(r) and r > 0 for r in self.rates):
            raise InputError(f"rates {self.rates}: give three positive numbers")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < 1:
            raise InputError(
                f"momentum {self.momentum:g} and weight decay {self.weight_decay:g}: give numbers "
                "in [0, 1)"
            )
        if not 0 < self.validation < 1:
            raise InputError(f"validation {self.validation:g}: give a share of images in (0, 1)")
        if self.gamma is not None and not (isfinite(self.gamma) and self.gamma > 0):
            raise InputError(f"gamma {self.gamma:g}: give a positive number")
        if self.clip is not None and not (isfinite(self.clip) and self.clip > 0):
            raise InputError(f"clip {self.clip:g}: give a positive number, or none")
        for name in ("batch", "judged", "devices", "accumulate", "replays"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.objective == "free" and self.accumulate > 1:
            raise InputError("free training steps after every replay: leave accumulate at 1")
        if self.workers < 0:
            raise InputError(f"workers is {self.workers}: give 0 or more")
        if self.start is not None:
            check_start(self.start)
            if self.method not in METHODS:
                raise InputError(f"method {self.method!r} has rates of its own: leave start out")
            if self.method == "scores" and not isinstance(self.start, str):
                raise InputError(
                    f"rates of {self.start:g} would stay, as method 'scores' learns none: start "
                    f"with {', '.join(ALLOCATIONS)}"
                )
        self.attack  # noqa: B018  refuses what makes no sense

    @property
    def attack(self) -> Attack:
        """The attack of training, and of choosing epochs."""
        return Attack(self.epsilon, self.attack_step, self.attack_steps)

    @property
    def learns(self) -> bool:
        """Whether masks are learnt."""
        return self.method in METHODS

    @property
    def first_rate(self) -> float | str:
        """Rate that layers begin with, or the allocation."""
        if self.method == "random":
            return "uniform"
        if self.method in BASELINES:
            return self.method
        if self.start is not None:
            return self.start
        if self.method == "scores":
            return "uniform"
        if self.mode == "channels":  # multiplications go with the square of rates
            return math.sqrt(min(_MOST, 2 * self.target))
        return max(0.1, self.target)

    def enough(self, layers: int, steps: int) -> float:
        r"""How steeply the budget has to weigh more, to be met by the middle of the stage.

        A step of rate :math:`\eta` and momentum :math:`\mu` moves the rate of one of :math:`L`
        layers of like size by :math:`\dot a \approx -\frac{\eta}{1 - \mu} \frac{\gamma}{a_t L}
        a^2`, so the sum of :math:`\gamma / a_t` over the steps has to be
        :math:`L \frac{1 - \mu}{\eta} (1 / a_t - 1 / a)`; three times as much are given.

        Parameters
        ----------
        layers
            How many there are.
        steps
            Of the optimizer in an epoch.

        Examples
        --------
        >>> HardenSettings().enough(21, 390), round(HardenSettings(epochs=(0, 4, 6)).enough(8, 35))
        (1.0, 26)
        """
        start = self.first_rate
        if self.gamma is not None or isinstance(start, str):
            return self.gamma or 1.0
        if self.mode == "channels":
            start = start**2
        if start <= self.target:
            return 1.0
        slowness = (1 - self.momentum) / (_COSINE * self.rates[1])
        needed = _MARGIN * layers * slowness * (1 / self.target - 1 / start)
        half = max(1.0, self.epochs[1] / 2)
        return max(1.0, needed / (steps * half * (half + 1) / 2))

    def weight_of_budget(self, epoch: int, gamma: float = 1.0) -> float:
        """Weight of the budget in the loss, as long as it is exceeded."""
        return (epoch + 1) * gamma * self.target

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


PUBLISHED = {
    "cifar": replace(HardenSettings(), epsilon=0.031, attack_step=0.0078, gamma=1.0, clip=None),
    "imagenet": replace(
        HardenSettings(), objective="free", epsilon=0.0156, attack_step=0.00392, batch=256,
        epochs=(100, 5, 25), weight_decay=1e-4, gamma=10.0, clip=None,
    ),
}  # fmt: skip
"""Settings of the published code for CIFAR-10 and SVHN, and for ImageNet, at a target of 0.01."""
