"""``sparsight attack``: how many right answers hold under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.data import HELP
from sparsight.cli.display import Display, emit_json

__all__ = ["ATTACKS", "attack"]

ATTACKS = "fgsm, pgd10, pgd50, cw or autoattack, with commas between them."
"""What ``--attacks`` takes."""


def attack(
    data: Annotated[str, typer.Argument(help=HELP, show_default=False)],
    attacks: Annotated[str, typer.Option(help=ATTACKS)] = "fgsm,pgd10,pgd50,cw",
    epsilon: Annotated[str, typer.Option(help="Radius, in pixels of [0, 1].")] = "8/255",
    most: Annotated[
        int | None, typer.Option(min=1, help="Most images, the first ones.", show_default=False)
    ] = None,
    hardened: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a network that sparsight harden wrote, of the model's architecture.",
            show_default=False,
        ),
    ] = None,
    truth: shared.TruthOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 100,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="JSON file for the numbers.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    seed: shared.SeedOption = 0,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    as_json: shared.JsonOption = False,
) -> None:
    """How many right answers hold under attack, with intervals."""
    from torch.utils.data import Subset

    from sparsight.cli.data import read_data, read_epsilon
    from sparsight.cli.places import check_file
    from sparsight.networks import load
    from sparsight.reports.text import percent
    from sparsight.robust import Hardened, PixelClassifier, choose_attacks, evaluate
    from sparsight.storage import save_report

    if out is not None:
        check_file(out)
    radius, chosen = read_epsilon(epsilon), choose_attacks(attacks)
    network = load(model, weights=weights, labels=labels, device=device)
    classifier = PixelClassifier.of(network).eval()
    if hardened is not None:
        inner = hardened / "hardened"
        folder = inner if (inner / "hardened.json").is_file() else hardened
        classifier = Hardened.load(folder, network).classifier
    with Display(quiet=as_json) as display:
        images = read_data(data, truth, network, test=True, progress=display.step)
        some = images if most is None else Subset(images, range(min(most, len(images))))
        found = evaluate(
            classifier, some, chosen, epsilon=radius, batch=batch, workers=workers, seed=seed,
            progress=display.step,
        )  # fmt: skip
    told = {
        "network": network.spec, "hardened": None if hardened is None else str(hardened),
        **found.describe(),
    }  # fmt: skip
    if as_json:
        emit_json(told)
    else:
        with display.aside() as console:
            for name in found.right:
                low, high = found.interval(name)
                console.print(
                    f"{name:10s} {percent(found.accuracy(name))} [{percent(low)}, "
                    f"{percent(high)}], balanced {percent(found.balanced(name))}",
                    soft_wrap=True, markup=False, highlight=False,
                )  # fmt: skip
    if out is not None:  # last: the numbers have been told if it cannot be written
        save_report(out, "robustness", 1, told)
