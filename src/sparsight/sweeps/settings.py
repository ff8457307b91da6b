"""What is done to each image of a sweep, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sparsight.attribution import choose_methods
from sparsight.errors import InputError
from sparsight.traces import COMPENSATED, DEFAULT_SPARSITY, Sparsity
from sparsight.traces.many import TraceOptions
from sparsight.traces.options import check_solver

__all__ = ["DO", "KEEP", "SweepSettings"]

DO = ("trace", "attribute", "blame")
"""What can be done to each image, beside asking the network for its answer."""

KEEP = ("maps", "pictures", "traces")
"""What can be kept of each image, beside its row in the table; a gallery wants the pictures."""


@dataclass(frozen=True)
class SweepSettings:
    """What is done to each image, all of what results depend on.

    Attributes
    ----------
    do
        Some of :data:`DO`.
    methods
        Names of attribution methods.
    sparsity, augmentations, solver, pattern, damping, stem, seed, chunk
        Of traces, see :func:`sparsight.trace`; ``seed`` and ``chunk`` of methods too.
    keep
        Some of :data:`KEEP`.
    shard
        Images that are done and written together; what a kill loses at most, for each worker.
    threads
        Of torch in each worker: another number may round otherwise.

    Examples
    --------
    >>> SweepSettings.of(do="trace").do
    ('trace',)
    """

    do: tuple[str, ...] = DO
    methods: tuple[str, ...] = ("saliency",)
    sparsity: Sparsity = DEFAULT_SPARSITY
    augmentations: int = 64
    solver: str = COMPENSATED
    pattern: str = "weight"
    damping: float | None = None
    stem: bool = False
    seed: int = 0
    chunk: int | None = None
    keep: tuple[str, ...] = KEEP
    shard: int = 16
    threads: int = 1

    @classmethod
    def of(
        cls,
        *,
        do: str | Iterable[str] = DO,
        methods: str | Iterable[str] = "saliency",
        keep: str | Iterable[str] = KEEP,
        **others: Any,
    ) -> SweepSettings:
        """Check settings and give names their usual form.

        Raises
        ------
        InputError
            If there is no such thing to do or to keep, no such method, or a number is too small.
        """
        found = cls(
            do=_chosen("thing to do", do, DO),
            methods=tuple(choose_methods(methods)),
            keep=_chosen("thing to keep", keep, KEEP),
            **others,
        )
        for name in ("shard", "threads", "augmentations", "chunk"):
            value = getattr(found, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is too small: give 1 or more")
        check_solver(found.solver, found.sparsity, found.pattern)
        return found

    @property
    def trace_options(self) -> TraceOptions:
        """The options of each trace."""
        found = TraceOptions(
            sparsity=self.sparsity, augmentations=self.augmentations, solver=self.solver,
            pattern=self.pattern, damping=self.damping, stem=self.stem, seed=self.seed,
        )  # fmt: skip
        if self.chunk is not None:
            found["chunk"] = self.chunk
        return found

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values."""
        return asdict(self)


def _chosen(what: str, given: str | Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    names = given.split(",") if isinstance(given, str) else list(given)
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"no {what} is called {name!r}: choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)
