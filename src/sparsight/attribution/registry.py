"""What a method is, and where all methods are found by name."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor

from sparsight.attribution.result import Reduction
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError

__all__ = ["METHODS", "Explained", "Method", "choose_methods", "register"]


@dataclass(frozen=True, eq=False)
class Explained:
    """What a method found: ``map`` is ``(1, C, H, W)`` in the input frame."""

    map: Tensor
    gap: float | None = None
    notes: tuple[str, ...] = ()
    used: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """One way to explain; a stateless object whose settings are keyword arguments.

    Attributes
    ----------
    name, title, reference
        Registry name, name to print, publication.
    gap_of
        Which law the map should obey: ``completeness``, ``conservation`` or none (``""``).
    stochastic
        Whether the seed matters.
    needs_gradient
        Whether the network must be differentiable.
    reduction
        The one channel reduction ``heat()`` uses by default: ``sum`` where the sign means
        evidence for or against, ``sum_abs`` where the map measures sensitivity. Fixed here,
        before any test image is seen.
    passes
        Forward and backward passes with the default settings on a 224-pixel image.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    gap_of: ClassVar[Literal["completeness", "conservation", ""]] = ""
    stochastic: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    reduction: ClassVar[Reduction] = "sum_abs"
    passes: ClassVar[tuple[int, int]] = (1, 1)

    @property
    def has_gap(self) -> bool:
        """Whether maps carry a gap."""
        return bool(self.gap_of)

    @abstractmethod
    def explain(self, subject: Subject) -> Explained:
        """Explain the subject; settings of a method are further keyword-only arguments."""

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the given settings with the defaults.

        Raises
        ------
        InputError
            If the method has no such setting.
        """
        known = {
            name: parameter.default
            for name, parameter in inspect.signature(self.explain).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name in given:
            if name not in known:
                offer = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"method {self.name!r} has no setting {name!r}: {offer}")
        return known | dict(given)

    def __repr__(self) -> str:
        return f"<{self.title}: {self.name}>"


class _Registry(Mapping[str, Method]):
    """Methods by name, read like a dict; an unknown name says which there are."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def add(self, method: Method) -> None:
        known = self._methods.get(method.name)
        if known is not None and type(known) is not type(method):
            raise InputError(f"a method named {method.name!r} is registered already")
        self._methods[method.name] = method

    def __getitem__(self, name: str) -> Method:
        if name not in self._methods:
            raise InputError(
                f"unknown attribution method {name!r}: choose one of {', '.join(self._methods)}"
            )
        return self._methods[name]

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


METHODS = _Registry()
M = TypeVar("M", bound=Method)


def register(cls: type[M]) -> type[M]:
    """Class decorator that enters a method into :data:`METHODS`."""
    METHODS.add(cls())
    return cls


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def choose_methods(names: str | Iterable[str]) -> tuple[str, ...]:
    """Find attribution methods by names that need not be spelled exactly.

    Parameters
    ----------
    names
        Names, or one text with commas. Case, hyphens, underscores and spaces do not matter;
        ``all`` is every method.

    Returns
    -------
    tuple of str
        Registry names in the order given, none twice.

    Raises
    ------
    InputError
        If a name is unknown, or none is given.

    Examples
    --------
    >>> choose_methods("Grad-CAM, inputXgradient")
    ('grad_cam', 'input_x_gradient')
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    known = {_bare(alias): name for name in METHODS for alias in (METHODS[name].title, name)}
    chosen: dict[str, None] = {}
    for name in given:
        bare = _bare(name)
        if bare == "all":
            chosen.update(dict.fromkeys(METHODS))
        elif bare in known:
            chosen[known[bare]] = None
        elif name.strip():
            raise InputError(
                f"unknown method {name.strip()!r}: choose from all, {', '.join(METHODS)}"
            )
    if not chosen:
        raise InputError(f"no method given: choose from all, {', '.join(METHODS)}")
    return tuple(chosen)
