"""How colours go together in photographs: the numbers in ``sparsight/visualization/colours.py``.

    python benchmarks/photo_statistics.py

Reads the full-size photographs of the shared data folder, every sixteenth pixel of each, and writes
``benchmarks/results/photo-statistics.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sparsight.storage import write_text

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT.parent / "shared" / "data" / "imagenet" / "photos"
RESULT = ROOT / "benchmarks" / "results" / "photo-statistics.json"
STEP = 4  # pixels, in each direction


def main() -> None:
    """Measure and write."""
    files = sorted(PHOTOS.glob("*.JPEG"))
    if not files:
        sys.exit("the shared data folder is not beside this checkout: nothing is measured")
    covariances = []
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float64)[::STEP, ::STEP] / 255
        covariances.append(np.cov(pixels.reshape(-1, 3), rowvar=False))
    covariance = np.mean(covariances, axis=0)
    values, vectors = np.linalg.eigh(covariance)
    order = values.argsort()[::-1]
    # columns: brightness first; signs such that each column's largest entry is positive
    root = vectors[:, order] * np.sqrt(values[order])
    root *= np.sign(root[np.abs(root).argmax(0), range(3)])
    root /= np.linalg.norm(root, axis=1).max()
    content = {
        "photographs": len(files),
        "covariance": covariance.round(6).tolist(),
        "colours": root.round(4).tolist(),
        "command": "python benchmarks/photo_statistics.py",
    }
    write_text(RESULT, json.dumps(content, indent=2) + "\n")
    print(json.dumps(content["colours"]))


if __name__ == "__main__":
    main()
