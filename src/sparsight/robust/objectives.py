r"""What a network is trained on: labels, attacked images, or both.

``natural``
    Cross entropy on the images.
``pgd``
    Cross entropy on attacked images, Madry et al. (ICLR 2018).
``trades``
    :math:`\mathrm{CE}(x, y) + \beta\, \mathrm{KL}(p(x) \,\|\, p(x'))`, Zhang et al. (ICML 2019),
    :math:`\beta = 6`; the attack raises the divergence.
``mart``
    Boosted cross entropy on attacked images and a divergence weighted by how unsure the answer
    is, Wang et al. (ICLR 2020), :math:`\beta = 5`.
``free``
    Each batch is trained on several times, and the attack takes its step from the same gradients,
    Shafahi et al. (NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.robust.attacks import Attack

__all__ = ["OBJECTIVES", "Objective", "choose_objective"]

_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """A loss for training.

    Attributes
    ----------
    name
        One of :data:`OBJECTIVES`.
    attack
        On the images of each batch.
    weight
        Of the divergence, in ``trades`` and ``mart``.
    replays
        How often ``free`` trains on a batch.
    """

    name: str
    attack: Attack
    weight: float = 0.0
    replays: int = 1

    def attacked(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images to train on: attacked, or as they are."""
        if self.name in ("natural", "free"):
            return x
        return self.attack(model, x, y, generator)

    def loss(
        self, model: Callable[[Tensor], Tensor], x: Tensor, moved: Tensor, y: Tensor
    ) -> Tensor:
        """Mean loss of a batch, of images and what :meth:`attacked` made of them."""
        if self.name in ("natural", "pgd", "free"):
            return F.cross_entropy(model(moved), y)
        clean, adversarial = model(torch.cat([x, moved])).chunk(2)
        if self.name == "trades":
            apart = F.kl_div(
                adversarial.log_softmax(1), clean.log_softmax(1), reduction="batchmean",
                log_target=True,
            )  # fmt: skip
            return F.cross_entropy(clean, y) + self.weight * apart
        return _mart(clean, adversarial, y, self.weight)


def _mart(clean: Tensor, adversarial: Tensor, y: Tensor, weight: float) -> Tensor:
    probabilities = adversarial.softmax(1)
    other = probabilities.scatter(1, y[:, None], 0.0).amax(1)
    boosted = F.cross_entropy(adversarial, y) - (1 - other).clamp_min(_TINY).log().mean()
    apart = F.kl_div(
        adversarial.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    unsure = 1 - clean.softmax(1).gather(1, y[:, None])[:, 0]
    return boosted + weight * (apart * unsure).mean()


OBJECTIVES = ("natural", "pgd", "trades", "mart", "free")
"""Names of the objectives."""


def choose_objective(name: str, attack: Attack, *, replays: int = 4) -> Objective:
    """Make an objective, with its published weight and the attack that goes with it.

    Raises
    ------
    InputError
        If there is none of that name, or no replay.

    Examples
    --------
    >>> choose_objective("trades", Attack()).attack.loss
    'divergence'
    """
    if name not in OBJECTIVES:
        raise InputError(f"no objective is called {name!r}: choose from {', '.join(OBJECTIVES)}")
    if replays < 1:
        raise InputError(f"{replays} replays of a batch: give 1 or more")
    if name == "trades":
        return Objective(name, replace(attack, loss="divergence", start="normal"), weight=6.0)
    if name == "mart":
        return Objective(name, attack, weight=5.0)
    return Objective(name, attack, replays=replays if name == "free" else 1)
