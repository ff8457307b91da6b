"""Labelled images as pixels: arrays, files, or data sets of torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, open_image
from sparsight.networks.preprocessing import to_unit

__all__ = [
    "Pixels",
    "augment",
    "batches",
    "bytes_of",
    "drawn",
    "parts_of",
    "read_arrays",
    "seeded",
    "split",
]

_SHIFT = 8  # images are shifted by up to an eighth of their height


def bytes_of(sample: Image.Image | Tensor | np.ndarray) -> bytes:
    """Give what an image in memory is made of, to tell it from another.

    Examples
    --------
    >>> bytes_of(np.array([65, 66], dtype=np.uint8)), bytes_of(torch.tensor([65, 66]).byte())
    (b'AB', b'AB')
    """
    if isinstance(sample, Image.Image):
        return sample.tobytes()
    if isinstance(sample, Tensor):
        sample = sample.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return np.ascontiguousarray(sample).tobytes()


class Pixels(Dataset[tuple[Tensor, int]]):
    """Labelled images in a network's input frame, before normalisation.

    Parameters
    ----------
    network
        Whose frame it is.
    samples
        Images: files, PIL images, or uint8 arrays ``(C, H, W)``; with labels.

    Raises
    ------
    InputError
        No samples, or a class that the network does not have.
    """

    def __init__(self, network: Network, samples: Sequence[tuple[Any, int]]) -> None:
        if not len(samples):
            raise InputError("the data set is empty: give images")
        self._preprocessing = network.preprocessing
        self._samples = samples
        self.labels = torch.tensor([int(label) for _, label in samples])
        most = len(network.labels)
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= most:
            raise InputError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, the "
                f"network has classes 0 to {most - 1}: give the data set that it is for"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._samples[index][0]
        if isinstance(image, str | Path):
            image = open_image(image)
        if isinstance(image, Image.Image):
            unit = self._preprocessing.frame(to_unit(image, self._preprocessing.channels))
        else:
            unit = self._array(image)
        return unit, int(self.labels[index])

    def _array(self, image: Any) -> Tensor:
        """Bring an array into the frame; one that has its size stays as it is."""
        unit = torch.as_tensor(image).float() / 255
        channels = self._preprocessing.channels
        if unit.ndim != 3 or unit.shape[0] != channels:
            raise InputError(
                f"an image of shape {tuple(unit.shape)}, the network wants {channels} channels: "
                "give arrays (C, H, W)"
            )
        if tuple(unit.shape[-2:]) == tuple(self._preprocessing.size):
            return unit
        return self._preprocessing.frame(unit)

    def digest(self) -> str:
        """Tell this data set from another: by all pixels of arrays, of files by name and size."""
        found = hashlib.sha256(repr(self._preprocessing).encode())
        found.update(self.labels.numpy().tobytes())
        for image, _ in self._samples:
            if isinstance(image, str | Path):
                try:
                    size = Path(image).stat().st_size
                except OSError:
                    size = -1  # it is said which one it is when it is read
                found.update(f"{image} {size}".encode("utf-8", "surrogateescape"))
            else:
                found.update(bytes_of(image))
        return found.hexdigest()


def read_arrays(file: str | Path) -> list[tuple[np.ndarray, int]]:
    """Read ``images`` (N, C, H, W), uint8, and ``labels`` (N,) of an ``.npz`` file.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    try:
        with np.load(file, allow_pickle=False) as held:
            images, labels = held["images"], held["labels"]
    except (OSError, KeyError, ValueError, TypeError, IndexError, BadZipFile) as error:
        raise InputError(
            f"{file} holds no images: give an .npz with images (N, C, H, W) and labels (N,)"
        ) from error
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if images.ndim != 4 or images.dtype != np.uint8 or not whole or len(images) != len(labels):
        raise InputError(
            f"{file} holds images {images.shape}, {images.dtype}, and labels {labels.shape}, "
            f"{labels.dtype}: give uint8 images (N, C, H, W), and integer labels (N,)"
        )
    return list(zip(images, labels.tolist(), strict=True))


def drawn(*numbers: int) -> torch.Generator:
    """Make the generator for one purpose, told apart by numbers."""
    state = np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(2)
    return torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))


def split(data: Dataset[Any], share: float, seed: int) -> tuple[Subset[Any], Subset[Any]]:
    """Set a share of the images apart; the same ones for the same seed.

    Raises
    ------
    InputError
        If one of the parts would be empty.
    """
    count = len(data)  # type: ignore[arg-type]
    apart = round(share * count)
    if not 0 < apart < count:
        raise InputError(
            f"{count} images leave {apart} to choose epochs by: give more images, or another share"
        )
    order = torch.randperm(count, generator=drawn(seed, 1)).tolist()
    return Subset(data, order[apart:]), Subset(data, order[:apart])


def parts_of(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Divide numbers into batches; a last one alone goes to the one before.

    A batch normalisation cannot train on one image.

    Examples
    --------
    >>> parts_of(range(7), 3)
    [[0, 1, 2], [3, 4, 5, 6]]
    """
    parts = [list(numbers[i : i + size]) for i in range(0, len(numbers), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] += last
    return parts


def batches(
    data: Dataset[Any],
    size: int,
    *,
    order: Tensor | None = None,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through a data set in batches of pixels ``(N, C, H, W)`` and labels ``(N,)``.

    Parameters
    ----------
    data
        Of pixels.
    size
        Of a batch, on all devices together.
    order
        Numbers of images; as they come by default.
    workers
        Processes that read.
    share
        Number of this device, and of all: each gets a part of every batch, and all as many. What
        is missing for that is shown twice.

    Raises
    ------
    InputError
        If an image cannot be read.
    """
    count = len(data)  # type: ignore[arg-type]
    numbers = (torch.arange(count) if order is None else order).tolist()
    rank, world = share
    parts = parts_of(numbers, size)
    for part in parts:
        part += [part[i % len(part)] for i in range(-len(part) % world)]
    loader: DataLoader[Any] = DataLoader(
        data, batch_sampler=[part[rank::world] for part in parts], num_workers=workers,
        generator=torch.Generator(),
    )  # fmt: skip
    try:
        yield from loader
    except SparsightError as error:
        # Of a process that reads, the message comes with a traceback.
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.partition("Error: ")[2] or last) from error


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images by up to an eighth of their height, filled with black, and mirror half.

    Parameters
    ----------
    x
        ``(N, C, H, W)``.
    generator
        On the processor.
    """
    pad = max(1, x.shape[-2] // _SHIFT)
    wide = F.pad(x, (pad, pad, pad, pad))
    rows, columns = torch.randint(0, 2 * pad + 1, (2, len(x)), generator=generator).tolist()
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    height, width = x.shape[-2:]
    parts = [
        one[:, row : row + height, column : column + width]
        for one, row, column in zip(wide, rows, columns, strict=True)
    ]
    shifted = torch.stack(parts)
    return torch.where(mirrored.to(x.device)[:, None, None, None], shifted.flip(-1), shifted)


@contextmanager
def seeded(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Seed what draws by itself, such as dropout, for a block; then everything is as it was."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng([device] if device.type != "cpu" else [], device_type=device.type):
        torch.manual_seed(seed)
        yield
