"""Infidelity and sensitivity, measured by captum with draws of their own.

Every image of a batch meets the same draws, so a batch gives what its images give one by one,
and the global random state is neither read nor moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from captum import metrics as captum_metrics
from torch import Tensor, nn

from sparsight.attribution.explain import attribute
from sparsight.attribution.metrics.inputs import (
    Classifier,
    answering,
    checked_baseline,
    checked_count,
    checked_images,
    checked_targets,
)
from sparsight.attribution.registry import Method
from sparsight.errors import InputError
from sparsight.networks.network import Network

__all__ = ["infidelity", "sensitivity"]


def infidelity(
    network: Classifier,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    relevance: Tensor,
    *,
    perturbation: Literal["noise", "removal"] = "noise",
    size: float = 0.2,
    baseline: float | Tensor = 0.0,
    samples: int = 100,
    normalize: bool = True,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    r"""How badly a map predicts what perturbations do to the logit.

    .. math:: E_I\left[\left(\beta\, I^\top r - (f_t(x) - f_t(x - I))\right)^2\right]

    Parameters
    ----------
    network
        A classifier in eval mode, or a function from images to logits.
    image
        ``(N, C, H, W)``, preprocessed.
    target
        One class for all images, or one per image.
    relevance
        Maps ``(N, C, H, W)`` as methods make them, channels not reduced.
    perturbation
        ``noise`` adds Gaussian noise: for maps of sensitivity, such as gradients. ``removal``
        sets a random square to the baseline, and :math:`I^\top r` is the sum of the relevance
        inside: for maps of evidence, which have the image multiplied in already.
    size
        Standard deviation of the noise in normalised space, or the side of the square relative
        to the image's shorter side.
    baseline
        What stands for a removed pixel: a number, or a tensor that broadcasts to the images.
    samples
        Perturbations per image.
    normalize
        Scale each map by the factor :math:`\beta` that suits it best, so that maps of different
        scales compare; with false, :math:`\beta = 1`.
    seed
        Of the perturbations.
    batch
        Images per pass.

    Returns
    -------
    Tensor
        ``(N,)`` float64, 0 or more, in squared logits; lower is better.

    Raises
    ------
    InputError
        Unknown perturbation, impossible size or class, shapes that do not fit, NaN.
    NetworkError
        A network in training mode.
    NumericalError
        A network that answers NaN.

    References
    ----------
    Yeh et al., *On the (In)fidelity and Sensitivity of Explanations*, NeurIPS 2019,
    arXiv:1901.09392.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> image = torch.ones(1, 3, 2, 2)
    >>> gradient = model[1].weight[1].detach().reshape(1, 3, 2, 2)
    >>> infidelity(model, image, 1, gradient).item() < 1e-10
    True
    """
    x = checked_images(network, image)
    if relevance.shape != x.shape:
        raise InputError(
            f"relevance of shape {tuple(relevance.shape)} does not fit images of shape "
            f"{tuple(x.shape)}: give maps as methods make them, channels not reduced"
        )
    if not torch.isfinite(relevance).all():
        raise InputError(
            "the relevance holds NaN or infinite values: a map must be finite to be judged"
        )
    if perturbation not in ("noise", "removal"):
        raise InputError(f"unknown perturbation {perturbation!r}: choose noise or removal")
    if not 0 < size < float("inf") or (perturbation == "removal" and size > 1):
        raise InputError(
            f"size is {size}: give a positive standard deviation, or for removal a side in (0, 1]"
        )
    empty = checked_baseline(baseline, x)
    targets = checked_targets(target, len(x))
    answer = answering(network, targets)
    at_once = min(checked_count("batch", batch), checked_count("samples", samples))

    def one(index: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def noise(images: Tensor) -> tuple[Tensor, Tensor]:
            drawn = [torch.randn(images.shape[1:], generator=generator) for _ in images]
            change = size * torch.stack(drawn).to(images)
            return change, images - change

        def removal(images: Tensor) -> tuple[Tensor, Tensor]:
            drawn = [_square(images.shape[-2:], size, generator) for _ in images]
            gone = torch.stack(drawn)[:, None].to(images.device).expand_as(images)
            return gone.to(images.dtype), torch.where(gone, empty[index], images)

        value: Tensor = captum_metrics.infidelity(
            lambda images: answer(images)[:, targets[index]],
            noise if perturbation == "noise" else removal,
            x[index, None],
            relevance[index, None].detach().to(x),
            n_perturb_samples=samples,
            max_examples_per_batch=at_once,
            normalize=normalize,
        )
        return value.double().cpu().clamp(min=0)  # its sum of three terms rounds below 0

    return torch.cat([one(index) for index in range(len(x))])


def sensitivity(
    network: Network | nn.Module,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    method: str | Method,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Tensor:
    r"""How much a map changes, at most, when the image changes a little.

    .. math:: \max_{\|\delta\|_\infty \le \rho} \|r(x + \delta) - r(x)\| / \|r(x)\|

    over random :math:`\delta`; a lower bound of the true maximum.

    Parameters
    ----------
    network
        A classifier in eval mode.
    image
        ``(N, C, H, W)``, preprocessed.
    target
        One class for all images, or one per image.
    method
        A name of :data:`~sparsight.attribution.METHODS`, or a method object.
    radius
        Largest change :math:`\rho` of a value in normalised space.
    samples
        Changes per image; each is explained anew.
    seed
        Of the changes, and of a stochastic method, which draws the same for every image.
    settings
        The method's own.

    Returns
    -------
    Tensor
        ``(N,)`` float64, 0 or more; lower is better. A map of zeros is not divided by its norm.

    Raises
    ------
    InputError
        A radius that is not positive, and whatever :func:`~sparsight.attribution.attribute`
        refuses.
    NetworkError, UnsupportedError, NumericalError
        As for :func:`~sparsight.attribution.attribute`.

    References
    ----------
    Yeh et al., *On the (In)fidelity and Sensitivity of Explanations*, NeurIPS 2019,
    arXiv:1901.09392.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> sensitivity(model, torch.ones(1, 3, 2, 2), 0, "saliency").item()
    0.0
    """
    if not 0 < radius < float("inf"):
        raise InputError(f"radius is {radius}: give a positive change of a value")
    checked_count("samples", samples)
    x = checked_images(network, image)
    targets = checked_targets(target, len(x))

    def one(index: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def explain(inputs: tuple[Tensor] | Tensor) -> tuple[Tensor]:  # captum gives either
            images = inputs[0] if isinstance(inputs, tuple) else inputs
            made = [
                attribute(network, each, targets[index], method, seed=seed, **(settings or {}))
                for each in images
            ]
            return (torch.stack([attribution.map for attribution in made]),)

        def near(images: Tensor) -> Tensor:
            change = torch.empty(images.shape).uniform_(-radius, radius, generator=generator)
            return images + change.to(images)

        value: Tensor = captum_metrics.sensitivity_max(
            explain, x[index, None], near, n_perturb_samples=samples
        )
        return value.double().cpu()

    return torch.cat([one(index) for index in range(len(x))])


def _square(shape: Sequence[int], size: float, generator: torch.Generator) -> Tensor:
    """Draw a square inside an image ``(H, W)``, as a mask."""
    side = max(1, round(size * min(shape)))
    mask = torch.zeros(*shape, dtype=torch.bool)
    top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in shape)
    mask[top : top + side, left : left + side] = True
    return mask
