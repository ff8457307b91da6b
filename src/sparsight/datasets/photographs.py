"""Photographs that scikit-image and scikit-learn carry inside their wheels; nothing is fetched."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from sparsight.errors import InputError
from sparsight.networks.network import open_image

__all__ = ["PHOTOGRAPHS", "photograph"]

_FILES: dict[str, tuple[str, str]] = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
_PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

PHOTOGRAPHS: tuple[str, ...] = tuple(_FILES)
"""Names of the photographs."""


def photograph(name: str) -> Image.Image:
    """Open a photograph that an installed library carries.

    Parameters
    ----------
    name
        One of ``PHOTOGRAPHS``; most of them need the extra ``sparsight[demo]``.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    InputError
        If there is no such photograph, or the library that carries it is not installed or
        carries it no longer.

    Examples
    --------
    >>> photograph("flower").size
    (640, 427)
    """
    if name not in _FILES:
        raise InputError(f"no photograph {name!r}: choose from {', '.join(PHOTOGRAPHS)}")
    module, file = _FILES[name]
    package = _PACKAGES[module]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"photograph {name!r} comes with {package}, which is not installed: "
            "pip install 'sparsight[demo]'"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise InputError(
            f"photograph {name!r} is not among the files of the {package} installed here: "
            "install a released wheel, or use a picture of your own"
        )
    return open_image(path).convert("RGB")
