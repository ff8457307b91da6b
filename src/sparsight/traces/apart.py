"""Whether a network treats an image in a batch as it does alone, which traces rely on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsight.errors import UnsupportedError
from sparsight.networks import LayerCall, Network, Recording, failed_machine, images_first
from sparsight.traces.plan import Plan
from sparsight.traces.positions import wide

__all__ = ["require_apart"]

_APART, _APART_IN_HALF = 0.01, 0.1  # of the largest: more is no rounding
_ALONE = "wrap it so that each image goes through on its own, in the order of the batch"


def require_apart(network: Network, plan: Plan, x: Tensor) -> None:
    """Refuse a network that treats an image in a batch otherwise than alone.

    Two images with the sample's colours in other places go through together and each alone, and
    every layer must give each the same, up to rounding. The sample itself may be flat, and its
    views like one another, which would hide that they are mixed.

    Parameters
    ----------
    network
        In evaluation mode.
    plan
        What the network does with the sample alone.
    x
        The sample, ``(1, C, H, W)``.

    Raises
    ------
    UnsupportedError
        It mixes the images of a batch, takes them one by one, orders them otherwise than one after
        the other, takes no batch at all, or answers at random.
    """
    images = [_image_like(x, seed) for seed in (0, 1)]
    alone = [_Pass(network, plan, image) for image in images]
    try:
        both = _Pass(network, plan, torch.cat(images))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if failed_machine(error):
            raise
        why = str(error).partition("\n")[0]
        raise UnsupportedError(
            f"network {network.spec!r} does not run on two images at once ({why}): {_ALONE}"
        ) from error
    try:
        both.require_as_alone(alone)
    except UnsupportedError:
        again = _Pass(network, plan, images[0])
        if _close(again.answers, alone[0].answers, again.half):
            raise
        raise UnsupportedError(
            f"network {network.spec!r} answers the same image otherwise each time: switch off what "
            "is random in it"
        ) from None


def _image_like(x: Tensor, seed: int) -> Tensor:
    """Draw an image of about the same values, all in other places."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randperm(x[0, 0].numel(), generator=draw).to(x.device)
    noise = torch.rand(x.shape, generator=draw).to(x.device, x.dtype)
    largest = x.abs().amax()
    mixed = 0.75 * x.flatten(2)[..., places].reshape(x.shape)
    return mixed + 0.25 * noise * torch.where(largest > 0, largest, torch.ones_like(largest))


class _Pass:
    """What each layer gives each image of a batch, in one pass.

    Attributes
    ----------
    answers
        ``(images, classes)``.
    probes
        Mean squared outputs by unit, ``(images, units)``, of each use of a layer.
    half
        Whether a layer runs in half precision.
    """

    def __init__(self, network: Network, plan: Plan, images: Tensor) -> None:
        self.probes: dict[str, list[Tensor]] = {}
        self.half = False
        self._network, self._plan, self._images = network, plan, len(images)
        with Recording(network.model, plan.order, self._see), torch.no_grad():
            self.answers = network(images)

    def _see(self, call: LayerCall) -> None:
        name = call.matrix.name
        self.half |= call.output.dtype not in (torch.float32, torch.float64)
        if name not in self._plan.uneven:
            found = self._probe(call, self._plan.shapes[name].output)
            self.probes.setdefault(name, []).append(found)

    def _probe(self, call: LayerCall, single: torch.Size) -> Tensor:
        output = call.output.detach()
        images = 1 if output.shape == single else self._images  # some are the same for all
        if call.geometry is None:
            parts = images_first(output, images, single)
        else:
            batched = output if output.ndim == call.batched.ndim else output[None]
            if len(batched) % images:
                raise UnsupportedError(
                    f"layer {call.matrix.name!r} works on a batch of {len(batched)} for {images} "
                    f"images: {_ALONE}"
                )
            parts = batched.unflatten(0, (images, -1)).movedim(2, -1).flatten(1, -2)
        return wide(parts).square().mean(1).expand(self._images, -1)

    def require_as_alone(self, alone: Sequence[_Pass]) -> None:
        """Refuse what gives an image something else than in a pass of its own."""
        half = self.half or any(one.half for one in alone)
        for name, uses in self.probes.items():
            before = [one.probes.get(name, []) for one in alone]
            if any(len(own) != len(uses) for own in before):
                raise UnsupportedError(
                    f"layer {name!r} is used {len(uses)} times for two images and "
                    f"{len(before[0])} for one: {_ALONE}"
                )
            for now, *then in zip(uses, *before, strict=True):
                if not _close(now, torch.cat(then), half):
                    raise UnsupportedError(
                        f"layer {name!r} gives an image something else in a batch than alone, so "
                        f"the network mixes the images or their order: {_ALONE}"
                    )
        answers = torch.cat([one.answers for one in alone])
        if self.answers.shape != answers.shape or not _close(self.answers, answers, half):
            raise UnsupportedError(
                f"network {self._network.spec!r} mixes the images of a batch: {_ALONE}"
            )


def _close(now: Tensor, before: Tensor, half: bool) -> bool:
    """Compare by image; what is no number is told by others."""
    rows = now.isfinite().all(1) & before.isfinite().all(1)
    if not rows.any():
        return True
    apart = _APART_IN_HALF if half else _APART
    return float((now - before)[rows].abs().max()) <= apart * float(before[rows].abs().max())
