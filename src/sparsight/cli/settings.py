"""The options of a command as typed, and the network they name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sparsight import __version__
from sparsight.attribution import choose_methods
from sparsight.blame import Statistics
from sparsight.casefile import choose_neurons, enough_memory
from sparsight.chains import Chain
from sparsight.chains.result import TENSORS
from sparsight.cli.options import read_sparsity
from sparsight.cli.places import file_digest
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, load, open_image, weight_matrices
from sparsight.traces import Trace, allocate, trace
from sparsight.traces.options import check_solver
from sparsight.traces.pruning import Progress

__all__ = ["ExplainSettings", "TraceSettings", "named"]


def named(image: Path, error: SparsightError) -> SparsightError:
    """Put an image's name before an error's message, unless it is in there."""
    text = str(error)
    return error if str(image) in text else type(error)(f"{image}: {text}")


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """Options that shape a trace."""

    model: str
    weights: Path | None
    labels: Path | None
    sparsity: str
    augmentations: int
    solver: str
    pattern: str
    damping: float | None
    stem: bool
    seed: int
    chunk: int | None
    device: str
    target: str | None = None
    focus: float | None = None
    positions: int | None = None
    gradients: int | None = None
    refitted: int | None = None
    precision: str | None = None

    def load(self) -> Network:
        """Load the network and check the settings against it, before any image is looked at.

        Raises
        ------
        SparsightError
            Whatever cannot be used, named.
        """
        sparsity = read_sparsity(self.sparsity)
        rule = check_solver(self.solver, sparsity, self.pattern)
        torch.manual_seed(self.seed)  # for --weights random
        network = load(self.model, weights=self.weights, labels=self.labels, device=self.device)
        if rule is None:
            allocate(sparsity, weight_matrices(network.model))
        if self.target is not None:
            network.class_index(self.target)
        return network

    def trace(self, network: Network, image: Path, progress: Progress) -> Trace:
        """Trace the network for an image file.

        Raises
        ------
        SparsightError
            Whatever is wrong with the image or the network, named.
        """
        given = {
            "focus": self.focus,
            "positions": self.positions,
            "gradients": self.gradients,
            "refitted": self.refitted,
            "precision": self.precision,
        }
        own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        try:
            with enough_memory(network, image.name):
                return trace(
                    network,
                    open_image(image),
                    sparsity=read_sparsity(self.sparsity),
                    augmentations=self.augmentations,
                    solver=self.solver,
                    pattern=self.pattern,
                    target=None if self.target is None else network.class_index(self.target),
                    seed=self.seed,
                    damping=self.damping,
                    stem=self.stem,
                    chunk=self.chunk,
                    progress=progress,
                    **own,
                )
        except SparsightError as error:
            raise named(image, error) from error

    def contents(self) -> dict[str, object]:
        """Read what the options mean: files by what is in them, not by where they are."""
        return asdict(self) | {
            "version": __version__,
            "code": file_digest(Path(self.model.rpartition(":")[0])),
            "weights": self.weights and (file_digest(self.weights) or str(self.weights)),
            "labels": self.labels and file_digest(self.labels),
            "sparsity": read_sparsity(self.sparsity),
        }


@dataclass(frozen=True, kw_only=True)
class ExplainSettings(TraceSettings):
    """Options that shape a case."""

    methods: str
    neuron: tuple[str, ...] = ()
    steps: int | None = None
    blame: Path | None = None
    chain: Path | None = None

    def load(self) -> Network:
        """Load the network and check the settings against it, before any image is looked at.

        Raises
        ------
        SparsightError
            Whatever cannot be used, named.
        """
        choose_methods(self.methods)
        if self.steps is not None and not self.neuron:
            raise InputError("--steps is of visualizations: name neurons with --neuron")
        network = super().load()
        choose_neurons(network, self.neuron)
        if self.statistics is not None:
            self.statistics.units(network)
        if self.found_chain is not None:
            shape = 1, network.preprocessing.channels, *network.preprocessing.size
            self.found_chain.gated(network, torch.zeros(shape, device=network.device))
        return network

    @cached_property
    def statistics(self) -> Statistics | None:
        """Statistics of saliency, if a file of them was named; read once for all images."""
        return None if self.blame is None else Statistics.load(self.blame)

    @cached_property
    def found_chain(self) -> Chain | None:
        """A chain, if the folder of one was named; read once for all images."""
        return None if self._chain_folder is None else Chain.load(self._chain_folder)

    @property
    def _chain_folder(self) -> Path | None:
        """The chain's own folder; that of its page serves as well."""
        if self.chain is None or not (self.chain / "chain").is_dir():
            return self.chain
        return self.chain / "chain"

    def contents(self) -> dict[str, object]:
        """Read what the options mean: files by what is in them, not by where they are."""
        return super().contents() | {
            "methods": choose_methods(self.methods),
            "blame": self.blame and file_digest(self.blame),
            "chain": self._chain_folder and file_digest(self._chain_folder / TENSORS),
        }
