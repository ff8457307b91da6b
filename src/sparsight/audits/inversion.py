r"""Which trigger would do it? The smallest patch that sends every image to a class.

Wang et al., "Neural Cleanse: Identifying and mitigating backdoor attacks in neural networks" (IEEE
S&P 2019): for each class a mask :math:`m` and a pattern :math:`p` are optimised so that
:math:`(1 - m) x + m p` is answered with the class, and :math:`\lambda |m|_1` is small. A class
whose mask is far smaller than those of the others has a back door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.networks.view import shared_view

__all__ = ["ANOMALOUS", "Inverted", "anomalies", "invert"]

ANOMALOUS = 2.0
"""An anomaly index beyond which a class is said to have a back door, as published."""

Progress = Callable[[str, int, int], None]

_ENOUGH = 0.99  # of the images must get the answer
_UP, _DOWN = 1.5, 1.5**1.5
_EVERY = 5  # steps between changes of the penalty
_CONSISTENT = 1.4826  # of a median absolute deviation, to be a standard deviation


@dataclass(frozen=True, eq=False)
class Inverted:
    """The smallest trigger found for a class.

    Attributes
    ----------
    target
        The class.
    mask
        ``(H, W)``, 0 to 1.
    pattern
        ``(C, H, W)``, normalised.
    success
        Share of the images of other answers that it sends to the class.
    size
        Sum of the mask, in pixels.
    """

    target: int
    mask: Tensor
    pattern: Tensor
    success: float
    size: float


def invert(
    network: Network,
    images: Tensor,
    targets: Sequence[int] | None = None,
    *,
    steps: int = 200,
    batch: int = 32,
    rate: float = 0.1,
    penalty: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Inverted]:
    """Look for the smallest trigger of each class.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    images
        Normalised, ``(N, C, H, W)``, clean.
    targets
        Classes; all by default.
    steps, batch, rate
        Of Adam.
    penalty
        Of the mask's sum, to begin with; it grows while the trigger works, and shrinks while not.
    seed
        Of batches and of what the search begins with.
    progress
        Called as ``progress("inversion", done, total)``.

    Returns
    -------
    list of Inverted
        In the order of the classes. If none worked on 99 % of a batch, the last one.

    Raises
    ------
    InputError
        No images, or no steps.
    NumericalError
        If an answer is not finite.

    References
    ----------
    Wang et al., "Neural Cleanse", IEEE Symposium on Security and Privacy 2019.
    """
    network.require_eval()
    if not len(images) or steps < 1:
        raise InputError(f"{len(images)} images, {steps} steps: give some of each")
    chosen = range(len(network.labels)) if targets is None else targets
    found = []
    for number, target in enumerate(chosen):
        if progress is not None:
            progress("inversion", number, len(chosen))
        found.append(_invert(network, images, target, steps, batch, rate, penalty, seed))
    return found


def _invert(
    network: Network, images: Tensor, target: int, steps: int, batch: int, rate: float,
    penalty: float, seed: int,
) -> Inverted:  # fmt: skip
    view = shared_view(network)  # its parameters want no gradients
    generator = torch.Generator().manual_seed(seed * 100_003 + target)
    device, pre = network.device, network.preprocessing
    low, high = (pre.normalize(torch.full(images.shape[1:], v)).to(device) for v in (0.0, 1.0))
    start = torch.randn(images.shape[2:], generator=generator)
    mask_logits = (start - 2).to(device).requires_grad_()
    pattern_logits = torch.randn(images.shape[1:], generator=generator).to(device).requires_grad_()
    adam = torch.optim.Adam([mask_logits, pattern_logits], rate, betas=(0.5, 0.9))
    best: tuple[float, Tensor, Tensor] | None = None
    worked: list[float] = []
    for step in range(steps):
        some = torch.randint(0, len(images), (min(batch, len(images)),), generator=generator)
        x = images[some].to(device)
        mask, pattern = mask_logits.sigmoid(), low + (high - low) * pattern_logits.sigmoid()
        logits = view(((1 - mask) * x + mask * pattern).to(network.dtype)).float()
        wanted = torch.full((len(x),), target, device=device)
        loss = F.cross_entropy(logits, wanted) + penalty * mask.sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        success = float((logits.argmax(1) == target).double().mean())
        worked.append(success)
        size = float(mask.detach().sum())
        if success >= _ENOUGH and (best is None or size < best[0]):
            best = size, mask.detach().clone(), pattern.detach().clone()
        if step % _EVERY == _EVERY - 1:
            recent = sum(worked[-_EVERY:]) / _EVERY
            penalty = penalty * _UP if recent >= _ENOUGH else penalty / _DOWN
    if best is None:
        best = size, mask.detach(), pattern.detach()
    size, mask, pattern = best
    hits, others = 0, 0
    for x in images.to(device).split(batch):
        other = network.logits(x).argmax(1) != target
        marked = ((1 - mask) * x + mask * pattern).to(network.dtype)
        said = network.logits(marked).argmax(1) == target
        hits, others = hits + int((said & other).sum()), others + int(other.sum())
    return Inverted(target, mask.cpu(), pattern.cpu(), hits / max(others, 1), size)


def anomalies(found: Sequence[Inverted]) -> list[float]:
    """Say how much smaller each class's trigger is than usual, in median absolute deviations.

    Parameters
    ----------
    found
        Triggers of at least three classes. As published, those that do not work count too: look at
        their ``success``.

    Returns
    -------
    list of float
        Positive for a trigger that is smaller than the median; beyond 2 a class is said to have a
        back door.

    Raises
    ------
    InputError
        If there are fewer classes.

    Examples
    --------
    >>> sizes = [50.0, 48.0, 52.0, 5.0]
    >>> [round(a, 1) for a in anomalies([Inverted(i, *[torch.zeros(1)] * 2, 1.0, s)
    ...                                  for i, s in enumerate(sizes)])]
    [-0.3, 0.3, -1.0, 14.8]
    """
    if len(found) < 3:
        raise InputError(f"triggers of {len(found)} classes: give three or more to compare")
    sizes = torch.tensor([one.size for one in found], dtype=torch.float64)
    middle = sizes.quantile(0.5)
    spread = _CONSISTENT * (sizes - middle).abs().quantile(0.5)
    away = (middle - sizes) / spread if spread > 0 else torch.zeros_like(sizes)
    return [float(value) for value in away]
