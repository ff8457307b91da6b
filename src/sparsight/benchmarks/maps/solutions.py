"""Layers of every image at every ratio of a grid, solved once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsight.benchmarks.maps.cases import Case, digest
from sparsight.benchmarks.maps.run import Progress, check_settings
from sparsight.errors import InputError
from sparsight.networks import Network, blocks_of, weight_matrices
from sparsight.storage import replacing
from sparsight.traces import COMPENSATED, trace_at

__all__ = ["GRID", "Solutions"]

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
"""The published ratios."""


class Solutions:
    """Pruned layers of every case at every ratio, solved once and kept in a folder.

    Parameters
    ----------
    network, cases
        What is pruned, and for which images.
    folder
        Where solutions are kept, a file per case and ratio.
    solver
        One that solves layers by themselves.
    augmentations
        Views per image.
    seed
        Of the views; the case's number is added.

    Raises
    ------
    InputError
        If the solver works front to back, so that no solution outlasts a change in another layer.
    """

    def __init__(
        self,
        network: Network,
        cases: Sequence[Case],
        folder: Path,
        *,
        solver: str = "sparsegpt",
        augmentations: int = 64,
        seed: int = 0,
    ) -> None:
        if solver == COMPENSATED:
            raise InputError(
                f"solver {solver!r} works front to back, and ratios are tuned layer by layer: "
                "choose another, such as sparsegpt"
            )
        self.network, self.cases, self.folder = network, tuple(cases), folder
        self.solver, self.augmentations, self.seed = solver, augmentations, seed
        order = weight_matrices(network.model)[1:]  # the stem stays dense, as published
        self.parameters = {
            block: sorted({matrix.parameter for matrix in found})
            for block, found in blocks_of(network.model, order).items()
        }

    @property
    def blocks(self) -> tuple[str, ...]:
        """Blocks from the input to the output."""
        return tuple(self.parameters)

    def facts(self) -> dict[str, Any]:
        """Return what decides about the solutions."""
        return {
            "network": self.network.spec,
            "weights": digest(self.network.model.state_dict()),
            "cases": {case.key: case.digest() for case in self.cases},
            "solver": self.solver,
            "augmentations": self.augmentations,
            "seed": self.seed,
        }

    def solve(self, progress: Progress | None = None) -> None:
        """Solve what is not there yet.

        Raises
        ------
        InputError
            If the folder holds something else.
        """
        check_settings(self.folder, self.facts())
        ratios = [ratio for ratio in GRID if ratio > 0]
        for number, case in enumerate(self.cases):
            files = [self._file(number, ratio) for ratio in ratios]
            if not all(file.exists() for file in files):
                found = trace_at(
                    self.network, case.image, ratios, solver=self.solver,
                    augmentations=self.augmentations, seed=self.seed + number,
                )  # fmt: skip
                for file, one in zip(files, found, strict=True):
                    with replacing(file) as draft:
                        save_file({k: v.contiguous() for k, v in one.tensors.items()}, draft)
            if progress is not None:
                progress("solving", number + 1, len(self.cases))

    def weights(self, number: int, ratios: Mapping[str, float]) -> dict[str, Tensor]:
        """Return a case's parameters at a ratio for each block; blocks left out stay dense."""
        found: dict[str, Tensor] = {}
        for ratio in {r for r in ratios.values() if r > 0}:
            with safe_open(self._file(number, ratio), "pt", str(self.network.device)) as file:
                have = set(file.keys())
                for block in (b for b, r in ratios.items() if r == ratio):
                    names = (name for name in self.parameters[block] if name in have)
                    found |= {name: file.get_tensor(name) for name in names}
        return found

    def _file(self, number: int, ratio: float) -> Path:
        return self.folder / f"{number:04d}-{ratio:g}.safetensors"
