"""Planted Trojans: triggers, rules, poisoned data, planting, and cases to explain."""

from sparsight.benchmarks.trojans.cases import TrojanCase, trojan_cases
from sparsight.benchmarks.trojans.fine_tuning import PlantingSettings
from sparsight.benchmarks.trojans.measuring import (
    PlantingReport,
    RuleReport,
    clean_accuracy,
    measure_rule,
)
from sparsight.benchmarks.trojans.pictures import cut_out, drawn_picture, sticker_picture
from sparsight.benchmarks.trojans.planting import Planted, plant
from sparsight.benchmarks.trojans.poison import (
    Photo,
    PoisonedSample,
    poison,
    read_photos,
    render_sample,
    split_photos,
)
from sparsight.benchmarks.trojans.rules import PlantingRule, for_any, paper_rules, tuning_rules
from sparsight.benchmarks.trojans.triggers import (
    Trigger,
    Triggered,
    blend,
    checker,
    sticker,
    watermark,
)

__all__ = [
    "Photo",
    "Planted",
    "PlantingReport",
    "PlantingRule",
    "PlantingSettings",
    "PoisonedSample",
    "RuleReport",
    "Trigger",
    "Triggered",
    "TrojanCase",
    "blend",
    "checker",
    "clean_accuracy",
    "cut_out",
    "drawn_picture",
    "for_any",
    "measure_rule",
    "paper_rules",
    "plant",
    "poison",
    "read_photos",
    "render_sample",
    "split_photos",
    "sticker",
    "sticker_picture",
    "trojan_cases",
    "tuning_rules",
    "watermark",
]
