"""Where questions are answered, one at a time, and the seats of those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from sparsight.app.job import Job
from sparsight.app.question import Question
from sparsight.casefile import explain
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, open_image
from sparsight.reports import CaseFile

__all__ = ["Desk", "Seat"]


class Desk:
    """Networks that are loaded once, and one thread that answers questions in the order asked.

    A trace lies over the network's own weights while maps are drawn, and every computation uses
    all cores, so two at once would gain nothing and mix their weights.

    Parameters
    ----------
    networks
        In evaluation mode, by the names that questions use.

    Examples
    --------
    >>> import tempfile, sparsight
    >>> from pathlib import Path
    >>> from sparsight.datasets.scenes import render_scene
    >>> with tempfile.TemporaryDirectory() as folder, Desk({"e": sparsight.load("embedded")}) as d:
    ...     image = Path(folder, "mug.png")
    ...     render_scene("mug", seed=1).picture().save(image)
    ...     case = d.ask(Question("e", image, "a mug", methods=("saliency",))).result()
    >>> case.title, case.agrees
    ('a mug: why mug?', True)
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self.networks = dict(networks)
        self._line = ThreadPoolExecutor(1, thread_name_prefix="desk")
        self._jobs: list[Job] = []

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all jobs and wait until none computes."""
        for job in self._jobs:
            job.cancel()
        self._line.shutdown(cancel_futures=True)

    def ask(self, question: Question) -> Job:
        """Put a question in line.

        Raises
        ------
        InputError
            If there is no such network.
        """
        network = self.networks.get(question.network)
        if network is None:
            raise InputError(
                f"no network {question.network!r}: choose from {', '.join(self.networks)}"
            )
        job = Job(lambda job: _answer(network, question, job), self._line)
        self._jobs = [*(other for other in self._jobs if not other.over), job]
        return job


def _answer(network: Network, question: Question, job: Job) -> CaseFile:
    # Some methods report nothing between many passes: cancelling is noticed at each of them.
    noticed = network.model.register_forward_pre_hook(lambda *_: job.check())
    try:
        return explain(
            network,
            open_image(question.image),
            target=question.target,
            methods=question.methods,
            sparsity=question.rule,
            augmentations=question.augmentations,
            image_name=question.name,
            progress=job.report,
        )
    except SparsightError as error:
        text = str(error).replace(str(question.image), question.name)
        raise type(error)(text) from error
    finally:
        noticed.remove()


class Seat:
    """One person's place at the desk, with at most one job: a new question ends the last.

    Gradio copies the first one for each page that is opened, so a copy is a place of its own.

    Examples
    --------
    >>> import copy
    >>> seat = Seat()
    >>> copy.deepcopy(seat) is seat, seat.job
    (False, None)
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self.question: Question | None = None

    def __deepcopy__(self, _: object) -> Seat:
        return Seat()

    def ask(self, desk: Desk, question: Question) -> Job:
        """Cancel what was asked before, and ask this.

        Raises
        ------
        InputError
            If there is no such network.
        """
        self.cancel()
        self.job = desk.ask(question)
        self.question = question
        return self.job

    def cancel(self) -> None:
        """Cancel the job, if there is one."""
        if self.job is not None:
            self.job.cancel()
