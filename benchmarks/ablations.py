"""What each choice in a trace does to maps: views, solvers, sparsities, and pruning for all images.

    python benchmarks/ablations.py [--cases 30]

Scenes of the embedded network, other ones than ``bench trojan`` reports and than settings were
chosen on. Rows are kept in ``build/ablations`` as they are measured, an interrupted run goes on
there; ``benchmarks/results/ablations`` gets the table, ``docs/images/ablations.png`` the plot of
gains against seconds.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from sparsight.benchmarks.maps import (
    LOCALISATION,
    Arm,
    Case,
    Summary,
    judge_maps,
    parse_arm,
    scene_cases,
    trace_arm,
)
from sparsight.datasets.scenes import CLASSES, render_scene
from sparsight.networks import Network, load, overlay
from sparsight.storage import write_text
from sparsight.traces import Augmentation
from tables import stages

ROOT = Path(__file__).resolve().parent.parent
FOLDER, RESULTS = ROOT / "build" / "ablations", ROOT / "benchmarks" / "results" / "ablations"
PICTURE = ROOT / "docs" / "images" / "ablations.png"
METHODS = ("saliency", "input_x_gradient", "guided_backprop", "lrp", "grad_cam")
FIRST = 700_000  # of the scenes
VIEWS = Augmentation()
SHARES = tuple(f"network:{share}" for share in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99))


class OtherImage(Arm):
    """The trace of another image: of the next case, for the class of this one."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.name = "trace of another image"
        self.next = {a.key: b for a, b in zip(cases, [*cases[1:], cases[0]], strict=True)}
        self.arm = parse_arm("trace")

    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        """Trace the next case."""
        other = replace(self.next[case.key], target=case.target)
        return self.arm.weights(network, other, seed)


class BatchStatistics(Arm):
    """Batch norm by the statistics of the image itself, as in the published code for LRP."""

    def __init__(self, arm: Arm) -> None:
        self.name = f"{arm.name}, batch statistics"
        self.arm = arm

    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        """Return what the arm gives, and batch norms that do what training mode would do."""
        found = dict(self.arm.weights(network, case, seed))
        with overlay(network.model, found):
            model = deepcopy(network.model)
        for name, norm in _norms(model):
            x = _input_of(model, norm, case.x)
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight / (variance + norm.eps).sqrt()
            with torch.no_grad():  # the same outputs, written as parameters
                norm.bias.add_(scale * (norm.running_mean - mean))
                norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
            found |= {f"{name}.weight": norm.weight.detach(), f"{name}.bias": norm.bias.detach()}
        return found


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Batch norms in the order of use, which is that of the embedded network's modules."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield name, module


@torch.no_grad()
def _input_of(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(x)
    hook.remove()
    return seen[0]


def arms(cases: Sequence[Case]) -> dict[str, list[Arm]]:
    """Arms by what they vary."""

    def views(name: str, **change: float | tuple[float, float]) -> Arm:
        return trace_arm(f"views: {name}", augmentations=replace(VIEWS, **change))  # type: ignore[arg-type]

    one = (1.0, 1.0)
    named = {
        "default": ["dense", "trace"],
        "number of views": [f"trace:augmentations={n}" for n in (1, 4, 8, 16, 32, 128)],
        "solver": [
            f"trace:solver={solver}+sparsity=network:{share}"
            for solver in ("sparsegpt", "refit", "forward", "wanda", "magnitude")
            for share in ("0.9", "0.95")
        ]
        + ["fastspade"],
        "sparsity": [
            f"trace:sparsity={text}" for text in (*SHARES, "ramp:0.95", "auto:0.001", "auto:0.1")
        ],
        "once for all images": ["wanda:0.5", "wanda:0.9", "magnitude:0.5", "sparse-fc:0.9"],
    }
    found = {group: [parse_arm(name) for name in names] for group, names in named.items()}
    found["kind of views"] = [
        views("copies", strength=0.0),
        views("half strength", strength=0.5),
        views("crops alone", flip=0.0, brightness=0.0, hue=0.0),
        views("flips alone", scale=one, ratio=one, brightness=0.0, hue=0.0),
        views("colours alone", scale=one, ratio=one, flip=0.0),
        views("small crops", scale=(0.05, 0.3)),
        views("patches hidden", hidden=0.75),
    ]
    found["other image"] = [OtherImage(cases)]
    found["batch statistics"] = [BatchStatistics(parse_arm(name)) for name in ("dense", "trace")]
    return found


def plot(file: Path, summary: Summary, groups: Mapping[str, Sequence[Arm]]) -> None:
    """Draw the mean over methods against seconds, a colour per group."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    dense = 100 * summary.means["dense"]["mean"].value
    axis.axhline(dense, color="0.5", lw=1, ls="--", label="dense network")
    for group, found in groups.items():
        names = [arm.name for arm in found if arm.name != "dense"]
        if group in ("once for all images", "batch statistics"):
            continue  # no seconds per image
        x = [summary.seconds[name] for name in names]
        y = [100 * summary.means[name]["mean"].value for name in names]
        axis.plot(
            x, y, "*" if group == "default" else "o", ms=14 if group == "default" else 5,
            label="default trace" if group == "default" else group, alpha=0.9,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("seconds per image for the trace")
    axis.set_ylabel("ROC-AUC against stickers, mean of five methods, %")
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def table(summary: Summary, groups: Mapping[str, Sequence[Arm]]) -> str:
    """Render arms down, mean and LRP across."""
    lines = [
        "| varied | maps on | mean ROC-AUC, % | more than dense | LRP, % | seconds | pruned "
        "| answer kept |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for group, found in groups.items():
        for arm in found:
            means = summary.means[arm.name]
            more = summary.differences.get(arm.name)
            gain = more["mean"].percent() if more else ""
            lines.append(
                f"| {group} | `{arm.name}` | {means['mean'].percent()} | {gain} "
                f"| {means['lrp'].percent()} | {summary.seconds[arm.name]:.2f} "
                f"| {summary.pruned[arm.name]:.0%} | {summary.kept[arm.name]:.0%} |"
            )
    for name, estimate in summary.means["blind"].items():
        lines.append(f"| no network | {name} map | {estimate.percent()} | | | | | |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and keep table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    network = load("embedded")
    cases = list(scene_cases(network, options.cases, first=FIRST))
    groups = arms(cases)
    drawn = (render_scene(i % len(CLASSES), seed=900_000 + i) for i in range(256))
    with stages() as progress:
        judged = judge_maps(
            network, cases, [arm for found in groups.values() for arm in found], METHODS,
            LOCALISATION, FOLDER, facts={"network": "embedded", "cases": options.cases},
            method_settings={}, reduction="sum_abs",
            calibration=torch.cat([network.prepare(scene.picture()) for scene in drawn]),
            workers=options.workers, progress=progress,
        )  # fmt: skip
    summary = judged.summaries["roc_auc"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FOLDER / "summary.json", RESULTS / "summary.json")
    write_text(RESULTS / "tables.md", table(summary, groups) + "\n")
    plot(PICTURE, summary, groups)
    print(table(summary, groups))


if __name__ == "__main__":
    main()
