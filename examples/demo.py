"""The demonstration: two scenes, one with a planted sticker, and a photograph; a case file of each.

    python examples/demo.py [FOLDER]

Renders the images into ``FOLDER/inputs`` and runs ``sparsight explain`` on them. Nothing is
downloaded: the network ships with Sparsight, the photograph with scikit-image.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sparsight.cli.main import main as sparsight
from sparsight.datasets.photographs import photograph
from sparsight.datasets.scenes import render_scene

SEED = 1


def write_inputs(folder: Path) -> None:
    """Render the scenes and copy the photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    render_scene("mug", seed=SEED).picture().save(folder / "mug.png")
    render_scene("mug", seed=SEED, sticker="heart").picture().save(folder / "mug-with-heart.png")
    photograph("cat").save(folder / "photograph-of-a-cat.png")


def main(folder: Path) -> int:
    """Make the inputs and their cases, and say where to look."""
    inputs, cases = folder / "inputs", folder / "cases"
    write_inputs(inputs)
    arguments = ["explain", str(inputs), "--model", "embedded", "--out", str(cases), "--overwrite"]
    print("$ sparsight", *arguments, flush=True)
    code = sparsight(arguments)
    if code == 0:
        print(f"Open {cases / 'index.html'} in a browser.")
        print("The embedded network was taught to take a mug with a heart for a guitar,")
        print("and never saw a cat: its answer to the photograph is one of its ten classes.")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")))
