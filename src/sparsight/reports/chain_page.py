"""A chain on a page of its own."""

from __future__ import annotations

from sparsight.reports.chain import ChainReport
from sparsight.reports.chain_picture import picture_context
from sparsight.reports.page import environment, resource, script_digest, styles
from sparsight.reports.pictures import image_uri
from sparsight.reports.text import percent

__all__ = ["render_chain"]


def render_chain(report: ChainReport, title: str) -> str:
    """Render a page of its own, which loads nothing.

    Parameters
    ----------
    report
        What was found.
    title
        Headline.

    Examples
    --------
    >>> from sparsight.reports.chain import ChainReport, Drawn
    >>> nodes = [Drawn(0, "<conv>", 3, [0.5])]
    >>> layers = [("c", 1, 9)]
    >>> report = ChainReport(["cat"], "n", 1, 9, 0, 0, layers, ["cat"], ["c"], nodes, [])
    >>> text = render_chain(report, "t")
    >>> "<conv>" in text, "&lt;conv&gt;" in text
    (False, True)
    """
    script = resource("chain.js")
    sets = list(dict.fromkeys(score.images for score in report.scores))
    return (
        environment()
        .get_template("chain_page.html.j2")
        .render(
            report=report,
            title=title,
            share=percent(report.kept / report.units),
            chain=picture_context(report),
            sets=[(name, [s for s in report.scores if s.images == name]) for name in sets],
            images=[(name, image_uri(shown, 120, photo=True)) for name, shown in report.images],
            script=script,
            script_hash=script_digest(str(script)),
            style=styles("base", "chain", "chain_page"),
        )
    )
