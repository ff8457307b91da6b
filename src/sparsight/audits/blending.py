"""How sure a network stays when images are blended: a trigger shines through."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.audits.transfer import Hosts
from sparsight.networks import Network

__all__ = ["blended_entropy"]


def blended_entropy(
    network: Network, images: Tensor, *, hosts: int = 16, share: float = 0.5, seed: int = 0
) -> Tensor:
    """Blend each image with others and measure how unsure the network gets.

    Gao et al., "STRIP: A defence against trojan attacks on deep neural networks" (ACSAC 2019); a
    low entropy speaks for a trigger.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    images
        Normalised, ``(N, C, H, W)``.
    hosts
        Others that each is blended with.
    share
        Of the others in the blend.
    seed
        Of their choice.

    Returns
    -------
    Tensor
        ``(N,)`` float64: mean entropy of the answers, in nats.

    Raises
    ------
    InputError
        If too few images have another answer than one of them.
    NumericalError
        If an answer is not finite.

    Examples
    --------
    >>> import sparsight
    >>> from sparsight.datasets.scenes import render_scene
    >>> network = sparsight.load("embedded")
    >>> scenes = [render_scene(name, seed=0).picture() for name in ("mug", "key", "tree")]
    >>> x = torch.cat([network.prepare(scene) for scene in scenes])
    >>> bool((blended_entropy(network, x, hosts=2) > 0).all())
    True
    """
    network.require_eval()
    others = Hosts.of(network, images)
    found = []
    for number, own in enumerate(images):
        chosen = others.draw(int(others.answers[number]), hosts, [seed, number])
        mixed = (1 - share) * own + share * chosen
        log = network.logits(mixed.to(network.device)).double().log_softmax(1).cpu()
        found.append(-(log.exp() * log).sum(1).mean())
    return torch.stack(found)
