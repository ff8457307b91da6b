"""Who is to blame, as a page of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.reports.blame import BlameReport
from sparsight.reports.blame_charts import blame_context
from sparsight.reports.page import environment, styles
from sparsight.reports.pictures import image_uri

__all__ = ["render_blame"]

_SMALL = 150  # pixels: shown with hard edges, so that nobody takes a blur for a finding


def render_blame(report: BlameReport, image: NDArray[np.floating], title: str, network: str) -> str:
    """Render a page of its own; it loads nothing and runs no script.

    Parameters
    ----------
    report
        What was found.
    image
        ``(H, W, 3)`` in 0..1: what the network was shown.
    title, network
        Headline, and which network.

    Examples
    --------
    >>> from sparsight.reports.blame import Profile
    >>> profile = Profile("Dense", [("conv", np.ones(3))], [("conv", 1.0, 1.0)], 1.0)
    >>> report = BlameReport("<cat>", "dog", 1.5, "z", [], [profile])
    >>> text = render_blame(report, np.zeros((8, 8, 3)), "t", "n")
    >>> "&lt;cat&gt;" in text, "<script" in text
    (True, False)
    """
    wrong = report.label != report.predicted
    return (
        environment()
        .get_template("blame_page.html.j2")
        .render(
            blame=blame_context(report),
            title=title,
            network=network,
            answer=f"{report.predicted}, not {report.label}" if wrong else report.predicted,
            photo=image_uri(image),
            photo_pixelated=max(image.shape[:2]) < _SMALL,
            style=styles("base", "visualization", "chart", "blame"),
        )
    )
