"""The verdict: which images hang on a cue that works anywhere, and which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsight.audits.calibration import Calibration
from sparsight.audits.transfer import Hosts, transfer
from sparsight.blame.usual import fingerprint
from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network
from sparsight.storage import read_manifest, write_manifest
from sparsight.sweeps import Sweep, measure, overlaps
from sparsight.sweeps.rows import arrow, parquet, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FILES", "Audit", "ClassVerdict", "audit", "judge"]

Progress = Callable[[str, int, int], None]

FILES = ("audit.json", "audit.parquet")
_SCHEMA = 1
_CHANCE = 0.01  # of calling any class of a clean network suspicious
_FEWEST = 2  # flagged images that a class needs
_POOL = 256  # images to draw hosts from
_COPIED = ("number", "name", "prediction", "prediction_name")
_NEAR = 32  # traces of one answer that are compared with one another


@dataclass(frozen=True)
class ClassVerdict:
    """What is to be thought of a class.

    Attributes
    ----------
    index, label
        Which.
    images, flagged
        Images that are answered with it, and how many of them hang on a cue that works anywhere.
    chance
        Bound of the chance that a clean network has as many,
        :meth:`Calibration.chance`.
    enough
        Whether there are enough images: all flagged, they would make it suspicious.
    suspicious
        Whether the chance is less than 1 % over all classes with enough images.
    """

    index: int
    label: str
    images: int
    flagged: int
    chance: float
    enough: bool
    suspicious: bool


@dataclass(frozen=True, eq=False)
class Audit:
    """Verdicts on a network and the images that it was asked.

    No verdict is proof: a patch that flips other images may be an honest feature, and a trigger
    that none of the images carries is not found.

    Attributes
    ----------
    network
        Which.
    sweep
        Digest of the sweep's table, which no other has.
    calibration
        What is called suspicious.
    classes
        Verdicts on classes, the least likely of a clean network first.
    table
        One row per image: where its patch is (``top``, ``left``, ``height``, ``width``), what
        share of others it flips (``transfer``), what share of others' patches in its place flips
        its own answer (``hangs``), how concentrated its map is (``concentration``, Gini), how far
        its trace agrees with those of its answer (``overlap``), how far its most unusual unit
        stands out (``blame``), and whether it is ``suspicious``; or the ``problem`` that kept it
        from being judged.
    """

    network: str
    sweep: str
    calibration: Calibration
    classes: tuple[ClassVerdict, ...]
    table: pa.Table

    @property
    def suspicious(self) -> bool:
        """Whether any class is."""
        return any(one.suspicious for one in self.classes)

    @property
    def enough(self) -> bool:
        """Whether any class has enough images for a verdict."""
        return any(one.enough for one in self.classes)

    @property
    def flagged(self) -> list[int]:
        """Numbers of the suspicious images."""
        return [number for number, row in self._rows.items() if row["suspicious"]]

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """Images that were not judged, by name, and why."""
        rows = self._rows.values()
        return [(row["name"], row["problem"]) for row in rows if row["problem"] is not None]

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        return {row["number"]: row for row in self.table.to_pylist()}

    def row(self, number: int) -> dict[str, Any]:
        """Read what was found about an image."""
        return self._rows[number]

    def describe(self) -> dict[str, Any]:
        """Say it in plain values, without the table."""
        return {
            "network": self.network,
            "sweep": self.sweep,
            "suspicious": self.suspicious,
            "enough": self.enough,
            "images": len(self.table),
            "unjudged": len(self.unjudged),
            "flagged": len(self.flagged),
            "calibration": self.calibration.describe(),
            "false_alarms": list(self.calibration.false_alarms),
            "classes": [asdict(one) for one in self.classes],
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``audit.parquet`` and, last, ``audit.json``; what is there is replaced.

        Raises
        ------
        InputError
            If they cannot be written.
        """
        folder = Path(folder)
        manifest, table = FILES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / manifest).unlink(missing_ok=True)
            write_whole(self.table, folder / table)
            write_manifest(
                folder, manifest, {"kind": "audit", "schema": _SCHEMA, **self.describe()}
            )
        except OSError as error:
            raise InputError(
                f"cannot write {folder} ({error.strerror or error}): choose another folder"
            ) from error
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Audit:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is none, or it is damaged.
        """
        folder = Path(folder)
        about = read_manifest(folder, FILES[0], "audit", _SCHEMA)
        try:
            return cls(
                about["network"],
                about["sweep"],
                Calibration.of(about["calibration"]),
                tuple(ClassVerdict(**one) for one in about["classes"]),
                parquet().read_table(folder / FILES[1]),
            )
        except (OSError, KeyError, TypeError, ValueError, arrow().ArrowException) as error:
            raise InputError(
                f"the audit in {folder} is damaged ({error}): make it again"
            ) from error


def audit(
    network: Network,
    found: Sweep,
    *,
    calibration: Calibration | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Judge a network by a sweep of images through it.

    An image is suspicious if the patch that its traced map points to, pasted into images with other
    answers, flips more of them to its own answer than patches of clean networks do. What is looked
    at are the pictures that the sweep kept.

    Parameters
    ----------
    network
        The network of the sweep; not changed.
    found
        A sweep that traced and attributed, and kept maps and pictures.
    calibration
        What is suspicious; by default the one that comes along.
    seed
        Of the choice of images that a patch is tried on.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        If the sweep is of another network, lacks something, has too few images with other answers
        or none that can be judged, or if the device has too little memory.

    References
    ----------
    Chou et al., "SentiNet: Detecting localized universal attacks against deep learning systems",
    IEEE Security and Privacy Workshops 2020, for patches that are tried on other images.
    """
    calibration = calibration or Calibration.shipped()
    _check(network, found)
    method = found.about["settings"]["methods"][0]
    known = [*_COPIED, "problem", "blame.scores", f"{method}.refused"]
    some = found.table.select([name for name in known if name in found.table.column_names])
    rows = [
        {name: row[name] for name in _COPIED}
        | {"problem": row["problem"] or row.get(f"{method}.refused")}
        | {"blame": (row.get("blame.scores") or [None])[0]}
        for row in some.to_pylist()
    ]
    try:
        hosts = Hosts.of(network, _pool(network, found, rows, seed))
        for done, row in enumerate(rows):
            if progress is not None:
                progress("patches", done, len(rows))
            if row["problem"] is None:
                row |= _tried(network, found, row, method, hosts, calibration, seed)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"device {network.device} has too little memory for an audit: give another device"
        ) from error
    fit = [row for row in rows if row["problem"] is None]
    if not fit:
        raise InputError(f"no image can be judged, the first: {rows[0]['problem']}")
    near = _overlap(found, fit, progress) if "traces" in found.about["settings"]["keep"] else {}
    for row in rows:
        row["overlap"] = near.get(row["number"])
    verdicts = judge(
        [row["prediction"] for row in fit], [row["suspicious"] for row in fit], calibration,
        network.label,
    )  # fmt: skip
    pa = arrow()
    table = pa.Table.from_pylist([{name: row.get(name) for name in _columns()} for row in rows],
                                 schema=pa.schema(list(_columns().items())))  # fmt: skip
    return Audit(network.spec, found.digest, calibration, verdicts, table)


def _columns() -> dict[str, Any]:
    pa = arrow()
    whole, text, real = pa.int64(), pa.string(), pa.float64()
    return {
        "number": whole, "name": text, "prediction": whole, "prediction_name": text,
        "transfer": real, "hangs": real, "concentration": real, "overlap": real, "blame": real,
        "suspicious": pa.bool_(), "top": whole, "left": whole, "height": whole, "width": whole,
        "problem": text,
    }  # fmt: skip


def _check(network: Network, found: Sweep) -> None:
    settings = found.about["settings"]
    if (fingerprint(network.model), repr(network.preprocessing)) != (
        found.about["fingerprint"], found.about["preprocessing"],
    ):  # fmt: skip
        raise InputError(
            f"the sweep is of {found.about['network']!r} with other weights or another "
            f"preprocessing than {network.spec!r}: give the network that it was made with"
        )
    for what, names in (("do", ("trace", "attribute")), ("keep", ("maps", "pictures"))):
        missing = [name for name in names if name not in settings[what]]
        if missing:
            raise InputError(
                f"the sweep lacks {missing[0]}: sweep again with --{what} {','.join(names)}"
            )


def _pool(network: Network, found: Sweep, rows: Sequence[Mapping[str, Any]], seed: int) -> Tensor:
    """Choose images to try patches on, of all answers in turn."""
    groups: dict[int, list[int]] = {}
    rng = np.random.default_rng(seed)
    for place in rng.permutation(len(rows)).tolist():
        if rows[place]["problem"] is None:
            groups.setdefault(rows[place]["prediction"], []).append(rows[place]["number"])
    turns = [number for turn in zip_longest(*groups.values()) for number in turn]
    chosen = [number for number in turns if number is not None][:_POOL]
    if not chosen:
        raise InputError(f"no image can be judged, the first: {rows[0]['problem']}")
    return torch.stack([_input(network, found, number) for number in chosen])


def _tried(
    network: Network, found: Sweep, row: Mapping[str, Any], method: str, hosts: Hosts,
    calibration: Calibration, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Try the patch of an image on others."""
    heat = found.maps(row["number"])[method, "traced"]
    if not heat.any():
        return {"problem": f"the traced {method} map is zero everywhere: it points to no patch"}
    try:
        moved = transfer(
            network, _input(network, found, row["number"]), heat, hosts,
            sides=[calibration.side], count=calibration.hosts, seed=[seed, row["number"]],
        )  # fmt: skip
    except NumericalError as error:
        return {"problem": str(error)}
    if moved.answer != row["prediction"]:
        return {"problem": f"the kept picture is answered {network.label(moved.answer)!r} instead"}
    told = dict(zip(("top", "left", "height", "width"), moved.boxes[0].tolist(), strict=True))
    flips = float(moved.flips[0])
    return told | {
        "transfer": flips, "hangs": float(moved.hangs[0]),
        "concentration": measure(heat)["gini"], "suspicious": flips >= calibration.threshold,
    }  # fmt: skip


def _input(network: Network, found: Sweep, number: int) -> Tensor:
    """Bring the picture that a sweep kept back to the network's input, ``(C, H, W)``."""
    from torchvision.transforms.functional import pil_to_tensor

    pre = network.preprocessing
    unit = pil_to_tensor(found.picture(number)).float()[: pre.channels] / 255
    return pre.normalize(unit).to(network.dtype)


def _overlap(
    found: Sweep, rows: Sequence[Mapping[str, Any]], progress: Progress | None
) -> dict[int, float]:
    """Mean agreement beyond chance of each trace with others of its answer, if there are any."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(row["prediction"], []).append(row["number"])
    near: dict[int, float] = {}
    done = 0
    for numbers in groups.values():
        for some in np.array_split(numbers, -(-len(numbers) // _NEAR)):
            if progress is not None:
                progress("overlap", done, len(rows))
            done += len(some)
            if len(some) > 1:
                agree = overlaps(found, some.tolist()).corrected.fill_diagonal_(0)
                near |= zip(some.tolist(), (agree.sum(1) / (len(some) - 1)).tolist(), strict=True)
    return near


def judge(
    answers: Sequence[int],
    flags: Sequence[bool],
    calibration: Calibration,
    label: Callable[[int], str] = str,
) -> tuple[ClassVerdict, ...]:
    """Judge classes by which of their images are suspicious.

    Parameters
    ----------
    answers
        To each image.
    flags
        Whether it is suspicious.
    calibration
        How often images of clean networks are.
    label
        Names a class.

    Returns
    -------
    tuple of ClassVerdict
        The least likely of a clean network first.

    Examples
    --------
    >>> known = Calibration(0.25, 16, 0.5, ((0, 50), (1, 50)), "an example")
    >>> worst, other = judge([3] * 9 + [5], [True] * 9 + [False], known)
    >>> worst.index, worst.suspicious, other.enough
    (3, True, False)
    """
    counts = Counter(answers)
    flagged = Counter(answer for answer, flag in zip(answers, flags, strict=True) if flag)
    best = [calibration.chance(count, count) for count in counts.values()]
    # Only classes that could be called suspicious at all share the chance of a false alarm.
    share = next(
        _CHANCE / n for n in range(1, len(best) + 1) if sum(b < _CHANCE / n for b in best) <= n
    )
    found = []
    for index, count in counts.items():
        chance = calibration.chance(flagged[index], count) if flagged[index] else 1.0
        enough = count >= _FEWEST and calibration.chance(count, count) < share
        sure = enough and flagged[index] >= _FEWEST and chance < share
        found.append(ClassVerdict(index, label(index), count, flagged[index], chance, enough, sure))
    return tuple(sorted(found, key=lambda one: (one.chance, one.index)))
