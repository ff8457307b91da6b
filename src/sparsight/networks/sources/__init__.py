"""Where networks come from: one file per source, one function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn

from sparsight.networks.preprocessing import Preprocessing

__all__ = ["SOURCES", "Found", "find"]

SOURCES = ("torchvision", "timm", "hf")


@dataclass(frozen=True)
class Found:
    """What a source knows of a network before its outputs are counted."""

    model: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


def find(source: str, name: str, pretrained: bool) -> Found:
    """Ask a source for a network; its library is imported only now."""
    finder: Callable[[str, bool], Found] = import_module(f"{__name__}.{source}").find
    return finder(name, pretrained)
