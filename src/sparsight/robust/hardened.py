"""What came of a hardening, on disk and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from sparsight.errors import InputError, NetworkError
from sparsight.networks import Network
from sparsight.networks.classifier import PixelClassifier
from sparsight.networks.state import plain_state
from sparsight.robust.masked import Kept
from sparsight.robust.slicing import Size, cut_channels, size_of
from sparsight.storage import atomic_folder, read_manifest, write_manifest
from sparsight.traces.packing import pack_all, unpack_all

__all__ = ["FILES", "Hardened"]

_MANIFEST, _DENSE, _COMPACT, _BENCH = (
    "hardened.json", "network.safetensors", "compact.safetensors", "robustbench.pt"
)  # fmt: skip
_KIND, _SCHEMA = "hardened network", 1
FILES = frozenset({_MANIFEST, _DENSE, _COMPACT, _BENCH})
"""Files of a saved hardening."""

_DAMAGE = (
    *(SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError),
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Hardened:
    """A network that was pruned under attack.

    Attributes
    ----------
    network
        With zeros where nothing is kept, dense.
    classifier
        The same on pixels in [0, 1], as attacks and RobustBench want it.
    kept
        What is left, by layer or channels.
    channels
        Of channels, which are left, by name of the layer that makes them; else empty.
    settings, log, versions
        How, and a row for each epoch.
    seconds
        How long the last call took.
    reached
        Whether the rates that were learnt met the budget by themselves. The masks meet it in any
        case.
    """

    network: Network
    classifier: PixelClassifier
    kept: tuple[Kept, ...]
    channels: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    seconds: float
    reached: bool

    @property
    def share(self) -> float:
        """Share of the weights or channels that is left."""
        return sum(one.kept for one in self.kept) / sum(one.size for one in self.kept)

    def smaller(self, x: Tensor) -> PixelClassifier:
        """Cut the channels out that are gone.

        Masks on weights make no network smaller or faster, only its file.

        Parameters
        ----------
        x
            ``(N, C, H, W)``, pixels, to compare answers on.

        Raises
        ------
        InputError
            If weights were pruned.
        UnsupportedError
            If the smaller network answers otherwise.
        """
        if not self.channels:
            raise InputError(
                "single weights cannot be cut out: harden with mode='channels' for a smaller "
                "network"
            )
        return cut_channels(self.classifier, self.channels, x)

    def sizes(self, before: Network, x: Tensor) -> dict[str, Size]:
        """Measure the network as it was, as it is, and where channels are gone, cut.

        The file of a masked network is the compact one.

        Parameters
        ----------
        before
            The network that was hardened.
        x
            ``(N, C, H, W)``, pixels.
        """
        one = x[:1]
        found = {"before": size_of(PixelClassifier.of(before).eval(), one)}
        masked = size_of(self.classifier, one)
        found["masked"] = replace(masked, file=len(save(self._compact()[0])))
        if self.channels:
            found["cut"] = size_of(self.smaller(x), one)
        return found

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "share": self.share,
            "reached": self.reached,
            "kept": [[one.name, one.kept, one.size] for one in self.kept],
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "log": [dict(row) for row in self.log],
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the network.

        ``network.safetensors`` holds its weights as the user's module has them;
        ``compact.safetensors`` the same without zeros; ``robustbench.pt`` those of the classifier
        of pixels, as ``{"state_dict": ...}``.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is false, or cannot be written.
        """
        folder = Path(folder)
        with atomic_folder(folder, FILES, overwrite=overwrite) as temporary:
            self.write(temporary)
        return folder

    def write(self, folder: Path) -> None:
        """Write all files into a folder that is there; the manifest last.

        Raises
        ------
        InputError
            If they cannot be written.
        """
        try:
            self._write(folder)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot write {folder} ({error}): make room") from error

    def _write(self, folder: Path) -> None:
        save_file(plain_state(self.network.model.state_dict()), folder / _DENSE)
        parts, forms = self._compact()
        save_file(parts, folder / _COMPACT)
        torch.save({"state_dict": plain_state(self.classifier.state_dict())}, folder / _BENCH)
        write_manifest(folder, _MANIFEST, {
            "kind": _KIND, "schema": _SCHEMA, "forms": forms, "versions": dict(self.versions),
            **self.describe(),
        })  # fmt: skip

    def _compact(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights without their zeros, and their shapes."""
        state = plain_state(self.network.model.state_dict())
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        parts, forms = pack_all(floating)
        rest = {f"whole:{n}": v for n, v in state.items() if n not in floating}
        channels = {f"channels:{n}": v.cpu() for n, v in self.channels.items()}
        return parts | rest | channels, forms

    @classmethod
    def load(cls, folder: str | Path, network: Network) -> Hardened:
        """Read a saved network.

        Parameters
        ----------
        folder
            Where it is.
        network
            Of the same architecture, with any weights; not changed.

        Raises
        ------
        InputError
            If the folder holds none, or a damaged one.
        NetworkError
            If it is of another architecture.
        """
        manifest = read_manifest(folder, _MANIFEST, _KIND, _SCHEMA)
        try:
            parts = load_file(Path(folder) / _COMPACT)
            state = unpack_all(parts, manifest["forms"])
            named: dict[str, dict[str, Tensor]] = {"whole": {}, "channels": {}}
            for key, value in parts.items():
                kind, _, name = key.partition(":")
                if kind in named:
                    named[kind][name] = value
            kept = tuple(Kept(str(n), int(k), int(size)) for n, k, size in manifest["kept"])
            settings, log = dict(manifest["settings"]), list(manifest["log"])
            versions, seconds = dict(manifest["versions"]), float(manifest["seconds"])
            reached = bool(manifest["reached"])
        except _DAMAGE as error:
            raise InputError(
                f"the hardened network in {folder} is damaged ({error}): harden it again"
            ) from error
        classifier = PixelClassifier.of(network)
        state |= named["whole"]
        own = classifier.model.state_dict()
        if set(state) != set(own) or any(state[n].shape != own[n].shape for n in own):
            raise NetworkError(
                f"{folder} holds another architecture than {network.spec!r}: give the network "
                "that was hardened"
            )
        classifier.model.load_state_dict(state)
        classifier.eval().requires_grad_(False)
        return cls(
            classifier.network(network, f"{network.spec} (hardened)"), classifier, kept,
            named["channels"], settings, log, versions, seconds, reached,
        )  # fmt: skip

    def __repr__(self) -> str:
        what = self.settings["mode"]
        return f"Hardened({self.share:.2%} of the {what} kept, method {self.settings['method']!r})"
