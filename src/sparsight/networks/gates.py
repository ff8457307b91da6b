"""Gates on units and residual branches: off, on, or anything between, each image its own.

What "off" means has to be said, since a normalisation after a filter leaves something behind:

``weights``
    The unit's weights are zero, its bias stays. A filter whose output is normalised then gives
    the constant ``shift - scale * mean / std``.
``zero``
    The unit's output is zero; where a normalisation takes it as it is, that one's output.
``mean``
    The unit's output is its mean over a data set: what the layers after it are used to.

Heads and neurons are switched where their outputs are read, so ``weights`` and ``zero`` are the
same for them. Batch items do not touch one another: any number of choices runs in one pass, with
gradients for the gates. No weight is copied or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from weakref import ref

from torch import Tensor, nn

from sparsight.networks.branches import Branch, BranchGates
from sparsight.networks.calls import LayerCall, LayerInput
from sparsight.networks.recording import Recording
from sparsight.networks.units import Part, UnitGroup, Units
from sparsight.networks.watching import Normalisations, NormCall, PassPlan, along

__all__ = ["MODES", "Gates", "switched_at"]

MODES = ("weights", "zero", "mean")
"""What it can mean that a unit is off."""


def switched_at(group: UnitGroup) -> Part | None:
    """Tell where a group's units are switched: where their outputs are read, or are made."""
    read = [part for part in group.parts if part.axis == "columns"]
    return read[-1] if read else group.parts[-1] if group.parts else None


class Gates:
    """Gates on the units and branches of a batch, each image its own.

    Parameters
    ----------
    units
        The units.
    on
        ``(images, units)``: 1 for a unit that is on, 0 for one that is off.
    plan
        Of one pass.
    mode
        One of :data:`MODES`: what off means.
    usual
        For ``mean``: what is switched to, by title of the group; a head has one value for each of
        its outputs.
    branches, open
        Residual branches, and ``(images, branches)``: 1 for one that is added, 0 for one that is
        not.
    """

    def __init__(
        self,
        units: Units,
        on: Tensor,
        plan: PassPlan,
        *,
        mode: str = "zero",
        usual: Mapping[str, Tensor] | None = None,
        branches: tuple[Branch, ...] = (),
        open: Tensor | None = None,
    ) -> None:
        self.mode, self.plan = mode, plan
        self._branches, self._open = branches, open
        usual = usual if usual is not None and mode == "mean" else {}
        self._gates: dict[tuple[str, str], Tensor] = {}
        self._fills: dict[tuple[str, str], Tensor] = {}
        self._made: list[tuple[ref[Tensor], Tensor]] = []
        for group, own in units.pieces(on):
            part = switched_at(group)
            gate = own if part is None else own.repeat_interleave(part.size, 1)
            if part is None:
                key, width, start = (group.name, "norm"), gate.shape[1], 0
            else:
                key, start = (part.matrix.name, part.axis), part.start
                width = part.matrix.columns if part.axis == "columns" else part.matrix.units
            if width > gate.shape[1] or key in self._gates:
                whole = self._gates.get(key, gate.new_ones(len(on), width)).clone()
                whole[:, start : start + gate.shape[1]] *= gate
                gate = whole
            self._gates[key] = gate
            if group.title in usual:
                fill = self._fills.setdefault(key, gate.new_zeros(width))
                own_fill = usual[group.title]
                fill[start : start + len(own_fill)] = own_fill.to(fill)
        for key in [
            k for k, g in self._gates.items() if not g.requires_grad and bool((g == 1).all())
        ]:
            del self._gates[key]

    @contextmanager
    def applied(
        self,
        model: nn.Module,
        *,
        on_read: Callable[[LayerInput], Tensor | None] | None = None,
        on_call: Callable[[LayerCall], None] | None = None,
    ) -> Iterator[None]:
        """Gate the network that runs inside the block, once.

        Parameters
        ----------
        model
            The network.
        on_read
            Called with what each layer of the units reads, before it is switched; what it returns,
            unless nothing, is read instead.
        on_call
            Called with each use of these layers, before its output is switched.
        """

        def edit_input(use: LayerInput) -> Tensor | None:
            other = None if on_read is None else on_read(use)
            if other is not None:
                use = replace(use, input=other)
            switched = self._edit_input(use)
            return other if switched is None else switched

        with ExitStack() as stack:
            if self._open is not None:
                stack.enter_context(BranchGates(self._branches, self._open))
            recording = Recording(
                model, self.plan.matrices, on_call,
                edit_input=edit_input, edit_output=self._edit_output,
            )  # fmt: skip
            stack.enter_context(recording)
            stack.enter_context(Normalisations(model, self.plan.norms, self._edit_norm))
            yield

    def _edit_input(self, use: LayerInput) -> Tensor | None:
        """Switch what is read by columns."""
        key = use.matrix.name, "columns"
        if key not in self._gates:
            return None
        gate = along(self._gates[key], use.input, self.plan.inputs[key[0]], -1)
        switched = use.input * gate
        if key not in self._fills:
            return switched
        return switched + self._fills[key].to(switched) * (1 - gate)

    def _edit_output(self, call: LayerCall) -> Tensor | None:
        """Switch what is made by rows."""
        key = call.matrix.name, "rows"
        if key not in self._gates:
            return None
        features = -1 if call.geometry is None else -1 - len(call.geometry.kernel)
        gate = along(self._gates[key], call.output, self.plan.outputs[key[0]], features)
        if self.mode == "zero" and key[0] in self.plan.normalised:
            self._made.append((ref(call.output), gate))
            return None  # the normalisation's output is switched instead
        switched = call.output * gate
        if self.mode == "zero":
            return switched
        left = self._fills.get(key) if self.mode == "mean" else call.bias
        if left is None:
            return switched
        left = left.to(switched)
        shape = [1] * switched.ndim
        shape[features] = -1
        return switched + left.detach().reshape(shape) * (1 - gate)

    def _edit_norm(self, call: NormCall) -> Tensor | None:
        """Switch entries of a normalisation, and channels that came to it switched to zero."""
        output = call.output
        for made, gate in self._made:
            if made() is call.input:
                output = output * gate
        key = call.name or "", "norm"
        if key in self._gates:
            flat = output.flatten(-call.trailing) if call.trailing else output
            single = self.plan.outputs[key[0]]
            single = single[: flat.ndim - 1] + flat.shape[-1:] if call.trailing else single
            features = -1 if call.trailing else 1
            gate = along(self._gates[key], flat, single, features)
            shape = [1] * flat.ndim
            shape[features] = -1
            switched = flat * gate
            if key in self._fills:
                switched = switched + self._fills[key].to(flat).reshape(shape) * (1 - gate)
            output = switched.reshape(output.shape)
        return output
