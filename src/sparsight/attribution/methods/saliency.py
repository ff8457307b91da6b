"""Saliency and input times gradient: one derivative of the logit."""

from __future__ import annotations

from typing import ClassVar

from captum import attr

from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject

__all__ = ["InputXGradient", "Saliency"]


@register
class Saliency(Method):
    r"""The gradient itself, with its sign: :math:`r = \partial f_t / \partial x`.

    References
    ----------
    Simonyan, Vedaldi, Zisserman, *Deep Inside Convolutional Networks*, ICLR workshop 2014.
    """

    name: ClassVar[str] = "saliency"
    title: ClassVar[str] = "Saliency"
    reference: ClassVar[str] = "Simonyan et al. 2014, arXiv:1312.6034"

    def explain(self, subject: Subject) -> Explained:
        """Explain by one backward pass."""
        x = subject.x.clone().requires_grad_()
        return Explained(attr.Saliency(subject.score).attribute(x, abs=False))


@register
class InputXGradient(Method):
    r""":math:`r = x \odot \partial f_t / \partial x`.

    It is complete only where the logit is homogeneous in the image, so no gap is reported.

    References
    ----------
    Shrikumar et al., *Not Just a Black Box*, 2016.
    """

    name: ClassVar[str] = "input_x_gradient"
    title: ClassVar[str] = "InputXGradient"
    reference: ClassVar[str] = "Shrikumar et al. 2016, arXiv:1605.01713"
    reduction: ClassVar[Reduction] = "sum"

    def explain(self, subject: Subject) -> Explained:
        """Explain by one backward pass."""
        x = subject.x.clone().requires_grad_()
        return Explained(attr.InputXGradient(subject.score).attribute(x))
