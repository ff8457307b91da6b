"""What one person asks: an image, a network, and how to trace and map it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsight.attribution import choose_methods
from sparsight.casefile import DEFAULT_METHODS
from sparsight.errors import InputError

__all__ = ["MOST_VIEWS", "Question"]

MOST_VIEWS = 256
"""Random views that can be asked for."""


@dataclass(frozen=True)
class Question:
    """Why did a network say this of an image? Checked as far as it can be without the network.

    Attributes
    ----------
    network
        A name among those of the desk.
    image, name
        The file, and what its owner calls it.
    target
        Index of the class to explain; ``None`` for the prediction.
    methods
        As :func:`sparsight.attribution.choose_methods` reads them.
    sparsity
        Share of all weights to prune, in [0, 1); ``None`` for as much as the answer allows.
    augmentations
        Random views of the image.

    Examples
    --------
    >>> Question("embedded", Path("dog.png"), "dog.png", sparsity=0.9).rule
    'network:0.9'
    >>> Question("embedded", Path("dog.png"), "dog.png", sparsity=1.5)
    Traceback (most recent call last):
    ...
    sparsight.errors.InputError: sparsity 1.5: it must lie in [0, 1), as the share to prune
    """

    network: str
    image: Path
    name: str
    target: int | None = None
    methods: tuple[str, ...] = DEFAULT_METHODS
    sparsity: float | None = None
    augmentations: int = 64

    def __post_init__(self) -> None:
        choose_methods(self.methods)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InputError(
                f"sparsity {self.sparsity:g}: it must lie in [0, 1), as the share to prune"
            )
        if not 1 <= self.augmentations <= MOST_VIEWS:
            raise InputError(
                f"{self.augmentations} views: give a whole number from 1 to {MOST_VIEWS}"
            )

    @property
    def rule(self) -> float | str:
        """The sparsity as :func:`sparsight.trace` reads it."""
        if self.sparsity is None:
            return "auto"
        return f"network:{self.sparsity:g}" if self.sparsity else 0.0  # not even what is unused
