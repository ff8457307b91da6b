"""GradCAM and its product with guided backpropagation."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from sparsight.attribution.layout import SpatialLayer, last_spatial_layer
from sparsight.attribution.methods.guided_backprop import guided_gradient
from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject

__all__ = ["GradCam", "GuidedGradCam"]


def class_activation(layer: SpatialLayer, size: tuple[int, int], relu: bool) -> Tensor:
    """Weigh a layer's maps by their mean gradients; ``(1, 1, H, W)``, bilinear."""
    weights = layer.gradient.mean((2, 3), keepdim=True)
    cam = (weights * layer.activation).sum(1, keepdim=True)
    cam = cam.clamp_min(0) if relu else cam
    return F.interpolate(cam.float(), size, mode="bilinear", align_corners=False)


def _notes(layer: SpatialLayer, cam: Tensor) -> tuple[str, ...]:
    call = f" (call {layer.call + 1})" if layer.call else ""
    notes = [f"layer {layer.name or '(root)'}{call}, read as {layer.layout}"]
    if not layer.whole:
        notes.append("part of the prediction goes around this layer")
    if not cam.any():
        notes.append("no position speaks for this class at this layer: the map is zero")
    return tuple(notes)


@register
class GradCam(Method):
    r""":math:`r = \mathrm{ReLU}(\sum_c \bar g_c A_c)`, :math:`\bar g_c` the mean gradient of map c.

    The layer is the last spatial one through which the whole prediction passes (see
    :mod:`~sparsight.attribution.layout`); the map is enlarged bilinearly and spread evenly over
    the channels.

    References
    ----------
    Selvaraju et al., *Grad-CAM*, ICCV 2017.
    """

    name: ClassVar[str] = "grad_cam"
    title: ClassVar[str] = "GradCAM"
    reference: ClassVar[str] = "Selvaraju et al. 2017, arXiv:1610.02391"
    reduction: ClassVar[Reduction] = "sum"

    def explain(self, subject: Subject, *, relu: bool = True) -> Explained:
        """Explain at the last spatial layer; ``relu=False`` keeps evidence against the class."""
        layer = last_spatial_layer(subject)
        cam = class_activation(layer, (subject.x.shape[2], subject.x.shape[3]), relu)
        relevance = cam.expand(subject.x.shape) / subject.x.shape[1]
        return Explained(relevance, notes=_notes(layer, cam), used={"layer": layer.name})


@register
class GuidedGradCam(Method):
    r"""Guided backpropagation times GradCAM, pixel by pixel.

    References
    ----------
    Selvaraju et al., *Grad-CAM*, ICCV 2017.
    """

    name: ClassVar[str] = "guided_grad_cam"
    title: ClassVar[str] = "GuidedGradCam"
    reference: ClassVar[str] = "Selvaraju et al. 2017, arXiv:1610.02391"
    passes: ClassVar[tuple[int, int]] = (3, 2)

    def explain(self, subject: Subject) -> Explained:
        """Explain where both agree; refuses where guided backpropagation does."""
        guided = guided_gradient(subject)
        layer = last_spatial_layer(subject)
        cam = class_activation(layer, (subject.x.shape[2], subject.x.shape[3]), relu=True)
        relevance = guided * cam.to(guided)
        return Explained(relevance, notes=_notes(layer, cam), used={"layer": layer.name})
