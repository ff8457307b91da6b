"""What a client keeps between rounds, also through kills and lost replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sparsight.errors import InputError
from sparsight.federated.packing import metadata_of
from sparsight.networks.state import plain_state
from sparsight.storage import replacing

__all__ = ["Kept", "Memory", "read_memory", "write_memory"]


@dataclass(frozen=True)
class Kept:
    """What a client keeps of one round.

    Attributes
    ----------
    round
        Which; 0 before the first.
    tensors
        Its own entries of the network, its variates, what it did not send, what it last got.
    """

    round: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What a client keeps between rounds.

    A reply can be lost, so what a client makes of a round holds only once the server says that it
    took the reply; else the client goes on from where it was before. So the server's variate stays
    the mean of the clients', and a run that is killed goes on as if it had not been.

    Attributes
    ----------
    sure
        What the server has acknowledged.
    tried
        What came of the last round.
    """

    sure: Kept = field(default_factory=Kept)
    tried: Kept | None = None

    @property
    def last(self) -> int:
        """The last round that the client knows of."""
        return self.sure.round if self.tried is None else self.tried.round

    def settled(self, accepted: int) -> Kept:
        """Choose what holds, given the last round that the server took a reply of.

        Raises
        ------
        InputError
            If the server knows of a round that the client does not.
        """
        if self.tried is not None and self.tried.round == accepted:
            return self.tried
        if self.sure.round != accepted:
            raise InputError(
                f"the server took a reply in round {accepted}, this client remembers round "
                f"{self.sure.round}: they are not of one run; start both with their folders, or "
                "both without"
            )
        return self.sure

    def to_bytes(self) -> bytes:
        """Write it as one safetensors file."""
        rounds = [self.sure.round, None if self.tried is None else self.tried.round]
        values = {f"sure/{name}": value for name, value in self.sure.tensors.items()}
        if self.tried is not None:
            values |= {f"tried/{name}": value for name, value in self.tried.tensors.items()}
        found: bytes = save(plain_state(values), {"rounds": json.dumps(rounds)})
        return found

    @classmethod
    def from_bytes(cls, data: bytes) -> Memory:
        """Read it.

        Raises
        ------
        InputError
            If it is damaged.
        """
        try:
            tensors = load(data)
            sure, tried = json.loads(metadata_of(data)["rounds"])
            parts: dict[str, dict[str, Tensor]] = {"sure": {}, "tried": {}}
            for key, value in tensors.items():
                kind, _, name = key.partition("/")
                parts[kind][name] = value
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                "what a client kept is damaged: delete the folder and start again"
            ) from error
        return cls(
            Kept(sure, parts["sure"]), None if tried is None else Kept(tried, parts["tried"])
        )


def _files(folder: Path, client: int) -> list[tuple[int, Path]]:
    """List what a client kept, by round, the last one last."""
    files = [(file.stem.rpartition("-")[2], file) for file in folder.glob(f"client-{client}-*")]
    return sorted((int(n), f) for n, f in files if n.isdigit() and f.suffix == ".safetensors")


def read_memory(folder: Path | None, client: int) -> Memory:
    """Read what a client kept in a folder; a client that never trained kept nothing.

    Raises
    ------
    InputError
        If it is damaged.
    """
    files = [] if folder is None else _files(folder, client)
    if not files:
        return Memory()
    file = files[-1][1]
    try:
        return Memory.from_bytes(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error})") from error


def write_memory(folder: Path | None, client: int, memory: Memory) -> None:
    """Keep it in a folder, a file for each round; then earlier rounds are not needed.

    A client that is late in one round can be at work on the next one already: neither must
    overwrite what the other keeps.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    if folder is None or memory.tried is None:
        return
    file = folder / f"client-{client}-{memory.tried.round}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_bytes(memory.to_bytes())
        for number, former in _files(folder, client):
            if number < memory.tried.round:
                former.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error}): make room, and run it again") from error
