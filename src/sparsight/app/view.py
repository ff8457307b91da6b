"""A job and its case as pieces of HTML; every text of a stranger's is escaped."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import PurePath

from markupsafe import Markup

from sparsight.app.job import Job
from sparsight.reports import CaseFile, render_page
from sparsight.reports.page import environment, page_context
from sparsight.reports.text import clean

__all__ = ["answer", "complaint", "progress", "remark", "style"]


def style() -> str:
    """Read the style sheet of these pieces."""
    return (files("sparsight.app") / "page.css").read_text("utf-8")


def remark(text: object) -> str:
    """Say something that is no mistake.

    Examples
    --------
    >>> remark("cancelled")
    '<p class="job" role="status">cancelled</p>'
    """
    return str(Markup('<p class="job" role="status">{}</p>').format(clean(text)))


def complaint(error: object) -> str:
    """Show an error as one line.

    Examples
    --------
    >>> complaint("no such <b>image</b>")
    '<p class="job bad" role="alert">no such &lt;b&gt;image&lt;/b&gt;</p>'
    """
    line = " ".join(clean(error).split())
    return str(Markup('<p class="job bad" role="alert">{}</p>').format(line))


def progress(job: Job) -> str:
    """Show how far a job is."""
    if job.cancelled:
        text = "cancelling"
    elif job.waiting:
        text = "waiting until other computations are done"
    elif job.step is None:
        text = "starting"
    else:
        bar = Markup('<progress max="{}" value="{}"></progress>')
        shown = bar.format(max(1, job.step.total), job.step.done)
        return str(Markup('<p class="job">{} {}</p>').format(shown, clean(job.step)))
    return str(Markup('<p class="job">{}</p>').format(text))


def answer(case: CaseFile) -> str:
    """Show a case: both predictions, warnings, and maps of both networks on one scale.

    The whole case file comes along as a link that saves it; nothing is kept on the server.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsight.reports import ClassRow
    >>> row = ClassRow(0, "<script>", 0.9, 0.8)
    >>> case = CaseFile("t", np.zeros((4, 4, 3)), "i.png", "n", 0, "<script>", (row,), 0.0, 0.9)
    >>> "<script>" in answer(case), "&lt;script&gt;" in answer(case)
    (False, True)
    """
    template = (files("sparsight.app") / "answer.html.j2").read_text("utf-8")
    page = base64.b64encode(render_page(case, alone=True).encode()).decode()
    return (
        environment()
        .from_string(template)
        .render(
            page_context(case),
            page=f"data:text/html;base64,{page}",
            file_name=f"{PurePath(case.image_name).stem or 'case'}.html",
        )
    )
