"""A hardened network as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsight.errors import InputError

__all__ = ["HardenReport"]


@dataclass(frozen=True)
class HardenReport:
    """Everything about a hardening that a page shows.

    Attributes
    ----------
    network
        What it was made of.
    settings
        How.
    reached
        Whether rates that were learnt met the budget by themselves.
    kept
        Name, how many are kept, of how many, by layer or channels.
    log
        A row for each epoch: stage, epoch, loss, accuracies, and while masks are learnt the share
        kept and the rates.
    sizes
        By what was measured (before, masked, cut): parameters, nonzero, products, file, seconds.
    robustness
        Images, epsilon, and by attack accuracy, interval and balanced accuracy; if measured.
    """

    network: str
    settings: Mapping[str, Any]
    reached: bool
    kept: Sequence[tuple[str, int, int]]
    log: Sequence[Mapping[str, Any]]
    sizes: Mapping[str, Mapping[str, Any]]
    robustness: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.kept:
            raise InputError("a hardening without layers: there is nothing to show, give some")

    @property
    def share(self) -> float:
        """Share of weights or channels that is left."""
        return sum(kept for _, kept, _ in self.kept) / sum(size for _, _, size in self.kept)
