r"""Second moments of layer inputs, accumulated batch by batch.

For a layer that multiplies the columns of ``X`` (one column per output position), every solver
needs only :math:`S = X X^\top`, summed over positions. Three exact ways to get it:

* **dense**: write the columns out (a view, for pointwise layers) and multiply;
* **shifts**: for a stride-1 convolution the block of ``S`` for taps ``a`` and ``b`` depends on
  ``b - a`` alone, up to the image border. For a 3x3 kernel that is 13 correlations instead of
  81 blocks, plus cheap border strips, and nothing is unfolded;
* **samples**: with far fewer positions than columns (a classifier's last layers), the columns
  themselves are kept, and solvers work with ``X`` instead of ``S``.

Sums are float32 (float64 for float64 inputs), whatever the input's precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.networks import ConvGeometry, LayerCall
from sparsight.traces.solvers import LowRank, Moments

__all__ = ["Moment", "gram", "moment_for"]

Region = tuple[range, range]

_SYMMETRIC_FROM = 512  # columns above which half of a Gram matrix is worth four products
_SAMPLES_BELOW = 4  # columns per sample from which samples are cheaper than their Gram matrix
_DENSE_SHARE = 0.62  # share of a Gram matrix that `gram` computes


def gram(x: Tensor) -> Tensor:
    """Product ``x.T @ x`` of ``(positions, columns)``, computing little more than half of it.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(5, 3)
    >>> torch.allclose(gram(x), x.T @ x)
    True
    """
    columns = x.shape[1]
    if columns < _SYMMETRIC_FROM:
        return x.t() @ x
    step = -(-columns // 4)
    out = x.new_empty(columns, columns)
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        strip = x[:, start:stop].t() @ x[:, start:]
        out[start:stop, start:] = strip
        out[stop:, start:stop] = strip[:, stop - start :].t()
    return out


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class Moment(ABC):
    """Sum of ``X X^T`` over all positions seen so far.

    Attributes
    ----------
    positions
        How many columns of ``X`` went in.
    """

    positions: int = 0

    @abstractmethod
    def add(self, call: LayerCall) -> None:
        """Take in the input of one call."""

    @abstractmethod
    def result(self) -> Moments:
        """Return ``S``, ``(groups, columns, columns)``, or the samples behind it."""


def moment_for(call: LayerCall, views: int) -> Moment:
    """Choose the cheapest exact moment for a layer.

    Parameters
    ----------
    call
        The layer's first call; its input holds one or more views.
    views
        How many views there will be in all.
    """
    geometry = call.geometry
    if call.matrix.groups == 1 and call.matrix.block == 1:
        positions = call.output.numel() // call.matrix.units * views // len(call.batched)
        if positions * _SAMPLES_BELOW <= call.matrix.columns:
            return SampleMoment()
    if (
        geometry is None
        or len(geometry.kernel) != 2
        or call.matrix.groups > 1
        or prod(geometry.kernel) == 1
        or prod(geometry.stride) > 1
    ):
        return DenseMoment()
    shifts = ShiftMoment(geometry, (call.batched.shape[2], call.batched.shape[3]))
    dense = _DENSE_SHARE * prod(geometry.kernel) ** 2 * prod(shifts.output)
    return shifts if shifts.cost < dense else DenseMoment()


class DenseMoment(Moment):
    """Columns are made explicit, one batch at a time."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def add(self, call: LayerCall) -> None:
        """Take in the input of one call."""
        x = _positions_first(call)
        self.positions += x.shape[1]
        now = gram(x[0])[None] if x.shape[0] == 1 else x.transpose(1, 2) @ x
        self._sum = now if self._sum is None else self._sum.add_(now)

    def result(self) -> Tensor:
        """Return ``S``, shape ``(groups, columns, columns)``."""
        assert self._sum is not None, "no call was added"
        return self._sum


class SampleMoment(Moment):
    """The columns themselves."""

    def __init__(self) -> None:
        self._samples: list[Tensor] = []

    def add(self, call: LayerCall) -> None:
        """Take in the input of one call."""
        x = _positions_first(call)
        self.positions += x.shape[1]
        self._samples.append(x.clone())

    def result(self) -> LowRank:
        """Return the samples, ``(1, columns, positions)``."""
        return LowRank(torch.cat(self._samples, 1).mT)


def _positions_first(call: LayerCall) -> Tensor:
    """Columns of a call as ``(groups, positions, columns)``."""
    matrix, geometry = call.matrix, call.geometry
    if geometry is None:
        return _wide(call.batched).reshape(1, -1, matrix.columns)
    if geometry.pointwise and matrix.groups == 1:
        steps = tuple(slice(None, None, s) for s in geometry.stride)
        x = call.batched[(slice(None), slice(None), *steps)]
        return _wide(x.movedim(1, -1)).reshape(1, -1, matrix.columns)
    if matrix.groups == 1 and len(geometry.kernel) == 2:
        return _unfold_channels_last(_wide(call.batched), geometry)[None]
    return _wide(call.columns()).transpose(1, 2)


def _unfold_channels_last(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Unfold ``(N, C, H, W)`` to ``(N * positions, C * taps)``, channel-major, by slicing."""
    height, width = geometry.output_size(x.shape[2:])
    (top, bottom), (left, right) = geometry.padding
    x = F.pad(x, (left, right, top, bottom)).movedim(1, -1)
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    taps = []
    for i, j in product(range(kh), range(kw)):
        rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
        columns = slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
        taps.append(x[:, rows, columns])
    return torch.stack(taps, -1).reshape(x.shape[0] * height * width, -1)


class ShiftMoment(Moment):
    """Stride-1 convolutions: one correlation per offset, corrected at the border.

    With ``o_a`` the offset of tap ``a`` in the zero-padded frame ``P`` and ``d = o_b - o_a``,

        S_ab = sum over q in [o_a, o_a + output size) of P[q] P[q + d]^T.

    Let ``M`` be the rows (columns) that are real and whose partner ``d`` further is real too,
    and ``E`` those of them outside the window of ``a``: a border strip, often empty. By
    inclusion and exclusion over rows and columns

        S_ab = C(M x M) - C(E x M) - C(M x E) + C(E x E),

    where ``C(M x M)``, the same for all taps with equal ``d``, is one product of the flattened
    frame with itself shifted by ``d``: what wraps around meets zeros of the padding.
    """

    def __init__(self, geometry: ConvGeometry, size: tuple[int, int]) -> None:
        self.geometry = geometry
        self.size = size
        self.output = geometry.output_size(size)
        self.reach = tuple(
            (k - 1) * d for k, d in zip(geometry.kernel, geometry.dilation, strict=True)
        )
        self._recipe = [
            (a, b, difference, list(self._regions(offset, difference)))
            for a, b, offset, difference in self._pairs()
        ]
        self._sums: dict[tuple[tuple[int, int], Region], Tensor] = {}

    @property
    def cost(self) -> int:
        """Positions summed per image, over all correlations."""
        wanted = {(d, region) for _, _, d, terms in self._recipe for _, region in terms}
        return sum(len(rows) * len(columns) for _, (rows, columns) in wanted)

    def _pairs(self) -> Iterator[tuple[int, int, tuple[int, int], tuple[int, int]]]:
        """Tap pairs ``(a, b, offset of a, difference)``, b not before a in scan order."""
        (kh, kw), (dh, dw) = self.geometry.kernel, self.geometry.dilation
        offsets = [(i * dh, j * dw) for i, j in product(range(kh), range(kw))]
        for a, (ya, xa) in enumerate(offsets):
            for b, (yb, xb) in enumerate(offsets[a:], a):
                yield a, b, (ya, xa), (yb - ya, xb - xa)

    def _meeting(self, axis: int, difference: int) -> range:
        first, length = self.geometry.padding[axis][0], self.size[axis]
        return range(max(first, first - difference), min(first, first - difference) + length)

    def _outside(self, axis: int, offset: int, difference: int) -> list[range]:
        meeting = self._meeting(axis, difference)
        before = range(meeting.start, min(offset, meeting.stop))
        after = range(max(offset + self.output[axis], meeting.start), meeting.stop)
        return [strip for strip in (before, after) if len(strip)]

    def _regions(
        self, offset: tuple[int, int], difference: tuple[int, int]
    ) -> Iterator[tuple[int, Region]]:
        rows, columns = (self._meeting(axis, difference[axis]) for axis in (0, 1))
        if not len(rows) or not len(columns):
            return
        above, beside = (self._outside(axis, offset[axis], difference[axis]) for axis in (0, 1))
        yield 1, (rows, columns)
        yield from ((-1, (strip, columns)) for strip in above)
        yield from ((-1, (rows, strip)) for strip in beside)
        yield from ((1, corner) for corner in product(above, beside))

    def add(self, call: LayerCall) -> None:
        """Take in the input of one call."""
        (top, bottom), (left, right) = self.geometry.padding
        below = max(bottom, self.reach[0] - top)
        beyond = max(right, self.reach[1] - left)
        frame = F.pad(_wide(call.batched).movedim(1, -1), (0, 0, left, beyond, top, below))
        self.positions += frame.shape[0] * prod(self.output)
        done: set[tuple[tuple[int, int], Region]] = set()
        for _, _, difference, terms in self._recipe:
            for index, (_, region) in enumerate(terms):
                key = (difference, region)
                if key not in done:
                    done.add(key)
                    pair = _shifted(frame, difference) if index == 0 else _strip(frame, *key)
                    here, there = pair
                    if key in self._sums:
                        self._sums[key].addmm_(here.t(), there)
                    else:
                        self._sums[key] = here.t() @ there

    def result(self) -> Tensor:
        """Return ``S``, shape ``(1, columns, columns)``."""
        some = next(iter(self._sums.values()))
        channels, taps = some.shape[0], prod(self.geometry.kernel)
        out = some.new_zeros(taps, taps, channels, channels)
        for a, b, difference, terms in self._recipe:
            for sign, region in terms:
                out[a, b].add_(self._sums[difference, region], alpha=sign)
            if b > a:
                out[b, a] = out[a, b].t()
        return out.permute(2, 0, 3, 1).reshape(1, channels * taps, channels * taps)


def _shifted(frame: Tensor, difference: tuple[int, int]) -> tuple[Tensor, Tensor]:
    flat = frame.reshape(-1, frame.shape[-1])
    shift = difference[0] * frame.shape[2] + difference[1]
    return flat[: flat.shape[0] - shift], flat[shift:]


def _strip(frame: Tensor, difference: tuple[int, int], region: Region) -> tuple[Tensor, Tensor]:
    (rows, columns), (dy, dx) = region, difference
    here = frame[:, rows.start : rows.stop, columns.start : columns.stop]
    there = frame[:, rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
    channels = frame.shape[-1]
    return here.reshape(-1, channels), there.reshape(-1, channels)
