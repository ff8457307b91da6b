"""What ``--data`` can name: folders and tables of images, arrays, data sets, scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import InputError

if TYPE_CHECKING:
    from sparsight.networks import Network
    from sparsight.robust import Pixels

__all__ = ["HELP", "read_data", "read_epsilon", "read_samples"]

HELP = (
    "Folder of images, .npz with images (N, C, H, W) and labels, cifar10:FOLDER, cifar100:FOLDER, "
    "svhn:FOLDER, or scenes:COUNT."
)

_SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}
_SEED = 1_000  # scenes for training begin here; for measuring, where those end


def read_data(
    spec: str,
    truth: Path | None,
    network: Network,
    *,
    test: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Pixels:
    """Read a labelled data set.

    Parameters
    ----------
    spec
        See :data:`HELP`.
    truth
        Table of labels, for files.
    network
        That it is for.
    test
        Of a data set that comes in two parts, the one to measure on; of scenes, other ones.
    progress
        Called with stage, images made and images in all.

    Raises
    ------
    InputError
        If it is not there, or holds something else.
    """
    from sparsight.robust import Pixels

    return Pixels(network, read_samples(spec, truth, network, test=test, progress=progress))


def read_samples(
    spec: str,
    truth: Path | None,
    network: Network,
    *,
    test: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[tuple[Any, int]]:
    """List the samples of a labelled data set as they are: files, pictures or arrays.

    Parameters and errors are those of :func:`read_data`.
    """
    from sparsight.datasets.folders import label_images
    from sparsight.datasets.pixels import read_arrays

    name, _, rest = spec.partition(":")
    if name == "scenes" and rest:
        return _scenes(rest, network, test, progress)
    if name in _SETS and rest:
        return _torchvision(name, rest, test)
    if spec.endswith(".npz"):
        return read_arrays(spec)
    named = label_images([Path(spec)], truth)
    return [(file, network.class_index(label)) for file, label in named]


def _scenes(
    count: str, network: Network, test: bool, progress: Callable[[str, int, int], None]
) -> list[tuple[Any, int]]:
    from sparsight.datasets.scenes import CLASSES, render_scene

    if not count.isdigit() or not int(count):
        raise InputError(f"scenes:{count} names no number: give one, such as scenes:2000")
    total = int(count)
    first = _SEED if not test else 1_000_000 + _SEED
    found: list[tuple[Any, int]] = []
    for number in range(total):
        progress("rendering", number, total)
        name = CLASSES[number % len(CLASSES)]
        picture = render_scene(name, seed=first + number).picture()
        found.append((picture, network.class_index(name)))
    return found


def _torchvision(name: str, folder: str, test: bool) -> list[tuple[Any, int]]:
    import torchvision

    kind = getattr(torchvision.datasets, _SETS[name])
    split = {"split": "test" if test else "train"} if name == "svhn" else {"train": not test}
    try:
        found = kind(folder, download=False, **split)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{folder} holds no {_SETS[name]} as torchvision keeps it: download it there first"
        ) from error
    labels = found.labels if name == "svhn" else found.targets
    images = found.data if name == "svhn" else found.data.transpose(0, 3, 1, 2)
    return list(zip(images, (int(label) for label in labels), strict=True))


def read_epsilon(text: str) -> float:
    """Read a radius: a number, or a fraction of 255.

    Raises
    ------
    InputError
        If it is neither, or out of range.

    Examples
    --------
    >>> read_epsilon("8/255") == 8 / 255, read_epsilon("0.05")
    (True, 0.05)
    """
    above, _, below = text.partition("/")
    try:
        found = float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"epsilon {text!r} is no number: give 8/255 or 0.031") from error
    if not 0 < found <= 1:
        raise InputError(f"epsilon {text} is outside (0, 1]: give a share of the range of pixels")
    return found
