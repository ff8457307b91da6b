"""A federation as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsight.errors import InputError

__all__ = ["FederateReport"]


@dataclass(frozen=True)
class FederateReport:
    """Everything about a federation that a page shows.

    Attributes
    ----------
    network
        What was trained.
    settings
        How.
    classes
        Names, in order.
    clients
        ``images`` of each client, ``counts`` by client and class, ``distance``.
    log
        A row for each round: round, answered, failed, up, down, seconds, loss, sent by layer, and
        where it was measured local, least and global accuracy.
    """

    network: str
    settings: Mapping[str, Any]
    classes: Sequence[str]
    clients: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.log:
            raise InputError("a federation without rounds: there is nothing to show, run some")

    @property
    def last(self) -> Mapping[str, Any]:
        """The last round."""
        return self.log[-1]

    def total(self, way: str) -> int:
        """Bytes that went ``up`` or ``down``, or down for ``judging`` alone."""
        return sum(int(row.get(way, 0)) for row in self.log)

    @property
    def failures(self) -> list[tuple[int, str, str]]:
        """Round, client and reason of replies that were not taken."""
        return [
            (int(row["round"]), client, reason)
            for row in self.log
            for client, reason in row["failed"].items()
        ]
