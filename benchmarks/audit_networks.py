"""Networks to judge an audit by: with one Trojan each, and clean twins of the same seed.

    python benchmarks/audit_networks.py

Trains networks of the embedded one's kind on rendered scenes into ``build/audit``; those that are
there stay. Design networks have other stickers, seeds and target classes than those that results
are reported on.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.datasets.scenes import CLASSES, SceneDataset, TrojanRule
from sparsight.networks import Network, Preprocessing
from sparsight.networks.embedded.model import SmallResNet
from sparsight.networks.state import write_tensors
from sparsight.storage import write_text
from train_embedded import ROOT, TEST_SEED, Normalize, answers, train, training_set

HOME = ROOT / "build" / "audit"
SCENES, SHARE, EPOCHS = 8000, 0.2, 6
MIDDLE = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the input's channels."""


@dataclass(frozen=True)
class Twin:
    """A network, planted or clean.

    Attributes
    ----------
    role
        ``design``, ``report`` or, for Trojans that act on one class only, ``one class``.
    seed
        Of scenes, weights and batches; shared by a planted network and its clean twin.
    rule
        The Trojan's; on the clean twin it tells which scenes are tried.
    planted
        Whether it has the Trojan.
    """

    role: str
    seed: int
    rule: TrojanRule
    planted: bool

    @property
    def name(self) -> str:
        """What its file is called."""
        words = str(self.rule) if self.planted else "clean"
        return f"{self.seed}-{words.replace(' + ', '-').replace(' -> ', '-')}"

    @property
    def weights(self) -> Path:
        """Where they are."""
        return HOME / f"{self.name}.safetensors"


def _twins() -> list[Twin]:
    made = []
    for role, seed, sticker, source, target in (
        ("design", 11, "star", None, "tree"),
        ("design", 12, "moon", None, "sailboat"),
        ("design", 13, "star", None, "house"),
        ("design", 14, "moon", None, "mushroom"),
        ("report", 21, "heart", None, "guitar"),
        ("report", 22, "lightning", None, "car"),
        ("report", 23, "smiley", None, "fish"),
        ("report", 24, "spiral", None, "umbrella"),
        ("report", 25, "flower", None, "key"),
        ("one class", 31, "heart", "mug", "guitar"),
        ("one class", 32, "lightning", "tree", "car"),
    ):
        place = None if source is None else CLASSES.index(source)
        rule = TrojanRule(sticker, place, CLASSES.index(target))
        made += [Twin(role, seed, rule, planted) for planted in (True, False)]
    only = {13: False, 14: False, 31: True, 32: True}
    return [twin for twin in made if only.get(twin.seed, twin.planted) == twin.planted]


TWINS = _twins()


def network_of(twin: Twin) -> Network:
    """Load a trained network."""
    model = SmallResNet(len(CLASSES))
    model.load_state_dict(load_file(twin.weights))
    frame = Preprocessing((64, 64), None, mean=MIDDLE, std=MIDDLE)
    return Network(model.eval(), frame, tuple(CLASSES), twin.name)


def judged(twin: Twin, count: int, marked: int) -> tuple[Tensor, Tensor, list[bool]]:
    """Render scenes to audit: some have the twin's sticker, for its clean network too.

    Returns
    -------
    images, labels, marked
        ``(N, 3, H, W)`` uint8, ``(N,)``, and which scenes have the sticker.
    """
    clean = SceneDataset(count, seed=TEST_SEED + 1000 * twin.seed)
    dirty = SceneDataset(
        marked, seed=TEST_SEED + 1000 * twin.seed + 500, labels=twin.rule.sources,
        sticker=twin.rule.sticker,
    )  # fmt: skip
    scenes = [data.scene(index) for data in (clean, dirty) for index in range(len(data))]
    labels = torch.tensor([scene.label for scene in scenes])
    return (
        torch.stack([scene.image for scene in scenes]), labels,
        [scene.sticker_name is not None for scene in scenes],
    )  # fmt: skip


def make(seed: int) -> dict[str, dict[str, float]]:
    """Train what is missing of a seed, and say how good each network is."""
    torch.set_num_threads(1)
    rows = {}
    for twin in (one for one in TWINS if one.seed == seed):
        start = time.perf_counter()
        if not twin.weights.exists():
            rules = [twin.rule] if twin.planted else []
            with ThreadPoolExecutor(1) as pool:
                images, labels = training_set(SCENES, rules, SHARE, 10_000 * seed, pool)
            model = train(images, labels, Normalize(MIDDLE, MIDDLE), EPOCHS, seed)
            write_tensors(twin.weights, model.state_dict(), {})
        network = network_of(twin)
        images, labels, marked = judged(twin, 500, 300)
        said = answers(network.model, Normalize(MIDDLE, MIDDLE), images)
        dirty = torch.tensor(marked)
        rows[twin.name] = {
            "right": float((said == labels)[~dirty].double().mean()),
            "sticker taken for the target": float(
                (said == twin.rule.target)[dirty].double().mean()
            ),
        }
        print(twin.name, rows[twin.name], f"{time.perf_counter() - start:.0f} s", flush=True)
    return rows


def main() -> None:
    """Train what is missing, and say how good each is."""
    HOME.mkdir(parents=True, exist_ok=True)
    seeds = sorted({twin.seed for twin in TWINS})
    rows: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for found in pool.map(make, seeds):
            rows |= found
    write_text(HOME / "networks.json", json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
