"""Who has which images: partitions of a data set over clients, and what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sparsight.datasets.pixels import Pixels, drawn
from sparsight.errors import InputError

__all__ = [
    "ClientData", "Federation", "Styled", "dirichlet", "evenly", "few_classes", "statistics",
]  # fmt: skip

_TRIES = 1000
_STRONGEST = 2.0
_MIN = 3  # one image to train on, one to choose by, one to measure on


def evenly(labels: Tensor, clients: int, seed: int = 0) -> list[list[int]]:
    """Deal images out at random: every client sees the same.

    Examples
    --------
    >>> [len(part) for part in evenly(torch.zeros(10), 3)]
    [4, 3, 3]
    """
    _check(labels, clients)
    order = torch.randperm(len(labels), generator=drawn(seed, 7)).tolist()
    return [sorted(order[number::clients]) for number in range(clients)]


def dirichlet(
    labels: Tensor, clients: int, alpha: float, seed: int = 0, least: int = 10
) -> list[list[int]]:
    """Deal each class out by shares drawn from a Dirichlet distribution.

    As the field's benchmark does (Li et al., NIID-Bench, 2022): a client that has its part of all
    images already gets none of the next class, and draws are repeated until every client has
    ``least`` images.

    Parameters
    ----------
    labels
        ``(N,)``.
    clients
        How many.
    alpha
        Concentration: 0.1 leaves a client a few classes, 100 nearly all alike.
    seed
        Of the draws.
    least
        Fewest images of a client.

    Returns
    -------
    list
        Numbers of the images of each client.

    Raises
    ------
    InputError
        Too few images, or no draw gives everybody enough.

    Examples
    --------
    >>> labels = torch.arange(10).repeat(100)
    >>> parts = dirichlet(labels, 5, 0.1)
    >>> sorted(sum(parts, [])) == list(range(1000)), min(len(p) for p in parts) >= 10
    (True, True)
    """
    _check(labels, clients)
    if not alpha > 0:
        raise InputError(f"alpha {alpha:g}: give a positive number")
    if least * clients > len(labels):
        raise InputError(
            f"{len(labels)} images do not give {clients} clients {least} each: take fewer clients"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFF, 11]))
    values = labels.numpy()
    for _ in range(_TRIES):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for label in np.unique(values):
            own = rng.permutation(np.flatnonzero(values == label))
            shares = rng.dirichlet([alpha] * clients)
            shares *= [len(part) < len(labels) / clients for part in parts]
            if not shares.sum() > 0:
                break
            cuts = (np.cumsum(shares / shares.sum()) * len(own)).astype(int)[:-1]
            for part, piece in zip(parts, np.split(own, cuts), strict=True):
                part += piece.tolist()
        if sum(map(len, parts)) == len(labels) and min(map(len, parts)) >= least:
            return [sorted(part) for part in parts]
    raise InputError(
        f"alpha {alpha:g} leaves some of {clients} clients with less than {least} images: choose a "
        "larger alpha, or fewer clients"
    )


def few_classes(labels: Tensor, clients: int, each: int, seed: int = 0) -> list[list[int]]:
    """Give every client images of few classes only, each class to about as many clients.

    Images of classes that no client has are left out.

    Parameters
    ----------
    labels
        ``(N,)``.
    clients, each
        How many, and classes of each.
    seed
        Of the draws.

    Raises
    ------
    InputError
        Too few images, more classes than there are, or clients that get nothing.

    Examples
    --------
    >>> labels = torch.arange(4).repeat(50)
    >>> [sorted(set(labels[part].tolist())) for part in few_classes(labels, 4, 1)]
    [[0], [1], [2], [3]]
    """
    _check(labels, clients)
    found = torch.unique(labels).tolist()
    if not 1 <= each <= len(found):
        raise InputError(f"{each} classes for each client: give 1 to {len(found)}")
    rng = np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFF, 13]))
    owners: dict[int, list[int]] = {label: [] for label in found}
    for client in range(clients):
        first = found[client % len(found)]
        others = [label for label in found if label != first]
        mixed = [others[k] for k in rng.permutation(len(others))]
        rest = sorted(mixed, key=lambda label: len(owners[label]))
        for label in [first, *rest[: each - 1]]:
            owners[label].append(client)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label, own in owners.items():
        places = rng.permutation(np.flatnonzero(labels.numpy() == label))
        if own:
            for client, piece in zip(own, np.array_split(places, len(own)), strict=True):
                parts[client] += piece.tolist()
    if min(map(len, parts)) < _MIN:
        raise InputError("some clients get no images: take fewer clients, or more images")
    return [sorted(part) for part in parts]


def _check(labels: Tensor, clients: int) -> None:
    if clients < 1:
        raise InputError(f"{clients} clients: give 1 or more")
    if len(labels) < _MIN * clients:
        raise InputError(f"{len(labels)} images for {clients} clients: give {_MIN} each at least")


def statistics(labels: Tensor, parts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Tell how unlike clients are.

    Returns
    -------
    dict
        ``images`` of each client, ``counts`` by client and class, ``classes`` that a client has
        one percent of its images of, and ``distance``: half the sum of differences between a
        client's shares of classes and everybody's, averaged over clients; 0 if all are alike.

    Examples
    --------
    >>> found = statistics(torch.tensor([0, 0, 1, 1]), [[0, 1], [2, 3]])
    >>> found["counts"], found["distance"]
    ([[2, 0], [0, 2]], 0.5)
    """
    classes = int(labels.max()) + 1
    counts = torch.stack([torch.bincount(labels[list(p)], minlength=classes) for p in parts])
    shares = counts / counts.sum(1, keepdim=True)
    overall = counts.sum(0) / counts.sum()
    return {
        "images": counts.sum(1).tolist(),
        "counts": counts.tolist(),
        "classes": (shares >= 0.01).sum(1).tolist(),
        "distance": float((shares - overall).abs().sum(1).mean() / 2),
    }


class Styled(Dataset[tuple[Tensor, int]]):
    """Images as one client's camera takes them: a cast of colour, a contrast, a brightness.

    Parameters
    ----------
    data
        Of pixels in [0, 1].
    client, seed
        Whose camera.
    strength
        How unlike cameras are; 0 for none.
    """

    def __init__(
        self, data: Dataset[Any], client: int, seed: int = 0, strength: float = 0.3
    ) -> None:
        self._data = data
        gain, shift, power = torch.randn(3, 3, generator=drawn(seed, 17, client)).unbind()
        self._gain = (strength * gain).exp()[:, None, None]
        self._shift = (0.3 * strength * shift)[:, None, None]
        self._power = float((strength * power[0]).exp())

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self._data[index]
        channels = pixels.shape[0]
        taken = pixels**self._power * self._gain[:channels] + self._shift[:channels]
        return taken.clamp(0, 1), label


@dataclass(frozen=True)
class ClientData:
    """One client's images, in three parts.

    Attributes
    ----------
    train, validation, test
        To train on, to choose what is sent by, and to measure on.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]

    @classmethod
    def of(
        cls, data: Dataset[Any], seed: int, shares: tuple[float, float] = (0.1, 0.2)
    ) -> ClientData:
        """Divide a client's images at random.

        Parameters
        ----------
        data
            All of them, three at least.
        seed
            Of the division.
        shares
            Set apart to choose by, and to measure on; of each one image at least.

        Examples
        --------
        >>> found = ClientData.of(range(100), 0)
        >>> len(found.train), len(found.validation), len(found.test)
        (70, 10, 20)
        """
        count = len(data)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=drawn(seed, 19)).tolist()
        first = max(1, round(shares[0] * count))
        second = first + max(1, round(shares[1] * count))
        if count < _MIN or second >= count:
            raise InputError(f"a client has {count} images: give it more")
        return cls(
            Subset(data, order[second:]), Subset(data, order[:first]),
            Subset(data, order[first:second]),
        )  # fmt: skip


@dataclass(frozen=True)
class Federation:
    """All clients and their images.

    Attributes
    ----------
    clients
        In order of their numbers; ``None`` for those whose images are elsewhere.
    test
        Images of all classes that no client has, to measure on; if there are any.
    told
        How unlike clients are, see :func:`statistics`.
    digest
        Tells this federation from others.
    """

    clients: tuple[ClientData | None, ...]
    test: Dataset[Any] | None
    told: dict[str, Any]
    digest: str

    @classmethod
    def elsewhere(
        cls,
        clients: int,
        number: int | None = None,
        data: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        *,
        seed: int = 0,
    ) -> Federation:
        """Describe a federation to one who has the images of one client, or of none.

        Parameters
        ----------
        clients
            How many there are.
        number, data
            The client, and its images, of pixels and labels.
        test
            Images of nobody, to measure on.
        seed
            Of the division of a client's images.

        Raises
        ------
        InputError
            If there is no such client, or it has less than three images.
        """
        found: list[ClientData | None] = [None] * clients
        if number is not None and data is not None:
            if not 0 <= number < clients:
                raise InputError(f"client {number} is none of {clients}: give 0 to {clients - 1}")
            found[number] = ClientData.of(data, seed + number)
        return cls(tuple(found), test, {}, f"{clients} clients elsewhere, {seed}")

    @classmethod
    def of(
        cls,
        data: Pixels,
        parts: Sequence[Sequence[int]],
        test: Dataset[Any] | None = None,
        *,
        seed: int = 0,
        styles: float = 0.0,
    ) -> Federation:
        """Give clients their images.

        Parameters
        ----------
        data
            All images.
        parts
            Numbers of the images of each client, from :func:`dirichlet` and the like.
        test
            Images of nobody, to measure on.
        seed
            Of the division of a client's images, and of cameras.
        styles
            How unlike the clients' cameras are, see :class:`Styled`; 0 for no difference.

        Raises
        ------
        InputError
            If a client has less than three images, or ``styles`` is out of range.
        """
        if not 0 <= styles <= _STRONGEST:
            raise InputError(f"styles {styles:g}: give 0 to {_STRONGEST:g}, such as 0.3")
        found = []
        for number, part in enumerate(parts):
            own: Dataset[Any] = Subset(data, list(part))
            if styles:
                own = Styled(own, number, seed, styles)
            found.append(ClientData.of(own, seed + number))
        told = statistics(data.labels, parts)
        others = test.digest() if isinstance(test, Pixels) else test and len(test)  # type: ignore[arg-type]
        digest = f"{data.digest()} {[list(p) for p in parts]} {seed} {styles} {others}"
        return cls(tuple(found), test, told, digest)
