"""Images that fail for the same reason: the nearest profiles of z-scores, or by an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsight.blame.engine import Blame
from sparsight.blame.scores import score
from sparsight.blame.usual import Statistics
from sparsight.errors import InputError

__all__ = ["Neighbour", "NeighbourIndex", "neighbours"]

_ROWS = 256  # profiles at a time
_LINKS = 32  # of a node of the graph
_SEARCHED = 200  # nodes looked at
_PROPOSED = 10  # candidates for each neighbour asked for
_FEWEST = 100


@dataclass(frozen=True)
class Neighbour:
    """An image whose units are to blame in the same way.

    Attributes
    ----------
    name, label, predicted
        Of the image, its label and its answer, as the statistics have them.
    similarity
        Cosine of the profiles.
    """

    name: str
    label: int
    predicted: int
    similarity: float


def neighbours(
    found: Blame,
    statistics: Statistics,
    count: int = 10,
    *,
    wrong: bool = True,
    index: NeighbourIndex | None = None,
) -> list[Neighbour]:
    """Find images that fail for the same reason: those with the most similar profiles of z-scores.

    Parameters
    ----------
    found
        Of an image.
    statistics
        With profiles.
    count
        How many to return.
    wrong
        Look among wrong answers alone.
    index
        Of the same statistics: then only what it proposes is compared.

    Raises
    ------
    InputError
        If the statistics hold no profiles, no image to look among, or are not those of the index.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.blame import blame, statistics
    >>> network = sparsight.load("embedded")
    >>> images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> usual = statistics(network, [(image, 1) for image in images], profiles=True)
    >>> found = blame(network, images[3], 1, statistics=usual, objective=None)
    >>> best = neighbours(found, usual, 1, wrong=False)[0]
    >>> best.name, round(best.similarity, 4)
    ('sample 3', 1.0)
    """
    chosen = _among(statistics, wrong)
    own = found.scores["z"]
    if index is not None:
        index.require_of(statistics, wrong)
        chosen = index.propose(own, count)
    similarity = torch.cat([
        torch.cosine_similarity(rows, own, dim=1) for rows in _rows(statistics, chosen)
    ])  # fmt: skip
    best = similarity.topk(min(count, len(chosen)))
    return [
        Neighbour(
            statistics.names[place], statistics.labels[place], statistics.predictions[place], value
        )
        for place, value in zip(chosen[best.indices].tolist(), best.values.tolist(), strict=True)
    ]


class NeighbourIndex:
    """An index for many questions to a large data set: random projections in a graph of neighbours.

    Built with faiss (``pip install 'sparsight[index]'``), a hierarchical navigable small world.
    What it proposes, ten times as many images as are asked for, is compared exactly.

    Parameters
    ----------
    statistics
        With profiles.
    wrong
        Of wrong answers alone.
    width
        Numbers that each profile is projected on.
    seed
        Of the projection.

    Raises
    ------
    InputError
        If faiss is not installed, or as :func:`neighbours`.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.blame import blame, neighbours, statistics
    >>> network = sparsight.load("embedded")
    >>> images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> usual = statistics(network, [(image, 1) for image in images], profiles=True)
    >>> index = NeighbourIndex(usual, wrong=False)
    >>> found = blame(network, images[3], 1, statistics=usual, objective=None)
    >>> neighbours(found, usual, 1, wrong=False, index=index)[0].name
    'sample 3'
    """

    def __init__(
        self, statistics: Statistics, *, wrong: bool = True, width: int = 256, seed: int = 0
    ) -> None:
        try:
            import faiss
        except ImportError as error:
            raise InputError(
                "an index of neighbours needs faiss: pip install 'sparsight[index]', or search "
                "without an index"
            ) from error
        self._of, self._wrong = statistics, wrong
        self._among = _among(statistics, wrong)
        generator = torch.Generator().manual_seed(seed)
        units = len(statistics.raw.mean)
        self._onto = torch.randn(units, width, generator=generator) / width**0.5
        self._graph: Any = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efSearch = _SEARCHED
        for rows in _rows(statistics, self._among):
            self._graph.add(self._projected(rows).numpy())

    def _projected(self, rows: Tensor) -> Tensor:
        projected: Tensor = torch.nn.functional.normalize(rows.float(), dim=1) @ self._onto
        return projected

    def require_of(self, statistics: Statistics, wrong: bool) -> None:
        """Refuse other statistics, or another choice of images.

        Raises
        ------
        InputError
            If they are not those that the index was built of.
        """
        if statistics is not self._of or wrong != self._wrong:
            raise InputError(
                "the index is of other statistics or images: build one of these, with the same "
                "wrong="
            )

    def propose(self, scores: Tensor, count: int) -> Tensor:
        """Propose images, by their numbers in the statistics, for z-scores ``(units,)``."""
        most = min(len(self._among), max(_FEWEST, _PROPOSED * count))
        _, places = self._graph.search(self._projected(scores[None]).numpy(), most)
        found = torch.from_numpy(places[0])
        return self._among[found[found >= 0]]


def _among(statistics: Statistics, wrong: bool) -> Tensor:
    """Numbers of the images to look among."""
    if statistics.profiles is None:
        raise InputError(
            "neighbours need every image's profile: make the statistics with profiles=True "
            "(--profiles)"
        )
    labels, predictions = torch.tensor(statistics.labels), torch.tensor(statistics.predictions)
    among = (labels != predictions).nonzero()[:, 0] if wrong else torch.arange(len(labels))
    if not len(among):
        raise InputError("the statistics hold no wrong answer: look among all, with wrong=False")
    return among


def _rows(statistics: Statistics, chosen: Tensor) -> Iterator[Tensor]:
    """z-scores of images, some at a time."""
    assert statistics.profiles is not None
    for part in chosen.split(_ROWS):
        yield score("z", statistics.profiles[part], statistics)
