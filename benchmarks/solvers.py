"""What each solver loses, and what it costs, over sparsities and layers.

    python benchmarks/solvers.py [--draws 3]

Three kinds of layers: synthetic ones, with correlated inputs of heavy-tailed scale; layers of the
embedded network that see views of one scene; and the layers of the published solvers' golden
values, where the shared data folder is beside the checkout. Errors of the first two are taken on
inputs that were not used to solve. Variants of ``forward`` that were tried and not kept are
measured with it. Writes ``benchmarks/results/solvers.json`` and a table in the docs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.datasets.scenes import render_scene
from sparsight.networks import load
from sparsight.storage import library_versions
from sparsight.traces import SOLVERS, trace
from sparsight.traces.solvers import Moments, Solution, Solver, magnitude, refit
from sparsight.traces.solvers.factor import absolute_damping
from sparsight.traces.solvers.magnitude import diagonal, largest, squared_output
from sparsight.traces.solvers.refit import fit, least_squares
from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden" / "solvers_dev.safetensors"
RESULT = ROOT / "benchmarks" / "results" / "solvers.json"
PAGE = ROOT / "docs" / "explanation" / "solvers.md"

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
DAMPING = 0.01
KINDS = {
    "synthetic": "{} synthetic layers of 48 × 192 weights, on unseen inputs",
    "embedded": "{} layers of the embedded network with 32 to 128 outputs and 288 to 576 inputs, "
    "on unseen views",
    "golden": "{} small random layers of the golden values, on the recorded inputs",
}


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights ``(1, rows, columns)``, what they are solved with, and what the error is taken on.

    A sweep decides on ``block`` columns at a time, as many as a trace would give it.
    """

    kind: str
    weight: Tensor
    moment: Tensor
    unseen: Tensor
    block: int


def synthetic(draws: int) -> Iterator[Layer]:
    """Correlated inputs, with and without a ReLU, in three widths of their scales' tail."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for tail, rectified, _ in product((0.5, 1.0, 1.5), (False, True), range(draws)):
        mix, scale = draw(192, 48) / 48**0.5, (tail * draw(192, 1)).exp()
        moments = []
        for count in (800, 2000):
            x = mix @ draw(48, count) + 0.5 * draw(192, count)
            x = (x.relu() if rectified else x) * scale
            moments.append((x @ x.T)[None])
        yield Layer("synthetic", (draw(48, 192) / scale.T.sqrt())[None], moments[0], moments[1], 2)


def embedded() -> Iterator[Layer]:
    """Layers of the embedded network, with the moments of two sets of views of one scene."""
    network, image = load("embedded"), render_scene("mug", seed=1).picture()
    seen: list[list[tuple[Tensor, Moments, int]]] = [[], []]
    for seed, layers in enumerate(seen):

        def keep(
            weight: Tensor,
            moment: Moments,
            sparsity: float,
            block: int,
            _: float,
            layers: list[tuple[Tensor, Moments, int]] = layers,
        ) -> Solution:
            layers.append((weight.clone(), moment, block))
            return magnitude(weight, moment, sparsity)

        with patch.dict(SOLVERS, {"keep": keep}):
            trace(network, image, solver="keep", sparsity=0.5, augmentations=48, seed=seed)
    for (weight, moment, block), (_, unseen, _) in zip(*seen, strict=True):
        dense = isinstance(moment, Tensor) and isinstance(unseen, Tensor)
        if dense and 288 <= weight.shape[2] <= 576:
            yield Layer("embedded", weight, moment, unseen, block)


def golden() -> Iterator[Layer]:
    """Layers of the golden values, if they are there."""
    tensors = load_file(GOLDEN) if GOLDEN.is_file() else {}
    for name in sorted(tensors):
        if name.endswith(".hessian_times_scale"):
            weight = tensors[name.replace("hessian_times_scale", "weight")]
            moment, taps = tensors[name][None], prod(weight.shape[2:])
            block = taps if taps > 1 else -(-64 // len(weight))
            yield Layer("golden", weight.reshape(1, len(weight), -1), moment, moment, block)


def exchange(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = DAMPING
) -> Solution:
    """Exchange weights of refit's mask, fewer in each of four rounds, for one group.

    A round drops what removal makes cheapest, and adds what the gradient says helps most.
    """
    assert isinstance(moment, Tensor)
    dead, ridge = absolute_damping(diagonal(moment), damping)
    keep = refit(weight, moment, sparsity, block, damping).weight != 0
    damped = moment[0].double() + float(ridge) * torch.eye(moment.shape[1], dtype=torch.float64)
    target = weight[0].double() @ damped
    count = int(keep.sum())
    for share in (0.3, 0.2, 0.1, 0.05):
        part = int(share * count)
        cost = torch.full(target.shape, torch.inf, dtype=torch.float64)
        for row, support in enumerate(keep[0]):
            inverse = torch.linalg.inv(damped[support][:, support])
            best = inverse @ target[row, support]
            cost[row, support] = best.square() / inverse.diagonal()
        keep &= largest(cost.flatten()[None], cost.numel() - part).reshape(keep.shape)
        rest = weight[0].double() - least_squares(weight, moment, keep, ridge)[0]
        gain = (rest @ damped).square() / damped.diagonal()
        gain = gain.masked_fill(keep[0] | dead, -1)
        keep |= largest(gain.flatten()[None], part).reshape(keep.shape)
    return fit(weight, moment, keep, ridge, dead)


def variant(**changed: Any) -> Solver:
    """Give ``forward`` other settings."""
    module = import_module("sparsight.traces.solvers.forward")

    def solve(*arguments: Any) -> Solution:
        with patch.multiple(module, **changed):
            found: Solution = module.forward(*arguments)
            return found

    return solve


def screened(weight: Tensor, moment: Moments, *settings: Any) -> Solution:
    """Remove weights one at a time from those that pass most on, four times too many a row."""
    score = weight.double().square() * diagonal(moment).double()[:, None]

    def choose(*arguments: Any) -> Tensor:
        return score.topk(arguments[-1], dim=2).indices

    return variant(_GROWN=4, _SPARE=0, _grow_all=choose)(weight, moment, *settings)


VARIANTS: dict[str, Solver] = {
    "`forward`, nothing removed": variant(_GROWN=1, _SPARE=0),
    "`forward`, one ridge for all inputs": variant(_own_damping=lambda r, s: r.expand(s.shape)),
    "nothing grown: `obs` from each row's $4 k$ largest $W_{ij}^2 S_{jj}$": screened,
    "mask of `refit`, exchanged in four rounds": exchange,
}


def seconds(work: Callable[[], Solution]) -> tuple[float, Solution]:
    """How long a call takes, the best of three unless it is long."""
    spent: list[float] = []
    while len(spent) < 3 and sum(spent) < 0.5:
        start = perf_counter()
        found = work()
        spent.append(perf_counter() - start)
    return min(spent), found


def measure(layer: Layer) -> dict[str, dict[str, list[float]]]:
    """Relative output errors and seconds of every solver at every sparsity."""
    total = float(squared_output(layer.weight, layer.unseen).sum())
    rows: dict[str, dict[str, list[float]]] = {}
    for name, solve in {**SOLVERS, **VARIANTS}.items():
        row = rows.setdefault(name, {"error": [], "seconds": []})
        for sparsity in SPARSITIES:
            spent, found = seconds(
                partial(solve, layer.weight, layer.moment, sparsity, layer.block, DAMPING)
            )
            lost = float(squared_output(layer.weight - found.weight, layer.unseen).sum())
            row["error"].append(round((lost / total) ** 0.5, 5))
            row["seconds"].append(round(spent, 6))
    return rows


def part(title: str, names: list[str], cells: Callable[[str, int], str]) -> str:
    """Render one table as Markdown."""
    head = ["solver", *(f"{100 * sparsity:.0f} %" for sparsity in SPARSITIES)]
    lines = [head, ["---", *["---:"] * len(SPARSITIES)]]
    for name in names:
        shown = f"`{name}`" if name in SOLVERS else name
        lines.append([shown, *(cells(name, column) for column in range(len(SPARSITIES)))])
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def table(results: dict[str, list[dict[str, dict[str, list[float]]]]]) -> str:
    """Render all results as Markdown: errors by kind of layers, then times."""
    parts = []
    for kind, layers in results.items():

        def error(name: str, column: int, layers: Any = layers) -> str:
            return f"{median(layer[name]['error'][column] for layer in layers):.3f}"

        title = f"Relative output error, median of {KINDS[kind].format(len(layers))}"
        parts.append(part(title, list(layers[0]), error))

    def time(name: str, column: int) -> str:
        ratios = [
            layer[name]["seconds"][column] / layer["refit"]["seconds"][column]
            for layer in results["embedded"]
        ]
        return f"{median(ratios):.{1 if median(ratios) < 10 else 0}f}"

    title = "Time as a multiple of `refit`, median of the layers of the embedded network"
    return "\n\n".join([*parts, part(title, list(SOLVERS), time)])


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3, help="of each kind of synthetic layer")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, dict[str, list[float]]]]] = {}
    for layer in (*synthetic(arguments.draws), *embedded(), *golden()):
        results.setdefault(layer.kind, []).append(measure(layer))
    result = {
        "command": "python benchmarks/solvers.py",
        "sparsities": SPARSITIES,
        "damping": DAMPING,
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "layers": results,
    }
    RESULT.write_text(json.dumps(result) + "\n", encoding="utf-8")
    write_table(PAGE, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
