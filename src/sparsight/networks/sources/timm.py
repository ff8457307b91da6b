"""``timm:NAME``: PyTorch Image Models."""

from __future__ import annotations

import difflib

import timm
from timm.data import ImageNetInfo, resolve_model_data_config

from sparsight.errors import NetworkError
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.sources import Found

__all__ = ["find"]


def find(name: str, pretrained: bool) -> Found:
    """Build a timm classifier with the data configuration of its weights."""
    if not timm.is_model(name.split(".")[0]):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), 3))
        hint = f"; close: {close}" if close else ""
        raise NetworkError(f"timm has no model {name!r}{hint}")
    try:
        model = timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise NetworkError(
            f"the weights of timm:{name} are not on this machine and cannot be fetched "
            f"({reason}): give a file with --weights"
        ) from error
    config = resolve_model_data_config(model)
    _, height, width = config["input_size"]
    shorter = round(min(height, width) / config["crop_pct"])
    preprocessing = Preprocessing(
        size=(height, width),
        resize=None if config["crop_mode"] == "squash" else shorter,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )
    labels: tuple[str, ...] = ()
    if getattr(model, "num_classes", 0) == 1000:
        labels = tuple(ImageNetInfo("imagenet-1k").label_descriptions())
    info = {"weights": model.pretrained_cfg.get("tag", "") if pretrained else "untrained"}
    return Found(model, preprocessing, labels, info)
