"""Sparsity ratios that the authors of SPADE published, for torchvision's ResNet-50.

Each set was tuned by its authors for one saliency method, on images whose Trojan masks were
known. They are here to compare with; nobody has such masks for a new question.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PRESETS"]

_BLOCKS = (
    ["fc"]
    + [f"layer4.{i}" for i in (2, 1, 0)]
    + [f"layer3.{i}" for i in (5, 4, 3, 2, 1, 0)]
    + [f"layer2.{i}" for i in (3, 2, 1, 0)]
    + [f"layer1.{i}" for i in (2, 1, 0)]
)

_SPADE = {
    "lrp": ".99 .99 .99 .95 .8 .6 .95 0 .8 .8 .2 .99 .4 .6 0 0 0",
    "lime": ".6 .99 .99 .95 .8 .2 .2 .2 .2 .2 .6 .95 .8 0 .2 .6 0",
    "inputxgradient": ".95 .99 .99 .99 .95 .95 .9 .8 .8 0 .9 0 .95 0 .9 .6 0",
    "guidedbackprop": ".9 .99 .99 .99 .4 .4 .6 .4 .2 .2 0 0 .9 .2 .99 0 .2",
    "guidedgradcam": ".6 .99 .99 .95 .4 .6 .8 .6 0 .2 0 0 .9 .2 0 0 .4",
    "saliency": ".8 .99 .99 .99 .95 .95 .9 .8 .8 0 .9 0 .2 0 .8 .2 .6",
    "deeplift": ".6 .99 .99 .95 .8 0 .8 .6 .9 .4 0 .4 .8 0 .95 .8 .4",
    "gradientshap": ".4 .99 .99 .99 .95 .4 .95 .6 .9 0 .6 .6 .6 .4 .9 .8 .4",
    "occlusion": ".95 .99 .95 .99 .95 .8 0 .99 0 0 0 .2 .4 0 0 .99 0",
    "integratedgradients": ".95 .99 .99 .99 .9 .9 .95 .8 .8 0 0 0 .8 0 .9 .9 0",
}

_FASTSPADE_LRP = ".95 .95 .95 .95 0 0 .8 .9 .8 .8 .95 .99 0 .2 0 .8 .2"


def _ratios(text: str) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(_BLOCKS, map(float, text.split()), strict=True)))


PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {f"spade-{method}": _ratios(text) for method, text in _SPADE.items()}
    | {
        "fastspade-lrp": _ratios(_FASTSPADE_LRP),
        "fastspade-visualization": MappingProxyType(
            dict.fromkeys(["fc", "layer4", "layer3.5", "layer3.4"], 0.95)
        ),
    }
)
"""``spade-METHOD``, ``fastspade-lrp`` and ``fastspade-visualization``: block -> sparsity."""
