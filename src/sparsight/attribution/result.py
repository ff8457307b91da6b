"""One map and all that is needed to judge it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["Attribution", "Reduction", "reduce_channels"]

Reduction = Literal["sum", "sum_abs", "abs_sum", "max_abs"]
SCHEMA = 1


def reduce_channels(relevance: Tensor, reduction: Reduction) -> Tensor:
    r"""Reduce a map over its colour channels.

    ``sum`` is :math:`\sum_c r_c` (signed evidence), ``sum_abs`` :math:`\sum_c |r_c|`
    (sensitivity), ``abs_sum`` :math:`|\sum_c r_c|`, ``max_abs`` :math:`\max_c |r_c|`.

    Parameters
    ----------
    relevance
        ``(..., C, H, W)``.
    reduction
        One of the four names.

    Returns
    -------
    Tensor
        ``(..., H, W)``.

    Raises
    ------
    InputError
        If the name is unknown.

    Examples
    --------
    >>> r = torch.tensor([3.0, -1.0]).reshape(2, 1, 1)
    >>> reduce_channels(r, "sum").item(), reduce_channels(r, "sum_abs").item()
    (2.0, 4.0)
    """
    if reduction == "sum":
        return relevance.sum(-3)
    if reduction == "sum_abs":
        return relevance.abs().sum(-3)
    if reduction == "abs_sum":
        return relevance.sum(-3).abs()
    if reduction == "max_abs":
        return relevance.abs().amax(-3)
    raise InputError(
        f"unknown channel reduction {reduction!r}: choose one of {', '.join(get_args(Reduction))}"
    )


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much every input value speaks for a class, by one method.

    A map is evidence of what the *network* computes from this image, not of what causes the
    class in the world, and a small gap says that it adds up, not that it is faithful.

    Attributes
    ----------
    map
        ``(C, H, W)`` float32 on the CPU: signed relevance in the network's input frame.
    method
        Registry name.
    target
        The explained class.
    gap
        Completeness or conservation gap relative to the explained difference: 0 is exact, 1
        means that as much is lost as there was to explain. None where the method has none.
    gap_of
        ``"completeness"``, ``"conservation"`` or ``""``.
    settings
        Every setting as used, defaults included.
    notes
        What the reader must know: the layer GradCAM used, the rules of LRP, a large gap.
    seconds
        Wall time.
    reduction
        The method's own channel reduction, fixed beforehand.
    """

    map: Tensor
    method: str
    target: int
    gap: float | None
    gap_of: str
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    reduction: Reduction = "sum_abs"

    def heat(self, reduction: Reduction | None = None) -> Tensor:
        """Return one value per pixel ``(H, W)``; the method's fixed reduction unless told."""
        return reduce_channels(self.map, reduction or self.reduction)

    def save(self, directory: str | Path) -> Path:
        """Write ``map.safetensors`` and, last, ``attribution.json`` into a directory."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"map": self.map.contiguous()}, folder / "map.safetensors")
        manifest = {
            "schema": SCHEMA,
            "method": self.method,
            "target": self.target,
            "gap": self.gap,
            "gap_of": self.gap_of,
            "settings": self.settings,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "reduction": self.reduction,
            "versions": {name: version(name) for name in ("sparsight", "torch", "captum")},
        }
        path = folder / "attribution.json"
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> Attribution:
        """Read back what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the directory holds no complete attribution of a known schema.
        """
        folder = Path(directory)
        try:
            manifest = json.loads((folder / "attribution.json").read_text(encoding="utf-8"))
            tensor = load_file(folder / "map.safetensors")["map"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} holds no complete attribution ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise InputError(f"{folder}/attribution.json has another schema than {SCHEMA}")
        kept = ("method", "target", "gap", "gap_of", "settings", "seconds", "reduction")
        return cls(
            map=tensor, notes=tuple(manifest["notes"]), **{name: manifest[name] for name in kept}
        )

    def __repr__(self) -> str:
        gap = "" if self.gap is None else f", {self.gap_of} gap {self.gap:.2g}"
        shape = "x".join(map(str, self.map.shape))
        return (
            f"Attribution({self.method!r}, class {self.target}, {shape}{gap}, {self.seconds:.2f} s)"
        )


def relative_gap(total: float, difference: float, scale: float = 0.0) -> float:
    """``|total - difference| / |difference|``, the denominator never below ``1e-6 * scale``."""
    floor = max(1e-6 * abs(scale), float(torch.finfo(torch.float32).tiny))
    return abs(total - difference) / max(abs(difference), floor)
