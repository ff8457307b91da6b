"""What is to be explained: a private view of the network, an image and a class."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attribution.graph import Trace, trace
from sparsight.attribution.result import relative_gap
from sparsight.errors import InputError, NetworkError, NumericalError
from sparsight.networks.memory import memory_layout
from sparsight.networks.network import Network
from sparsight.networks.view import shared_view

__all__ = ["Subject"]

_BUDGET = 2 * 2**30  # bytes a chunk may take; fixed, so that equal seeds give equal bytes


class Subject:
    """A checked question ``why class t on this image?`` and the means to work on it.

    Attributes
    ----------
    view
        The network's private copy (see :func:`~sparsight.networks.view.shared_view`).
    x
        ``(1, C, H, W)``, detached, on the network's device and in its dtype.
    target
        Class index.
    logits
        ``(1, classes)``.
    chunk
        Images per pass: given, or what fits two GiB by the bytes one pass was seen to keep.
    """

    def __init__(
        self,
        model: nn.Module | Network,
        image: Tensor,
        target: int,
        *,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        self.view = require_eval(shared_view(model))
        self.x = _checked_image(image, model, self.view)
        self.seed = seed
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}: it counts images per pass, give 1 or more")
        kept = 0
        weights = {p.untyped_storage().data_ptr() for p in self.view.parameters()}

        def count(tensor: Tensor) -> None:
            """Count what a backward pass would need; keeping the tensor would be a cycle."""
            nonlocal kept
            if tensor.untyped_storage().data_ptr() not in weights:
                kept += tensor.numel() * tensor.element_size()

        with torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
            logits: Tensor = self.view(self.x.clone().requires_grad_())
        self.logits = logits.detach()
        if not torch.isfinite(self.logits).all():
            raise NumericalError(
                "the network answers NaN or infinity on this image: its weights are corrupt"
            )
        if not logits.requires_grad:
            raise NetworkError(
                "the logits do not depend differentiably on the image: remove torch.no_grad() "
                "or detach() from the network's forward"
            )
        classes = self.logits.shape[1]
        if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < classes:
            raise InputError(
                f"class {target!r} does not exist: this network has classes 0 to {classes - 1}"
            )
        self.target = target
        self.chunk = chunk or max(1, min(64, _BUDGET // max(2 * kept, 1)))

    @property
    def logit(self) -> float:
        """The explained output."""
        return float(self.logits[0, self.target])

    @cached_property
    def graph(self) -> Trace:
        """The network as a graph of functional operations on one image."""
        return trace(self.view, self.x)

    @cached_property
    def layout(self) -> torch.memory_format:
        """How batches should lie in memory."""
        return memory_layout(self.view, self.x)

    def generator(self) -> torch.Generator:
        """Return a fresh generator of this question's seed; always on the CPU."""
        return torch.Generator().manual_seed(self.seed)

    def score(self, batch: Tensor) -> Tensor:
        """Target logits ``(N,)`` of a batch ``(N, C, H, W)``; differentiable."""
        layout = self.layout if len(batch) > 1 else torch.preserve_format
        output: Tensor = self.view(batch.clone(memory_format=layout))[:, self.target]
        return output

    def scores(self, batch: Tensor) -> Tensor:
        """Target logits ``(N,)`` without gradients, chunk by chunk."""
        with torch.no_grad():
            return torch.cat([self.score(part) for part in batch.split(self.chunk)])

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradients of the target logit at the images of one chunk, ``(N, C, H, W)``."""
        x = batch.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.score(x).sum(), x)
        return gradient

    def baseline(self, value: float | Tensor) -> Tensor:
        """Baseline image ``(1, C, H, W)`` of a number or tensor.

        Raises
        ------
        InputError
            If a tensor does not broadcast to the image, or is not finite.
        """
        given = torch.as_tensor(value, dtype=self.x.dtype, device=self.x.device)
        try:
            baseline = given.expand_as(self.x).clone()
        except RuntimeError as error:
            raise InputError(
                f"a baseline of shape {tuple(given.shape)} does not fit an image of shape "
                f"{tuple(self.x.shape)}"
            ) from error
        if not torch.isfinite(baseline).all():
            raise InputError("the baseline holds NaN or infinite values")
        return baseline

    def completeness_gap(self, relevance: Tensor, baseline_score: float) -> float:
        """Relative gap of ``sum r = f(x) - f(baseline)``."""
        scale = float(self.logits.abs().max())
        total = float(relevance.detach().double().sum())
        return relative_gap(total, self.logit - baseline_score, scale)


def require_eval(view: nn.Module) -> nn.Module:
    """Return the view, or refuse it if any of its modules is in training mode."""
    for name, module in view.named_modules():
        if module.training:
            shown = name.removeprefix("model").removeprefix(".") or "(root)"
            raise NetworkError(f"module {shown!r} is in training mode: call model.eval() first")
    return view


def _checked_image(image: Any, model: nn.Module | Network, view: nn.Module) -> Tensor:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"the image is {kind}, not a floating-point tensor (C, H, W): "
            "prepare it with the network's preprocessing"
        )
    if isinstance(model, Network):
        return model.prepare(image).detach().clone()
    x = image if image.ndim == 4 else image[None]
    if x.ndim != 4 or x.shape[0] != 1 or min(x.shape) == 0:
        raise InputError(
            f"the image has shape {tuple(image.shape)}: give one image (C, H, W) or (1, C, H, W)"
        )
    if x.shape[1] > 4 and x.shape[-1] in (1, 3, 4):
        raise InputError(
            f"the image has shape {tuple(image.shape)}, which looks like NHWC: permute it to NCHW"
        )
    if not torch.isfinite(x).all():
        raise InputError("the image holds NaN or infinite values")
    like = next(view.parameters(), x)
    return x.detach().to(like.device, like.dtype).clone()
