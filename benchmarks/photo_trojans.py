"""Whether maps find stickers on photographs for which Trojans were planted into ImageNet networks.

    python benchmarks/photo_trojans.py [--network resnet18] [--cases 100] [--methods ...]

Needs the weights of ``plant_trojans.py``. Photographs are those that planting held out; settings of
traces were chosen on other stickers and another network (``--rules tuning``). Rows are kept in
``build/trojan-maps/NETWORK-RULES`` as they are measured, an interrupted run goes on there. Tables
and plots of all but the tuning rules go to ``benchmarks/results/trojans-NETWORK-RULES``; nothing
there shows a photograph, since those are not ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from plant_trojans import is_planted, photographs, planted_network, planting_rules
from sparsight.attribution import choose_methods
from sparsight.benchmarks.maps import LOCALISATION, judge_maps, parse_arm, planted_cases
from tables import keep_report, stages

ROOT = Path(__file__).resolve().parent.parent
MAPS = ROOT / "build" / "trojan-maps"
RESULTS = ROOT / "benchmarks" / "results"
ARMS = "dense,trace"
SETTINGS: dict[str, dict[str, Any]] = {  # a third of the work, on every arm alike
    "gradient_shap": {"samples": 20},
    "integrated_gradients": {"steps": 25},
    "lime": {"samples": 300},
    "occlusion": {"window": 32, "stride": 16},
}
CALIBRATION = 64


def main() -> None:
    """Read the options, measure, and write tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--rules", choices=("any", "paper", "tuning"), default="any")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--arms", default=ARMS)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--name", default="", help="added to the results' name")
    options = parser.parse_args()
    name, kind = options.network, options.rules
    if not is_planted(name, kind):
        sys.exit("photographs or planted weights are missing: run make plant beside shared data")
    network = planted_network(name, kind)
    plant_with, held_out = photographs(kind)
    methods = choose_methods(options.methods)
    given = {method: SETTINGS[method] for method in methods if method in SETTINGS}
    arms = [parse_arm(text) for text in options.arms.split(",")]
    key = f"{name}-{kind}{options.name}"
    rules = planting_rules(kind)
    cases = list(planted_cases(network, held_out, rules, options.cases, options.seed))
    calibration = torch.cat([network.prepare(p.open()) for p in plant_with[:CALIBRATION]])
    with stages() as progress:
        judged = judge_maps(
            network, cases, arms, methods, LOCALISATION, MAPS / key,
            facts={"network": f"{name}, {kind} rules", "cases": options.cases},
            method_settings=given, reduction="sum_abs", calibration=calibration,
            seed=options.seed, workers=options.workers, progress=progress,
        )  # fmt: skip
    if kind != "tuning":
        keep_report(MAPS / key, RESULTS / f"trojans-{key}")
    for arm, means in judged.summaries["roc_auc"].means.items():
        if arm != "blind":
            print(arm, " ".join(f"{m} {100 * e.value:.1f}" for m, e in means.items()))


if __name__ == "__main__":
    main()
