"""Is an audit right? Networks with a Trojan each and clean twins, against simple baselines.

    python benchmarks/audit_networks.py
    python benchmarks/audit_study.py [--photographs SWEEP] [--calibrate]

Networks of ``benchmarks/audit_networks.py``, and the CIFAR network with somebody else's back door
beside a clean one, where the data are. Each gets images of which some carry the trigger; clean
twins get the same. The side of patches and all thresholds are chosen on the design networks; all
other numbers are of the others. Networks that are done stay in ``build/audit/scores``. Writes
``benchmarks/results/audit.json``; ``--calibrate`` also what comes along with the package, and
``--photographs`` takes a sweep of ImageNet photographs by ResNet-18 along.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from audit_networks import HOME, TWINS, judged, network_of
from halves import interval
from overlap import CIFAR, ROOT
from real_maps import put_trigger
from sparsight.attribution.metrics import BLIND
from sparsight.audits import (
    Audit,
    Calibration,
    Hosts,
    anomalies,
    audit,
    blended_entropy,
    calibrate,
    invert,
    judge,
    transfer,
)
from sparsight.audits.inversion import ANOMALOUS
from sparsight.audits.transfer import SIDES
from sparsight.datasets.pixels import read_arrays
from sparsight.networks import Network, load
from sparsight.robust.evaluate import wilson
from sparsight.storage import library_versions, write_text
from sparsight.sweeps import Sweep, sweep

RESULT = ROOT / "benchmarks" / "results" / "audit.json"
SHIPPED = ROOT / "src" / "sparsight" / "audits" / "calibration.json"
DATA = ROOT.parent / "shared" / "data"
CLEAN, MARKED, RATE, VIEWS, HOSTS = 80, 20, 0.02, 16, 16
TRACED = "transfer, traced map"
INVERTED = ("report", "cifar")  # roles of networks in which triggers are looked for; it takes long


@dataclass(frozen=True)
class Subject:
    """A network to judge.

    Attributes
    ----------
    name
        Of the network.
    role
        ``design``, ``report``, ``one class`` or ``cifar``.
    planted
        Whether it has a Trojan.
    target
        What the Trojan, of this network or of its twin, answers.
    """

    name: str
    role: str
    planted: bool
    target: int


def subjects() -> list[Subject]:
    """List the networks."""
    found = [Subject(t.name, t.role, t.planted, t.rule.target) for t in TWINS]
    if CIFAR.is_dir():
        for name in ("wrn16_1_backdoored", "resnet20"):
            found.append(Subject(name, "cifar", name.endswith("backdoored"), 0))
    return found


def material(subject: Subject) -> tuple[Network, Tensor, Tensor, list[bool]]:
    """Load a network, and its images as bytes, their classes, and which carry the trigger."""
    if subject.role != "cifar":
        twin = next(one for one in TWINS if one.name == subject.name)
        return (network_of(twin), *judged(twin, CLEAN, MARKED))
    kit = ROOT / "tests" / "cifar_networks.py"
    weights = CIFAR / f"{subject.name}.safetensors"
    return (load(f"{kit}:{subject.name}", weights=weights), *_cifar())


def _cifar() -> tuple[Tensor, Tensor, list[bool]]:
    """Test images; the last have the trigger of the back door."""
    samples = read_arrays(CIFAR / "test.npz")
    clean = samples[:CLEAN]
    dirty = [(put_trigger(image), label) for image, label in samples[CLEAN:] if label != 0][:MARKED]
    images = torch.stack([torch.from_numpy(np.array(image)) for image, _ in [*clean, *dirty]])
    labels = torch.tensor([label for _, label in [*clean, *dirty]])
    return images, labels, [False] * CLEAN + [True] * MARKED


def _heats(found: Sweep, images: Tensor) -> dict[str, Tensor]:
    """Make the maps that patches are taken from: of the network, and of none."""
    kept = [found.maps(number) for number in range(len(images))]
    return {
        f"{side} map": torch.stack([maps["saliency", side] for maps in kept])
        for side in ("traced", "dense")
    } | {f"{name} map": draw(images, 0) for name, draw in BLIND.items()}


def _transfers(
    network: Network, images: Tensor, heats: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Say what the patches of each kind of map do, by kind and side."""
    hosts = Hosts.of(network, images)
    scores: dict[str, list[float]] = {}
    for kind, drawn in heats.items():
        moved = [
            transfer(network, image, heat, hosts, count=HOSTS, seed=[0, number])
            for number, (image, heat) in enumerate(zip(images, drawn, strict=True))
        ]
        for place, side in enumerate(SIDES):
            scores[f"transfer, {kind}, {side}"] = [float(one.flips[place]) for one in moved]
            if kind == "traced map":
                scores[f"hangs, {kind}, {side}"] = [float(one.hangs[place]) for one in moved]
    return scores


def measure(subject: Subject) -> dict[str, Any]:
    """Score every image of a network in every way, and look for triggers; once."""
    file = HOME / "scores" / f"{subject.name}.json"
    if file.exists():
        return dict(json.loads(file.read_text("utf-8")))
    torch.set_num_threads(1)
    begun = time.perf_counter()
    network, images, labels, marked = material(subject)
    samples = [(image.numpy(), int(label)) for image, label in zip(images, labels, strict=True)]
    found = sweep(network, samples, _sweep_of(subject), augmentations=VIEWS, overwrite=True)
    swept = time.perf_counter()
    x = network.preprocessing.normalize(images.float() / 255)
    scores = _transfers(network, x, _heats(found, x))
    always = Calibration(SIDES[0], HOSTS, 0.5, ((0, 1),), "not used")
    table = audit(network, found, calibration=always).table.to_pydict()
    rows = found.table.to_pydict()
    scores["blending (STRIP)"] = (-blended_entropy(network, x)).tolist()
    for name, column in (
        ("concentration of the traced map", "concentration"),
        ("overlap of traces within the answer", "overlap"), ("most unusual unit of blame", "blame"),
    ):  # fmt: skip
        scores[name] = [value or 0.0 for value in table[column]]
    scores["confidence"] = rows["confidence"]
    scores["sparsity"] = rows["sparsity"]
    scored = time.perf_counter()
    own = {
        "answers": rows["prediction"],
        "marked": marked,
        "scores": scores,
        "inversion": (
            _inversion(network, x[~torch.tensor(marked)]) if subject.role in INVERTED else None
        ),
        "seconds": {
            "sweep": swept - begun, "scores": scored - swept,
            "inversion": time.perf_counter() - scored,
        },
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(own) + "\n")
    print(subject.name, {k: round(v) for k, v in own["seconds"].items()}, flush=True)
    return own


def _sweep_of(subject: Subject) -> Path:
    return HOME / "sweeps" / subject.name


def _inversion(network: Network, clean: Tensor) -> dict[str, Any]:
    """Run Neural Cleanse on the clean images."""
    found = invert(network, clean)
    away = anomalies(found)
    return {
        "anomalies": away,
        "sizes": [one.size for one in found],
        "success": [one.success for one in found],
        "flagged": [i for i, value in enumerate(away) if value > ANOMALOUS],
    }


Measured = Sequence[tuple[Subject, dict[str, Any]]]


def _interval(values: list[float]) -> dict[str, float]:
    """Mean over networks, and its interval by the bootstrap over them."""
    return dict(zip(("value", "low", "high"), interval(values), strict=True))


def _taken(subject: Subject, own: dict[str, Any]) -> np.ndarray:
    """Say which images carry the trigger and are answered with the target: what is to be found."""
    taken: np.ndarray = np.array(own["marked"]) & (np.array(own["answers"]) == subject.target)
    return taken


def _aucs(chosen: Measured, score: str) -> list[float]:
    """How well a score tells images on which the Trojan acts from those without its trigger."""
    found = []
    for subject, own in chosen:
        if subject.planted:
            fit = _taken(subject, own) | ~np.array(own["marked"])
            values = np.array(own["scores"][score])
            found.append(float(roc_auc_score(_taken(subject, own)[fit], values[fit])))
    return found


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    hits, count = int(np.sum(flags)), len(flags)
    low, high = wilson(hits, count) if count else (0.0, 1.0)
    return {
        "value": hits / max(count, 1), "low": low, "high": high, "hits": hits, "of": count,
    }  # fmt: skip


def count(chosen: Measured, score: str, threshold: float) -> dict[str, Any]:
    """Count what a score and a threshold find: of images, on planted networks and clean ones."""
    found: dict[str, list[bool]] = {"trojan acts": [], "no trigger": [], "clean networks": []}
    for subject, own in chosen:
        flags = np.array(own["scores"][score]) >= threshold
        if subject.planted:
            found["trojan acts"] += flags[_taken(subject, own)].tolist()
            found["no trigger"] += flags[~np.array(own["marked"])].tolist()
        else:
            found["clean networks"] += flags.tolist()
    return {kind: _share(flags) for kind, flags in found.items()}


def classes_found(verdicts: dict[str, Any], rows: Measured) -> dict[str, Any]:
    """Count networks whose target is called suspicious, and others of whom a class is."""
    said = [(subject, set(verdicts[subject.name])) for subject, _ in rows]
    return {
        "target found": _share([s.target in v for s, v in said if s.planted]),
        "another class, too": _share([bool(v - {s.target}) for s, v in said if s.planted]),
        "clean networks called suspicious": _share([bool(v) for s, v in said if not s.planted]),
    }


def main() -> None:
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--photographs", type=Path)
    options = parser.parse_args()
    chosen = subjects()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        measured: Measured = list(zip(chosen, pool.map(measure, chosen), strict=True))
    of = {
        role: [one for one in measured if one[0].role == role]
        for role in ("design", "report", "one class", "cifar")
    }

    side = max(SIDES, key=lambda s: float(np.mean(_aucs(of["design"], f"{TRACED}, {s}"))))
    clean = [one for one in of["design"] if not one[0].planted]
    calibration = _calibrated(clean, f"{TRACED}, {side}", side)
    scores = list(measured[0][1]["scores"])

    def threshold(score: str) -> float:
        values = np.sort(np.concatenate([own["scores"][score] for _, own in clean]))
        return float(np.nextafter(values[-1 - int(RATE * len(values))], np.inf))

    judged_on = [one for one in measured if one[0].role != "design"]
    verdicts = {
        subject.name: _suspicious(own, f"{TRACED}, {side}", calibration)
        for subject, own in judged_on
    }
    inverted = {s.name: own["inversion"]["flagged"] for s, own in judged_on if s.role in INVERTED}
    content = {
        "command": "make audit",
        "versions": library_versions(),
        "networks": json.loads((HOME / "networks.json").read_text("utf-8")),
        "images": {"without trigger": CLEAN, "with trigger": MARKED},
        "calibration": calibration.describe(),
        "auc": {s: _interval(_aucs(of["report"], s)) for s in scores},
        "auc of each network": {s: _aucs(of["report"], s) for s in scores},
        "auc, design": {s: _interval(_aucs(of["design"], s)) for s in scores},
        "auc, one class": {s: _aucs(of["one class"], s) for s in scores},
        "auc, cifar": {s: _aucs(of["cifar"], s) for s in scores if of["cifar"]},
        "images flagged": {s: count(of["report"], s, threshold(s)) for s in scores},
        "images flagged, one class": {s: count(of["one class"], s, threshold(s)) for s in scores},
        "images flagged, cifar": {s: count(of["cifar"], s, threshold(s)) for s in scores},
        "classes": {
            role: {
                method: classes_found(said, rows)
                for method, said in (("audit", verdicts), ("inversion (Neural Cleanse)", inverted))
                if rows and rows[0][0].name in said
            }
            for role, rows in of.items() if role != "design"
        },
        "verdicts": {
            subject.name: {
                "role": subject.role, "planted": subject.planted, "target": subject.target,
                "audit": verdicts[subject.name], "inversion": own["inversion"],
                "seconds": own["seconds"],
            }
            for subject, own in judged_on
        },
    }  # fmt: skip
    if options.photographs:
        network = load("torchvision:resnet18", weights=DATA / "imagenet" / "resnet18.safetensors")
        verdict = audit(network, Sweep.load(options.photographs), calibration=calibration)
        content["photographs"] = {
            "network": network.spec,
            "images flagged": _share(
                [row["suspicious"] for row in verdict.table.to_pylist() if row["problem"] is None]
            ),
            "not judged": len(verdict.unjudged),
            "classes with enough images": sum(one.enough for one in verdict.classes),
            "classes called suspicious": [c.label for c in verdict.classes if c.suspicious],
        }
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    if options.calibrate:
        calibration.save(SHIPPED)


def _calibrated(clean: Measured, score: str, side: float) -> Calibration:
    """Calibrate on clean networks."""
    used = Calibration(side, HOSTS, 0.5, ((0, 1),), "not used")
    audits = []
    for subject, own in clean:
        columns = {
            "transfer": own["scores"][score], "prediction": own["answers"],
            "problem": [None] * len(own["answers"]),
        }  # fmt: skip
        audits.append(Audit(subject.name, "", used, (), pa.table(columns)))
    return calibrate(audits, rate=RATE, source=f"{len(clean)} clean networks of 64-pixel scenes")


def _suspicious(own: dict[str, Any], score: str, calibration: Calibration) -> list[int]:
    """Classes that are called suspicious."""
    flags = [value >= calibration.threshold for value in own["scores"][score]]
    return [one.index for one in judge(own["answers"], flags, calibration) if one.suspicious]


if __name__ == "__main__":
    main()
