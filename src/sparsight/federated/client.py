"""A client: what it keeps between rounds, how it trains, what it sends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

from sparsight.datasets.pixels import augment, batches, drawn, seeded
from sparsight.errors import InputError, NumericalError
from sparsight.federated.agent import Agent
from sparsight.federated.aggregate import effective_steps, variate_change
from sparsight.federated.data import ClientData
from sparsight.federated.division import Division
from sparsight.federated.memory import Kept, Memory
from sparsight.federated.packing import Payload, pack, unpack
from sparsight.federated.selectors import Seen, choose, selectable
from sparsight.federated.settings import FederatedSettings
from sparsight.networks import Network
from sparsight.networks.classifier import PixelClassifier

__all__ = ["CONTROL", "LOCAL", "Client"]

CONTROL = "control:"
"""What the names of control variates begin with, in messages and in what clients keep."""

LOCAL = "local:"
"""What the names of a client's own entries begin with, in what it keeps."""

_UNSENT, _BASE = "unsent:", "base:"
_WHEN_CHOOSING = 64  # images that selectors look at


class Client:
    """One client of a federation.

    Parameters
    ----------
    number
        Which, from 0.
    network
        What everybody trains; not changed.
    data
        The client's images.
    settings, division
        The same for everybody.
    test
        Images of nobody, to measure on as well.
    agent
        Chooses shares of layers, for the selector of that name.
    """

    def __init__(
        self,
        number: int,
        network: Network,
        data: ClientData,
        settings: FederatedSettings,
        division: Division,
        test: Any = None,
        agent: Agent | None = None,
    ) -> None:
        self.number, self.network, self.data, self.settings = number, network, data, settings
        self.division, self.test, self.agent = division, test, agent

    def train(self, message: bytes, memory: Memory) -> tuple[bytes, Memory]:
        """Train for a round.

        Parameters
        ----------
        message
            What the server sent.
        memory
            What the client keeps.

        Returns
        -------
        tuple
            What it sends, and what it keeps now.

        Raises
        ------
        InputError
            If the message is not one of this federation.
        NumericalError
            If the loss is no longer finite.
        """
        payload, kept = self._receive(message, memory)
        number = int(payload.facts["round"])
        names = self.division.shared
        before = {n: payload.values[n] for n in (*names, *self.division.statistics)}
        server = {n: payload.values[CONTROL + n] for n in names if self.settings.controlled}
        own = {n: kept.tensors.get(CONTROL + n, torch.zeros_like(server[n])) for n in server}
        classifier = self._classifier(payload, kept)
        steps, loss = self._fit(classifier, number, before, server, own)
        state = classifier.model.state_dict()
        after = {name: state[name].detach() for name in before}
        if self.settings.remembers:
            unsent = {n: kept.tensors.get(_UNSENT + n, torch.zeros_like(after[n])) for n in names}
            after |= {name: after[name] + unsent[name] for name in names}
        seen = self._see(classifier, before, after, number)
        masks = {
            name: mask.to(self.network.device)
            for name, mask in choose(self.settings.selector, seen, self.settings.budget).items()
        }
        moved = effective_steps(steps, self.settings.momentum) * self.settings.rate
        facts = {
            "round": number, "client": self.number, "images": len(self.data.train),  # type: ignore[arg-type]
            "steps": steps, "loss": loss,
        }  # fmt: skip
        reply = Payload(after, masks, facts)
        changes = {
            n: variate_change(before[n], after[n], server[n], reply.mask(n), moved) for n in server
        }
        if self.settings.variates == "sent":
            sent = {CONTROL + name: value for name, value in changes.items()}
            told = {CONTROL + name: masks[name] for name in changes if name in masks}
            reply = Payload({**after, **sent}, {**masks, **told}, facts)
        keeps = {LOCAL + name: state[name].detach() for name in self.division.local}
        keeps |= {CONTROL + name: own[name] + change for name, change in changes.items()}
        if self.settings.remembers:
            for name in names:
                rest = (after[name] - before[name]) * ~reply.mask(name)
                keeps[_UNSENT + name] = rest
        if self.settings.downlink < 1:
            keeps |= {_BASE + name: value for name, value in payload.values.items()}
        return pack(reply), Memory(kept, Kept(number, keeps))

    def judge(self, message: bytes, memory: Memory) -> dict[str, float]:
        """Count right answers of the client's network as it is now, see :meth:`network_of`.

        Returns
        -------
        dict
            ``local right``, ``local images``, and of images of nobody, where there are some,
            ``global right``, ``global images``.

        Raises
        ------
        InputError
            If the message is not one of this federation.
        """
        classifier = self._own(message, memory)
        found: dict[str, float] = {}
        for name, data in (("local", self.data.test), ("global", self.test)):
            if data is not None:
                found[f"{name} right"] = self._right(classifier, data)
                found[f"{name} images"] = float(len(data))  # type: ignore[arg-type]
        return found

    def network_of(self, message: bytes, memory: Memory) -> Network:
        """Return the client's network as it is now.

        A client that never trained fits what is its own to its images first: what is the server's
        stays as it is.

        Raises
        ------
        InputError
            If the message is not one of this federation.
        """
        classifier = self._own(message, memory)
        return classifier.network(self.network, f"{self.network.spec} (client {self.number})")

    def _own(self, message: bytes, memory: Memory) -> PixelClassifier:
        payload, kept = self._receive(message, memory)
        classifier = self._classifier(payload, kept)
        if not kept.round:
            self._adapt(classifier)
        return classifier.eval()

    def _receive(self, message: bytes, memory: Memory) -> tuple[Payload, Kept]:
        state = self.network.model.state_dict()
        names = (*self.division.shared, *self.division.statistics)
        like = {name: state[name] for name in names}
        payload = unpack(message, like, ("", CONTROL))
        try:
            kept = memory.settled(int(payload.facts["accepted"]))
            wanted = {CONTROL + name for name in self.division.shared if self._controls(payload)}
            missing = ({*names} | wanted) - set(payload.values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("a message names no round: was it sent by this run?") from error
        if missing:
            raise InputError(f"a message has no {min(missing)}: was it sent by this run?")
        device = self.network.device
        kept = Kept(kept.round, {n: v.to(device) for n, v in kept.tensors.items()})
        if payload.masks:
            values = dict(payload.values)
            for name in payload.masks:
                if _BASE + name not in kept.tensors:
                    raise InputError(
                        f"a message has a part of {name} only, and this client knows no other: "
                        "start it with its folder"
                    )
                mask = payload.mask(name)
                values[name] = torch.where(mask, values[name], kept.tensors[_BASE + name])
            payload = Payload(values, {}, payload.facts)
        return payload, kept

    def _classifier(self, payload: Payload, kept: Kept) -> PixelClassifier:
        """Build the client's network: the server's entries, and its own."""
        classifier = PixelClassifier.of(self.network)
        state = classifier.model.state_dict()
        with torch.no_grad():
            for name in (*self.division.shared, *self.division.statistics):
                state[name].copy_(payload.values[name])
            for name in self.division.local:
                if LOCAL + name in kept.tensors:
                    state[name].copy_(kept.tensors[LOCAL + name])
        return classifier

    def _fit(
        self,
        classifier: PixelClassifier,
        number: int,
        before: Mapping[str, Tensor],
        server: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
    ) -> tuple[int, float]:
        """Train; the steps made, and the mean loss."""
        settings = self.settings
        named = dict(classifier.model.named_parameters())
        shift = {named[name]: server[name] - own[name] for name in server}
        pull = {named[name]: before[name] for name in self.division.shared}
        losses: list[float] = []
        for loss in self._steps(classifier, list(named.values()), number):
            with torch.no_grad():
                for parameter, value in shift.items():
                    if parameter.grad is not None:
                        parameter.grad += value
                if settings.proximal:
                    for parameter, value in pull.items():
                        if parameter.grad is not None:
                            parameter.grad += settings.proximal * (parameter - value)
            losses.append(loss)
        return len(losses), sum(losses) / len(losses)

    def _controls(self, payload: Payload) -> bool:
        """Whether a message is to train under gradient control."""
        return self.settings.controlled and bool(payload.facts.get("trains"))

    def _adapt(self, classifier: PixelClassifier) -> None:
        """Fit what is the client's own, the encoder as it is."""
        named = dict(classifier.model.named_parameters())
        own = [named[name] for name in self.division.local if name in named]
        if not own:
            return
        classifier.requires_grad_(False)
        local = {name.rpartition(".")[0] for name in self.division.local}
        for _ in self._steps(classifier, own, 0, local):
            pass

    def _steps(
        self,
        classifier: PixelClassifier,
        parameters: list[nn.Parameter],
        number: int,
        trained: set[str] | None = None,
    ) -> Iterator[float]:
        """Go through the client's images; after each loss gradients may be changed."""
        settings = self.settings
        classifier.train()
        if trained is not None:  # the others keep their statistics
            for name, module in classifier.model.named_modules():
                module.train(name in trained)
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.SGD(
            parameters, settings.rate, settings.momentum, weight_decay=settings.weight_decay
        )
        device = self.network.device
        for epoch in range(settings.epochs):
            count = len(self.data.train)  # type: ignore[arg-type]
            generator = drawn(settings.seed, 23, number, self.number, epoch)
            order = torch.randperm(count, generator=generator)
            with seeded(device, generator):
                for pixels, labels in batches(self.data.train, settings.batch, order=order):
                    x = augment(pixels, generator) if settings.augment else pixels
                    optimizer.zero_grad()
                    with torch.enable_grad():
                        loss = F.cross_entropy(self._answer(classifier, x), labels.to(device))
                    loss.backward()
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise NumericalError(
                            f"client {self.number} diverged in round {number}, its loss is no "
                            "longer finite: choose a smaller rate"
                        )
                    yield value
                    optimizer.step()

    def _answer(self, classifier: PixelClassifier, x: Tensor) -> Tensor:
        try:
            found: Tensor = classifier(x.to(self.network.device))
        except ValueError as error:  # a normalisation over a batch of one
            raise InputError(
                f"client {self.number} cannot train on a batch of {len(x)} ({error}): give it more "
                "images, larger batches, or group norms"
            ) from error
        return found

    def look(self, message: bytes, memory: Memory) -> Seen:
        """Train for a round, and return what the client knows when it chooses what to send.

        Raises
        ------
        InputError
            If the message is not one of this federation.
        """
        payload, kept = self._receive(message, memory)
        before = {name: payload.values[name] for name in self.division.shared}
        classifier = self._classifier(payload, kept)
        number = int(payload.facts["round"])
        self._fit(classifier, number, before, {}, {})
        state = classifier.model.state_dict()
        return self._see(classifier, before, {n: state[n].detach() for n in before}, number)

    def _see(
        self,
        classifier: PixelClassifier,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        number: int,
    ) -> Seen:
        """Gather what the client knows when it chooses."""
        generator = drawn(self.settings.seed, 29, number, self.number)
        names = selectable({name: after[name] for name in self.division.shared})
        few = self.data.validation
        some = Subset(few, range(min(_WHEN_CHOOSING, len(few))))  # type: ignore[arg-type]
        pixels, labels = next(iter(batches(some, _WHEN_CHOOSING)))
        device = self.network.device
        return Seen(
            {name: before[name] for name in names}, names, classifier.eval(), self.network,
            (pixels.to(device), labels.to(device)), generator, self.agent,
        )  # fmt: skip

    def _right(self, classifier: PixelClassifier, data: Any) -> float:
        device = self.network.device
        right = 0
        for pixels, labels in batches(data, max(self.settings.batch, 256)):
            with torch.no_grad():
                answer = classifier(pixels.to(device)).argmax(1)
            right += int((answer == labels.to(device)).sum())
        return float(right)
