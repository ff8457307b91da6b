r"""Attacks within a ball of pixels: :math:`\max_{\|\delta\|_\infty \le \epsilon} L(x + \delta, y)`.

Images are pixels in [0, 1] and stay so. A model is attacked in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import InputError

__all__ = ["ATTACK_LOSSES", "Attack", "carlini_wagner", "fgsm", "margin", "pgd"]

EPSILON = 8 / 255
"""Radius of the usual ball on CIFAR-10; on ImageNet it is 4 / 255."""

ATTACK_LOSSES = ("cross_entropy", "margin", "divergence")
"""What an attack raises."""

STARTS = ("uniform", "normal", "image")
"""Where an attack starts: anywhere in the ball, very near to the image, or there."""

_NEAR = 1e-3  # standard deviation of a start near to the image, as TRADES has it
_CONFIDENCE = 50.0  # at which the margin stops counting, as usual


def margin(logits: Tensor, labels: Tensor, confidence: float = _CONFIDENCE) -> Tensor:
    """How far the best other class is ahead of the label, up to a confidence; ``(N,)``.

    The loss of Carlini & Wagner (S&P 2017), as used within a ball.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (other - own).clamp_max(confidence)


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent in a ball of pixels, Madry et al. (ICLR 2018).

    Attributes
    ----------
    epsilon
        Radius of the ball, in pixels of [0, 1].
    step
        Size of a step.
    steps
        How many.
    restarts
        Starts tried; the first that changes the answer counts, or the last.
    loss
        One of :data:`ATTACK_LOSSES`; ``divergence`` is from the answer to the image itself.
    start
        One of :data:`STARTS`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    >>> moved = Attack(epsilon=0.1, step=0.05, steps=3)(model, x, y)
    >>> bool((moved - x).abs().max() <= 0.1 + 1e-6), bool(moved.min() >= 0)
    (True, True)
    """

    epsilon: float = EPSILON
    step: float = 2 / 255
    steps: int = 10
    restarts: int = 1
    loss: str = "cross_entropy"
    start: str = "uniform"

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and 0 < self.step <= 1):
            raise InputError(
                f"epsilon {self.epsilon:g} and step {self.step:g}: give shares of the range of "
                "pixels, such as 8/255 = 0.0314"
            )
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"{self.steps} steps, {self.restarts} restarts: give 1 or more")
        if self.loss not in ATTACK_LOSSES:
            raise InputError(
                f"attacks cannot raise {self.loss!r}: choose from {', '.join(ATTACK_LOSSES)}"
            )
        if self.start not in STARTS:
            raise InputError(f"no start {self.start!r}: choose from {', '.join(STARTS)}")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Move images within the ball.

        Parameters
        ----------
        model
            From pixels to logits; put into evaluation mode for the attack, and back.
        x, y
            ``(N, C, H, W)`` in [0, 1], and labels ``(N,)``.
        generator
            Of the starts, on the processor; the global one by default.

        Returns
        -------
        Tensor
            Images of the same shape, in [0, 1] and within the ball.
        """
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            found = self._once(model, x, y, generator)
            for _ in range(self.restarts - 1):
                with torch.no_grad():
                    held = model(found).argmax(1) == y
                if not held.any():
                    break
                found[held] = self._once(model, x[held], y[held], generator)
        finally:
            for module in training:
                module.training = True
        return found

    def _once(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        loss = self._loss(model, x, y)
        moved = self._started(x, generator)
        for _ in range(self.steps):
            moved.requires_grad_()
            with torch.enable_grad():
                raised = loss(model(moved))
            (pull,) = torch.autograd.grad(raised, moved)
            with torch.no_grad():
                moved = moved + self.step * pull.sign()
                moved = torch.minimum(torch.maximum(moved, x - self.epsilon), x + self.epsilon)
                moved = moved.clamp(0, 1)
        return moved.detach()

    def _started(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.start == "image":
            return x.detach().clone()
        if self.start == "normal":
            drawn = _NEAR * torch.randn(x.shape, generator=generator)
        else:
            drawn = (2 * torch.rand(x.shape, generator=generator) - 1) * self.epsilon
        drawn = drawn.clamp(-self.epsilon, self.epsilon).to(x)
        return (x.detach() + drawn).clamp(0, 1)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        if self.loss == "margin":
            return lambda logits: margin(logits, y).sum()
        if self.loss == "cross_entropy":
            return lambda logits: F.cross_entropy(logits, y, reduction="sum")
        with torch.no_grad():
            wanted = model(x).log_softmax(1)
        return lambda logits: F.kl_div(
            logits.log_softmax(1), wanted, reduction="sum", log_target=True
        )


def fgsm(epsilon: float = EPSILON) -> Attack:
    """One step to the border of the ball, Goodfellow et al. (ICLR 2015)."""
    return Attack(epsilon, epsilon, 1, start="image")


def pgd(epsilon: float = EPSILON, steps: int = 10, restarts: int = 1) -> Attack:
    """Projected gradient ascent with steps of a quarter of the radius."""
    return Attack(epsilon, epsilon / 4, steps, restarts)


def carlini_wagner(epsilon: float = EPSILON, steps: int = 20) -> Attack:
    """Ascent of the margin in the ball."""
    return Attack(epsilon, epsilon / 4, steps, loss="margin")
