"""What a metric is, and where all metrics are found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

from torch import Tensor

from sparsight.attribution.metrics.curves import Curve, deletion, insertion
from sparsight.attribution.metrics.faithfulness import infidelity, sensitivity
from sparsight.attribution.metrics.localization import (
    pointing_game,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from sparsight.attribution.metrics.randomisation import Randomisation, randomise
from sparsight.errors import InputError

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """One way to judge maps.

    Call it with everything at hand, by name; it takes what it needs:
    ``metric({"heat": heat, "mask": mask, "network": network, ...})`` gives ``(N,)`` float64.

    Attributes
    ----------
    name, title
        Registry name, name to print.
    direction
        Which values are better.
    range
        Least and largest value.
    needs
        ``mask``: a known place. ``network``: something to ask.
    function
        The function itself, with all its settings.
    reference
        Publication.
    read
        Which attribute of the function's result is the value; empty if the result itself is.

    Examples
    --------
    >>> import torch
    >>> metric = METRICS["roc_auc"]
    >>> metric.needs, metric.best, metric.arguments
    ('mask', 1.0, ('heat', 'mask'))
    >>> heat = torch.tensor([[[2.0, 1.0]]])
    >>> metric({"heat": heat, "mask": heat > 1.5, "target": 3}).item()
    1.0
    """

    name: str
    title: str
    direction: Literal["higher", "lower"]
    range: tuple[float, float]
    needs: Literal["mask", "network"]
    function: Callable[..., Tensor | Curve | Randomisation]
    reference: str
    read: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What must be given, by name.

        Of ``heat (N, H, W)``, ``mask (N, H, W)``, ``network``, ``image (N, C, H, W)``,
        ``target``, ``relevance (N, C, H, W)`` and ``method``.
        """
        return tuple(self._parameters(inspect.Parameter.POSITIONAL_OR_KEYWORD))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that may be given, with their defaults."""
        return self._parameters(inspect.Parameter.KEYWORD_ONLY)

    def _parameters(self, kind: Any) -> dict[str, Any]:
        found = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in found if p.kind is kind}

    @property
    def best(self) -> float:
        """The value of a perfect map."""
        return self.range[1] if self.direction == "higher" else self.range[0]

    @property
    def worst(self) -> float:
        """The value of a map that is wrong everywhere."""
        return self.range[0] if self.direction == "higher" else self.range[1]

    def better(self, first: float, second: float) -> bool:
        """Whether the first value is better than the second; false if either is NaN."""
        return first > second if self.direction == "higher" else first < second

    def __call__(self, given: Mapping[str, Any], **settings: Any) -> Tensor:
        """Judge maps.

        Parameters
        ----------
        given
            At least all :attr:`arguments`; whatever else is there is left alone.
        settings
            Of :attr:`settings`.

        Returns
        -------
        Tensor
            ``(N,)`` float64.

        Raises
        ------
        InputError
            If an argument is missing, a setting is unknown, or the function refuses.
        """
        missing = [name for name in self.arguments if name not in given]
        if missing:
            raise InputError(
                f"metric {self.name!r} needs {', '.join(missing)}: give it "
                f"{', '.join(self.arguments)}"
            )
        known = self.settings
        for name in settings:
            if name not in known:
                offer = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"metric {self.name!r} has no setting {name!r}: {offer}")
        result = self.function(**{name: given[name] for name in self.arguments}, **settings)
        if self.read:
            result = getattr(result, self.read)
        assert isinstance(result, Tensor)
        return result

    def __repr__(self) -> str:
        return f"<{self.title}: {self.name}, {self.direction} is better>"


class _Registry(dict[str, Metric]):
    """Metrics by name; an unknown name says which there are."""

    def __missing__(self, name: str) -> Metric:
        raise InputError(f"unknown metric {name!r}: choose one of {', '.join(self)}")


_ARRAS = "Arras et al. 2022, arXiv:2003.07258"
_RISE = "Petsiuk et al. 2018, arXiv:1806.07421"
_YEH = "Yeh et al. 2019, arXiv:1901.09392"
_UNIT = (0.0, 1.0)

METRICS: dict[str, Metric] = _Registry(
    (metric.name, metric)
    for metric in (
        Metric("roc_auc", "ROC-AUC", "higher", _UNIT, "mask", roc_auc, "Fawcett 2006"),
        Metric(
            "pointing_game",
            "pointing game",
            "higher",
            _UNIT,
            "mask",
            pointing_game,
            "Zhang et al. 2016, arXiv:1608.00507",
        ),
        Metric(
            "relevance_mass",
            "relevance mass accuracy",
            "higher",
            _UNIT,
            "mask",
            relevance_mass,
            _ARRAS,
        ),
        Metric(
            "relevance_rank",
            "relevance rank accuracy",
            "higher",
            _UNIT,
            "mask",
            relevance_rank,
            _ARRAS,
        ),
        Metric("insertion", "insertion", "higher", _UNIT, "network", insertion, _RISE, "area"),
        Metric("deletion", "deletion", "lower", _UNIT, "network", deletion, _RISE, "area"),
        Metric("infidelity", "infidelity", "lower", (0.0, inf), "network", infidelity, _YEH),
        Metric("sensitivity", "max-sensitivity", "lower", (0.0, inf), "network", sensitivity, _YEH),
        Metric(
            "randomisation",
            "model randomisation",
            "lower",
            _UNIT,
            "network",
            partial(randomise, after="all"),
            "Adebayo et al. 2018, arXiv:1810.03292",
            "similarity",
        ),
    )
)
"""All metrics by name."""
