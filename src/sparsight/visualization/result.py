"""Pictures of what was asked for, and all that is needed to make them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.errors import InputError
from sparsight.storage import atomic_folder, library_versions, read_manifest, write_manifest

__all__ = ["Visualization"]

_SCHEMA = 1
_MANIFEST, _TENSORS = "visualization.json", "images.safetensors"
_FACTS = ("objectives", "network", "settings", "seconds", "steps")


@dataclass(frozen=True, eq=False)
class Visualization:
    """Images that objectives were raised on.

    They show what drives the *network*, among images that no camera took. Where an objective has
    many causes, an image shows one of them, or a mixture.

    Attributes
    ----------
    images
        ``(objectives, images, C, H, W)``, float32 in [0, 1], on the CPU.
    transparency
        ``(objectives, images, H, W)`` in [0, 1]: how much each pixel was worked on; 1 is most.
    scores
        ``(objectives, images)``: the objective on the image as it is, not moved.
    history
        ``(steps,)``: mean of the objectives on moved images, by step.
    objectives
        As text.
    network
        Which network was asked.
    settings
        Every setting as used, the seed among them.
    seconds
        Wall time.
    steps
        Done; fewer than asked for after an early stop.
    """

    images: Tensor
    transparency: Tensor
    scores: Tensor
    history: Tensor
    objectives: tuple[str, ...]
    network: str
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0

    def picture(self, objective: int = 0, image: int = 0, *, veil: bool = False) -> Image.Image:
        """Return one image.

        Parameters
        ----------
        objective, image
            Which one.
        veil
            Let fade to grey what was worked on least.
        """
        shown = self.images[objective, image]
        if veil:
            alpha = self.transparency[objective, image]
            shown = alpha * shown + (1 - alpha) * 0.5
        pixels = (shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the images and, last, the manifest into a new folder.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is false, or cannot be written.
        """
        tensors = {
            name: getattr(self, name).contiguous()
            for name in ("images", "transparency", "scores", "history")
        }
        facts = {name: getattr(self, name) for name in _FACTS} | {
            "objectives": list(self.objectives)
        }
        header = {"kind": "visualization", "schema": _SCHEMA, "versions": library_versions()}
        with atomic_folder(folder, {_MANIFEST, _TENSORS}, overwrite=overwrite) as temporary:
            save_file(tensors, temporary / _TENSORS)
            write_manifest(temporary, _MANIFEST, header | facts)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Visualization:
        """Read back what :meth:`save` wrote, bit by bit.

        Raises
        ------
        InputError
            If the folder holds no complete visualization of a known schema.
        """
        manifest = read_manifest(folder, _MANIFEST, "visualization", _SCHEMA)
        try:
            tensors = load_file(Path(folder) / _TENSORS)
            facts = {name: manifest[name] for name in _FACTS}
            facts["objectives"] = tuple(facts["objectives"])
            return cls(**tensors, **facts)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no complete visualization ({error})") from error

    def __repr__(self) -> str:
        count, images = self.images.shape[:2]
        shown = ", ".join(self.objectives[:3]) + (", ..." if count > 3 else "")
        size = "x".join(map(str, self.images.shape[2:]))
        best = torch.nan_to_num(self.scores).max()
        return (
            f"Visualization({shown}: {count} x {images} images {size}, {self.steps} steps, "
            f"best score {float(best):.3g}, {self.seconds:.1f} s)"
        )
