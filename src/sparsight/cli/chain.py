"""``sparsight chain``: the small sub-network that tells a few classes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["chain"]

_PAGE, _GRAPH, _GRAPHML, _PICTURE = "index.html", "graph.json", "graph.graphml", "chain.svg"
_CHAIN = "Chain"


def chain(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders of them.", metavar="IMAGE", show_default=False
        ),
    ],
    classes: Annotated[
        list[str],
        typer.Option(
            "--classes",
            "-c",
            help="Two or more classes with commas between them, by name or number; repeat it for "
            "more sub-tasks.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder; each sub-task gets one of its own in it.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    truth: shared.TruthOption = None,
    by_answer: Annotated[
        bool,
        typer.Option("--by-answer", help="Take the network's answer for an image's class."),
    ] = False,
    each: Annotated[int, typer.Option(min=1, help="Images of each class to extract from.")] = 10,
    measure: Annotated[
        int, typer.Option(min=0, help="Most other images to measure on, of these classes and not.")
    ] = 100,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Share of units to keep, in (0, 1].", rich_help_panel=_CHAIN, show_default="0.05"
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Penalties and a threshold as in the paper instead of a share to keep.",
            rich_help_panel=_CHAIN,
        ),
    ] = False,
    selector: Annotated[
        str,
        typer.Option(
            help="gates, hard-concrete, contribution, integrated, magnitude or random.",
            rich_help_panel=_CHAIN,
        ),
    ] = "gates",
    steps: Annotated[int, typer.Option(min=1, help="Of learning.", rich_help_panel=_CHAIN)] = 300,
    drawn: Annotated[int, typer.Option(min=1, help="Units drawn of each layer.")] = 6,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trace: extract the chain from what it left of the network.",
            show_default=False,
        ),
    ] = None,
    seed: shared.SeedOption = 0,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Find the small sub-network that tells these classes apart, and draw it.

    Each sub-task's folder holds index.html, the picture as SVG, the graph as JSON and GraphML, and
    the chain itself. Sub-tasks whose folder is complete are passed over.
    """
    from dataclasses import replace

    from sparsight.chains import PUBLISHED, Chain, ChainSettings, extract
    from sparsight.cli.places import case_names
    from sparsight.datasets.folders import label_images, list_images
    from sparsight.errors import InputError
    from sparsight.networks import load
    from sparsight.reports.chain_page import render_chain
    from sparsight.reports.chain_picture import chain_svg
    from sparsight.reports.text import clean
    from sparsight.storage import atomic_folder, read_manifest, write_manifest
    from sparsight.subtask import describe_chain, divide
    from sparsight.traces import Trace

    if published and keep is not None:
        raise InputError("--published chooses by penalties: leave out --keep")
    usual = PUBLISHED if published else ChainSettings()
    settings = replace(usual, steps=steps, seed=seed)
    settings = settings if keep is None else replace(settings, keep=keep)
    network = load(model, weights=weights, labels=labels, device=device)
    if trace is not None:
        network = Trace.load(trace).network(network)
    wanted = [
        tuple(network.class_index(name.strip()) for name in one.split(",")) for one in classes
    ]
    names = case_names([Path(one.replace(",", "-or-").replace("/", "-")) for one in classes])
    files = {_PAGE, _GRAPH, _GRAPHML, _PICTURE, "chain"}
    summary = []
    with Display(quiet=as_json) as display:
        if by_answer:
            samples = []
            listed = list_images(images)
            for number, file in enumerate(listed):
                display.step("answering", number, len(listed))
                samples.append((file, int(network.logits(network.prepare(file))[0].argmax())))
        else:
            samples = [(f, network.class_index(name)) for f, name in label_images(images, truth)]
        tasks = [
            replace(
                divide(samples, own, each=each, most=measure, seed=seed, name=network.label),
                labelled=not by_answer,
            )
            for own in wanted
        ]
        for name, task in zip(names, tasks, strict=True):
            folder = out / name
            title = " or ".join(network.label(number) for number in task.classes)
            asked = {
                "model": network.spec, "trace": None if trace is None else str(trace),
                "weights": None if weights is None else str(weights), "drawn": drawn,
                "selector": selector, "images": [file.name for file, _ in task.given],
                "measured": [file.name for file, _ in (*task.held, *task.others)],
                "by_answer": by_answer, **settings.describe(),
            }  # fmt: skip
            if (folder / _PAGE).is_file() and not overwrite:
                if read_manifest(folder, _GRAPH, "chain graph", 1).get("asked") != asked:
                    raise InputError(
                        f"{folder} was made with other settings or images: choose another folder, "
                        "or replace it with --overwrite"
                    )
                found = Chain.load(folder / "chain")
                display.say(f"{folder} is there already")
            else:
                with atomic_folder(folder, files, overwrite=overwrite) as temporary:
                    found = extract(
                        network, [file for file, _ in task.given],
                        classes=task.classes, selector=selector, settings=settings,
                        progress=display.step,
                    )  # fmt: skip
                    report, graph = describe_chain(
                        network, found, task, most=drawn, seed=seed, progress=display.step
                    )
                    found.save(temporary / "chain")
                    graph.write_graphml(temporary / _GRAPHML)
                    (temporary / _PICTURE).write_text(chain_svg(report), encoding="utf-8")
                    page = render_chain(report, f"{title}: which units tell?")
                    (temporary / _PAGE).write_text(page, encoding="utf-8")
                    facts = {"kind": "chain graph", "schema": 1, "asked": asked}
                    write_manifest(temporary, _GRAPH, facts | graph.describe())
            summary.append({"out": str(folder), "classes": title, **found.describe()})
    if as_json:
        emit_json({"chains": summary})
        return
    with display.aside() as console:
        for one in summary:
            console.print(
                clean(
                    f"{one['classes']}: {one['kept']} of {one['units']} units, "
                    f"{100 * one['agreement']:.0f} % of {one['images']} answers kept"
                ),
                soft_wrap=True, markup=False, highlight=False,
            )  # fmt: skip
            console.print(f"page {clean(one['out'])}/{_PAGE}", soft_wrap=True, markup=False)
