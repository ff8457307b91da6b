"""Sparsight: keep only the parameters that matter for the question, then look."""

__version__ = "0.1.0"
