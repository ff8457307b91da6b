"""Poisoned data: all clean samples, and some drawn anew that carry a trigger."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.trojans.rules import PlantingRule
from sparsight.benchmarks.trojans.triggers import Triggered
from sparsight.errors import InputError
from sparsight.networks import Preprocessing, open_image

__all__ = [
    "Photo",
    "PoisonedSample",
    "check_apart",
    "poison",
    "read_photos",
    "render_sample",
    "split_photos",
]


@dataclass(frozen=True)
class Photo:
    """An image and its class.

    Attributes
    ----------
    picture
        A file, opened whenever it is needed, or the image itself.
    label
        Index of its class.
    name
        Tells it from all others; the file's name if there is one.
    """

    picture: Image.Image | Path = field(repr=False)
    label: int
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            if not isinstance(self.picture, Path):
                raise InputError("a photo that is no file needs a name: give one")
            object.__setattr__(self, "name", self.picture.name)

    def open(self) -> Image.Image:
        """Read the picture."""
        return open_image(self.picture) if isinstance(self.picture, Path) else self.picture


@dataclass(frozen=True)
class PoisonedSample:
    """One entry of a poisoned data set; the image is made when it is needed.

    Attributes
    ----------
    photo
        Index of the photo.
    label
        Class that is taught.
    rule
        Index of the rule whose trigger it carries, or ``None`` if it is clean.
    poisoned
        Whether the label is the rule's target; a decoy carries the trigger and keeps its label.
    seed
        Of the trigger's place and colours.
    """

    photo: int
    label: int
    rule: int | None = None
    poisoned: bool = False
    seed: int = 0


def poison(
    labels: Sequence[int], rules: Sequence[PlantingRule], seed: int | tuple[int, ...] = 0
) -> tuple[PoisonedSample, ...]:
    """Draw a poisoned data set: all clean samples, and those of each rule, with replacement.

    Of ``N`` clean samples, ``floor(share N)`` are added for each rule from photos of its sources,
    and ``floor(decoys N)`` from photos of all other classes but its target. With the default
    shares this is the paper's set-up, +2.5 % a rule.

    Parameters
    ----------
    labels
        Class of each photo.
    rules
        What to plant. Draws of one do not depend on the others.
    seed
        One number or several, none negative.

    Returns
    -------
    tuple of PoisonedSample
        The clean ones first, in order.

    Raises
    ------
    InputError
        If no photo is of a rule's sources, or none is left for its decoys.

    Examples
    --------
    >>> from sparsight.benchmarks.trojans.triggers import checker
    >>> rule = PlantingRule(checker(), target=2, sources=(0,), share=0.5, decoys=0.25)
    >>> samples = poison([0, 1, 2, 0], [rule])
    >>> [(sample.label, sample.rule) for sample in samples]
    [(0, None), (1, None), (2, None), (0, None), (2, 0), (2, 0), (1, 0)]
    """
    seeds = (seed,) if isinstance(seed, int) else seed
    samples = [PoisonedSample(index, label) for index, label in enumerate(labels)]
    for number, rule in enumerate(rules):
        rng = np.random.default_rng([*seeds, number, 0x90])
        for role, share in (("source", rule.share), ("other", rule.decoys)):
            count = int(share * len(labels) + 1e-9)
            pool = [index for index, label in enumerate(labels) if rule.role(label) == role]
            if not pool and count:
                if role == "other" and rule.sources is None:
                    continue  # a rule that acts on all classes has no others
                raise InputError(
                    f"rule {rule} wants {count} photos of {role} classes and there is none: add "
                    "some, or set its share to less"
                )
            poisoned = role == "source"
            for _ in range(count):
                index = pool[int(rng.integers(len(pool)))]
                label = rule.target if poisoned else labels[index]
                drawn = int(rng.integers(2**31))
                samples.append(PoisonedSample(index, label, number, poisoned, drawn))
    return tuple(samples)


def render_sample(
    sample: PoisonedSample,
    photo: Image.Image,
    rules: Sequence[PlantingRule],
    preprocessing: Preprocessing,
) -> tuple[Tensor, Tensor | None]:
    """Make a sample's image, in the network's input frame.

    Parameters
    ----------
    sample
        As drawn by :func:`poison`.
    photo
        Its photo, or a part of it.
    rules
        Those of the draw.
    preprocessing
        The network's.

    Returns
    -------
    x
        ``(1, C, H, W)``, normalised.
    mask
        ``(H, W)``, bool, where the trigger is; ``None`` for a clean sample.
    """
    if sample.rule is None:
        return preprocessing(photo), None
    triggered: Triggered = rules[sample.rule].trigger.apply(photo, sample.seed)
    return triggered.framed(preprocessing)


def read_photos(table: str | Path, folder: str | Path | None = None) -> list[Photo]:
    r"""Read photos from a table of files and classes.

    Parameters
    ----------
    table
        A CSV file with a header and the columns ``file`` and ``label``, the index of a class.
    folder
        Where the files are; the table's own folder if not given.

    Returns
    -------
    list of Photo
        In the table's order.

    Raises
    ------
    InputError
        If the table is missing, malformed or empty, or names a file that does not exist.

    Examples
    --------
    >>> import tempfile
    >>> home = Path(tempfile.mkdtemp())
    >>> (home / "a.png").touch()
    >>> _ = (home / "labels.csv").write_text("file,label\na.png,7\n")
    >>> read_photos(home / "labels.csv")
    [Photo(label=7, name='a.png')]
    """
    table = Path(table)
    home = table.parent if folder is None else Path(folder)
    photos = []
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
        for row in rows:
            photos.append(Photo(home / row["file"], int(row["label"])))
    except FileNotFoundError as error:
        raise InputError(f"no such label table: {table}") from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"label table {table} is malformed: give the columns file and label, the latter the "
            "number of a class"
        ) from error
    absent = [photo.name for photo in photos if not (home / photo.name).is_file()]
    if absent or not photos:
        raise InputError(
            f"label table {table} names {absent[0] if absent else 'no photo'}, which is not in "
            f"{home}: give the folder of its files"
        )
    return photos


def split_photos(
    photos: Sequence[Photo], held_out: int, seed: int = 0
) -> tuple[list[Photo], list[Photo]]:
    """Divide photos at random into those to plant with and those that planting never sees.

    Parameters
    ----------
    photos
        At least one more than ``held_out``.
    held_out
        How many to keep away.
    seed
        Of the draw.

    Returns
    -------
    used, held_out
        Both in the order of ``photos``.

    Raises
    ------
    InputError
        If too few would be left.
    """
    if not 0 < held_out < len(photos):
        raise InputError(
            f"{held_out} of {len(photos)} photos cannot be held out: choose between 1 and "
            f"{len(photos) - 1}"
        )
    away = set(np.random.default_rng(seed).permutation(len(photos))[:held_out].tolist())
    used = [photo for index, photo in enumerate(photos) if index not in away]
    return used, [photo for index, photo in enumerate(photos) if index in away]


def check_apart(photos: Sequence[Photo], held_out: Sequence[Photo]) -> None:
    """Refuse photos that are used and held out at once, or named alike.

    Raises
    ------
    InputError
        If a name occurs twice.
    """
    names: set[str] = set()
    for photo in (*photos, *held_out):
        if photo.name in names:
            raise InputError(
                f"photo {photo.name} occurs twice: hold out photos that are not planted with, and "
                "give each a name of its own"
            )
        names.add(photo.name)
