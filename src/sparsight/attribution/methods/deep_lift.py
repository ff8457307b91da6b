"""DeepLIFT: differences from a baseline, handed back exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsight.attribution.pairs import Pair
from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.rescale import RescaleInterpreter
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject
from sparsight.errors import UnsupportedError

__all__ = ["DeepLift"]

_WORTH_A_NOTE = 0.01


@register
class DeepLift(Method):
    r""":math:`r = m \odot (x - x^0)` with :math:`\sum r = f_t(x) - f_t(x^0)`, by the rescale rule.

    The rule is applied to single operations (see :mod:`~sparsight.attribution.pairs`), so it is
    complete with reused, in-place and functional activations and with GELU, SiLU, layer norm and
    attention, where hooks on activation modules are not.

    References
    ----------
    Shrikumar, Greenside, Kundaje, ICML 2017; Ancona et al., ICLR 2018.
    """

    name: ClassVar[str] = "deep_lift"
    title: ClassVar[str] = "DeepLift"
    reference: ClassVar[str] = "Shrikumar et al. 2017, arXiv:1704.02685"
    gap_of: ClassVar[Literal["completeness", "conservation", ""]] = "completeness"
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (3, 1)

    def explain(
        self, subject: Subject, *, baseline: float | Tensor = 0.0, tolerance: float = 0.05
    ) -> Explained:
        """Explain against ``baseline``; refuse if more than ``tolerance`` is lost."""
        reference = subject.baseline(baseline)
        interpreter = RescaleInterpreter(subject.graph)
        x = subject.x.clone().requires_grad_()
        logits: Pair = interpreter.run(Pair(x, reference))
        (slopes,) = torch.autograd.grad(logits.now[0, subject.target], x)
        relevance = slopes * (subject.x - reference)
        gap = subject.completeness_gap(relevance, float(logits.ref[0, subject.target]))
        unruled = ", ".join(f"{n} x {name}" for name, n in interpreter.unruled.items())
        if not gap <= tolerance:
            cause = f"no rescale rule for {unruled}" if unruled else "rounding; try float64"
            raise UnsupportedError(
                f"DeepLift loses {gap:.0%} of the difference it should explain on this network "
                f"({cause}): use integrated_gradients, or accept it with tolerance={gap:.2g}"
            )
        notes = [f"plain gradients for {unruled}"] if unruled else []
        if gap > _WORTH_A_NOTE:
            notes.append(f"{gap:.1%} of the difference is lost")
        return Explained(relevance, gap, tuple(notes))
