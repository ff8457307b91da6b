"""Visualizations as one self-contained page: dense beside traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sparsight.reports.page import environment, styles
from sparsight.reports.pictures import image_uri

__all__ = ["Shown", "VisualizationPage", "render_visualizations"]

_SMALL = 150  # pixels: shown with hard edges, so that nobody takes a blur for a finding


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of one network.

    Attributes
    ----------
    pictures
        By objective, then copies of it.
    scores
        Of each.
    examples
        Crops of real images and what to say of each, by objective; may be empty.
    """

    pictures: Sequence[Sequence[Image.Image]]
    scores: Sequence[Sequence[float]]
    examples: Sequence[Sequence[tuple[Image.Image, str]]] = ()


@dataclass(frozen=True, eq=False)
class VisualizationPage:
    """What a page of visualizations shows.

    Attributes
    ----------
    titles
        A heading per objective.
    sides
        Pictures of the same objectives, by heading: ``Dense``, ``Traced``.
    network
        Which network.
    image
        What the trace was made for, if there is one.
    caption
        What the network says to it.
    facts
        Settings to print, name and value.
    """

    titles: Sequence[str]
    sides: Mapping[str, Shown]
    network: str
    image: Image.Image | None
    caption: str
    facts: Sequence[tuple[str, str]]


def render_visualizations(page: VisualizationPage) -> str:
    """Render the page; it loads nothing and runs no script.

    Examples
    --------
    >>> shown = Shown([[Image.new("RGB", (8, 8))]], [[1.5]])
    >>> text = render_visualizations(
    ...     VisualizationPage(["<b>"], {"Dense": shown}, "embedded", None, "", [])
    ... )
    >>> "&lt;b&gt;" in text, "<script" in text
    (True, False)
    """
    rows = []
    for number, title in enumerate(page.titles):
        cells = []
        for heading, found in page.sides.items():
            uris = [_uri(picture) for picture in found.pictures[number]]
            scores = ", ".join(f"{value:.2f}" for value in found.scores[number])
            found_here = found.examples[number] if found.examples else []
            crops = [(_uri(crop), caption) for crop, caption in found_here]
            cells.append({"heading": heading, "uris": uris, "scores": scores, "crops": crops})
        rows.append({"title": title, "cells": cells})
    return (
        environment()
        .get_template("visualization.html.j2")
        .render(
            rows=rows,
            network=page.network,
            image=_uri(page.image) if page.image is not None else "",
            caption=page.caption,
            facts=page.facts,
            small=any(max(p.size) < _SMALL for s in page.sides.values() for p in s.pictures[0]),
            style=styles("base", "visualization"),
        )
    )


def _uri(picture: Image.Image) -> str:
    return image_uri(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
