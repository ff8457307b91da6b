"""LIME: a linear model of the logit over superpixels switched on and off."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.segments import superpixels
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError

__all__ = ["Lime"]


@register
class Lime(Method):
    r"""Ridge regression of the logit on superpixels switched on and off.

    .. math::
        \min_{w, c} \sum_k \pi_k (f_t(x_{z_k}) - c - w^T z_k)^2 + \lambda \|w\|^2

    :math:`z_k \in \{0, 1\}^S` keeps a random half of the superpixels,
    :math:`\pi = \exp(-d^2 / 2 \sigma^2)` with the cosine distance :math:`d` between :math:`z_k` and
    all ones and :math:`\sigma = 0.25`, :math:`\lambda = 1`: the settings of the authors' package. A
    pixel carries the weight of its superpixel, positive and negative, spread evenly over the
    channels.

    References
    ----------
    Ribeiro, Singh, Guestrin, *Why Should I Trust You?*, KDD 2016.
    """

    name: ClassVar[str] = "lime"
    title: ClassVar[str] = "LIME"
    reference: ClassVar[str] = "Ribeiro et al. 2016, arXiv:1602.04938"
    stochastic: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (1001, 0)

    def explain(
        self,
        subject: Subject,
        *,
        samples: int = 1000,
        segments: int | Tensor = 50,
        baseline: float | Tensor = 0.0,
        width: float = 0.25,
        penalty: float = 1.0,
    ) -> Explained:
        """Explain by ``samples`` maskings; ``segments`` is a count or labels ``(H, W)``."""
        if samples < 2 or width <= 0 or penalty < 0:
            raise InputError(
                f"lime needs samples >= 2, width > 0 and penalty >= 0, got samples={samples}, "
                f"width={width}, penalty={penalty}"
            )
        x = subject.x
        labels = _labels(segments, x)
        count = int(labels.max()) + 1
        reference = subject.baseline(baseline)
        draw = torch.rand(samples, count, generator=subject.generator()) < 0.5
        draw[0] = True
        scores = []
        for part in draw.split(subject.chunk):
            kept = part[:, labels].unsqueeze(1).to(x.device)
            scores.append(subject.scores(torch.where(kept, x, reference)).cpu().double())
        z, y = draw.double(), torch.cat(scores)
        distance = 1 - (z.sum(1) / count).sqrt()
        weight = torch.exp(-(distance**2) / (2 * width**2))
        coefficients, fit = _ridge(z, y, weight, penalty)
        relevance = coefficients[labels].expand(x.shape[1], -1, -1)[None] / x.shape[1]
        note = f"the linear model over {count} superpixels explains R2 = {fit:.2f} of the scores"
        return Explained(relevance.to(x.dtype), notes=(note,), used={"superpixels": count})


def _labels(segments: int | Tensor, x: Tensor) -> Tensor:
    if not isinstance(segments, Tensor):
        return superpixels(x[0], min(segments, x.shape[2] * x.shape[3]))
    if segments.shape != x.shape[2:] or segments.is_floating_point():
        raise InputError(
            f"segments have shape {tuple(segments.shape)} and type {segments.dtype}: integer "
            f"labels of shape {tuple(x.shape[2:])} are needed"
        )
    labels: Tensor = segments.cpu().unique(return_inverse=True)[1]
    return labels


def _ridge(z: Tensor, y: Tensor, weight: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Weighted ridge with an unpenalised intercept; coefficients and weighted R squared."""
    share = weight / weight.sum()
    mean_z, mean_y = share @ z, share @ y
    centred, target = z - mean_z, y - mean_y
    gram = centred.T @ (weight[:, None] * centred)
    gram.diagonal().add_(max(penalty, 1e-10))
    coefficients = torch.linalg.solve(gram, centred.T @ (weight * target))
    residual = target - centred @ coefficients
    variance = float(weight @ target**2)
    fit = 1 - float(weight @ residual**2) / variance if variance > 0 else 0.0
    return coefficients, fit
