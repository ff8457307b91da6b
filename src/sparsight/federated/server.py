"""The server: who is asked, what they are sent, what becomes of their replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsight.datasets.pixels import drawn
from sparsight.errors import InputError
from sparsight.federated.aggregate import average, average_steps, effective_steps, variate_change
from sparsight.federated.client import CONTROL
from sparsight.federated.division import Division
from sparsight.federated.packing import Payload, pack, unpack
from sparsight.federated.settings import FederatedSettings
from sparsight.networks import Network
from sparsight.networks.state import write_tensors

__all__ = ["Server"]

_STATE = "server.safetensors"
_MOST = 1e12  # images or steps of a client: more are a mistake, or worse
_SILENT = 3  # rounds in a row


@dataclass
class Server:
    """What the server knows, and one round after the other.

    Attributes
    ----------
    network
        What everybody trains; not changed.
    settings, division
        The same for everybody.
    clients
        How many there are.
    tensors
        The encoder, its running statistics if they are shared, and control variates.
    round
        Rounds done.
    accepted
        By client, the last round that a reply was taken in.
    known
        By client, what it last got; kept where less than everything is sent.
    log
        A row for each round.
    """

    network: Network
    settings: FederatedSettings
    division: Division
    clients: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    round: int = 0
    accepted: dict[int, int] = field(default_factory=dict)
    known: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise InputError(f"{self.clients} clients: give 1 or more")
        if not self.tensors:
            state = self.network.model.state_dict()
            names = (*self.division.shared, *self.division.statistics)
            self.tensors = {name: state[name].detach().clone() for name in names}
            if self.settings.controlled:
                for name in self.division.shared:
                    self.tensors[CONTROL + name] = torch.zeros_like(self.tensors[name])
        self._sent: dict[int, dict[str, Tensor]] = {}

    def asked(self) -> list[int]:
        """Clients that the next round asks, drawn anew each round."""
        count = max(1, round(self.settings.sample * self.clients))
        generator = drawn(self.settings.seed, 31, self.round + 1)
        return sorted(torch.randperm(self.clients, generator=generator)[:count].tolist())

    def message(self, client: int) -> bytes:
        """Write what a client is sent, to train in the next round.

        With a share of rows, those that changed most since the client last heard of them; the
        first time everything.
        """
        return pack(self._payload(client))

    def whole(self, client: int) -> bytes:
        """Write what a client is sent to be judged on: everything that is not its own."""
        tensors = {n: v for n, v in self.tensors.items() if not n.startswith(CONTROL)}
        return pack(Payload(tensors, {}, self._facts(client, trains=False)))

    def _facts(self, client: int, *, trains: bool) -> dict[str, Any]:
        accepted = self.accepted.get(client, 0)
        return {"round": self.round + 1, "accepted": accepted, "trains": trains}

    def _payload(self, client: int) -> Payload:
        known = self.known.get(client)
        masks: dict[str, Tensor] = {}
        values = dict(self.tensors)
        if known is not None:
            for name, value in self.tensors.items():
                if value.ndim < 2:
                    continue
                moved = (value - known[name]).flatten(1).norm(dim=1)
                count = max(1, int(self.settings.downlink * len(value)))
                mask = torch.zeros(len(value), dtype=torch.bool, device=value.device)
                mask[torch.argsort(moved, descending=True, stable=True)[:count]] = True
                masks[name] = mask
                shaped = mask.reshape(-1, *(1,) * (value.ndim - 1))
                values[name] = torch.where(shaped, value, known[name])
        if self.settings.downlink < 1:
            self._sent[client] = values
        return Payload(values, masks, self._facts(client, trains=True))

    def take(
        self,
        replies: Mapping[int, bytes | str],
        down: int,
        seconds: float,
    ) -> dict[str, Any]:
        """Make the next state of what clients sent; a round nobody answers changes nothing.

        Parameters
        ----------
        replies
            By client that was asked; of those that failed or came too late the reason.
        down
            Bytes that were sent to them.
        seconds
            How long the round took.

        Returns
        -------
        dict
            The row of the log: round, who answered and who did not, bytes, mean loss, what was
            sent of each layer.
        """
        taken: dict[int, Payload] = {}
        reasons: dict[str, str] = {}
        up = 0
        for client, reply in sorted(replies.items()):
            if isinstance(reply, str):
                reasons[str(client)] = reply
                continue
            up += len(reply)
            try:
                taken[client] = self._read(client, reply)
            except InputError as error:
                reasons[str(client)] = str(error)
        before = dict(self.tensors)
        if taken:
            self._average({c: self._rebased(c, p) for c, p in taken.items()}, before)
        for client in taken:
            self.accepted[client] = self.round + 1
            if client in self._sent:
                self.known[client] = self._sent[client]
        self._sent.clear()
        self.round += 1
        images = sum(float(p.facts["images"]) for p in taken.values())
        row: dict[str, Any] = {
            "round": self.round, "answered": sorted(taken), "failed": reasons, "up": up,
            "down": down, "seconds": seconds, "sent": self._shares(taken),
        }  # fmt: skip
        if taken:
            row["loss"] = sum(p.facts["loss"] * p.facts["images"] for p in taken.values()) / images
        self.log.append(row)
        return row

    def _read(self, client: int, reply: bytes) -> Payload:
        names = (*self.division.shared, *self.division.statistics)
        like = {name: self.tensors[name] for name in names}
        payload = unpack(reply, like, ("", CONTROL))
        try:
            facts = {
                name: kind(payload.facts[name])
                for name, kind in (
                    ("round", int), ("client", int), ("images", int), ("steps", int),
                    ("loss", float),
                )
            }  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError("a reply says nothing of itself: was it sent by this run?") from error
        plain = 0 < facts["images"] < _MOST and 0 < facts["steps"] < _MOST
        finite = abs(facts["loss"]) < _MOST
        same = (facts["round"], facts["client"]) == (self.round + 1, client)
        if not (same and plain and finite):
            raise InputError(
                f"a reply of client {facts['client']} in round {facts['round']} came from client "
                f"{client} in round {self.round + 1}: it is left out"
            )
        if set(names) - set(payload.values):
            raise InputError("a reply is not complete: was it sent by this run?")
        return Payload(payload.values, payload.masks, facts)

    def _rebased(self, client: int, payload: Payload) -> Payload:
        """Put what a client learnt on the server's weights, where it began with older ones."""
        got = self._sent.get(client)
        if got is None:
            return payload
        values = {
            name: value if name.startswith(CONTROL) else self.tensors[name] + (value - got[name])
            for name, value in payload.values.items()
        }
        return Payload(values, payload.masks, payload.facts)

    def _average(self, taken: Mapping[int, Payload], before: Mapping[str, Tensor]) -> None:
        settings = self.settings
        images = {client: float(p.facts["images"]) for client, p in taken.items()}
        steps = {
            client: effective_steps(int(p.facts["steps"]), settings.momentum)
            for client, p in taken.items()
        }
        shared = {name: before[name] for name in self.division.shared}
        plain = [(images[client], payload) for client, payload in taken.items()]
        if settings.normalised:
            self.tensors |= average_steps(
                shared, [(images[c], steps[c], payload) for c, payload in taken.items()]
            )
        else:
            self.tensors |= average(shared, plain, everybody=settings.remembers)
        statistics = {name: before[name] for name in self.division.statistics}
        self.tensors |= average(statistics, plain)
        if not settings.controlled:
            return
        for name, old in shared.items():
            control = before[CONTROL + name]
            total = torch.zeros_like(control, dtype=torch.float64)
            for client, payload in taken.items():
                change = payload.values.get(CONTROL + name)
                if change is None:
                    known = self._sent.get(client, before)[CONTROL + name]
                    change = variate_change(
                        old, payload.values[name], known, payload.mask(name),
                        steps[client] * settings.rate,
                    )  # fmt: skip
                total += change
            self.tensors[CONTROL + name] = control + (total / self.clients).to(old.dtype)

    def _shares(self, taken: Mapping[int, Payload]) -> dict[str, float]:
        """Mean share of the values of each tensor that clients sent."""
        if not taken:
            return {}
        return {
            name: sum(float(p.mask(name).float().mean()) for p in taken.values()) / len(taken)
            for name in self.division.shared
            if self.tensors[name].ndim >= 2
        }

    @property
    def silent(self) -> bool:
        """Whether nobody has answered yet, or nobody for several rounds."""
        return not self.accepted or not any(row["answered"] for row in self.log[-_SILENT:])

    def judged(self, counts: Mapping[int, Mapping[str, float]], bytes_: int) -> dict[str, float]:
        """Add accuracies to the last row: the mean over clients of what they counted.

        Parameters
        ----------
        counts
            By client, see :meth:`Client.judge`; of those that could count.
        bytes_
            That were sent to them for it.

        Returns
        -------
        dict
            ``local``, on the clients' own images; ``global``, on images of nobody; the worst
            client's ``least``; ``judging``, the bytes.
        """
        found: dict[str, float] = {"judging": bytes_}
        for name in ("local", "global"):
            shares = [
                own[f"{name} right"] / own[f"{name} images"]
                for own in counts.values()
                if own.get(f"{name} images")
            ]
            if shares:
                found[name] = sum(shares) / len(shares)
                if name == "local":
                    found["least"] = min(shares)
        if self.log:
            self.log[-1] |= found
        return found

    def save(self, folder: Path, digest: str) -> None:
        """Keep the state in the place of the former one.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        tensors = {f"tensors/{name}": value for name, value in self.tensors.items()}
        for client, own in self.known.items():
            tensors |= {f"known/{client}/{name}": value for name, value in own.items()}
        facts = {
            "round": self.round, "accepted": list(self.accepted.items()), "log": self.log,
            "digest": digest,
        }  # fmt: skip
        write_tensors(folder / _STATE, tensors, {"facts": json.dumps(facts)})

    def resume(self, folder: Path, digest: str) -> bool:
        """Take up the state in a folder, if there is one.

        Raises
        ------
        InputError
            If it is damaged, or of another federation.
        """
        if not (folder / _STATE).exists():
            return False
        try:
            with safe_open(folder / _STATE, "pt") as held:
                facts = json.loads(held.metadata()["facts"])
                stored = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            same = facts["digest"] == digest
            if same:
                device = self.network.device
                tensors, known = dict(self.tensors), dict(self.known)
                for key, value in stored.items():
                    kind, _, name = key.partition("/")
                    if kind == "tensors":
                        tensors[name] = value.to(device)
                    else:
                        client, _, name = name.partition("/")
                        known.setdefault(int(client), {})[name] = value.to(device)
                accepted = {int(client): int(last) for client, last in facts["accepted"]}
                self.round, self.log = int(facts["round"]), list(facts["log"])
                # Nothing is taken from a state that turns out to be damaged.
                self.tensors, self.known, self.accepted = tensors, known, accepted
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"the federation in {folder} is damaged: delete it and start again"
            ) from error
        if not same:
            raise InputError(
                f"{folder} holds a federation of another network, other images or settings: choose "
                "another folder, or replace it (--overwrite)"
            )
        return True
