"""Which weights may be kept together: single ones, whole kernels, whole inputs, or N of every M.

A pattern cuts a matrix ``(rows, columns)`` into units that are kept or pruned as a whole. What a
unit's removal costs is the sum over its weights, so any additive score serves, such as
:math:`W_{ij}^2 S_{jj}`, the squared output error of removing weight ``ij`` alone.

==========  =====================================================  =========================
pattern     unit                                                   units compete within
==========  =====================================================  =========================
``weight``  one weight                                             the group
``kernel``  a row's ``taps`` columns of one input channel          the group
``input``   an input channel: its ``taps`` columns in all rows     the group
``N:M``     one weight, at most N in every M consecutive columns   these M columns of a row
==========  =====================================================  =========================

Columns are channel-major: the taps of a channel are consecutive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.errors import InputError, NumericalError

__all__ = ["Pattern", "parse_pattern", "select"]

_KINDS = ("weight", "kernel", "input")
_MOST = 64  # columns in a run: each is compared with every other


@dataclass(frozen=True)
class Pattern:
    """What is kept or pruned as a whole.

    Attributes
    ----------
    kind
        ``weight``, ``kernel``, ``input``, or ``N:M`` with numbers for N and M.

    Raises
    ------
    InputError
        For any other text, also N that is not between 1 and M - 1, and M above 64.

    Examples
    --------
    >>> Pattern("2:4").run
    (2, 4)
    >>> Pattern("2:4").sparsity
    0.5
    """

    kind: str

    def __post_init__(self) -> None:
        if self.run is None:
            if self.kind not in _KINDS:
                raise InputError(
                    f"unknown pattern {self.kind!r}: choose weight, kernel, input, or N:M such "
                    "as 2:4"
                )
        elif not 0 < self.run[0] < self.run[1] <= _MOST:
            raise InputError(
                f"pattern {self.kind!r} cannot be kept: N must be at least 1 and less than M, "
                f"and M at most {_MOST}"
            )

    @property
    def run(self) -> tuple[int, int] | None:
        """N and M of ``N:M``, None for other patterns."""
        match = re.fullmatch(r"([0-9]+):([0-9]+)", self.kind)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def sparsity(self) -> float | None:
        """The sparsity that the pattern fixes, ``1 - N/M``; None where it can be chosen."""
        return None if self.run is None else 1 - self.run[0] / self.run[1]


def parse_pattern(text: str) -> Pattern:
    """Read a pattern as a user writes it, in any case and with spaces around it.

    Raises
    ------
    InputError
        If there is no such pattern.

    Examples
    --------
    >>> parse_pattern(" Kernel ")
    Pattern(kind='kernel')
    >>> parse_pattern("4:2")
    Traceback (most recent call last):
    sparsight.errors.InputError: pattern '4:2' cannot be kept: N must be at least 1 and less \
than M, and M at most 64
    """
    return Pattern(text.strip().lower())


def select(score: Tensor, sparsity: float | None, pattern: Pattern, taps: int = 1) -> Tensor:
    """Mark the weights to keep: the units whose removal would cost most.

    Parameters
    ----------
    score
        What removing each weight costs, ``(groups, rows, columns)``, not negative and finite. An
        input that is always zero has zeros, and so goes before all that cost anything.
    sparsity
        Share of units to prune in each group: of ``n`` units exactly ``round(sparsity * n)``,
        halves to the even number. For ``N:M`` give None, or what N:M fixes.
    pattern
        What is kept or pruned as a whole.
    taps
        Columns of one input channel; 1 for layers without a kernel. Without meaning for ``weight``
        and ``N:M``.

    Returns
    -------
    Tensor
        True where a weight is kept, shape of ``score``. Of equal units the one with the lower
        index is kept. With ``N:M``, exactly N of each run of M columns are kept, counted from the
        first column of a row; of a last run of L < M columns ``ceil(N * L / M)``, so that no
        output loses its only weight.

    Raises
    ------
    InputError
        A sparsity outside 0 to 1, missing, or not what the pattern fixes; taps that do not divide
        the columns.
    NumericalError
        Scores that are negative, infinite or NaN.

    Examples
    --------
    >>> import torch
    >>> score = torch.tensor([[[4.0, 0.0, 1.0, 2.0], [0.0, 5.0, 1.0, 1.0]]])
    >>> select(score, 0.5, Pattern("weight")).int()
    tensor([[[1, 0, 1, 1],
             [0, 1, 0, 0]]], dtype=torch.int32)
    >>> select(score, 0.5, Pattern("kernel"), taps=2).int()
    tensor([[[1, 1, 0, 0],
             [1, 1, 0, 0]]], dtype=torch.int32)
    >>> select(score, None, Pattern("1:2")).int()
    tensor([[[1, 0, 0, 1],
             [0, 1, 1, 0]]], dtype=torch.int32)
    """
    least, most = score.aminmax()
    if not 0 <= float(least) <= float(most) < torch.inf:
        raise NumericalError("scores are negative, infinite or NaN: look for NaN in the moments")
    share = pattern.sparsity if sparsity is None else sparsity
    if share is None or not 0 <= share <= 1:
        raise InputError(f"sparsity {sparsity} of a pattern: it must be given and lie in 0 to 1")
    if pattern.run is not None:
        if abs(share - (1 - pattern.run[0] / pattern.run[1])) > 1e-9:
            raise InputError(
                f"pattern {pattern.kind!r} prunes a fixed share, not {sparsity}: leave the "
                "sparsity out, or choose another pattern"
            )
        return _in_runs(score, *pattern.run)
    if pattern.kind == "weight":
        return _largest(score.flatten(1), share).reshape(score.shape)
    if score.shape[2] % taps:
        raise InputError(
            f"{score.shape[2]} columns are no whole number of kernels: taps {taps} must divide them"
        )
    channels = score.unflatten(2, (-1, taps)).sum(3, dtype=torch.float64)
    if pattern.kind == "input":
        keep = _largest(channels.sum(1), share)[:, None].expand(channels.shape)
    else:
        keep = _largest(channels.flatten(1), share).reshape(channels.shape)
    return keep.repeat_interleave(taps, 2)


def _largest(score: Tensor, sparsity: float) -> Tensor:
    """Mark all but the ``round(sparsity * units)`` smallest of ``(groups, units)``."""
    units = score.shape[1]
    pruned = round(sparsity * units)
    if pruned in (0, units):
        return torch.full_like(score, pruned == 0, dtype=torch.bool)
    # Sorting would settle ties as well, and take ten times as long.
    border = score.kthvalue(pruned, dim=1, keepdim=True).values
    keep, equal = score > border, score == border
    free = units - pruned - keep.sum(1, keepdim=True)
    return keep | (equal & (equal.cumsum(1, dtype=torch.int32) <= free))


def _in_runs(score: Tensor, kept: int, width: int) -> Tensor:
    """Mark the largest ``kept`` in every ``width`` consecutive columns."""
    columns = score.shape[2]
    runs = -(-columns // width)
    last = columns - (runs - 1) * width
    padded = torch.nn.functional.pad(score, (0, runs * width - columns), value=-1)
    # The place within a run comes first, so that comparisons run over all runs at once.
    place = padded.unflatten(2, (runs, width)).movedim(3, 0).contiguous()
    larger = torch.zeros(place.shape, dtype=torch.uint8, device=score.device)
    for now in range(width - 1):
        before = place[now] >= place[now + 1 :]
        larger[now + 1 :] += before
        larger[now] += (~before).sum(0, dtype=torch.uint8)
    keep = larger < kept
    keep[..., -1] = larger[..., -1] < -(-kept * last // width)
    return keep.movedim(0, 3).flatten(2)[..., :columns]
