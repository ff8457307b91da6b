"""Words and numbers as a reader sees them; untrusted text made harmless to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

__all__ = ["clean", "firm", "flatten", "percent", "plain_number", "probability", "seconds"]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_KEPT = frozenset("\n\t\u200c\u200d")  # the joiners shape letters in Persian and Indic scripts


def clean(text: object) -> str:
    r"""Replace control, surrogate and bidi-override characters by U+FFFD.

    File names and labels come from strangers: an escape sequence must not drive a terminal, a
    bidi override must not turn a sentence around, a lone surrogate must not stop the writing.

    Examples
    --------
    >>> clean("a\x1b[31mb\udcff") == "a\ufffd[31mb\ufffd"
    True
    """
    return "".join(
        "\ufffd" if unicodedata.category(letter) in _HIDDEN and letter not in _KEPT else letter
        for letter in str(text)
    )


def percent(value: float, digits: int = 1) -> str:
    """Write a fraction as a percentage that never rounds onto 0 or 100.

    Examples
    --------
    >>> [percent(value) for value in (0.0312, 0.00001, 0.99999, 1.0)]
    ['3.1 %', '<0.1 %', '>99.9 %', '100 %']
    """
    step = 10.0**-digits
    if value in (0.0, 1.0):
        return f"{100 * value:.0f} %"
    if 0 < value < step / 100 / 2:
        return f"<{step:.{digits}f} %"
    if 1 - step / 100 / 2 < value < 1:
        return f">{100 - step:.{digits}f} %"
    return f"{100 * value:.{digits}f} %"


def firm(text: str) -> str:
    r"""Keep a number and its unit on one line: spaces that do not break.

    Examples
    --------
    >>> firm("3.1 %") == "3.1\N{NO-BREAK SPACE}%"
    True
    """
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def probability(value: float) -> str:
    """Write a probability with one decimal, as :func:`percent` does."""
    return percent(value, 1)


def plain_number(value: float) -> str:
    """Write a number with three digits that matter.

    Examples
    --------
    >>> plain_number(12.345), plain_number(0.0123456), plain_number(0.0)
    ('12.3', '0.0123', '0')
    """
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Write a duration in the unit a reader would choose.

    Examples
    --------
    >>> seconds(0.0042), seconds(3.14), seconds(125.0)
    ('4 ms', '3.1 s', '2 min 5 s')
    """
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings to ``(dotted name, text)`` pairs, in the order given.

    Examples
    --------
    >>> flatten({"trace": {"sparsity": 0.95, "layers": ("a", "b")}, "seed": 0})
    [('trace.sparsity', '0.95'), ('trace.layers', 'a, b'), ('seed', '0')]
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((name, ", ".join(map(str, value)) or "none"))
        else:
            pairs.append((name, "none" if value is None else str(value)))
    return pairs
