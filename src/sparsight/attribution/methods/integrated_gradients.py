"""Integrated gradients: the gradient averaged on the way from a baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

from captum import attr
from torch import Tensor

from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError

__all__ = ["IntegratedGradients"]

_WORTH_A_NOTE = 0.05


@register
class IntegratedGradients(Method):
    r""":math:`r = (x - x^0) \odot \int_0^1 \nabla f_t(x^0 + \alpha (x - x^0))\, d\alpha`.

    Complete in the limit, :math:`\sum r = f_t(x) - f_t(x^0)`; the gap is what the quadrature
    lost.

    References
    ----------
    Sundararajan, Taly, Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017.
    """

    name: ClassVar[str] = "integrated_gradients"
    title: ClassVar[str] = "IntegratedGradients"
    reference: ClassVar[str] = "Sundararajan et al. 2017, arXiv:1703.01365"
    gap_of: ClassVar[Literal["completeness", "conservation", ""]] = "completeness"
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (51, 50)

    def explain(
        self, subject: Subject, *, baseline: float | Tensor = 0.0, steps: int = 50
    ) -> Explained:
        """Explain by ``steps`` Gauss-Legendre points on the straight way from ``baseline``."""
        if steps < 1:
            raise InputError(f"steps is {steps}: the quadrature needs 1 or more")
        reference = subject.baseline(baseline)
        relevance = attr.IntegratedGradients(subject.score).attribute(
            subject.x.clone().requires_grad_(),
            baselines=reference,
            n_steps=steps,
            internal_batch_size=min(subject.chunk, steps),
        )
        gap = subject.completeness_gap(relevance, float(subject.scores(reference)))
        notes = (
            (
                f"the quadrature misses {gap:.0%} of the difference: raise steps, or take a "
                "baseline near which the network is smooth",
            )
            if gap > _WORTH_A_NOTE
            else ()
        )
        return Explained(relevance, gap, notes)
