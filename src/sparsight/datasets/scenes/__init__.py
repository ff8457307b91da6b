"""Procedural scenes: ten classes of objects, exact masks, stickers to plant as Trojans."""

from sparsight.datasets.scenes.objects import CLASSES
from sparsight.datasets.scenes.scenes import Scene, SceneDataset, render_scene
from sparsight.datasets.scenes.stickers import STICKERS, TUNING_STICKERS
from sparsight.datasets.scenes.trojans import EMBEDDED_TROJANS, TUNING_TROJANS, TrojanRule

__all__ = [
    "CLASSES",
    "EMBEDDED_TROJANS",
    "STICKERS",
    "TUNING_STICKERS",
    "TUNING_TROJANS",
    "Scene",
    "SceneDataset",
    "TrojanRule",
    "render_scene",
]
