"""``hf:ID_OR_FOLDER``: image classifiers of Hugging Face transformers."""

from __future__ import annotations

from typing import Any

from sparsight.errors import NetworkError
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.sources import Found

__all__ = ["find"]

_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def _preprocessing(settings: dict[str, Any], config: Any) -> Preprocessing:
    size = settings.get("size", getattr(config, "image_size", 224))
    resize: int | None = None
    if isinstance(size, dict) and "shortest_edge" in size:
        resize = int(size["shortest_edge"])
        height = width = resize
    elif isinstance(size, dict):
        height, width = int(size["height"]), int(size["width"])
    else:
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    crop = settings.get("crop_size")
    if settings.get("do_center_crop") and crop is not None:
        resize = resize or min(height, width)
        height, width = (
            (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
        )
    elif resize is not None and "crop_pct" in settings:  # ConvNeXT and ResNet processors
        resize = round(resize / settings["crop_pct"])
    channels = int(getattr(config, "num_channels", 3))
    normalize = settings.get("do_normalize", True)
    mean = settings.get("image_mean", [0.485, 0.456, 0.406]) if normalize else [0.0] * channels
    std = settings.get("image_std", [0.229, 0.224, 0.225]) if normalize else [1.0] * channels
    return Preprocessing(
        size=(height, width),
        resize=resize,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=_RESAMPLING.get(int(settings.get("resample", 2)), "bilinear"),
    )


def find(name: str, pretrained: bool) -> Found:
    """Load an image classifier by hub id or folder; safetensors only, no remote code."""
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        raise NetworkError("hf: networks need transformers: pip install 'sparsight[hf]'") from error
    info: dict[str, Any] = {"weights": name if pretrained else "untrained"}
    try:
        config = AutoConfig.from_pretrained(name)
        if pretrained:
            model = AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        else:
            model = AutoModelForImageClassification.from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise NetworkError(f"hf:{name} cannot be loaded ({reason})") from error
    try:
        settings = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:
        settings = {}
        info["assumed"] = "no preprocessor_config.json: ImageNet mean and std assumed"
    labels = getattr(config, "id2label", None) or {}
    named = tuple(str(labels[i]) for i in range(len(labels)))
    return Found(model, _preprocessing(settings, config), named, info)
