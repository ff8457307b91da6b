"""``sparsight visualize``: what neurons want to see, dense and traced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

if TYPE_CHECKING:
    from PIL import Image

    from sparsight.visualization import Example

__all__ = ["visualize"]

_PICTURE = "Picture"
_PAGE = "index.html"


def visualize(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for pictures and page.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Argument(help="Image file to trace the network for.", show_default=False),
    ] = None,
    neuron: Annotated[
        list[str] | None,
        typer.Option(
            help="LAYER:CHANNEL, LAYER:CHANNEL@PLACE, LAYER:all or class:NAME, or a difference of "
            "two, 'class:A - class:B'; repeat it. The network's answer by default.",
            show_default=False,
        ),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="Show what the whole network wants to see.")
    ] = True,
    traced: Annotated[
        bool, typer.Option("--traced/--no-traced", help="Show what the trace wants to see.")
    ] = True,
    images: Annotated[
        int, typer.Option(min=1, help="For each neuron.", rich_help_panel=_PICTURE)
    ] = 1,
    parametrization: Annotated[
        str, typer.Option(help="fourier, maco, pixels or cppn.", rich_help_panel=_PICTURE)
    ] = "fourier",
    steps: Annotated[
        int, typer.Option(min=1, help="Of optimisation.", rich_help_panel=_PICTURE)
    ] = 256,
    diversity: Annotated[
        float, typer.Option(help="Push images of a neuron apart.", rich_help_panel=_PICTURE)
    ] = 0.0,
    variation: Annotated[
        float, typer.Option(help="Weight of the total variation.", rich_help_panel=_PICTURE)
    ] = 0.0,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images: also show crops of them that the neurons answer to most.",
            rich_help_panel=_PICTURE,
            show_default=False,
        ),
    ] = None,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    sparsity: shared.SparsityOption = shared.DEFAULT_SPARSITY,
    augmentations: shared.AugmentationsOption = 64,
    solver: shared.SolverOption = shared.DEFAULT_SOLVER,
    pattern: shared.PatternOption = "weight",
    damping: shared.DampingOption = None,
    stem: shared.StemOption = False,
    seed: shared.SeedOption = 0,
    chunk: shared.ChunkOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Compute images that raise what a neuron says, in the whole network and in a trace.

    With an image, the network is traced for it, and both are shown side by side. sparsight layers
    lists what can be named.
    """
    from sparsight.cli.settings import TraceSettings
    from sparsight.datasets.folders import list_images
    from sparsight.errors import InputError
    from sparsight.networks import open_image
    from sparsight.reports.text import clean, percent
    from sparsight.reports.visualization import Shown, VisualizationPage, render_visualizations
    from sparsight.storage import atomic_folder, write_text
    from sparsight.visualization import Visualization, parse_objectives, top_examples
    from sparsight.visualization import visualize as compute

    if image is None and not neuron:
        raise InputError("nothing to visualize: name an image, or neurons with --neuron")
    if not dense and (image is None or not traced):
        raise InputError("nothing to visualize: --no-dense needs an image to trace the network for")
    settings = TraceSettings(
        model=model, weights=weights, labels=labels, sparsity=sparsity,
        augmentations=augmentations, solver=solver, pattern=pattern, damping=damping, stem=stem,
        seed=seed, chunk=chunk, device=device,
    )  # fmt: skip
    how: dict[str, Any] = {
        "images": images, "parametrization": parametrization, "steps": steps,
        "diversity": diversity, "variation": variation, "seed": seed,
    }  # fmt: skip
    kept = {_PAGE, "dense", "traced", "trace"}
    with (
        Display(quiet=as_json) as display,
        atomic_folder(out, kept, overwrite=overwrite) as folder,
    ):
        network = settings.load()
        files = list_images(examples) if examples is not None else []
        caption, networks, shown = "", {}, None
        if image is not None:
            shown = open_image(image).convert("RGB")
            logits = network.logits(network.prepare(image))[0].softmax(0)
            answer = int(logits.argmax())
            neuron = neuron or [f"class:{answer}"]
            caption = f"{image.name}: {network.label(answer)}, {percent(float(logits[answer]))}"
        wanted = parse_objectives(network, neuron or [])
        if dense:
            networks["Dense"] = network
        if image is not None and traced:
            found = settings.trace(network, image, display.step)
            found.save(folder / "trace")
            networks["Traced"] = found.network(network)
            caption += f"; the trace leaves {percent(1 - found.sparsity)} of the weights"
        sides: dict[str, Visualization] = {}
        shown_as: dict[str, Shown] = {}
        for heading, asked in networks.items():
            display.count(heading, len(sides), len(networks))
            sides[heading] = compute(asked, wanted, progress=display.step, **how)
            place = sides[heading].save(folder / heading.lower())
            pictures = [
                [sides[heading].picture(number, copy) for copy in range(images)]
                for number in range(len(wanted))
            ]
            for number, copies in enumerate(pictures):
                for copy, picture in enumerate(copies):
                    picture.save(place / f"{number:03d}-{copy:02d}.png")
            crops = []
            if examples is not None:
                best = top_examples(asked, wanted, files, progress=display.step)
                crops = [[_crop(example) for example in found] for found in best]
                write_text(place / "examples.json", json.dumps([_plain(b) for b in best], indent=2))
            shown_as[heading] = Shown(pictures, sides[heading].scores.tolist(), crops)
        titles = [_title(network, text) for text in neuron or []]
        facts = [(name, str(value)) for name, value in how.items()]
        page = VisualizationPage(titles, shown_as, network.spec, shown, caption, facts)
        (folder / _PAGE).write_text(render_visualizations(page), encoding="utf-8")
    if as_json:
        scores = {heading: found.scores.tolist() for heading, found in sides.items()}
        emit_json({"out": str(out), "neurons": titles, "scores": scores})
        return
    with display.aside() as console:
        for number, title in enumerate(titles):
            told = ", ".join(
                f"{heading.lower()} {float(found.scores[number].max()):.2f}"
                for heading, found in sides.items()
            )
            console.print(f"{clean(title)}: {told}", soft_wrap=True, markup=False)
        console.print(f"page {clean(out / _PAGE)}", soft_wrap=True, markup=False)


def _crop(example: Example) -> tuple[Image.Image, str]:
    return example.picture(), f"{Path(example.source).name}, {example.score:.2f}"


def _plain(examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [
        {"image": e.source, "score": e.score, "place": e.place, "box": list(e.box)}
        for e in examples
    ]


def _title(network: Any, text: str) -> str:
    """Write a class by its name."""
    name, _, which = text.rpartition(":")
    if name == "class" and which.isdigit():
        return f"class:{network.label(int(which))}"
    return text
