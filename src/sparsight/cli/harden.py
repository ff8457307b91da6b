"""``sparsight harden``: prune under attack."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.attack import ATTACKS
from sparsight.cli.data import HELP
from sparsight.cli.display import Display, emit_json

__all__ = ["harden"]

_OURS = _PAGE, _MEASURED, _SIZES = "index.html", "robustness.json", "sizes.json"
_PRUNING, _TRAINING = "Pruning", "Training"


def harden(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=HELP, show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the network, the page and the state.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(help="Data to measure on, named as --data is.", show_default=False),
    ] = None,
    truth: shared.TruthOption = None,
    target: Annotated[
        float,
        typer.Option(
            help="Share of weights, or of multiplications, to keep.", rich_help_panel=_PRUNING
        ),
    ] = 0.01,
    mode: Annotated[
        str, typer.Option(help="weights or channels.", rich_help_panel=_PRUNING)
    ] = "weights",
    method: Annotated[
        str,
        typer.Option(
            help="harp (learn scores and rates), scores or rates alone; uniform, global, lamp, "
            "erk (magnitudes), random, or dense (nothing goes).",
            rich_help_panel=_PRUNING,
        ),
    ] = "harp",
    objective: Annotated[
        str,
        typer.Option(
            "--attack", help="pgd, trades, mart, free or natural.", rich_help_panel=_TRAINING
        ),
    ] = "pgd",
    epsilon: Annotated[
        str,
        typer.Option(help="Radius of the attack, in pixels of [0, 1].", rich_help_panel=_TRAINING),
    ] = "8/255",
    attack_steps: Annotated[
        int, typer.Option(min=1, help="Of the attack, while training.", rich_help_panel=_TRAINING)
    ] = 10,
    epochs: Annotated[
        str,
        typer.Option(
            help="Of the stages: before pruning, of masks, after.", rich_help_panel=_TRAINING
        ),
    ] = "100,20,100",
    rates: Annotated[
        str, typer.Option(help="Learning rates of the stages.", rich_help_panel=_TRAINING)
    ] = "0.1,0.1,0.01",
    batch: Annotated[
        int, typer.Option(min=1, help="Images per step.", rich_help_panel=_TRAINING)
    ] = 128,
    gamma: Annotated[
        float | None,
        typer.Option(
            help="How much more the budget weighs with each epoch, in shares of the target.",
            rich_help_panel=_PRUNING,
            show_default="as much as is needed",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Rate that layers begin with, or uniform, global, lamp or erk.",
            rich_help_panel=_PRUNING,
            show_default="0.1, uniform for scores",
        ),
    ] = None,
    scores: Annotated[
        str,
        typer.Option(
            help="First scores: magnitude, gradient or traces (times weight) or random.",
            rich_help_panel=_PRUNING,
        ),
    ] = "magnitude",
    batch_norm: Annotated[
        str,
        typer.Option(
            help="Normalisations while masks are learnt: train, statistics or frozen.",
            rich_help_panel=_PRUNING,
        ),
    ] = "train",
    validation: Annotated[
        float,
        typer.Option(
            help="Share of the images that epochs are chosen by.", rich_help_panel=_TRAINING
        ),
    ] = 0.1,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches that make up a step.", rich_help_panel=_TRAINING)
    ] = 1,
    published: Annotated[
        str | None,
        typer.Option(
            help="Settings of the published code, cifar or imagenet; options given here replace "
            "them.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="32-true, bf16-mixed or 16-mixed.", rich_help_panel=_TRAINING)
    ] = "32-true",
    devices: Annotated[
        int, typer.Option(min=1, help="That share a batch.", rich_help_panel=_TRAINING)
    ] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images.", rich_help_panel=_TRAINING)
    ] = 0,
    attacks: Annotated[str, typer.Option(help=ATTACKS)] = "fgsm,pgd10,cw",
    seed: shared.SeedOption = 0,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Train, prune and train again under attack.

    The same command, run again after an interruption, goes on after the last full epoch.
    OUT/log.csv and OUT/tensorboard grow with every epoch; OUT/hardened holds network and page.
    """
    from dataclasses import replace

    from torch import distributed

    from sparsight.cli.data import read_data, read_epsilon
    from sparsight.cli.places import check_output
    from sparsight.errors import InputError
    from sparsight.networks import load
    from sparsight.reports.harden import HardenReport
    from sparsight.reports.harden_page import render_harden
    from sparsight.reports.text import clean, percent
    from sparsight.robust import PUBLISHED, HardenSettings, choose_attacks, evaluate
    from sparsight.robust import harden as run
    from sparsight.robust.evaluate import require_attacks
    from sparsight.robust.hardened import FILES
    from sparsight.storage import atomic_folder, require_free, write_manifest

    if published is not None and published not in PUBLISHED:
        raise InputError(f"no published settings {published!r}: choose from {', '.join(PUBLISHED)}")
    usual = PUBLISHED[published] if published else HardenSettings()
    radius = read_epsilon(epsilon)
    asked: dict[str, Any] = {
        "target": target, "mode": mode, "method": method, "objective": objective, "batch": batch,
        "epsilon": radius, "attack_step": radius / 4, "attack_steps": attack_steps, "seed": seed,
        "epochs": _numbers(epochs, int), "rates": _numbers(rates, float), "precision": precision,
        "devices": devices, "workers": workers, "gamma": gamma, "start": _start(start),
        "scores": scores, "batch_norm": batch_norm, "validation": validation,
        "accumulate": accumulate,
    }  # fmt: skip
    if published:
        given = _given(context)
        asked = {name: value for name, value in asked.items() if name in given}
        if "epsilon" in given:
            asked["attack_step"] = radius / 4
    settings = replace(usual, **asked)
    chosen = choose_attacks(attacks)
    network = load(model, weights=weights, labels=labels, device=device)
    folder, state = out / "hardened", out / "state"
    require_free(folder, {*FILES, *_OURS}, overwrite=overwrite)
    check_output(out)
    if test is not None:
        require_attacks(chosen, len(network.labels))
    measured = None
    for name in ("lightning_fabric", "lightning.fabric"):  # progress is shown, and no more
        logging.getLogger(name).setLevel(logging.WARNING)
    with Display(quiet=as_json) as display:
        images = read_data(data, truth, network, progress=display.step)
        others = None
        if test is not None:
            others = read_data(test, truth, network, test=True, progress=display.step)
        found = run(
            network, images, settings=settings, state=state, overwrite=overwrite,
            progress=display.step,
            logged=_Log(out),
        )  # fmt: skip
        if distributed.is_initialized() and distributed.get_rank():
            return  # the first process measures and writes
        if others is not None:
            measured = evaluate(
                found.classifier, others, chosen, epsilon=settings.epsilon, workers=workers,
                seed=seed, progress=display.step,
            )  # fmt: skip
        x = images[0][0][None].to(network.device, network.dtype)
        sizes = found.sizes(network, x)
        told = {name: size.describe() for name, size in sizes.items()}
        with atomic_folder(folder, {*FILES, *_OURS}, overwrite=overwrite) as fresh:
            report = HardenReport(
                network.spec, dict(found.settings), found.reached,
                [(one.name, one.kept, one.size) for one in found.kept],
                [dict(row) for row in found.log],
                told,
                None if measured is None else measured.describe(),
            )  # fmt: skip
            (fresh / _PAGE).write_text(render_harden(report), encoding="utf-8")
            write_manifest(fresh, _SIZES, told)
            if measured is not None:
                write_manifest(fresh, _MEASURED, measured.describe())
            found.write(fresh)
    if as_json:
        held = {} if measured is None else {"robustness": measured.describe()}
        emit_json({"out": str(folder), **found.describe(), "sizes": told, **held})
        return
    with display.aside() as console:
        console.print(
            clean(f"{percent(found.share)} of the {mode} kept"), style="bold", soft_wrap=True,
            markup=False,
        )  # fmt: skip
        if not found.reached:
            console.print(
                "the rates that were learnt never met the budget; the masks do: give more epochs "
                "of masks",
                soft_wrap=True, markup=False, style="yellow",
            )  # fmt: skip
        if measured is not None:
            for name in measured.right:
                console.print(
                    f"{name:10s} {percent(measured.accuracy(name))}", soft_wrap=True,
                    markup=False, highlight=False,
                )  # fmt: skip
        console.print(f"page {clean(folder / _PAGE)}", soft_wrap=True, markup=False)


def _given(context: typer.Context) -> set[str]:
    """Names of the settings that were typed, and not left as they are."""
    return {
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }


def _start(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _numbers(text: str, kind: Any) -> tuple[Any, ...]:
    from sparsight.errors import InputError

    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} are no numbers: give three, with commas") from error


class _Log:
    """Writes rows as CSV, whole at every epoch, and for TensorBoard where that is installed."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._board: Any = None

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        """Write all rows; the last one is new."""
        import csv
        import io

        from sparsight.errors import InputError
        from sparsight.storage import write_text

        flat = [
            {name: value for name, value in row.items() if not isinstance(value, dict)}
            | {f"rate {name}": value for name, value in row.get("rates", {}).items()}
            for row in rows
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows(flat)
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            write_text(self._out / "log.csv", text.getvalue())
        except OSError as error:
            raise InputError(f"cannot write {self._out} ({error.strerror or error})") from error
        self._draw(flat[-1], len(flat))

    def _draw(self, row: dict[str, Any], step: int) -> None:
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            home = self._out / "tensorboard"
            if step == 1:  # curves of what this one replaces
                for file in home.glob("events.out.tfevents.*"):
                    file.unlink()
            self._board = SummaryWriter(str(home))
        for name, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{row['stage']}/{name}", value, step)
        self._board.flush()
