"""Pruning under attack: what is kept, how much of each layer, and what holds."""

from sparsight.datasets.pixels import Pixels, read_arrays
from sparsight.networks.classifier import PixelClassifier
from sparsight.robust.attacks import EPSILON, Attack, carlini_wagner, fgsm, margin, pgd
from sparsight.robust.evaluate import ATTACKS, AUTO, Robustness, choose_attacks, evaluate
from sparsight.robust.harden import harden
from sparsight.robust.hardened import Hardened
from sparsight.robust.layers import channel_groups, layer_costs, prunable_weights
from sparsight.robust.masked import FIRST_SCORES, MODES, Kept, Masked, bake
from sparsight.robust.masks import TopK, top_mask
from sparsight.robust.objectives import OBJECTIVES, Objective, choose_objective
from sparsight.robust.rates import ALLOCATIONS, allocate_rates, keep_rate, quota_of, whole_counts
from sparsight.robust.settings import BASELINES, METHODS, PUBLISHED, HardenSettings
from sparsight.robust.slicing import Size, cut_channels, size_of

__all__ = [
    "ALLOCATIONS",
    "ATTACKS",
    "AUTO",
    "BASELINES",
    "EPSILON",
    "FIRST_SCORES",
    "METHODS",
    "MODES",
    "OBJECTIVES",
    "PUBLISHED",
    "Attack",
    "HardenSettings",
    "Hardened",
    "Kept",
    "Masked",
    "Objective",
    "PixelClassifier",
    "Pixels",
    "Robustness",
    "Size",
    "TopK",
    "allocate_rates",
    "bake",
    "carlini_wagner",
    "channel_groups",
    "choose_attacks",
    "choose_objective",
    "cut_channels",
    "evaluate",
    "fgsm",
    "harden",
    "keep_rate",
    "layer_costs",
    "margin",
    "pgd",
    "prunable_weights",
    "quota_of",
    "read_arrays",
    "size_of",
    "top_mask",
    "whole_counts",
]
