"""A network with everything needed to ask it a question: preprocessing and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from sparsight.errors import InputError, NetworkError, NumericalError
from sparsight.networks.outputs import LogitsOnly, unwrap_logits
from sparsight.networks.preprocessing import Preprocessing

__all__ = ["Network", "open_image"]


def open_image(path: str | Path) -> Image.Image:
    """Open an image file fully, or say in one line why not.

    Raises
    ------
    InputError
        If the file is missing, no image, truncated, or suspiciously large.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such image file: {path}")
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be decoded as an image ({error})") from error


@dataclass(frozen=True, eq=False)
class Network:
    """A trained classifier, its preprocessing and its labels.

    Attributes
    ----------
    model
        The user's module, never changed. Parameter names everywhere are its own.
    preprocessing
        From an image to the input frame, as the source configures it.
    labels
        One name per output; ``class 0``, ``class 1``, ... where the source has none.
    spec
        Where it came from, e.g. ``torchvision:resnet50``.
    info
        Facts for the manifest: weights file, source library, licence notes.
    """

    model: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    spec: str = "unnamed"
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.model, torch.jit.ScriptModule):
            raise NetworkError(
                "a scripted or traced TorchScript module hides its layers: "
                "give the Python module it was made from"
            )

    @property
    def classifier(self) -> nn.Module:
        """The model as a module that returns logits ``(N, classes)``, sharing all parameters."""
        return LogitsOnly(self.model)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the first parameter."""
        return next(self.model.parameters()).dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of a normalised batch ``(N, C, H, W)``, which stays as it is."""
        return unwrap_logits(self.model(x.clone()))  # a model may work in place

    def to(self, device: str | torch.device) -> Network:
        """Move the model to a device (in place, as torch does) and return the network."""
        self.model.to(device)
        return self

    def prepare(self, image: Image.Image | str | Path | Tensor) -> Tensor:
        """Bring an image into the network's input frame.

        Parameters
        ----------
        image
            A path, a PIL image, or a tensor ``(C, H, W)`` or ``(1, C, H, W)`` that is
            *already normalised* and of the network's input size.

        Returns
        -------
        Tensor
            ``(1, C, H, W)`` on the network's device and in its dtype.

        Raises
        ------
        InputError
            Missing or unreadable file, wrong shape, NHWC layout, non-finite values.
        """
        if isinstance(image, str | Path):
            image = open_image(image)
        if isinstance(image, Image.Image):
            x = self.preprocessing(image)
        else:
            x = image if image.ndim == 4 else image[None]
            expected = (1, self.preprocessing.channels, *self.preprocessing.size)
            if tuple(x.shape) != expected:
                hint = (
                    " (this looks like NHWC: permute it to NCHW)"
                    if x.ndim == 4 and x.shape[-1] == self.preprocessing.channels
                    else ""
                )
                raise InputError(
                    f"the input tensor has shape {tuple(x.shape)}, the network wants "
                    f"{expected}{hint}"
                )
        if not torch.isfinite(x).all():
            raise InputError("the input image holds NaN or infinite values")
        return x.to(self.device, self.dtype)

    def require_eval(self) -> None:
        """Refuse a network in training mode: dropout and batch statistics would be explained.

        Raises
        ------
        NetworkError
            If any module is in training mode.
        """
        for name, module in self.model.named_modules():
            if module.training:
                raise NetworkError(
                    f"module {name or '(root)'!r} is in training mode: call model.eval() first"
                )

    def logits(self, x: Tensor) -> Tensor:
        """Logits of a batch without gradients, checked to be finite.

        Raises
        ------
        NumericalError
            If the network answers with NaN or infinite values.
        """
        with torch.no_grad():
            logits = self(x)
        if not torch.isfinite(logits).all():
            raise NumericalError(
                f"network {self.spec!r} answers NaN or infinity: its weights or this input "
                "are corrupt"
            )
        return logits

    def label(self, index: int) -> str:
        """Name of a class."""
        return self.labels[index] if 0 <= index < len(self.labels) else f"class {index}"

    def class_index(self, name: str | int) -> int:
        """Index of a class given by number, full label, or any of its comma-separated synonyms.

        Raises
        ------
        InputError
            If no class, or more than one, answers to that name.
        """
        text = str(name).strip()
        if text.lstrip("-").isdigit():
            index = int(text)
            if not 0 <= index < len(self.labels):
                raise InputError(
                    f"class {index} does not exist: this network has classes 0 to "
                    f"{len(self.labels) - 1}"
                )
            return index
        wanted = text.casefold()
        exact = [i for i, label in enumerate(self.labels) if label.casefold() == wanted]
        hits = exact or [
            i
            for i, label in enumerate(self.labels)
            if wanted in {part.strip().casefold() for part in label.split(",")}
        ]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise InputError(f"class name {text!r} is ambiguous: it fits classes {hits[:5]}")
        close = [label for label in self.labels if wanted and wanted in label.casefold()][:3]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise InputError(f"this network has no class {text!r}{hint}")

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return (
            f"Network({self.spec!r}, {parameters / 1e6:.1f}M parameters, "
            f"{len(self.labels)} classes, input {self.preprocessing.size})"
        )
