"""Does a map depend on what the network has learnt? Its layers are randomised, output first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsight.attribution.explain import attribute
from sparsight.attribution.metrics.inputs import answering, checked_images, checked_targets
from sparsight.attribution.metrics.ranks import rank_correlation
from sparsight.attribution.registry import Method
from sparsight.errors import InputError, NetworkError
from sparsight.networks.calls import LayerCall
from sparsight.networks.matrices import WeightMatrix, weight_matrices
from sparsight.networks.network import Network
from sparsight.networks.overlay import overlay
from sparsight.networks.recording import Recording

__all__ = ["Randomisation", "randomise"]


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How like its original a map stays while layers are randomised.

    Attributes
    ----------
    layers
        Names of all layers in the order in which they were randomised: the output first.
    correlations
        ``(N, L)`` float64: Spearman's rank correlation with the original map after each layer,
        or ``(N, 1)`` after all. NaN where a map is constant.
    """

    layers: tuple[str, ...]
    correlations: Tensor

    @property
    def similarity(self) -> Tensor:
        """Absolute correlation after all layers, ``(N,)``: near 0 for maps that pass."""
        return self.correlations[:, -1].abs()

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3f}" for value in self.similarity[:4].tolist())
        more = ", ..." if len(self.correlations) > 4 else ""
        return f"Randomisation({len(self.layers)} layers, similarity {shown}{more})"


def randomise(
    network: Network | nn.Module,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    method: str | Method,
    *,
    after: Literal["each", "all"] = "each",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Randomisation:
    """Compare maps of a network with those of the same network, layer by layer randomised.

    A cascade: the layer used last is randomised first, and stays so while those before it
    follow. Weights are drawn from a normal distribution of mean zero and the layer's own mean
    square, so activations keep their scale; biases, normalisation and tokens stay. A method
    whose maps remain alike to the end explains the image and the architecture, not what was
    learnt. The network is not changed.

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
    after
        Explain after ``each`` layer, or once after ``all``; the weights are the same.
    seed
        Of the weights, and of a stochastic method.
    settings
        The method's own.

    Returns
    -------
    Randomisation
        Correlations of ``heat()``, the map with its channels reduced as the method does.

    Raises
    ------
    InputError
        Whatever :func:`~sparsight.attribution.attribute` refuses.
    NetworkError
        A network in training mode, or without layers that have weights.
    UnsupportedError, NumericalError
        As for :func:`~sparsight.attribution.attribute`.

    References
    ----------
    Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018, arXiv:1810.03292.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    >>> result = randomise(model.eval(), torch.ones(2, 3, 8, 8), 1, "saliency")
    >>> result.layers, result.correlations.shape
    (('3', '0'), torch.Size([2, 2]))
    """
    if after not in ("each", "all"):
        raise InputError(f"after is {after!r}: choose each or all")
    x = checked_images(network, image)
    targets = checked_targets(target, len(x))
    model = network.model if isinstance(network, Network) else network

    def heats() -> Tensor:
        pairs = zip(x, targets, strict=True)
        made = [attribute(network, a, b, method, seed=seed, **(settings or {})) for a, b in pairs]
        return torch.stack([attribution.heat() for attribution in made])

    layers = _from_the_output(model, x[:1], targets)
    original = heats()
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    found = []
    for matrix in layers:
        if matrix.parameter not in tensors:
            tensors[matrix.parameter] = model.get_parameter(matrix.parameter).detach().clone()
        parameter = tensors[matrix.parameter]
        scale = matrix.pack(parameter).double().square().mean().sqrt()
        fresh = torch.randn(matrix.groups, matrix.rows, matrix.columns, generator=generator)
        matrix.write(parameter, fresh.to(scale.device) * scale)
        if after == "each" or matrix is layers[-1]:
            with overlay(model, tensors):
                found.append(rank_correlation(original, heats()))
    return Randomisation(tuple(matrix.name for matrix in layers), torch.stack(found, 1))


def _from_the_output(model: nn.Module, x: Tensor, targets: Sequence[int]) -> list[WeightMatrix]:
    """Find the weight matrices used on an image, the one used last first."""
    used: dict[str, WeightMatrix] = {}

    def note(call: LayerCall) -> None:
        used.pop(call.matrix.name, None)
        used[call.matrix.name] = call.matrix

    answer = answering(model, targets)
    with Recording(model, weight_matrices(model), note):
        answer(x)
    if not used:
        raise NetworkError("the network uses no layer with weights: nothing can be randomised")
    return list(reversed(used.values()))
