"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sparsight.errors import InputError

__all__ = [
    "AugmentationsOption",
    "ChunkOption",
    "DampingOption",
    "DeviceOption",
    "JsonOption",
    "LabelsOption",
    "ModelOption",
    "OverwriteOption",
    "PatternOption",
    "SeedOption",
    "SolverOption",
    "SparsityOption",
    "StemOption",
    "TruthOption",
    "WeightsOption",
    "command_line",
    "read_sparsity",
]

_NETWORK, _TRACE, _OUTPUT = "Network", "Trace", "Output"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="embedded, torchvision:NAME, timm:NAME, hf:ID or path/file.py:function.",
        rich_help_panel=_NETWORK,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights file (.safetensors, .pt, .pth), or random for an untrained network.",
        rich_help_panel=_NETWORK,
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(help="Class names (.txt, .csv, .json).", rich_help_panel=_NETWORK),
]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, mps ...", rich_help_panel=_NETWORK)
]
SparsityOption = Annotated[
    str,
    typer.Option(
        help="Share of weights to prune: auto or auto:NATS (as sparse as the answer allows), "
        "network:NUMBER (of all weights together), a number in [0, 1) for every layer, "
        "ramp:NUMBER (rising with depth), late:NUMBER (in the last third of them), a published "
        "set, or a JSON file from layer patterns to numbers.",
        rich_help_panel=_TRACE,
    ),
]
AugmentationsOption = Annotated[
    int, typer.Option(min=1, help="Random views of the image.", rich_help_panel=_TRACE)
]
SolverOption = Annotated[
    str,
    typer.Option(
        help="compensated (front to back), or a solver for every layer by itself: sparsegpt, obs, "
        "refit, forward, wanda, magnitude.",
        rich_help_panel=_TRACE,
    ),
]
DampingOption = Annotated[
    float | None,
    typer.Option(
        help="Pull towards the dense weights.",
        rich_help_panel=_TRACE,
        show_default="0.3, of published solvers 0.01",
    ),
]
PatternOption = Annotated[
    str,
    typer.Option(
        help="What is pruned as a whole: weight, kernel, input (channels), or N:M such as 2:4.",
        rich_help_panel=_TRACE,
    ),
]
StemOption = Annotated[
    bool, typer.Option("--stem", help="Prune the first layer too.", rich_help_panel=_TRACE)
]
SeedOption = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, help="Of every random draw.", rich_help_panel=_TRACE),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Images per pass of the dense network; chosen if not given.",
        rich_help_panel=_TRACE,
    ),
]  # fmt: skip
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace results made with other settings.", rich_help_panel=_OUTPUT
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="A summary for machines on standard output.",
                 rich_help_panel=_OUTPUT),
]  # fmt: skip


TruthOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV table with the columns file and label; without it, the folder that an image is "
        "in names its class.",
        show_default=False,
    ),
]


DEFAULT_SPARSITY, DEFAULT_SOLVER = "auto", "compensated"
"""Those of :func:`sparsight.trace`, which is not imported here to start fast."""


def read_sparsity(text: str) -> float | str | dict[str, float]:
    """Read a sparsity as typed: a number, the name of a rule, or a JSON file.

    Raises
    ------
    InputError
        If the JSON file is missing or holds no object from patterns to numbers.

    Examples
    --------
    >>> read_sparsity("0.9"), read_sparsity("ramp:0.95")
    (0.9, 'ramp:0.95')
    """
    try:
        return float(text)
    except ValueError:
        if not text.lower().endswith(".json"):
            return text
    path = Path(text)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such sparsity file: {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"sparsity file {path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            f'sparsity file {path} must hold an object such as {{"layer4.*": 0.9, "fc": 0.5}}'
        )
    return content


def command_line(command: str, image: Path, options: Mapping[str, object]) -> str:
    """Write the command that makes a result again, quoted for a shell.

    Options that are None or False are left out; True stands for a bare flag, and several values
    for an option that is repeated.

    Examples
    --------
    >>> command_line("explain", Path("my dog.png"), {"seed": 0, "stem": False, "target": "cat"})
    "sparsight explain 'my dog.png' --seed 0 --target cat"
    >>> command_line("explain", Path("dog.png"), {"neuron": ("target", "fc:1")})
    'sparsight explain dog.png --neuron target --neuron fc:1'
    """
    name = str(image)
    words = ["sparsight", command, f"./{name}" if name.startswith("-") else name]
    for option, value in options.items():
        if value is None or value is False:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{option}"] if one is True else [f"--{option}", str(one)]
    return shlex.join(words)
