"""Gradient SHAP: expected gradients over baselines, noise and the way between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError

__all__ = ["GradientShap"]


_WORTH_A_NOTE = 0.05


@register
class GradientShap(Method):
    r""":math:`r = E[(x_\epsilon - b) \odot \nabla f_t(b + \alpha (x_\epsilon - b))]`.

    With :math:`x_\epsilon = x + \epsilon`, :math:`\epsilon \sim N(0, \sigma^2)`,
    :math:`\alpha \sim U(0, 1)` and :math:`b` drawn from the baselines. In expectation
    :math:`\sum r = f_t(x) - E_b f_t(b)`; the gap compares with the baselines really drawn and
    shrinks with the number of samples. (captum's version cannot be chunked and draws from
    NumPy's global generator, hence this one.)

    References
    ----------
    Lundberg and Lee, *A Unified Approach to Interpreting Model Predictions*, NeurIPS 2017;
    Erion et al., *Improving performance of deep learning models with axiomatic attribution
    priors and expected gradients*, 2021.
    """

    name: ClassVar[str] = "gradient_shap"
    title: ClassVar[str] = "GradientShap"
    reference: ClassVar[str] = "Lundberg and Lee 2017, arXiv:1705.07874"
    gap_of: ClassVar[Literal["completeness", "conservation", ""]] = "completeness"
    stochastic: ClassVar[bool] = True
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (52, 50)

    def explain(
        self,
        subject: Subject,
        *,
        samples: int = 50,
        stdev: float = 1e-4,
        baselines: Sequence[float | Tensor | str] = (0.0, "image"),
    ) -> Explained:
        """Explain by ``samples`` draws; the baseline ``"image"`` is the image itself."""
        if samples < 1 or stdev < 0 or not baselines:
            raise InputError(
                "gradient_shap needs samples >= 1, stdev >= 0 and at least one baseline, got "
                f"samples={samples}, stdev={stdev}, {len(baselines)} baselines"
            )
        for given in baselines:
            if isinstance(given, str) and given != "image":
                raise InputError(f"baseline {given!r} is unknown: a number, a tensor or 'image'")
        x = subject.x
        pool = torch.cat(
            [x if isinstance(given, str) else subject.baseline(given) for given in baselines]
        )
        generator = subject.generator()
        chosen = torch.randint(len(pool), (samples,), generator=generator)
        alphas = torch.rand(samples, 1, 1, 1, generator=generator).to(x)
        total = torch.zeros_like(x, dtype=torch.float64)
        for indices in torch.arange(samples).split(subject.chunk):
            noise = torch.randn(len(indices), *x.shape[1:], generator=generator).to(x) * stdev
            starts = pool[chosen[indices].to(x.device)]
            ways = x + noise - starts
            gradients = subject.gradient(starts + alphas[indices.to(x.device)] * ways)
            total += (gradients * ways).double().sum(0, keepdim=True)
        relevance = total / samples
        share = torch.bincount(chosen, minlength=len(pool)).double() / samples
        expected = float((subject.scores(pool).cpu().double() * share).sum())
        gap = subject.completeness_gap(relevance, expected)
        notes = (
            (f"{samples} samples miss {gap:.0%} of the expected difference: raise samples",)
            if gap > _WORTH_A_NOTE
            else ()
        )
        return Explained(relevance.to(x.dtype), gap, notes)
