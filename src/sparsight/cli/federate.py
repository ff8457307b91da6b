"""``sparsight federate``: train on images that stay where they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.data import HELP
from sparsight.cli.display import Display, emit_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["federate"]

_PAGE = "index.html"
_CLIENTS, _TRAINING, _SENDING = "Clients", "Training", "Sending"
_TABLE = "{:>6} {:>10} {:>10} {:>8} {:>8} {:>9} {:>9} {:>8}"


def federate(
    data: Annotated[str, typer.Option(help=HELP, show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the networks, the page and the state.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            help="Images of nobody to measure on, named as --data is.", show_default=False
        ),
    ] = None,
    truth: shared.TruthOption = None,
    clients: Annotated[int, typer.Option(min=1, help="How many.", rich_help_panel=_CLIENTS)] = 10,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Concentration of a Dirichlet distribution that classes are dealt out by: 0.1 "
            "leaves a client a few classes, 100 nearly all alike.",
            rich_help_panel=_CLIENTS,
            show_default="all alike",
        ),
    ] = None,
    classes_each: Annotated[
        int | None,
        typer.Option(
            help="Classes of each client, in place of --alpha.",
            rich_help_panel=_CLIENTS,
            show_default=False,
        ),
    ] = None,
    styles: Annotated[
        float,
        typer.Option(
            help="How unlike the clients' cameras are: 0.3 for casts, contrasts, brightness.",
            rich_help_panel=_CLIENTS,
        ),
    ] = 0.0,
    sample: Annotated[
        float,
        typer.Option(help="Share of clients that a round asks.", rich_help_panel=_CLIENTS),
    ] = 1.0,
    algorithm: Annotated[
        str,
        typer.Option(
            help="spatl, alone, fedavg, fedprox, fednova, scaffold, fedper, topk or randomk.",
            rich_help_panel=_TRAINING,
        ),
    ] = "spatl",
    rounds: Annotated[int, typer.Option(min=1, rich_help_panel=_TRAINING)] = 50,
    epochs: Annotated[
        int, typer.Option(min=1, help="Of a client in a round.", rich_help_panel=_TRAINING)
    ] = 2,
    rate: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_TRAINING)] = 0.1,
    momentum: Annotated[float, typer.Option(rich_help_panel=_TRAINING)] = 0.0,
    batch: Annotated[
        int, typer.Option(min=1, help="Images per step.", rich_help_panel=_TRAINING)
    ] = 32,
    proximal: Annotated[
        float | None,
        typer.Option(
            help="Pull of the server's weights while clients train.",
            rich_help_panel=_TRAINING,
            show_default="0.01 for fedprox, else 0",
        ),
    ] = None,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--no-augment",
            help="Shift and mirror images at random.",
            rich_help_panel=_TRAINING,
        ),
    ] = True,
    judge: Annotated[
        int,
        typer.Option(
            min=1, help="Rounds from one measurement to the next.", rich_help_panel=_TRAINING
        ),
    ] = 1,
    head: Annotated[
        str | None,
        typer.Option(
            help="Where the head lives: local or shared.",
            rich_help_panel=_SENDING,
            show_default="as the algorithm has it",
        ),
    ] = None,
    head_name: Annotated[
        str | None,
        typer.Option(
            help="Module that is the head.",
            rich_help_panel=_SENDING,
            show_default="the last layer",
        ),
    ] = None,
    group_norm: Annotated[
        bool,
        typer.Option(
            "--group-norm",
            help="Replace normalisations over a batch by ones over groups of channels.",
            rich_help_panel=_SENDING,
        ),
    ] = False,
    selector: Annotated[
        str | None,
        typer.Option(
            help="all, update, norm, gradient, blame, random, agent, entries or random-entries.",
            rich_help_panel=_SENDING,
            show_default="as the algorithm has it",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Share of the encoder's bytes that a client sends.",
            rich_help_panel=_SENDING,
            show_default="as the algorithm has it",
        ),
    ] = None,
    downlink: Annotated[
        float, typer.Option(help="Share of rows that is sent down.", rich_help_panel=_SENDING)
    ] = 1.0,
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help="Whether a client adds what it did not send to what it sends later.",
            rich_help_panel=_SENDING,
            show_default="unless gradients are controlled",
        ),
    ] = None,
    variates: Annotated[
        str | None,
        typer.Option(
            help="Gradient control: none, sent or derived.",
            rich_help_panel=_SENDING,
            show_default="as the algorithm has it",
        ),
    ] = None,
    agent: Annotated[
        Path | None,
        typer.Option(
            help="Agent for that selector.",
            rich_help_panel=_SENDING,
            show_default="the one that comes along",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="flower (on Ray's workers) or loop (in this process)."),
    ] = "flower",
    timeout: Annotated[
        float, typer.Option(help="Seconds that a round on Flower waits for replies.")
    ] = 3600.0,
    seed: shared.SeedOption = 0,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Train a network on images that stay with their clients, who send only what matters.

    The same command, run again after an interruption, goes on after the last full round; with more
    --rounds it goes on from the last one. OUT/federated holds networks and page.
    """
    import torch

    from sparsight.cli.data import read_data
    from sparsight.errors import InputError
    from sparsight.federated import Agent, FederatedSettings, Federation, group_norms
    from sparsight.federated import federate as run
    from sparsight.federated.result import FILES
    from sparsight.networks import load
    from sparsight.reports.federate import FederateReport
    from sparsight.reports.federate_page import render_federate
    from sparsight.reports.text import clean
    from sparsight.storage import atomic_folder, require_free

    given: dict[str, Any] = {
        "head": head, "selector": selector, "budget": budget, "variates": variates,
        "proximal": proximal, "memory": memory,
    }  # fmt: skip
    settings = FederatedSettings.preset(
        algorithm, rounds=rounds, epochs=epochs, rate=rate, momentum=momentum, batch=batch,
        judge=judge, sample=sample, downlink=downlink, seed=seed, augment=augment,
        **{name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
    if alpha is not None and classes_each is not None:
        raise InputError("--alpha and --classes-each deal images out in two ways: choose one")
    torch.manual_seed(seed)  # of random weights
    network = load(model, weights=weights, labels=labels, device=device)
    network = group_norms(network) if group_norm else network
    folder, state = out / "federated", out / "state"
    if folder.exists() and not overwrite:
        told = " (--overwrite goes on from its state, or begins anew if that is of something else)"
        raise InputError(f"{folder} is there already: choose another folder, or overwrite it{told}")
    require_free(folder, {*FILES, _PAGE}, overwrite=overwrite)
    with Display(quiet=as_json) as display:
        images = read_data(data, truth, network, progress=display.step)
        others = None
        if test is not None:
            others = read_data(test, truth, network, test=True, progress=display.step)
        parts = _parts(images.labels, clients, alpha, classes_each, seed)
        federation = Federation.of(images, parts, others, seed=seed, styles=styles)
        table = _Table(display, settings.rounds)
        if not as_json:
            with display.aside() as console:
                for line in _clients(federation.told):
                    console.print(line, soft_wrap=True, markup=False, highlight=False)
        found = run(
            network, federation, settings=settings, engine=engine, head_name=head_name,
            agent=None if agent is None else Agent.load(agent), state=state, overwrite=overwrite,
            timeout=timeout, progress=display.step,
            logged=(lambda rows: None) if as_json else table,
        )  # fmt: skip
        report = FederateReport(
            network.spec, found.settings, list(network.labels), found.told, found.log
        )
        with atomic_folder(folder, {*FILES, _PAGE}, overwrite=overwrite) as fresh:
            (fresh / _PAGE).write_text(render_federate(report), encoding="utf-8")
            found.write(fresh)
    if as_json:
        emit_json({"out": str(folder), **found.describe()})
        return
    with display.aside() as console:
        console.print(str(found), style="bold", soft_wrap=True, markup=False)
        console.print(f"page {clean(folder / _PAGE)}", soft_wrap=True, markup=False)


def _parts(
    labels: Tensor, clients: int, alpha: float | None, classes_each: int | None, seed: int
) -> list[list[int]]:
    from sparsight.federated import dirichlet, evenly, few_classes

    if classes_each is not None:
        return few_classes(labels, clients, classes_each, seed)
    if alpha is not None:
        return dirichlet(labels, clients, alpha, seed)
    return evenly(labels, clients, seed)


def _clients(told: dict[str, Any]) -> list[str]:
    """Tell who has what, a line for each client."""
    from sparsight.reports.text import percent

    lines = [f"clients differ from all images together by {percent(told['distance'])} on average"]
    for number, (count, own) in enumerate(zip(told["images"], told["counts"], strict=True)):
        lines.append(f"client {number:3d}: {count:6d} images, by class {' '.join(map(str, own))}")
    return lines


class _Table:
    """Prints a row for each round."""

    def __init__(self, display: Display, rounds: int) -> None:
        self._display, self._rounds, self._shown = display, rounds, 0

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        """Print what is new."""
        from sparsight.reports.text import percent

        with self._display.aside() as console:
            for row in rows[self._shown :]:
                if not self._shown:
                    names = ("round", "local", "global", "loss", "clients", "KiB up", "KiB down")
                    console.print(_TABLE.format(*names, "seconds"), markup=False, style="bold")
                self._shown += 1
                cells = [percent(row[n]) if n in row else "" for n in ("local", "global")]
                loss = f"{row['loss']:.3f}" if "loss" in row else ""
                asked = len(row["answered"]) + len(row["failed"])
                told = _TABLE.format(
                    row["round"], *cells, loss, f"{len(row['answered'])}/{asked}",
                    f"{row['up'] / 1024:.1f}", f"{row['down'] / 1024:.1f}",
                    f"{row['seconds']:.1f}",
                )  # fmt: skip
                console.print(told, markup=False, highlight=False)
