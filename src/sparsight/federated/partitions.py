"""Which client gets which images of a data set, and how unlike that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsight.datasets.pixels import drawn
from sparsight.errors import InputError

__all__ = ["LEAST", "dirichlet", "evenly", "few_classes", "statistics"]

_TRIES = 1000
LEAST = 3
"""Images of a client: one to train on, one to choose by, one to measure on."""


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
    if min(map(len, parts)) < LEAST:
        raise InputError("some clients get no images: take fewer clients, or more images")
    return [sorted(part) for part in parts]


def _check(labels: Tensor, clients: int) -> None:
    if clients < 1:
        raise InputError(f"{clients} clients: give 1 or more")
    if len(labels) < LEAST * clients:
        raise InputError(f"{len(labels)} images for {clients} clients: give {LEAST} each at least")


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
