"""The views of one sample, normalised as the network wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network, open_image
from sparsight.networks.preprocessing import to_unit
from sparsight.traces.augment import Augmentation

__all__ = ["describe_views", "make_views"]


def make_views(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    x: Tensor,
    augmentations: Augmentation | Tensor,
    seed: int,
    most: int | None = None,
) -> Tensor:
    """Draw, or take as given, the normalised views of an image, ``(N, C, H, W)``.

    Of so many as are asked for, only the first ``most`` are rendered.

    Raises
    ------
    InputError
        If given views do not fit the network, or hold NaN or infinite values.
    """
    if isinstance(augmentations, Tensor):
        if augmentations.ndim != 4 or augmentations.shape[1:] != x.shape[1:]:
            raise InputError(
                f"augmentations must have shape (N, {', '.join(map(str, x.shape[1:]))}), "
                f"not {tuple(augmentations.shape)}"
            )
        if not len(augmentations) or not torch.isfinite(augmentations).all():
            raise InputError("augmentations are empty or hold NaN or infinite values")
        return augmentations[:most].to(x.device, x.dtype)
    preprocessing = network.preprocessing
    if isinstance(image, str | Path):
        image = open_image(image)
    if isinstance(image, Image.Image):
        unit = to_unit(image, preprocessing.channels).to(x.device)
    else:
        unit = preprocessing.denormalize(x[0].float())
    views = augmentations(unit, preprocessing.size, seed=seed, most=most, fill=preprocessing.mean)
    return preprocessing.normalize(views).to(x.dtype)


def require_answers(answers: Tensor, first: int) -> None:
    """Refuse answers ``(views, classes)`` that are no numbers; views count from ``first``.

    Raises
    ------
    NumericalError
        Naming the view; 0 is the sample itself.
    """
    bad = (~answers.isfinite()).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise NumericalError(
            f"the network answers NaN or infinity to view {first + bad[0]} of the sample: "
            "augment it less"
        )


def describe_views(augmentations: Augmentation | Tensor) -> dict[str, Any]:
    """Plain values for a manifest."""
    if isinstance(augmentations, Tensor):
        return {"given": len(augmentations)}
    return augmentations.describe()
