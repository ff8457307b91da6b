"""Sub-tasks: a few images each, of which a chain is to keep what the network answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from sparsight.chains.settings import ChainSettings
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, Units, shared_view
from sparsight.networks.branches import Branch, branches_of
from sparsight.networks.calls import LayerCall, LayerInput
from sparsight.networks.gates import Gates, switched_at
from sparsight.networks.outputs import LogitsOnly
from sparsight.networks.units import UnitGroup
from sparsight.networks.watching import PassPlan, require_apart
from sparsight.traces.augment import Augmentation

__all__ = ["Gated", "Tasks", "chain_units"]

_LOOK = 64  # images at a time
_APART = 7919  # between the seeds of images
_STRENGTH = 0.5  # of the augmentation of traces


def chain_units(
    network: Network, x: Tensor, classes: int, kinds: Iterable[str] | None = None
) -> Units:
    """Return the units that a chain is made of: filters, attention heads and neurons.

    In the order in which a pass uses their layers. Those of the last layer are the classes, and not
    among them; nor are those of layers that a pass does not use. Linear layers that are neither
    attention nor a two-layer perceptron count by their rows.

    Parameters
    ----------
    network
        The network.
    x
        One image, ``(1, C, H, W)``.
    classes
        How many it tells apart.
    kinds
        Of :data:`sparsight.networks.KINDS`; by default filters, heads and neurons, and rows of
        linear layers in a network that has none of these two.

    Raises
    ------
    UnsupportedError
        If there are none, or a layer's weights are computed in the pass.
    """
    found = Units.of(network.model, kinds or ("filter", "head", "neuron"))
    if kinds is None and not any(group.kind in ("head", "neuron") for group in found.groups):
        found = Units.of(network.model, ("filter", "row"))
    plan = PassPlan(network, found, x)
    order = {name: number for number, name in enumerate(plan.inputs)}
    layers = {g.title: [part.matrix.name for part in g.parts] or [g.name] for g in found.groups}
    unused = [g for g in found.groups if not all(name in order for name in layers[g.title])]
    _require_unused(network, x, unused)
    used = [group for group in found.groups if group not in unused]
    used.sort(key=lambda group: order[layers[group.title][0]])
    if used and used[-1].kind in ("row", "filter") and used[-1].count == classes:
        del used[-1]
    if not used:
        raise UnsupportedError(
            f"network {network.spec!r} has no filters, heads or neurons that a chain could be "
            "made of: give other kinds of units"
        )
    return Units(tuple(used))


def _require_unused(network: Network, x: Tensor, groups: Sequence[UnitGroup]) -> None:
    """Refuse layers that a pass does use, though not by their own weights.

    Raises
    ------
    UnsupportedError
        If there is one.
    """
    weights = {part.matrix.parameter: group for group in groups for part in group.parts}
    if not weights:
        return
    view = cast(LogitsOnly, shared_view(network))
    parameters = [view.model.get_parameter(name).requires_grad_() for name in weights]
    with torch.enable_grad():
        logits = view(x)
        if not logits.requires_grad:
            return
        pulls = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    for group, pull in zip(weights.values(), pulls, strict=True):
        if pull is not None and pull.any():
            raise UnsupportedError(
                f"the weight of layer {group.name!r} is computed anew in each pass, and its units "
                "cannot be switched: give other kinds of units, or another network"
            )


@dataclass(frozen=True, eq=False)
class Gated:
    """A network with its units and branches, ready to be gated.

    Attributes
    ----------
    network, units, branches
        What is gated.
    view
        The network over the same weights, none of which takes a gradient.
    plan
        Of one pass.
    within
        ``(branches, units)``, bool: which units are in which branch, also in one of its own.
    """

    network: Network
    view: Network
    units: Units
    branches: tuple[Branch, ...]
    plan: PassPlan
    within: Tensor

    @classmethod
    def of(cls, network: Network, x: Tensor, kinds: Iterable[str] | None = None) -> Gated:
        """Look at a network, with one image ``(1, C, H, W)``."""
        network.require_eval()
        _require_gradients()
        logits = network.logits(x)
        units = chain_units(network, x, logits.shape[1], kinds)
        branches, plan = branches_of(network, x), PassPlan(network, units, x)
        normalises = {norm: matrix for matrix, norm in plan.normalised.items()}
        within = torch.zeros(len(branches), len(units), dtype=torch.bool)
        for number, branch in enumerate(branches):
            for group, own in units.pieces(within[number]):
                part = switched_at(group)
                layer = normalises.get(group.name) if part is None else part.matrix.name
                own.fill_(layer in branch.layers)
        view = replace(network, model=cast(LogitsOnly, shared_view(network)).model)
        found = cls(network, view, units, branches, plan, within)
        with torch.no_grad():
            open_gates = found.logits(x, *found.ones(1))
        require_apart(network, open_gates, logits, "its gates change it even where all are open")
        return found

    def logits(
        self,
        images: Tensor,
        units: Tensor,
        branches: Tensor,
        *,
        on_read: Callable[[LayerInput], Tensor | None] | None = None,
        on_call: Callable[[LayerCall], None] | None = None,
    ) -> Tensor:
        """Answer images, each with gates of its own.

        Parameters
        ----------
        images
            ``(N, C, H, W)``.
        units, branches
            ``(N, units)`` and ``(N, branches)``, 1 where everything is as it was.
        on_read, on_call
            See :meth:`sparsight.networks.gates.Gates.applied`.
        """
        gates = Gates(self.units, units, self.plan, branches=self.branches, open=branches)
        with gates.applied(self.view.model, on_read=on_read, on_call=on_call):
            return self.view(images)

    def answers(self, images: Tensor, units: Tensor, branches: Tensor, chunk: int) -> Tensor:
        """Answer any number of images, as :meth:`logits` but some at a time and without history."""
        parts = (one.split(chunk) for one in (images, units, branches))
        with torch.no_grad():
            return torch.cat([self.logits(*some) for some in zip(*parts, strict=True)])

    def ones(self, images: int) -> tuple[Tensor, Tensor]:
        """Gates of units and branches that are all open, ``(images, ...)``."""
        device = self.network.device
        units = torch.ones(images, len(self.units), device=device)
        return units, torch.ones(images, len(self.branches), device=device)

    def penalty_weights(self, normalise: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights of the gates of units and of branches in a penalty."""
        weights = torch.ones(len(self.units))
        if normalise != "sum":
            for group, own in self.units.pieces(weights):
                size = sum(part.weights for part in group.parts)
                if normalise == "parameters" and not size:
                    raise InputError(f"units of {group.title} have no weights: count units instead")
                own.fill_(1 / group.count if normalise == "layer" else float(size))
        if normalise == "parameters":
            weights /= weights.sum()
        return weights.to(device), torch.ones(len(self.branches), device=device)

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Title and number of units of each layer."""
        return tuple((group.title, group.count) for group in self.units.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(branch.name for branch in self.branches)

    def parameters_of(self, branch: str) -> list[str]:
        """Name the parameters of a branch that make it zero if they all are."""
        layers = self.branches[self.names.index(branch)].layers
        owners = [layer.partition("[")[0] for layer in layers]
        owners += [self.plan.normalised[layer] for layer in layers if layer in self.plan.normalised]
        named = [
            f"{owner}.{name}"
            for owner in owners
            if owner
            for name, _ in self.network.model.get_submodule(owner).named_parameters(recurse=False)
        ]
        return list(dict.fromkeys(named))

    def effective(self, units: Tensor, branches: Tensor) -> Tensor:
        """Gates of units ``(..., units)``, times those of the branches that they are in."""
        inside = self.within.to(branches.device)
        found: Tensor = torch.where(inside, branches[..., None], branches.new_ones(())).prod(-2)
        return units * found.to(units.dtype)


@dataclass(frozen=True, eq=False)
class Tasks:
    """Several sub-tasks side by side: images of all, and which is whose.

    Attributes
    ----------
    gated
        The network.
    images
        ``(N, C, H, W)``, normalised.
    task
        ``(N,)``: number of the sub-task of each image.
    answers
        ``(N, classes)``: logits of the whole network.
    among
        ``(tasks, classes)``, bool: classes of each sub-task.
    """

    gated: Gated
    images: Tensor
    task: Tensor
    answers: Tensor
    among: Tensor

    @classmethod
    def of(
        cls,
        network: Network,
        tasks: Sequence[Tensor],
        kinds: Iterable[str] | None = None,
        classes: Sequence[Sequence[int] | None] | None = None,
    ) -> Tasks:
        """Put sub-tasks together; their classes are by default those that are answered.

        Raises
        ------
        InputError
            No sub-task, or one without images.
        UnsupportedError
            If the network mixes the images of a batch.
        """
        if not tasks or not all(len(images) for images in tasks):
            raise InputError("a sub-task without images: give one image at least, better ten")
        images = torch.cat(list(tasks))
        sizes = torch.tensor([len(own) for own in tasks])
        task = torch.arange(len(tasks)).repeat_interleave(sizes).to(images.device)
        gated = Gated.of(network, images[:1], kinds)
        answers = torch.cat([network.logits(part) for part in images.split(_LOOK)])
        last = min(len(images), _LOOK) - 1
        alone = network.logits(images[last : last + 1])[0]
        require_apart(network, answers[last], alone, "a chain needs each image for itself")
        among = torch.zeros(len(tasks), answers.shape[1], dtype=torch.bool, device=images.device)
        among[task, answers.argmax(1)] = True
        for number, own in enumerate(classes or ()):
            if own is not None:
                _require_classes(own, answers.shape[1])
                among[number] = False
                among[number, list(own)] = True
        return cls(gated, images, task, answers, among)

    def __len__(self) -> int:
        return int(self.task[-1]) + 1

    @property
    def sizes(self) -> Tensor:
        """Images of each sub-task, ``(tasks,)``."""
        return self.task.bincount()

    def answered(self, units: Tensor, branches: Tensor, chunk: int) -> Tensor:
        """Answer the images, those of each sub-task with its gates ``(tasks, ...)``."""
        return self.gated.answers(self.images, units[self.task], branches[self.task], chunk)

    def parts(self, chunk: int) -> list[slice]:
        """Images that go through the network together."""
        return [slice(start, start + chunk) for start in range(0, len(self.images), chunk)]

    def views(self, settings: ChainSettings) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return what draws for each step a view of each image, and what is answered to it.

        The first view is the image itself. Every sub-task draws as if it were alone.
        """
        if not settings.views:
            return lambda step: (self.images, self.answers)
        network = self.gated.network
        pool = self.images.new_empty(settings.views + 1, *self.images.shape)
        pool[0] = self.images
        self._render(pool[1:], settings)
        answered = torch.stack([
            torch.cat([network.logits(part) for part in view.split(settings.chunk)])
            for view in pool
        ])  # fmt: skip
        generator = torch.Generator().manual_seed(settings.seed)
        most = int(self.sizes.max())
        drawn = torch.randint(0, len(pool), (most, settings.steps), generator=generator)
        place = self._place()

        def draw(step: int) -> tuple[Tensor, Tensor]:
            which = drawn[:, step].to(place.device)[place]
            rows = torch.arange(len(which), device=which.device)
            return pool[which, rows], answered[which, rows]

        return draw

    def _place(self) -> Tensor:
        """Return the number of each image within its sub-task."""
        first = self.sizes.cumsum(0) - self.sizes
        return torch.arange(len(self.images), device=first.device) - first[self.task]

    def _render(self, into: Tensor, settings: ChainSettings) -> None:
        """Render the views of all images, ``(views, images, C, H, W)``, normalised."""
        preprocessing = self.gated.network.preprocessing
        kind = Augmentation(settings.views, strength=_STRENGTH)
        for number, place in enumerate(self._place().tolist()):
            x = self.images[number]
            unit = preprocessing.denormalize(x.float())
            seed = settings.seed + _APART * place  # crops of its own for each image
            views = kind(unit, (x.shape[-2], x.shape[-1]), seed=seed)
            into[:, number] = preprocessing.normalize(views).to(x)


def _require_gradients() -> None:
    """Refuse to work where nothing has a gradient.

    Raises
    ------
    InputError
        Within ``torch.inference_mode()``.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("chains need gradients: leave torch.inference_mode() first")


def _require_classes(classes: Sequence[int], most: int) -> None:
    """Refuse classes that there are not.

    Raises
    ------
    InputError
        If there are none, or one is out of range.
    """
    if not classes or not all(isinstance(n, int) and 0 <= n < most for n in classes):
        raise InputError(
            f"classes {list(classes)} of a sub-task: give numbers from 0 to {most - 1}"
        )
