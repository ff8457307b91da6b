"""``load(spec)``: a network with its preprocessing and labels, from wherever it lives."""

from __future__ import annotations

import hashlib
import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from sparsight.errors import InputError, NetworkError, SparsightError
from sparsight.networks.labels import read_labels
from sparsight.networks.network import Network
from sparsight.networks.sources import SOURCES, Found, find
from sparsight.networks.state import load_weights

__all__ = ["load"]


@contextmanager
def _users_code(path: Path) -> Iterator[None]:
    """Say in one line where a user's file failed; the error itself stays attached as the cause."""
    try:
        yield
    except SparsightError:
        raise
    except SyntaxError as error:
        raise NetworkError(f"{path} line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
        where = f"{path} line {lines[-1]}" if lines else str(path)
        reason = next(iter(str(error).splitlines()), "")
        raise NetworkError(f"{where}: {type(error).__name__}: {reason}") from error


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used ({reason})") from error
    return found


def _from_file(path: Path, function: str) -> Found:
    if not path.is_file():
        raise NetworkError(f"no such Python file: {path}")
    unique = "sparsight_file_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_spec = importlib.util.spec_from_file_location(unique, path)
    if module_spec is None or module_spec.loader is None:
        raise NetworkError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    with _users_code(path):
        module_spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise NetworkError(f"{path} defines no function {function!r}")
    with _users_code(path):
        built = build()
    if isinstance(built, Network):
        return Found(built.model, built.preprocessing, built.labels, dict(built.info))
    if isinstance(built, nn.Module):
        raise NetworkError(
            f"{function}() in {path} returns a bare module, whose preprocessing is unknown: return "
            "sparsight.Network(model, sparsight.Preprocessing(size=(224, 224), resize=256), labels)"
        )
    raise NetworkError(f"{function}() in {path} returns a {type(built).__name__}, not a Network")


def _find(spec: str, pretrained: bool) -> Found:
    source, _, name = spec.partition(":")
    if spec == "embedded":
        from sparsight.networks.embedded import embedded_network

        network = embedded_network()
        return Found(network.model, network.preprocessing, network.labels, dict(network.info))
    if source in SOURCES and name:
        return find(source, name, pretrained)
    path, _, function = spec.rpartition(":")
    if path.endswith(".py") and function:
        return _from_file(Path(path), function)
    raise NetworkError(
        f"cannot tell what network {spec!r} is: use embedded, torchvision:NAME, timm:NAME, "
        "hf:ID_OR_FOLDER or path/file.py:function"
    )


def _count_outputs(network: Network) -> int:
    x = torch.zeros(
        1,
        network.preprocessing.channels,
        *network.preprocessing.size,
        device=network.device,
        dtype=network.dtype,
    )
    with torch.no_grad():
        try:
            return int(network(x).shape[1])
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NetworkError(
                f"{network.spec} cannot process an image of {network.preprocessing.size} ({reason})"
            ) from error


def load(
    spec: str,
    *,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Network:
    """Load a classifier in evaluation mode.

    Parameters
    ----------
    spec
        ``embedded`` (the small network that ships with Sparsight), ``torchvision:NAME``,
        ``timm:NAME``, ``hf:ID_OR_FOLDER``, or ``path/file.py:function`` where the function
        returns a :class:`Network`. That file is your code, and is run.
    weights
        A ``.safetensors`` file or a ``.pt``/``.pth`` state dict; ``random`` for an untrained
        network. Without it the source's own pretrained weights are used, which the source's
        library may have to download.
    labels
        A file with class names (text, CSV, JSON) instead of the source's.
    device
        Where to put it.

    Returns
    -------
    Network

    Raises
    ------
    NetworkError
        Unknown source or name, weights that do not fit, an unusable module.
    InputError
        A labels file that is missing, malformed, or of the wrong length.

    Examples
    --------
    >>> network = load("timm:test_resnet.r160_in1k", weights="random")
    >>> network.preprocessing.size, len(network.labels)
    ((160, 160), 1000)
    """
    place = _usable(device)
    found = _find(spec, pretrained=weights is None)
    info = found.info
    if weights is not None and str(weights) != "random":
        load_weights(found.model, weights)
        info = {**info, "weights": Path(weights).name}
    model = found.model.to(place).eval()
    network = Network(model, found.preprocessing, found.labels, spec, info)
    count = _count_outputs(network)
    names = found.labels
    if labels is not None:
        names = read_labels(labels)
        if len(names) != count:
            raise InputError(f"{labels} names {len(names)} classes, the network has {count}")
    elif len(names) != count:
        names = tuple(f"class {index}" for index in range(count))
    return Network(model, found.preprocessing, names, spec, info)
