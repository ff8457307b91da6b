"""Mean, spread, skewness and kurtosis of many numbers at once, streamed and merged in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Central moments of samples of ``width`` numbers.

    Sums :math:`M_k = \sum_b (s_b - \mu)^k`, float64, updated batch by batch with the pairwise
    formulas of Chan et al. (1983) and Pébay (2008), so that the order in which parts are merged
    matters to rounding alone.

    Attributes
    ----------
    count
        Samples seen.
    mean, m2, m3, m4
        ``(width,)``, float64, on the CPU.

    Examples
    --------
    >>> import torch
    >>> values = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    >>> found = Moments.of(values[:1]).merge(Moments.of(values[1:]))
    >>> found.mean.tolist(), round(found.std.item(), 3)
    ([3.0], 2.16)
    """

    count: int
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor

    @classmethod
    def none(cls, width: int) -> Moments:
        """Make the moments of no samples at all."""
        return cls(0, *(torch.zeros(width, dtype=torch.float64) for _ in range(4)))

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Take the moments of samples, ``(N, width)``."""
        values = values.detach().to("cpu", torch.float64)
        if not len(values):
            return cls.none(values.shape[1])
        mean = values.mean(0)
        away = values - mean
        square = away.square()
        return cls(len(values), mean, square.sum(0), (square * away).sum(0), square.square().sum(0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples together."""
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"moments of {len(self.mean)} and of {len(other.mean)} numbers: merge statistics "
                "of the same units"
            )
        if not self.count or not other.count:
            return other if not self.count else self
        a, b = self.count, other.count
        n, gap = a + b, other.mean - self.mean
        m2 = self.m2 + other.m2 + gap**2 * a * b / n
        m3 = (
            self.m3
            + other.m3
            + gap**3 * a * b * (a - b) / n**2
            + 3 * gap * (a * other.m2 - b * self.m2) / n
        )
        m4 = (
            self.m4
            + other.m4
            + gap**4 * a * b * (a**2 - a * b + b**2) / n**3
            + 6 * gap**2 * (a**2 * other.m2 + b**2 * self.m2) / n**2
            + 4 * gap * (a * other.m3 - b * self.m3) / n
        )
        return Moments(n, self.mean + gap * b / n, m2, m3, m4)

    @property
    def std(self) -> Tensor:
        """Unbiased standard deviation; zero of fewer than two samples."""
        return (self.m2 / max(self.count - 1, 1)).clamp_min(0).sqrt()

    @property
    def skewness(self) -> Tensor:
        """Third standardised moment; zero where nothing varies."""
        return self._standardised(self.m3, 3)

    @property
    def kurtosis(self) -> Tensor:
        """Fourth standardised moment, 3 for a normal law; zero where nothing varies."""
        return self._standardised(self.m4, 4)

    def _standardised(self, sums: Tensor, power: int) -> Tensor:
        spread = (self.m2 / max(self.count, 1)).sqrt() ** power
        return torch.where(spread > 0, sums / max(self.count, 1) / spread, 0.0)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Lay out for storage."""
        found = {f"{prefix}.{k}": getattr(self, k) for k in ("mean", "m2", "m3", "m4")}
        return {f"{prefix}.count": torch.tensor(self.count), **found}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], prefix: str) -> Moments:
        """Take out of storage what :meth:`tensors` laid out."""
        sums = (tensors[f"{prefix}.{k}"] for k in ("mean", "m2", "m3", "m4"))
        return cls(int(tensors[f"{prefix}.count"]), *sums)
