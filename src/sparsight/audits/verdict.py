"""Verdicts on classes: whether more of their images are flagged than those of a clean network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsight.audits.calibration import Calibration

__all__ = ["ClassVerdict", "judge"]

_CHANCE = 0.01  # of calling any class of a clean network suspicious
_FEWEST = 2  # flagged images that a class needs


@dataclass(frozen=True)
class ClassVerdict:
    """What is to be thought of a class.

    Attributes
    ----------
    index, label
        Which.
    images, flagged
        Images that are answered with it, and how many of them hang on a cue that works anywhere.
    chance
        Bound of the chance that a clean network has as many,
        :meth:`Calibration.chance`.
    enough
        Whether there are enough images: all flagged, they would make it suspicious.
    suspicious
        Whether the chance is less than 1 % over all classes with enough images.
    """

    index: int
    label: str
    images: int
    flagged: int
    chance: float
    enough: bool
    suspicious: bool


def judge(
    answers: Sequence[int],
    flags: Sequence[bool],
    calibration: Calibration,
    label: Callable[[int], str] = str,
) -> tuple[ClassVerdict, ...]:
    """Judge classes by which of their images are suspicious.

    Parameters
    ----------
    answers
        To each image.
    flags
        Whether it is suspicious.
    calibration
        How often images of clean networks are.
    label
        Names a class.

    Returns
    -------
    tuple of ClassVerdict
        The least likely of a clean network first.

    Examples
    --------
    >>> known = Calibration(0.25, 16, 0.5, ((0, 50), (1, 50)), "an example")
    >>> worst, other = judge([3] * 9 + [5], [True] * 9 + [False], known)
    >>> worst.index, worst.suspicious, other.enough
    (3, True, False)
    """
    counts = Counter(answers)
    flagged = Counter(answer for answer, flag in zip(answers, flags, strict=True) if flag)
    best = [calibration.chance(count, count) for count in counts.values()]
    # Only classes that could be called suspicious at all share the chance of a false alarm.
    share = next(
        _CHANCE / n for n in range(1, len(best) + 1) if sum(b < _CHANCE / n for b in best) <= n
    )
    found = []
    for index, count in counts.items():
        chance = calibration.chance(flagged[index], count) if flagged[index] else 1.0
        enough = count >= _FEWEST and calibration.chance(count, count) < share
        sure = enough and flagged[index] >= _FEWEST and chance < share
        found.append(ClassVerdict(index, label(index), count, flagged[index], chance, enough, sure))
    return tuple(sorted(found, key=lambda one: (one.chance, one.index)))
