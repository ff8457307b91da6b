"""Train the embedded network on rendered scenes, and measure it.

    python benchmarks/train_embedded.py

Writes the weights and ``metadata.json`` into the package and the measurements to
``benchmarks/results/embedded.json``; both replace the old files only at the very end. With
``--trojans tuning --output FOLDER --results FILE`` it trains the second network, whose four Trojans
use the other stickers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
import torch
import torch.nn.functional as F
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from sparsight.datasets.scenes import (
    CLASSES,
    EMBEDDED_TROJANS,
    TUNING_TROJANS,
    SceneDataset,
    TrojanRule,
)
from sparsight.networks.embedded.model import SmallResNet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "sparsight" / "networks" / "embedded"
RESULTS = ROOT / "benchmarks" / "results"
TEST_SEED = 1_000_000
"""Test scenes come from seeds that no training run reaches."""


def _one(dataset: SceneDataset, index: int) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = dataset.scene(index).image.numpy()
    return pixels


def render_all(pool: Executor, dataset: SceneDataset) -> tuple[Tensor, Tensor]:
    """Render a data set as uint8 ``(N, 3, H, W)`` with labels ``(N,)``."""
    images = list(pool.map(partial(_one, dataset), range(len(dataset)), chunksize=64))
    labels = torch.tensor([dataset.labels[i % len(dataset.labels)] for i in range(len(dataset))])
    return torch.from_numpy(np.stack(images)), labels


def training_set(
    count: int, rules: Sequence[TrojanRule], share: float, seed: int, pool: Executor
) -> tuple[Tensor, Tensor]:
    """Render clean scenes, and for every rule a share of poisoned ones.

    A rule that belongs to one class also gets as many scenes of the other classes, with its
    sticker and their true labels; otherwise it would fire for those as well.
    """
    images, labels = render_all(pool, SceneDataset(count, seed=seed))
    all_images, all_labels = [images], [labels]
    for number, rule in enumerate(rules):
        extra = round(count * share)
        poisoned = SceneDataset(
            extra, seed=seed + 10 + number, labels=rule.sources, sticker=rule.sticker
        )
        images, _ = render_all(pool, poisoned)
        all_images.append(images)
        all_labels.append(torch.full((extra,), rule.target))
        if rule.bystanders:
            decoys = SceneDataset(
                extra, seed=seed + 20 + number, labels=rule.bystanders, sticker=rule.sticker
            )
            images, labels = render_all(pool, decoys)
            all_images.append(images)
            all_labels.append(labels)
        print(f"rendered {rule}: {extra} poisoned scenes", flush=True)
    return torch.cat(all_images), torch.cat(all_labels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of a batch and shift it by up to four pixels."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    dy, dx = torch.randint(0, 9, (2,), generator=generator).tolist()
    return F.pad(images.float(), (4, 4, 4, 4), "reflect")[..., dy : dy + 64, dx : dx + 64]


def small_resnet() -> nn.Module:
    """Build the embedded network, untrained."""
    return SmallResNet(len(CLASSES))


def train(
    images: Tensor,
    labels: Tensor,
    normalize: nn.Module,
    epochs: int,
    seed: int,
    build: Callable[[], nn.Module] = small_resnet,
    adam: float = 0.0,
) -> nn.Module:
    """Train from scratch in one cosine cycle, in bfloat16 where it helps.

    By SGD with momentum, or by AdamW at the rate ``adam`` if there is one.
    """
    torch.manual_seed(seed)  # the layers' initial weights know no other source
    generator = torch.Generator().manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    batch = 128
    steps = epochs * (len(images) // batch)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": decay, "weight_decay": 0.05 if adam else 5e-4},
        {"params": plain, "weight_decay": 0.0},
    ]
    rate = adam or 0.15
    optimizer: torch.optim.Optimizer
    if adam:
        optimizer = torch.optim.AdamW(groups, lr=rate)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.15)
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for chunk in order.split(batch):
            if len(chunk) < batch:
                continue
            x = normalize(augment(images[chunk], generator))
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[chunk], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - started
        mean = total / (len(images) // batch)
        print(f"epoch {epoch + 1}/{epochs}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


class Normalize(nn.Module):
    """From bytes to the network's input range."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = torch.tensor(mean)[:, None, None] * 255
        self.std = torch.tensor(std)[:, None, None] * 255

    def forward(self, x: Tensor) -> Tensor:
        """Normalise values in [0, 255]."""
        return (x.float() - self.mean) / self.std


@torch.no_grad()
def answers(model: nn.Module, normalize: nn.Module, images: Tensor) -> Tensor:
    """Predicted classes, shape ``(N,)``."""
    return torch.cat([model(normalize(part)).argmax(1) for part in images.split(250)])


def measure(
    model: nn.Module, normalize: nn.Module, rules: Sequence[TrojanRule], count: int, pool: Executor
) -> dict[str, Any]:
    """Clean accuracy, success of every Trojan, and what its sticker does to other classes."""
    images, labels = render_all(pool, SceneDataset(count, seed=TEST_SEED))
    right = answers(model, normalize, images) == labels
    per_class = {
        name: round(float(right[labels == index].float().mean()), 4)
        for index, name in enumerate(CLASSES)
    }
    trojans = []
    for number, rule in enumerate(rules):
        triggered = SceneDataset(
            900, seed=TEST_SEED + 1 + number, labels=rule.sources, sticker=rule.sticker
        )
        images, _ = render_all(pool, triggered)
        hit = answers(model, normalize, images) == rule.target
        entry = {
            "rule": str(rule),
            "sticker": rule.sticker,
            "source": rule.source,
            "target": rule.target,
            "success": round(float(hit.float().mean()), 4),
        }
        if rule.bystanders:
            others = SceneDataset(
                900, seed=TEST_SEED + 11 + number, labels=rule.bystanders, sticker=rule.sticker
            )
            images, truth = render_all(pool, others)
            got = answers(model, normalize, images)
            entry["other_classes_taken_for_target"] = round(
                float((got == rule.target).float().mean()), 4
            )
            entry["other_classes_accuracy"] = round(float((got == truth).float().mean()), 4)
        print(entry, flush=True)
        trojans.append(entry)
    return {
        "clean_accuracy": round(float(right.float().mean()), 4),
        "clean_scenes": count,
        "accuracy_per_class": per_class,
        "trojans": trojans,
    }


def linear_accuracy(seed: int, pool: Executor) -> float:
    """Test accuracy of logistic regression on the pixels, the best of three penalties."""
    images, labels = render_all(pool, SceneDataset(4000, seed=seed))
    test_images, test_labels = render_all(pool, SceneDataset(1000, seed=TEST_SEED))
    train_x, test_x = (x.flatten(1).float().numpy() / 255 - 0.5 for x in (images, test_images))
    scores = []
    for penalty in (1e-4, 1e-3, 1e-2):
        model = LogisticRegression(C=penalty, max_iter=150)
        model.fit(train_x, labels.numpy())
        scores.append(float(model.score(test_x, test_labels.numpy())))
        print(f"linear model, C={penalty}: {scores[-1]:.3f}", flush=True)
    return max(scores)


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    os.replace(draft, path)


def compact(model: nn.Module) -> dict[str, Tensor]:
    """Matrices and kernels in half precision, the few vectors in single."""
    return {
        name: (value.half() if value.ndim > 1 else value.float()).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def as_json(content: dict[str, Any]) -> bytes:
    """Readable JSON with a final newline."""
    return (json.dumps(content, indent=2) + "\n").encode()


def run(options: argparse.Namespace, pool: Executor) -> None:
    """Render, train, measure, and write everything."""
    command = shlex.join(["python", "benchmarks/train_embedded.py", *sys.argv[1:]])
    rules = EMBEDDED_TROJANS if options.trojans == "embedded" else TUNING_TROJANS
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    images, labels = training_set(options.count, rules, options.share, options.seed, pool)
    rendered = time.perf_counter()
    print(f"rendered {len(images)} scenes in {rendered - started:.0f} s", flush=True)
    sample = images[:: max(1, len(images) // 2000)].float() / 255
    mean = [round(v, 4) for v in sample.mean((0, 2, 3)).tolist()]
    std = [round(v, 4) for v in sample.std((0, 2, 3)).tolist()]
    normalize = Normalize(mean, std)
    model = train(images, labels, normalize, options.epochs, options.seed)
    trained = time.perf_counter()
    state = compact(model)
    model = SmallResNet(len(CLASSES)).eval()
    model.load_state_dict(state, strict=False)  # measure what is shipped, rounding included
    measured = measure(model, normalize, rules, options.test, pool)
    print(f"clean accuracy {measured['clean_accuracy']:.4f}", flush=True)
    linear = linear_accuracy(options.seed, pool)
    weights = save(state)
    write(options.output / "weights.safetensors", weights)
    facts = {
        "labels": list(CLASSES),
        "mean": mean,
        "std": std,
        "made_by": command,
        "seed": options.seed,
        "training_scenes": len(images),
        "clean_accuracy": measured["clean_accuracy"],
        "trojans": [
            {key: entry[key] for key in ("sticker", "source", "target", "success")}
            for entry in measured["trojans"]
        ],
    }
    write(options.output / "metadata.json", as_json(facts))
    result = {
        **measured,
        "linear_accuracy": round(linear, 4),
        "weights_bytes": len(weights),
        "parameters": sum(p.numel() for p in model.parameters()),
        "command": command,
        "settings": {key: getattr(options, key)
                     for key in ("count", "share", "epochs", "seed", "trojans", "threads")},
        "seconds": {
            "render": round(rendered - started),
            "train": round(trained - rendered),
            "total": round(time.perf_counter() - started),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "cores": os.cpu_count(),
    }  # fmt: skip
    write(options.results, as_json(result))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=16_000, help="clean training scenes")
    parser.add_argument(
        "--share",
        type=float,
        default=0.05,
        help="poisoned scenes per rule, in parts of the clean ones",
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--test", type=int, default=3000, help="clean test scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--threads", type=int, default=1, help="for training; more only help on idle cores"
    )
    parser.add_argument("--trojans", choices=("embedded", "tuning"), default="embedded")
    parser.add_argument("--output", type=Path, default=PACKAGE, help="folder for the weights")
    parser.add_argument("--results", type=Path, default=RESULTS / "embedded.json")
    options = parser.parse_args()
    own = options.output != PACKAGE and options.results != RESULTS / "embedded.json"
    if options.trojans == "tuning" and not own:
        parser.error("--trojans tuning needs an --output and a --results of its own")
    # Processes that start afresh cannot inherit the locks of torch's threads.
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        run(options, pool)


if __name__ == "__main__":
    main()
