"""The errors a user can meet: one line each, naming the thing at fault and the remedy."""

from __future__ import annotations


class SparsightError(Exception):
    """Base of every error that a user's input can cause.

    The message is one line: what is wrong, with what, and what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """


class InputError(SparsightError):
    """An image, file, option or class that cannot be used."""


class NetworkError(SparsightError):
    """A network that cannot be loaded, or weights that do not fit it."""


class UnsupportedError(SparsightError):
    """A layer, method or solver that does not apply here; never guessed around."""


class NumericalError(SparsightError):
    """NaN or infinite values, or a system that could not be solved."""
