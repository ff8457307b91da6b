"""``torchvision:NAME``: the classification models of torchvision."""

from __future__ import annotations

import difflib

import torchvision.models as zoo

from sparsight.errors import NetworkError
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.sources import Found

__all__ = ["find"]


def find(name: str, pretrained: bool) -> Found:
    """Build a torchvision classifier with the preprocessing of its weights."""
    names = zoo.list_models(module=zoo)
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, 3))
        hint = f"; close: {close}" if close else ""
        raise NetworkError(f"torchvision has no classification model {name!r}{hint}")
    choices = list(zoo.get_model_weights(name))
    default = zoo.get_model_weights(name).DEFAULT
    weights = default if pretrained else choices[0]
    settings = weights.transforms()
    height = settings.crop_size[0]
    preprocessing = Preprocessing(
        size=(height, height),
        resize=settings.resize_size[0],
        mean=tuple(settings.mean),
        std=tuple(settings.std),
        interpolation=settings.interpolation.value,
    )
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    try:
        model = zoo.get_model(name, weights=weights if pretrained else None, **options)
    except OSError as error:
        raise NetworkError(
            f"the weights of torchvision:{name} are not on this machine and cannot be fetched "
            f"({error}): give a file with --weights"
        ) from error
    return Found(
        model,
        preprocessing,
        tuple(weights.meta["categories"]),
        {"weights": str(weights) if pretrained else "untrained"},
    )
