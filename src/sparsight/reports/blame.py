"""Who is to blame, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InputError

__all__ = [
    "BlameReport",
    "BlamedUnit",
    "Curves",
    "Profile",
    "SimilarImage",
]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class BlamedUnit:
    """A unit that is to blame: its layer, number, scores, and what a trace kept of its weights."""

    layer: str
    number: int
    score: float
    z: float
    share: float
    kept: float | None = None


@dataclass(frozen=True, eq=False)
class Profile:
    """Scores of all units, layer by layer, of one network.

    Attributes
    ----------
    side
        ``Dense`` or ``Traced``.
    layers
        Title, and scores of its units.
    depth
        Title, share of the units most to blame, share of all units.
    raised
        Share of units whose z-score is above zero.
    map
        ``(H, W)``, not negative: pixels that drive the units most to blame.
    """

    side: str
    layers: Sequence[tuple[str, Array]]
    depth: Sequence[tuple[str, float, float]]
    raised: float
    map: Array | None = None


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of the answer as units go off, by the order in which they do.

    Attributes
    ----------
    counts
        Units off.
    predicted, true
        Probability of the class predicted and of the label, by order.
    damage
        Share of right answers lost, by order; empty if not measured.
    mode
        What off means.
    """

    counts: Sequence[int]
    predicted: Mapping[str, Sequence[float]]
    true: Mapping[str, Sequence[float]]
    damage: Mapping[str, Sequence[float]] = field(default_factory=dict)
    mode: str = "weights"


@dataclass(frozen=True, eq=False)
class SimilarImage:
    """An image that fails for the same reason; its picture if it could be read."""

    name: str
    label: str
    predicted: str
    similarity: float
    picture: Array | None = None


@dataclass(frozen=True, eq=False)
class BlameReport:
    """Everything about a mistake that a page shows.

    Attributes
    ----------
    label, predicted
        What the answer should be, and what it is.
    loss
        Of the label, or what gradients are of.
    ranked_by
        Name of the score.
    units
        Those most to blame, the worst first.
    profiles
        Of the dense network, and of a trace.
    curves
        Of knocking out, if they were measured.
    neighbours
        Images that fail for the same reason.
    facts
        Settings to print, name and value.
    overlap
        Share of the units most to blame that the trace kept any weight of, and of all units.
    mended
        Of mending, if it was asked for; its ``mode`` says how.
    """

    label: str
    predicted: str
    loss: float
    ranked_by: str
    units: Sequence[BlamedUnit]
    profiles: Sequence[Profile]
    curves: Curves | None = None
    neighbours: Sequence[SimilarImage] = ()
    facts: Sequence[tuple[str, str]] = ()
    overlap: tuple[float, float] | None = None
    mended: Curves | None = None

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("no profile: blame needs that of one network at least, so give one")

    def describe(self) -> dict[str, object]:
        """Plain values for a manifest; pictures and profiles are in :meth:`arrays`."""
        return {
            "label": self.label,
            "predicted": self.predicted,
            "loss": self.loss,
            "ranked_by": self.ranked_by,
            "units": [vars(unit) for unit in self.units],
            "profiles": [
                {
                    "side": profile.side,
                    "layers": [title for title, _ in profile.layers],
                    "depth": [list(row) for row in profile.depth],
                    "raised": profile.raised,
                }
                for profile in self.profiles
            ],
            "curves": None if self.curves is None else vars(self.curves),
            "neighbours": [
                {key: value for key, value in vars(near).items() if key != "picture"}
                for near in self.neighbours
            ],
            "facts": [list(fact) for fact in self.facts],
            "overlap": None if self.overlap is None else list(self.overlap),
            "mended": None if self.mended is None else vars(self.mended),
        }

    def arrays(self) -> dict[str, Array]:
        """Scores of all units, maps and pictures, by name."""
        found: dict[str, Array] = {}
        for profile in self.profiles:
            side = profile.side.lower()
            found |= {f"{side}/scores/{title}": scores for title, scores in profile.layers}
            if profile.map is not None:
                found[f"{side}/map"] = profile.map
        for number, near in enumerate(self.neighbours):
            if near.picture is not None:
                found[f"near/{number}"] = near.picture
        return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}

    @classmethod
    def read(cls, described: Mapping[str, Any], arrays: Mapping[str, Array]) -> BlameReport:
        """Put together what :meth:`describe` and :meth:`arrays` took apart.

        Raises
        ------
        KeyError, TypeError
            If something is missing.
        """
        profiles = [
            Profile(
                one["side"],
                [(t, arrays[f"{one['side'].lower()}/scores/{t}"]) for t in one["layers"]],
                [(name, blamed, own) for name, blamed, own in one["depth"]],
                one["raised"],
                arrays.get(f"{one['side'].lower()}/map"),
            )
            for one in described["profiles"]
        ]
        curves, overlap = described["curves"], described["overlap"]
        mended = described.get("mended")
        return cls(
            described["label"],
            described["predicted"],
            described["loss"],
            described["ranked_by"],
            [BlamedUnit(**unit) for unit in described["units"]],
            profiles,
            None if curves is None else Curves(**curves),
            [
                SimilarImage(**near, picture=arrays.get(f"near/{number}"))
                for number, near in enumerate(described["neighbours"])
            ],
            [(name, value) for name, value in described["facts"]],
            None if overlap is None else (overlap[0], overlap[1]),
            None if mended is None else Curves(**mended),
        )
