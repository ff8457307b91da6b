"""The page itself: what can be set, what starts a job, and where its answer goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from sparsight.app import view
from sparsight.app.desk import Desk, Seat
from sparsight.app.question import MOST_VIEWS, Question
from sparsight.attribution import METHODS
from sparsight.casefile import DEFAULT_METHODS
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network

__all__ = ["build", "look"]

_PULSE = 0.15  # seconds from one look at a job to the next
_PREDICTION = -1
_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
_INTRO = (
    "# Sparsight\nKeep only the weights that matter for one image, then look: maps of the whole "
    "network beside maps of its trace."
)


def look() -> dict[str, Any]:
    """Give the theme and the style sheet, of fonts that are on this machine."""
    import gradio

    theme = gradio.themes.Default(primary_hue="teal", font=_SANS, font_mono=_MONO)
    return {"theme": theme, "css": view.style()}


def build(desk: Desk) -> Any:
    """Lay out the page.

    Parameters
    ----------
    desk
        Who answers, for everybody who opens the page.

    Returns
    -------
    gradio.Blocks
        Served by :func:`sparsight.app.serve`.
    """
    import gradio

    first = next(iter(desk.networks))
    with gradio.Blocks(
        title="Sparsight", analytics_enabled=False, elem_classes="sparsight"
    ) as page:
        seat = gradio.State(Seat(), delete_callback=Seat.cancel)
        gradio.Markdown(_INTRO)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                image = gradio.Image(
                    label="Image", type="filepath", image_mode=None, height=240,
                    sources=["upload", "clipboard"], elem_id="image",
                )  # fmt: skip
                network = gradio.Dropdown(
                    list(desk.networks), value=first, label="Network", elem_id="network"
                )
                target = gradio.Dropdown(
                    _classes(desk.networks[first]), value=_PREDICTION, label="Explain",
                    elem_id="target",
                )  # fmt: skip
                methods = gradio.Dropdown(
                    [(method.title, name) for name, method in METHODS.items()],
                    value=list(DEFAULT_METHODS), multiselect=True, label="Maps",
                    elem_id="methods",
                )  # fmt: skip
                auto = gradio.Checkbox(
                    value=True, label="As sparse as the answer allows", elem_id="auto"
                )
                sparsity = gradio.Slider(
                    0, 0.99, value=0.9, step=0.01, label="Share of weights to remove",
                    elem_id="sparsity",
                )  # fmt: skip
                views = gradio.Slider(
                    1, MOST_VIEWS, value=64, step=1, label="Random views of the image",
                    elem_id="views",
                )  # fmt: skip
                with gradio.Row():
                    run = gradio.Button("Run", variant="primary", min_width=80, elem_id="run")
                    stop = gradio.Button(
                        "Cancel", interactive=False, min_width=80, elem_id="cancel"
                    )
            with gradio.Column(scale=2, min_width=320):
                state = gradio.HTML(view.remark("Drop an image, then press Run."), elem_id="state")
                shown = gradio.HTML(apply_default_css=False, elem_id="answer")

        # Gradio would decode and check these itself, and print a traceback for what it refuses.
        image.preprocess = _dropped
        for number in (sparsity, views):
            number.preprocess = _as_typed

        async def ask(
            seat: Seat, dropped: tuple[str, str] | None, network: str, target: int,
            methods: list[str], auto: bool, sparsity: float | None, views: float | None,
        ) -> AsyncIterator[tuple[Any, ...]]:  # fmt: skip
            keep = gradio.skip()
            try:
                question = _question(dropped, network, target, methods, auto, sparsity, views)
                job = seat.ask(desk, question)
            except InputError as error:
                yield view.complaint(error), keep, keep
                return
            try:
                while not job.over:
                    yield view.progress(job), keep, gradio.Button(interactive=True)
                    await asyncio.sleep(_PULSE)
            finally:
                job.cancel()  # whoever closes the page has no use for it
            if seat.job is not job:
                return
            idle = gradio.Button(interactive=False)
            try:
                case = job.result()
            except CancelledError:
                yield view.remark("cancelled"), keep, idle
            except SparsightError as error:
                yield view.complaint(error), "", idle
            except Exception as error:
                logging.getLogger(__name__).exception("%s failed", question)
                kind = type(error).__name__
                yield view.complaint(f"failed with {kind}: the terminal says more"), "", idle
            else:
                took = sum(case.timings.values())
                yield view.remark(f"done in {took:.1f} s"), view.answer(case), idle

        async def ask_again(seat: Seat, *given: Any) -> AsyncIterator[tuple[Any, ...]]:
            """Ask only if there is something new to ask."""
            dropped = given[0]
            if dropped is None or _same(seat.question, given):
                return
            async for shown in ask(seat, *given):
                yield shown

        async def ask_sparsity(seat: Seat, *given: Any) -> AsyncIterator[tuple[Any, ...]]:
            """Ask for the sparsity that the slider was moved to."""
            by_hand = (*given[:4], False, *given[5:])
            yield *(gradio.skip() for _ in range(3)), False
            async for shown in ask_again(seat, *by_hand):
                yield *shown, gradio.skip()

        async def cancel(seat: Seat) -> None:
            seat.cancel()

        def classes(network: str) -> Any:
            return gradio.Dropdown(_classes(desk.networks[network]), value=_PREDICTION)

        asked = [seat, image, network, target, methods, auto, sparsity, views]
        told = [state, shown, stop]
        how: dict[str, Any] = {
            "concurrency_limit": None, "trigger_mode": "multiple", "show_progress": "hidden",
            "api_visibility": "private",
        }  # fmt: skip
        run.click(ask, asked, told, **how)
        auto.input(ask_again, asked, told, **how)
        sparsity.release(ask_sparsity, asked, [*told, auto], **how)
        stop.click(cancel, seat, None, **how)
        network.input(classes, network, target, **how)
    return page


def _classes(network: Network) -> list[tuple[str, int]]:
    """List what can be explained; classes of one name are told apart by their numbers."""
    labels = network.labels
    named = [
        (label if labels.count(label) == 1 else f"{label} ({index})", index)
        for index, label in enumerate(labels)
    ]
    return [("the prediction", _PREDICTION), *named]


def _dropped(payload: Any) -> tuple[str, str] | None:
    """Say where a dropped file is, and what its owner calls it."""
    if payload is None or payload.path is None:
        return None
    return payload.path, Path(payload.orig_name or payload.path).name


def _as_typed(payload: float | None) -> float | None:
    return payload


def _question(
    dropped: tuple[str, str] | None, network: str, target: int, methods: list[str], auto: bool,
    sparsity: float | None, views: float | None,
) -> Question:  # fmt: skip
    if dropped is None:
        raise InputError("no image: drop one, paste one, or click to choose a file")
    if sparsity is None or views is None:
        raise InputError("a number is missing: fill in sparsity and views")
    path, name = dropped
    return Question(
        network, Path(path), name,
        target=None if target == _PREDICTION else target,
        methods=tuple(methods),
        sparsity=None if auto else sparsity,
        augmentations=int(views),
    )  # fmt: skip


def _same(last: Question | None, given: tuple[Any, ...]) -> bool:
    """Whether this was asked last: a field that is left unchanged asks nothing."""
    try:
        return last == _question(*given)
    except InputError:
        return False
