"""Units off, for every image of a batch its own: no copies of weights, no reloading.

What "off" means has to be said, since a normalisation after a filter leaves something behind:

``weights``
    The unit's weights are zero, its bias stays. A filter whose output is normalised then gives
    the constant ``shift - scale * mean / std``.
``zero``
    The unit's output is zero, also after a batch normalisation that takes it.
``mean``
    The unit's output is its mean over a data set: what the layers after it are used to.

Heads and neurons are switched where their outputs are read, so ``weights`` and ``zero`` are the
same for them. Batch items do not touch one another: any number of choices runs in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sparsight.blame.watching import Normalisations, NormCall, Plan, require_apart, wide
from sparsight.errors import InputError
from sparsight.networks import (
    LayerCall,
    LayerInput,
    Network,
    Part,
    Recording,
    UnitGroup,
    Units,
    image_dimension,
)

__all__ = ["MODES", "answers_without", "usual_outputs"]

MODES = ("weights", "zero", "mean")
"""What it can mean that a unit is off."""

_CHUNK = 32

Usual = Mapping[str, Tensor]
"""Mean of what is switched, by title of the group; a head has one for each of its outputs."""


def _switched_at(group: UnitGroup) -> Part | None:
    """Tell where a group's units are switched: where their outputs are read, or are made."""
    read = [part for part in group.parts if part.axis == "columns"]
    return read[-1] if read else group.parts[-1] if group.parts else None


def _along(values: Tensor, x: Tensor, single: torch.Size, features: int) -> Tensor:
    """Lay ``(images, features)`` out so that it multiplies ``x``."""
    dimension, each = image_dimension(x.shape, len(values), single)
    features %= x.ndim
    shape = [1] * x.ndim
    shape[dimension], shape[features] = x.shape[dimension], values.shape[1]
    values = values.repeat_interleave(each, 0)
    return (values if dimension < features else values.T).reshape(shape).to(x)


class _Switchboard:
    """Switches units of a batch, each image its own, while the network runs.

    ``on`` is ``(images, units)``: 1 for a unit that is on, 0 for one that is off.
    """

    def __init__(self, units: Units, on: Tensor, mode: str, usual: Usual, plan: Plan) -> None:
        self.mode, self.plan = mode, plan
        self.gates: dict[tuple[str, str], Tensor] = {}
        self.fills: dict[tuple[str, str], Tensor] = {}
        self._made: list[tuple[Tensor, Tensor]] = []
        for group, own in units.pieces(on):
            part = _switched_at(group)
            gate = own if part is None else own.repeat_interleave(part.size, 1)
            fill = usual.get(group.title, torch.zeros(gate.shape[1])).to(gate)
            if part is None:
                self.gates[group.name, "norm"], self.fills[group.name, "norm"] = gate, fill
                continue
            width = part.matrix.columns if part.axis == "columns" else part.matrix.units
            key = part.matrix.name, part.axis
            gates = self.gates.setdefault(key, gate.new_ones(len(on), width))
            fills = self.fills.setdefault(key, gate.new_zeros(width))
            chosen = slice(part.start, part.start + gate.shape[1])
            gates[:, chosen] *= gate
            fills[chosen] = fill
        for key in [key for key, gate in self.gates.items() if bool(gate.all())]:
            del self.gates[key]

    def edit_input(self, use: LayerInput) -> Tensor | None:
        """Switch what is read by columns."""
        key = use.matrix.name, "columns"
        if key not in self.gates:
            return None
        gate = _along(self.gates[key], use.input, self.plan.inputs[key[0]], -1)
        return use.input * gate + self.fills[key].to(use.input) * (1 - gate)

    def edit_output(self, call: LayerCall) -> Tensor | None:
        """Switch what is made by rows."""
        key = call.matrix.name, "rows"
        if key not in self.gates:
            return None
        features = -1 if call.geometry is None else -1 - len(call.geometry.kernel)
        gate = _along(self.gates[key], call.output, self.plan.outputs[key[0]], features)
        switched = call.output * gate
        if self.mode == "zero":
            self._made.append((switched, gate))
            return switched
        left = self.fills[key].to(switched) if self.mode == "mean" else call.bias
        if left is None:
            return switched
        shape = [1] * switched.ndim
        shape[features] = -1
        return switched + left.detach().reshape(shape) * (1 - gate)

    def edit_norm(self, call: NormCall) -> Tensor | None:
        """Switch entries of a normalisation, and channels that came to it switched to zero."""
        output = call.output
        for made, gate in self._made:
            if made is call.input:
                output = output * gate
        key = call.name or "", "norm"
        if key in self.gates:
            flat = output.flatten(-call.trailing) if call.trailing else output
            single = self.plan.outputs[key[0]]
            single = single[: flat.ndim - 1] + flat.shape[-1:] if call.trailing else single
            features = -1 if call.trailing else 1
            gate = _along(self.gates[key], flat, single, features)
            shape = [1] * flat.ndim
            shape[features] = -1
            left = self.fills[key].to(flat).reshape(shape)
            output = (flat * gate + left * (1 - gate)).reshape(output.shape)
        return output


def answers_without(
    network: Network,
    images: Tensor,
    units: Units,
    off: Tensor,
    *,
    mode: str = "weights",
    usual: Usual | None = None,
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
    usual = usual if usual is not None and mode == "mean" else {}
    plan = Plan(network, units, images[:1])
    which = torch.arange(len(images), device=images.device).repeat_interleave(choices)
    flat = off.flatten(0, 1)
    answers: list[Tensor] = []
    if _touches(units, flat, plan.shared):
        chunk = 1  # what is shared by all images of a batch can be off for all alone

    def answer(some: slice) -> Tensor:
        on = (~flat[some]).to(images.device, torch.float32)
        board = _Switchboard(units, on, mode, usual, plan)
        with (
            torch.no_grad(),
            Recording(
                network.model, plan.matrices,
                edit_input=board.edit_input, edit_output=board.edit_output,
            ),
            Normalisations(network.model, plan.norms, board.edit_norm),
        ):  # fmt: skip
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
        part = _switched_at(group)
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
    plan: Plan | None = None
    parts = {group.title: _switched_at(group) for group in units.groups}
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
        plan = plan or Plan(network, units, batch[:1])
        with (
            torch.no_grad(),
            Recording(network.model, plan.matrices, see),
            Normalisations(network.model, plan.norms, see_norm),
        ):
            network(batch)
    if plan is None:
        raise InputError("no images: give some that show what is usual")
    return {title: sums[title] / counts[title] for title in sums}
