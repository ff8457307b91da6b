"""How far two sets agree, and how far sets drawn at random would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

__all__ = ["Overlap", "chance_overlap"]

_FAR = 10  # standard deviations; what lies beyond has no weight in float64


def _intersection(things: int, first: int, second: int) -> tuple[int, Tensor]:
    """Distribution of the size of an intersection: the least size looked at, and probabilities."""
    mean = first * second / things
    spread = mean * (things - first) * (things - second) / (things * max(things - 1, 1))
    reach = _FAR * (sqrt(spread) + 2)  # not less than 20: small means have long tails
    least = max(0, first + second - things, int(mean - reach))
    most = min(first, second, int(mean + reach))
    size = torch.arange(least, most + 1, dtype=torch.float64)
    parts = (size, first - size, second - size, things - first - second + size)
    ways = -torch.stack([torch.lgamma(part + 1) for part in parts]).sum(0)
    return least, ways.softmax(0)


def chance_overlap(sizes: Iterable[tuple[int, int, int]]) -> float:
    r"""Jaccard overlap that random sets of given sizes have in expectation.

    Parameters
    ----------
    sizes
        For each place in which the sets are drawn by themselves: how many things there are, how
        many are in the first set, how many in the second.

    Returns
    -------
    float
        :math:`\mathrm E[I/(s-I)]` for the size :math:`I` of the intersection, a sum of
        hypergeometric ones, and the sum :math:`s` of the sizes of both sets.

    Examples
    --------
    >>> round(chance_overlap([(1000, 100, 100)]), 4)
    0.0529
    """
    drawn = [size for size in sizes if size[1] or size[2]]
    if not drawn:
        return 1.0
    each = [_intersection(*size) for size in drawn]
    # The distribution of a sum is the convolution of distributions: a product of their spectra.
    length = sum(len(chances) - 1 for _, chances in each) + 1
    padded = 1 << (length - 1).bit_length()
    spectrum = torch.ones(padded // 2 + 1, dtype=torch.complex128)
    for _, chances in each:
        spectrum *= torch.fft.rfft(chances, n=padded)
    chances = torch.fft.irfft(spectrum, n=padded)[:length]
    both = sum(least for least, _ in each) + torch.arange(length, dtype=torch.float64)
    either = sum(first + second for _, first, second in drawn) - both
    return min(1.0, float((chances * both / either).sum()))


@dataclass(frozen=True)
class Overlap:
    """How far two sets agree.

    Attributes
    ----------
    total
        Things that could be in the sets.
    a, b, both
        Things in the first set, in the second, and in both.
    chance
        Jaccard overlap to expect of random sets of these sizes, see :func:`chance_overlap`.

    Examples
    --------
    >>> a = torch.arange(100) < 20
    >>> b = torch.arange(100) % 10 < 2
    >>> found = Overlap.of(a, b)
    >>> found.both, round(found.jaccard, 3), round(found.chance, 3), round(found.corrected, 3)
    (4, 0.111, 0.113, -0.003)
    """

    total: int
    a: int
    b: int
    both: int
    chance: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Overlap:
        """Compare two boolean masks of one shape."""
        sizes = (a.numel(), int(a.sum()), int(b.sum()))
        return cls(*sizes, int((a & b).sum()), chance_overlap([sizes]))

    @classmethod
    def together(cls, parts: Sequence[Overlap]) -> Overlap:
        """Sum the overlaps of several places; chance keeps the sizes in each."""
        total, a, b, both = (
            sum(getattr(part, name) for part in parts) for name in ("total", "a", "b", "both")
        )
        chance = chance_overlap((part.total, part.a, part.b) for part in parts)
        return cls(total, a, b, both, chance)

    @property
    def jaccard(self) -> float:
        """Intersection over union; 1 for two empty sets."""
        union = self.a + self.b - self.both
        return self.both / union if union else 1.0

    @property
    def corrected(self) -> float | None:
        """Overlap beyond chance: 1 for equal sets, 0 for chance, ``None`` where both are whole."""
        return (self.jaccard - self.chance) / (1 - self.chance) if self.chance < 1 else None

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values."""
        return asdict(self) | {"jaccard": self.jaccard, "corrected": self.corrected}
