"""What is suspicious: a threshold, and how often patches of clean networks reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsight.errors import InputError
from sparsight.robust.evaluate import wilson
from sparsight.storage import read_manifest, save_report

if TYPE_CHECKING:
    from sparsight.audits.result import Audit

__all__ = ["Calibration", "calibrate"]

_KIND, _SCHEMA = "audit-calibration", 1
_SHIPPED = "calibration.json"
_ALIKE = 0.1  # at least: how much alike images of one class are flagged; few flags tell it badly


@dataclass(frozen=True)
class Calibration:
    """What is suspicious, and how often a clean network's images are called so.

    Attributes
    ----------
    side
        Of the patch, as a share of the image's.
    hosts
        Images that each patch is tried on.
    threshold
        Share of those that a patch must flip.
    groups
        Of each clean network and class: how many images were flagged, by the threshold that the
        other networks give, and of how many.
    source
        What it was measured on.
    """

    side: float
    hosts: int
    threshold: float
    groups: tuple[tuple[int, int], ...]
    source: str

    def __post_init__(self) -> None:
        if not (0 < self.side <= 1 and 0 < self.threshold <= 1 and self.hosts > 0):
            raise InputError(
                f"a patch of side {self.side}, {self.hosts} hosts, a threshold of "
                f"{self.threshold}: give shares in (0, 1], and hosts"
            )
        if not self.groups or not all(0 <= k <= n and n > 0 for k, n in self.groups):
            raise InputError(
                f"groups of flagged images and images, {list(self.groups)}: give counts, of one "
                "image or more"
            )

    @classmethod
    def shipped(cls) -> Calibration:
        """Read the one that comes along, see ``benchmarks/audit_study.py``."""
        return cls.load(Path(str(files("sparsight.audits") / _SHIPPED)))

    @classmethod
    def load(cls, file: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If it is missing, or no calibration.
        """
        file = Path(file)
        about = read_manifest(file.parent, file.name, _KIND, _SCHEMA)
        try:
            return cls.of(about)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged ({error}): make the calibration again") from error

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Calibration:
        """Take what :meth:`describe` gave."""
        groups = tuple((int(flagged), int(images)) for flagged, images in plain["groups"])
        return cls(plain["side"], plain["hosts"], plain["threshold"], groups, plain["source"])

    def save(self, file: str | Path) -> Path:
        """Write it as one JSON file; what is there is replaced.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        return save_report(file, _KIND, _SCHEMA, self.describe())

    def describe(self) -> dict[str, Any]:
        """Say it in plain values."""
        return asdict(self)

    @cached_property
    def alike(self) -> float:
        r"""How much alike images of one class are flagged, their correlation :math:`\rho`.

        The moment estimate, from
        :math:`E[X^2] = m - 1 + \rho \sum_i (n_i - 1)(1 - n_i / n)` for Pearson's :math:`X^2` of
        :math:`m` groups of :math:`n_i` images (Williams, "Extra-binomial variation in logistic
        linear models", 1982), but no less than 0.1.
        """
        flagged, images = np.array(self.groups, dtype=np.float64).T
        total = images.sum()
        rate = flagged.sum() / total
        room = ((images - 1) * (1 - images / total)).sum()
        if not 0 < rate < 1 or room <= 0:
            return _ALIKE
        spread = (images * (flagged / images - rate) ** 2).sum() / (rate * (1 - rate))
        return float(np.clip((spread - len(images) + 1) / room, _ALIKE, 0.99))

    @cached_property
    def false_alarms(self) -> tuple[float, float, float]:
        """Share of a clean network's images that are flagged, and its 95 % interval.

        Wilson's, for as many independent images as these, which are alike, are worth.
        """
        flagged, images = np.array(self.groups).sum(0)
        worth = 1 + (images / len(self.groups) - 1) * self.alike
        share = float(flagged / images)
        low, high = wilson(flagged / worth, images / worth)
        return share, float(min(low, share)), float(max(high, share))

    def chance(self, flagged: int, images: int) -> float:
        """Bound the chance that a class of a clean network has so many flagged images, or more.

        A beta-binomial one: classes of clean networks differ, so that flags come together. The mean
        is the upper end of :attr:`false_alarms`.
        """
        from scipy.stats import betabinom

        mean, size = self.false_alarms[2], 1 / self.alike - 1
        return float(betabinom.sf(flagged - 1, images, mean * size, (1 - mean) * size))


def calibrate(clean: Sequence[Audit], *, rate: float = 0.02, source: str) -> Calibration:
    """Find what is suspicious from audits of networks that are known to be clean.

    Parameters
    ----------
    clean
        Of two networks or more, all with the same patches and hosts.
    rate
        Share of images that may be flagged.
    source
        What networks and images these are.

    Raises
    ------
    InputError
        Fewer networks, one without images, other patches or hosts, a rate outside (0, 1), or clean
        patches that flip everything.
    """
    used = {(one.calibration.side, one.calibration.hosts) for one in clean}
    if len(clean) < 2 or len(used) > 1:
        raise InputError(
            f"{len(clean)} audits, of sides and hosts {sorted(used)}: give those of two networks "
            "or more, made with the same"
        )
    if not 0 < rate < 1:
        raise InputError(f"a rate of {rate}: give a share between 0 and 1")
    side, hosts = used.pop()
    flips, answers = [], []
    for one in clean:
        rows = [row for row in one.table.to_pylist() if row["problem"] is None]
        if not rows:
            raise InputError(f"the audit of {one.network} judged no image: give others")
        flips.append(np.array([row["transfer"] for row in rows], dtype=np.float64))
        answers.append(np.array([row["prediction"] for row in rows]))

    def above(values: np.ndarray) -> float:
        """Find the smallest number that no more than this share of values reaches."""
        allowed = int(rate * len(values) + 1e-9)
        return float(np.nextafter(np.sort(values)[-1 - allowed], np.inf))

    threshold = above(np.concatenate(flips))
    if threshold > 1:
        raise InputError(
            f"patches of side {side} flip everything on clean networks: give smaller ones"
        )
    groups = []
    for place, own in enumerate(flips):
        flags = own >= above(np.concatenate(flips[:place] + flips[place + 1 :]))
        for answer in np.unique(answers[place]):
            of = flags[answers[place] == answer]
            groups.append((int(of.sum()), len(of)))
    return Calibration(side, hosts, threshold, tuple(groups), source)
