"""Guided backpropagation: gradients that stay positive at every ReLU."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsight.attribution.guided import GuidedInterpreter
from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.subject import Subject

__all__ = ["GuidedBackprop", "guided_gradient"]


def guided_gradient(subject: Subject) -> Tensor:
    """Guided gradient ``(1, C, H, W)`` of the target logit.

    Raises
    ------
    UnsupportedError
        If the network has no ReLU, or other rectifiers beside it.
    """
    interpreter = GuidedInterpreter(subject.graph)
    x = subject.x.clone().requires_grad_()
    logit = interpreter.run(x)[0, subject.target]
    interpreter.require_relu()
    (gradient,) = torch.autograd.grad(logit, x)
    return gradient


@register
class GuidedBackprop(Method):
    r"""At every ReLU, :math:`g_{in} = g_{out}\,[x > 0]\,[g_{out} > 0]`.

    ReLUs are found as operations, so reused, in-place and functional ones count; a capped one
    (ReLU6) also stops the gradient where it saturates. Networks with GELU, SiLU and the like are
    refused.

    References
    ----------
    Springenberg et al., *Striving for Simplicity*, ICLR workshop 2015.
    """

    name: ClassVar[str] = "guided_backprop"
    title: ClassVar[str] = "GuidedBackprop"
    reference: ClassVar[str] = "Springenberg et al. 2015, arXiv:1412.6806"
    passes: ClassVar[tuple[int, int]] = (2, 1)

    def explain(self, subject: Subject) -> Explained:
        """Explain by one guided backward pass."""
        return Explained(guided_gradient(subject))
