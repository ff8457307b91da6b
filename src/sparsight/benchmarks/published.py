"""The published steps of FastSPADE one after the other, as a yardstick for speed.

Written from a description of the authors' code (SPADE, ICML 2024): views are made one by one as
Pillow images; batches of them go through the network, with a hook on every layer that unfolds its
input and adds ``X @ X.T`` to a second moment, and the moments of all layers are held at once; then
each layer's moment is damped, factorised, inverted and factorised again, and its columns are swept
in a Python loop. Nothing is done more slowly than there. Three things differ, at no cost in time,
so that the weights can be compared with a trace's: the count of pruned weights is the one asked
for, damping is relative to the mean over live inputs, and the network is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from sparsight.benchmarks.machine import Stopwatch
from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network, WeightMatrix, open_image, weight_matrices
from sparsight.networks.matrices import parameter_of
from sparsight.networks.preprocessing import Preprocessing

__all__ = ["BATCH", "PublishedRun", "published_trace"]

BATCH = 256
"""Views per forward pass in the published code."""

Progress = Callable[[str, int, int], None]
Layers = dict[str, tuple[nn.Conv2d | nn.Linear, WeightMatrix]]


@dataclass(frozen=True, eq=False)
class PublishedRun:
    """What the published steps found, and how long each took.

    Attributes
    ----------
    tensors
        Pruned parameters by name.
    seconds
        Time per step.
    left_out
        Layers that a trace prunes and the published code cannot: grouped convolutions, attention.
    note
        How many layers needed float64 to be factorised.
    """

    tensors: Mapping[str, Tensor]
    seconds: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    note: str = ""

    def __repr__(self) -> str:
        steps = ", ".join(f"{name} {spent:.3g} s" for name, spent in self.seconds.items())
        return f"PublishedRun({len(self.tensors)} parameters pruned; {steps})"


def published_trace(
    network: Network,
    image: Image.Image | str | Path,
    sparsities: Mapping[str, float],
    *,
    augmentations: int | Tensor = 64,
    seed: int = 0,
    damping: float = 0.01,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> PublishedRun:
    """Prune a network for one image by the published steps.

    Parameters
    ----------
    network
        A classifier in evaluation mode; not changed.
    image
        A path or PIL image.
    sparsities
        Share of weights to prune, by the name of the layer; others are left as they are.
    augmentations
        How many views, or the normalised views themselves.
    seed
        Of the augmentation.
    damping
        Relative to the mean diagonal of the second moments.
    batch
        Views per forward pass.
    progress
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    PublishedRun

    Raises
    ------
    InputError
        Unusable image or settings.
    NumericalError
        A layer that cannot be factorised even in float64 (named).

    Examples
    --------
    >>> import sparsight
    >>> from sparsight.benchmarks import noise_image
    >>> network = sparsight.load("embedded")
    >>> found = published_trace(network, noise_image(), {"fc": 0.75}, augmentations=4)
    >>> (found.tensors["fc.weight"] == 0).float().mean().item() >= 0.75
    True
    >>> list(found.seconds)
    ['augment', 'record', 'factorise', 'sweep']
    """
    network.require_eval()
    if not 0 < damping < float("inf"):
        raise InputError(f"damping {damping} must be positive")
    layers, left_out = _layers(network.model, sparsities)
    picture = image if isinstance(image, Image.Image) else open_image(image)
    watch = Stopwatch(network.device)

    count = augmentations if isinstance(augmentations, int) else len(augmentations)
    moments: dict[str, Tensor] = {}
    with torch.no_grad(), _hooked(layers, moments), _seeded(seed):
        for start in range(0, count, batch):
            if progress is not None:
                progress("published: views", start, count)
            if isinstance(augmentations, Tensor):
                views = augmentations[start : start + batch]
            else:
                views = _views(picture, network.preprocessing, min(batch, count - start))
            watch.lap("augment")
            network(views.to(network.device, network.dtype))
            watch.lap("record")

    tensors = {}
    doubled = 0
    with torch.no_grad():
        for done, (name, (_, matrix)) in enumerate(layers.items()):
            if progress is not None:
                progress("published: layers", done, len(layers))
            parameter = parameter_of(network.model, matrix)
            weight = matrix.pack(parameter)[0].to(moments[name].dtype, copy=True)
            upper, dead, in_double = _factorise(name, moments[name], damping)
            watch.lap("factorise")
            doubled += in_double
            weight[:, dead] = 0
            _sweep(weight, upper, sparsities[name], matrix.block)
            tensors[matrix.parameter] = torch.empty_like(parameter)
            matrix.write(tensors[matrix.parameter], weight[None])
            watch.lap("sweep")
    note = f"{doubled} layers factorised in float64" if doubled else ""
    return PublishedRun(tensors, watch.seconds, left_out, note)


def _layers(model: nn.Module, sparsities: Mapping[str, float]) -> tuple[Layers, tuple[str, ...]]:
    """Layers that the published code reaches, in the order of ``sparsities``, and the others."""
    matrices = {matrix.name: matrix for matrix in weight_matrices(model)}
    modules = dict(model.named_modules())
    layers: Layers = {}
    left_out = []
    for name, sparsity in sparsities.items():
        if not sparsity:
            continue
        if name not in matrices:
            raise InputError(f"the network has no layer {name!r} to prune")
        module = modules.get(name)
        # Exact types, as published: subclasses may pad or multiply in ways of their own.
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and _plain(module)):
            layers[name] = module, matrices[name]
        else:
            left_out.append(name)
    return layers, tuple(left_out)


def _plain(module: nn.Conv2d) -> bool:
    plain_padding = isinstance(module.padding, tuple) and module.padding_mode == "zeros"
    return module.groups == 1 and plain_padding


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator, which torchvision draws from, and put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _views(image: Image.Image, preprocessing: Preprocessing, count: int) -> Tensor:
    """Make views one by one, on the processor."""
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(preprocessing.size, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.5, hue=0.3),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    image = image.convert("RGB" if preprocessing.channels == 3 else "L")
    return torch.stack([augment(image) for _ in range(count)])


@contextmanager
def _hooked(layers: Layers, moments: dict[str, Tensor]) -> Iterator[None]:
    """Add up the second moments of the inputs of all layers while the block runs."""

    def add(name: str, module: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        x = inputs[0]
        x = x if x.dtype == torch.float64 else x.float()
        if isinstance(module, nn.Conv2d):
            assert isinstance(module.padding, tuple)
            x = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
            x = x.permute(1, 0, 2).flatten(1)
        else:
            x = x.reshape(-1, x.shape[-1]).T
        if name in moments:
            moments[name] += x @ x.T
        else:
            moments[name] = x @ x.T

    handles = [
        module.register_forward_hook(partial(add, name)) for name, (module, _) in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _factorise(name: str, moment: Tensor, damping: float) -> tuple[Tensor, Tensor, bool]:
    """Upper Cholesky factor of the damped inverse, dead inputs, and whether it took float64."""
    diagonal = moment.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if bool((~dead).any()) else diagonal.new_ones(())
    diagonal[dead] = mean
    diagonal += damping * mean
    for precise in (moment, moment.double()):
        lower, failed = torch.linalg.cholesky_ex(precise)
        upper, failed_again = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and not failed_again:
            return upper.to(moment.dtype), dead, precise.dtype != moment.dtype
    raise NumericalError(
        f"layer {name!r}: the published steps cannot factorise its second moments even in "
        "float64: raise the damping, or leave the published steps out"
    )


def _sweep(weight: Tensor, upper: Tensor, sparsity: float, block: int) -> None:
    """Prune ``(rows, columns)`` in place: column after column, later columns compensate."""
    rows, columns = weight.shape
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        here, factor = weight[:, start:stop].clone(), upper[start:stop, start:stop]
        count = min(round(sparsity * here.numel()), rows * block - 1)
        cheapest = (here / factor.diagonal()).square().flatten().argsort()[:count]
        pruned = torch.zeros(here.numel(), dtype=torch.bool, device=here.device)
        pruned[cheapest] = True
        pruned = pruned.reshape(here.shape)
        errors = torch.empty_like(here)
        for i in range(stop - start):
            kept = here[:, i].masked_fill(pruned[:, i], 0)
            errors[:, i] = (here[:, i] - kept) / factor[i, i]
            here[:, i:] -= errors[:, i : i + 1] @ factor[i : i + 1, i:]
            here[:, i] = kept
        weight[:, start:stop] = here
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
