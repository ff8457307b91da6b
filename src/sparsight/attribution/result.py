"""One map and all that is needed to judge it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.errors import InputError
from sparsight.storage import atomic_folder, library_versions, read_manifest, write_manifest

__all__ = ["Attribution", "Reduction", "read_reduction", "reduce_channels"]

Reduction = Literal["sum", "sum_abs", "abs_sum", "max_abs"]
_SCHEMA = 1
_MANIFEST, _TENSORS = "attribution.json", "map.safetensors"
_FACTS = ("method", "target", "gap", "gap_of", "settings", "seconds", "reduction")


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
    name = read_reduction(reduction)
    if name == "sum":
        return relevance.sum(-3)
    if name == "sum_abs":
        return relevance.abs().sum(-3)
    if name == "abs_sum":
        return relevance.sum(-3).abs()
    return relevance.abs().amax(-3)


def read_reduction(name: str) -> Reduction:
    """Check the name of a channel reduction.

    Raises
    ------
    InputError
        If there is none of that name.

    Examples
    --------
    >>> read_reduction("sum_abs")
    'sum_abs'
    """
    if name not in get_args(Reduction):
        known = ", ".join(get_args(Reduction))
        raise InputError(f"unknown channel reduction {name!r}: choose one of {known}")
    return cast("Reduction", name)


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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the map and, last, its manifest into a new folder.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is false, or cannot be written.
        """
        facts = {name: getattr(self, name) for name in _FACTS}
        header = {"kind": "attribution", "schema": _SCHEMA, "versions": library_versions()}
        with atomic_folder(folder, {_MANIFEST, _TENSORS}, overwrite=overwrite) as temporary:
            save_file({"map": self.map.contiguous()}, temporary / _TENSORS)
            write_manifest(temporary, _MANIFEST, header | facts | {"notes": list(self.notes)})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Attribution:
        """Read back what :meth:`save` wrote, bit by bit.

        Raises
        ------
        InputError
            If the folder holds no complete attribution of a known schema.
        """
        manifest = read_manifest(folder, _MANIFEST, "attribution", _SCHEMA)
        try:
            relevance = load_file(Path(folder) / _TENSORS)["map"]
            facts = {name: manifest[name] for name in _FACTS}
            return cls(map=relevance, notes=tuple(manifest["notes"]), **facts)
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{folder} holds no complete attribution ({error})") from error

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
