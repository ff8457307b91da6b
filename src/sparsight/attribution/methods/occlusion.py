"""Occlusion: what the logit loses when a window is covered."""

from __future__ import annotations

from typing import ClassVar

from captum import attr
from torch import Tensor

from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError

__all__ = ["Occlusion"]

_REFERENCE_SIZE = 224
_WINDOW, _STRIDE = 15, 8


@register
class Occlusion(Method):
    r""":math:`r_p = \mathrm{mean}_{w \ni p}\,[f_t(x) - f_t(x_{\setminus w})]` over windows w.

    A window covers all channels, so every channel of the map carries the same value.

    References
    ----------
    Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014.
    """

    name: ClassVar[str] = "occlusion"
    title: ClassVar[str] = "Occlusion"
    reference: ClassVar[str] = "Zeiler and Fergus 2014, arXiv:1311.2901"
    needs_gradient: ClassVar[bool] = False
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (785, 0)

    def explain(
        self,
        subject: Subject,
        *,
        window: int | None = None,
        stride: int | None = None,
        baseline: float | Tensor = 0.0,
    ) -> Explained:
        """Explain with square windows: 15 pixels every 8, on images below 224 pixels smaller."""
        channels, height, width = subject.x.shape[1:]
        scale = min(1.0, min(height, width) / _REFERENCE_SIZE)
        window = max(1, round(_WINDOW * scale)) if window is None else window
        stride = max(1, round(_STRIDE * scale)) if stride is None else stride
        if not 1 <= stride <= window <= min(height, width):
            raise InputError(
                f"occlusion window {window} and stride {stride} do not fit: "
                f"1 <= stride <= window <= {min(height, width)} is needed"
            )
        relevance = attr.Occlusion(subject.score).attribute(
            subject.x,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=subject.baseline(baseline),
            perturbations_per_eval=subject.chunk,
        )
        return Explained(relevance, used={"window": window, "stride": stride})
