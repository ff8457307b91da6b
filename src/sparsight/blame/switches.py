"""Units off, for every image of a batch its own: no copies of weights, no reloading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import LayerCall, Network, Recording, Units
from sparsight.networks.gates import MODES, Gates, switched_at
from sparsight.networks.watching import Normalisations, NormCall, PassPlan, require_apart, wide

__all__ = ["answers_without", "usual_outputs"]

_CHUNK = 32


def answers_without(
    network: Network,
    images: Tensor,
    units: Units,
    off: Tensor,
    *,
    mode: str = "weights",
    usual: Mapping[str, Tensor] | None = None,
    chunk: int = _CHUNK,
) -> Tensor:
    """Answer images with units off, all choices of units side by side.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    images
        ``(N, C, H, W)``, normalised.
    units
        The units.
    off
        ``(K, units)`` or ``(N, K, units)``, bool: of each choice, which units are off.
    mode
        One of :data:`MODES`.
    usual
        What :func:`usual_outputs` found, for ``mean``.
    chunk
        Images times choices per pass.

    Returns
    -------
    Tensor
        Logits, ``(N, K, classes)``.

    Raises
    ------
    InputError
        No such mode, a mode without what it needs, or choices of other units.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.networks import Units
    >>> network = sparsight.load("embedded")
    >>> units = Units.of(network.model, ["filter"])
    >>> off = torch.zeros(2, len(units), dtype=torch.bool)
    >>> off[1] = True
    >>> x = torch.rand(3, 3, 64, 64)
    >>> found = answers_without(network, x, units, off)
    >>> found.shape, bool(torch.allclose(found[:, 0], network.logits(x), atol=1e-5))
    (torch.Size([3, 2, 10]), True)
    """
    network.require_eval()
    if mode not in MODES:
        raise InputError(f"units cannot be off by {mode!r}: choose from {', '.join(MODES)}")
    if mode == "mean" and usual is None:
        raise InputError("switching to the mean needs means: give usual=usual_outputs(...)")
    if off.shape[-1] != len(units):
        raise InputError(f"choices of {off.shape[-1]} units: this network has {len(units)} of them")
    off = off.expand(len(images), -1, -1) if off.ndim == 2 else off
    choices = off.shape[1]
    plan = PassPlan(network, units, images[:1])
    which = torch.arange(len(images), device=images.device).repeat_interleave(choices)
    flat = off.flatten(0, 1)
    answers: list[Tensor] = []
    if _touches(units, flat, plan.shared):
        chunk = 1  # what is shared by all images of a batch can be off for all alone

    def answer(some: slice) -> Tensor:
        on = (~flat[some]).to(images.device, torch.float32)
        gates = Gates(units, on, plan, mode=mode, usual=usual)
        with torch.no_grad(), gates.applied(network.model):
            return network(images[which[some]])

    for start in range(0, len(which), chunk):
        answers.append(answer(slice(start, start + chunk)))
        if start == 0 and len(answers[0]) > 1:
            last = len(answers[0]) - 1
            alone = answer(slice(last, last + 1))[0]
            require_apart(
                network, answers[0][last], alone, "switch units for one at a time, chunk=1"
            )
    return torch.cat(answers).reshape(len(images), choices, -1)


def _touches(units: Units, off: Tensor, names: set[str]) -> bool:
    """Whether any unit of some layers is ever off."""
    for group, own in units.pieces(off.any(0)):
        part = switched_at(group)
        if part is not None and part.matrix.name in names and bool(own.any()):
            return True
    return False


def usual_outputs(network: Network, batches: Iterable[Tensor], units: Units) -> dict[str, Tensor]:
    """Average over a data set what each unit puts out, where it would be switched.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    batches
        Normalised images, ``(N, C, H, W)`` each.
    units
        The units.

    Returns
    -------
    dict
        Means by title of the group, float64: one for each unit, or each output of a head.

    Raises
    ------
    InputError
        If there are no images.
    """
    network.require_eval()
    plan: PassPlan | None = None
    parts = {group.title: switched_at(group) for group in units.groups}
    names = {group.name: group.title for group in units.groups if group.kind == "norm"}
    sizes = {group.title: group.count for group in units.groups}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(title: str, rows: Tensor) -> None:
        sums[title] = sums.get(title, 0.0) + wide(rows).double().sum(0)
        counts[title] = counts.get(title, 0) + len(rows)

    def see(call: LayerCall) -> None:
        for title, part in parts.items():
            if part is None or part.matrix.name != call.matrix.name:
                continue
            columns = part.axis == "columns"
            channels = -1 if columns or call.geometry is None else -1 - len(call.geometry.kernel)
            values = (call.input if columns else call.output).movedim(channels, -1)
            flat = values.reshape(-1, values.shape[-1])
            add(title, flat[:, part.start : part.start + part.size * sizes[title]])

    def see_norm(call: NormCall) -> None:
        if call.name in names:
            values = call.output
            values = values.flatten(-call.trailing) if call.trailing else values.movedim(1, -1)
            add(names[call.name], values.reshape(-1, values.shape[-1]))

    for batch in batches:
        plan = plan or PassPlan(network, units, batch[:1])
        with (
            torch.no_grad(),
            Recording(network.model, plan.matrices, see),
            Normalisations(network.model, plan.norms, see_norm),
        ):
            network(batch)
    if plan is None:
        raise InputError("no images: give some that show what is usual")
    return {title: sums[title] / counts[title] for title in sums}
