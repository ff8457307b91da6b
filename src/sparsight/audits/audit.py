"""Look at a sweep for images that hang on a cue which works anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsight.audits.calibration import Calibration
from sparsight.audits.result import Audit
from sparsight.audits.transfer import Hosts, transfer
from sparsight.audits.verdict import judge
from sparsight.blame.usual import fingerprint
from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network
from sparsight.sweeps import Sweep, measure, overlaps
from sparsight.sweeps.rows import arrow, table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["audit"]

Progress = Callable[[str, int, int], None]

_POOL = 256  # images to draw hosts from
_NEAR = 32  # traces of one answer that are compared with one another
_COPIED = ("number", "name", "prediction", "prediction_name")


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
    whole = table(rows, _columns())
    return Audit(network.spec, found.digest, calibration, verdicts, whole)


def _columns() -> pa.Schema:
    pa = arrow()
    whole, text, real = pa.int64(), pa.string(), pa.float64()
    columns = {
        "number": whole, "name": text, "prediction": whole, "prediction_name": text,
        "transfer": real, "hangs": real, "concentration": real, "overlap": real, "blame": real,
        "suspicious": pa.bool_(), "top": whole, "left": whole, "height": whole, "width": whole,
        "problem": text,
    }  # fmt: skip
    return pa.schema(list(columns.items()))


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


def _by_answer(rows: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Group the numbers of images by what they are answered with."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(row["prediction"], []).append(row["number"])
    return list(groups.values())


def _pool(network: Network, found: Sweep, rows: Sequence[Mapping[str, Any]], seed: int) -> Tensor:
    """Choose images to try patches on, of all answers in turn."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    groups = _by_answer(rows[place] for place in order if rows[place]["problem"] is None)
    turns = [number for turn in zip_longest(*groups) for number in turn]
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
    near: dict[int, float] = {}
    done = 0
    for numbers in _by_answer(rows):
        for some in np.array_split(numbers, -(-len(numbers) // _NEAR)):
            if progress is not None:
                progress("overlap", done, len(rows))
            done += len(some)
            if len(some) > 1:
                agree = overlaps(found, some.tolist()).corrected.fill_diagonal_(0)
                near |= zip(some.tolist(), (agree.sum(1) / (len(some) - 1)).tolist(), strict=True)
    return near
