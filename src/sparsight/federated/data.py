"""Who has which images: clients, their parts, their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sparsight.datasets.pixels import Pixels, drawn
from sparsight.errors import InputError
from sparsight.federated.partitions import LEAST, statistics

__all__ = ["ClientData", "Federation", "Styled"]

_STRONGEST = 2.0


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
        if count < LEAST or second >= count:
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
            If a client has less than three images, ``styles`` is out of range, or ``test`` is the
            same as ``data``.
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
        whole = data.digest()
        others: Any = test and len(test)  # type: ignore[arg-type]
        if isinstance(test, Pixels):
            others = test.digest()
            if others == whole:
                raise InputError("test holds the images of clients: give others")
        digest = f"{whole} {[list(p) for p in parts]} {seed} {styles} {others}"
        return cls(tuple(found), test, told, digest)
