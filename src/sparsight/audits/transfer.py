"""See whether the salient patch of one image flips the answers to others.

What makes a trigger one is that it works wherever it is put. So the patch that a map points to is
cut out and pasted into images with other answers, after Chou et al., "SentiNet: Detecting localized
universal attacks against deep learning systems" (2020). A part of an honest object flips few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network

__all__ = ["SIDES", "Hosts", "Transfer", "patches", "transfer"]

SIDES = (0.15, 0.2, 0.25, 0.3)
"""Sides of patches, as shares of the image's."""

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Hosts:
    """Images to try patches on, and what the network answers to them.

    Attributes
    ----------
    images
        Normalised, ``(M, C, H, W)``.
    answers
        ``(M,)``, on the CPU.

    Examples
    --------
    >>> import sparsight
    >>> network = sparsight.load("embedded")
    >>> x = 3 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> Hosts.of(network, x).answers.shape
    torch.Size([4])
    """

    images: Tensor
    answers: Tensor

    @classmethod
    def of(cls, network: Network, images: Tensor) -> Hosts:
        """Ask the network.

        Raises
        ------
        NumericalError
            If an answer is not finite.
        """
        return cls(images, _answers(network, images))

    def draw(self, answer: int, count: int, seed: Sequence[int]) -> Tensor:
        """Draw images that have another answer.

        Raises
        ------
        InputError
            If there are fewer.
        """
        others = (self.answers != answer).nonzero()[:, 0].numpy()
        if len(others) < count:
            raise InputError(
                f"only {len(others)} images have another answer, to try patches on: give {count} "
                "or more"
            )
        drawn = np.random.default_rng(seed).permutation(others)[:count]
        return self.images[torch.from_numpy(drawn)]


@dataclass(frozen=True, eq=False)
class Transfer:
    """What the patches of an image did.

    Attributes
    ----------
    answer
        Of the network to the image.
    boxes
        ``(sides, 4)``: top, left, height and width of the patches, in pixels.
    flips
        ``(sides,)``: share of other images that get the image's answer once its patch is in them.
    hangs
        ``(sides,)``: share of other images whose part, put over the patch, changes the image's own
        answer.
    """

    answer: int
    boxes: Tensor
    flips: Tensor
    hangs: Tensor


def patches(heat: Tensor, sides: Sequence[float] = SIDES) -> Tensor:
    """Find the boxes that hold most of a map.

    Parameters
    ----------
    heat
        ``(H, W)``; signs do not count.
    sides
        Of the boxes, as shares of the map's.

    Returns
    -------
    Tensor
        ``(sides, 4)`` int64: top, left, height and width.

    Raises
    ------
    InputError
        If a side is not in (0, 1], or the map is none, zero everywhere, or not finite.

    Examples
    --------
    >>> heat = torch.zeros(8, 8)
    >>> heat[5:7, 1:3] = 1
    >>> patches(heat, [0.25]).tolist()
    [[5, 1, 2, 2]]
    """
    if heat.ndim != 2 or not heat.numel():
        raise InputError(f"a map of shape {tuple(heat.shape)}: give (H, W)")
    if not torch.isfinite(heat).all() or not heat.any():
        raise InputError("the map is zero everywhere, or not finite: it points to no patch")
    found = []
    for side in sides:
        if not 0 < side <= 1:
            raise InputError(f"a patch of side {side}: give a share in (0, 1]")
        height, width = (max(1, round(side * n)) for n in heat.shape)
        mass = F.avg_pool2d(heat.double().abs()[None], (height, width), stride=1)[0]
        top, left = divmod(int(mass.argmax()), mass.shape[1])
        found.append([top, left, height, width])
    return torch.tensor(found)


def _answers(network: Network, images: Tensor) -> Tensor:
    found = [network.logits(x.to(network.device)).argmax(1).cpu() for x in images.split(_BATCH)]
    return torch.cat(found)


def transfer(
    network: Network,
    image: Tensor,
    heat: Tensor,
    hosts: Hosts,
    *,
    sides: Sequence[float] = SIDES,
    count: int = 16,
    seed: Sequence[int] = (0,),
) -> Transfer:
    """Paste the salient patch of an image into others, and theirs into it.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    image
        Normalised, ``(C, H, W)``.
    heat
        A map of it, ``(H, W)``.
    hosts
        Images to try patches on; the image itself may be among them.
    sides
        Of patches, as shares of the image's.
    count
        Images to try each patch on, of those with another answer.
    seed
        Of their choice.

    Raises
    ------
    InputError
        If the map does not fit the image or points nowhere, or there are too few hosts with another
        answer.
    NumericalError
        If an answer is not finite.

    Examples
    --------
    >>> import sparsight
    >>> network = sparsight.load("embedded")
    >>> x = 3 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> hosts = Hosts(x, torch.tensor([0, 1, 1, 0]))
    >>> found = transfer(network, x[0], x[0].abs().sum(0), hosts, sides=[0.25], count=2)
    >>> found.flips.shape, found.boxes.shape
    (torch.Size([1]), torch.Size([1, 4]))
    """
    network.require_eval()
    if heat.shape != image.shape[1:]:
        raise InputError(
            f"a map of shape {tuple(heat.shape)} for an image of shape {tuple(image.shape)}: "
            "give one of its height and width"
        )
    boxes = patches(heat, sides)
    answer = int(_answers(network, image[None]))
    chosen = hosts.draw(answer, count, seed)
    tried = []
    for top, left, height, width in boxes.tolist():
        box = (..., slice(top, top + height), slice(left, left + width))
        pasted, covered = chosen.clone(), image.expand_as(chosen).clone()
        pasted[box], covered[box] = image[box], chosen[box]
        tried += [pasted, covered]
    same = (_answers(network, torch.cat(tried)) == answer).double()
    flips, holds = same.reshape(len(sides), 2, count).mean(2).T
    return Transfer(answer, boxes, flips, 1 - holds)
