"""Saliency maps of any network, each with the gap by which it fails its own law.

``attribute(model, image, target, method)`` is the one call; :data:`METHODS` lists the methods.
"""

from sparsight.attribution import methods as methods
from sparsight.attribution.conformity import check_method
from sparsight.attribution.explain import attribute, attribute_many
from sparsight.attribution.registry import METHODS, Explained, Method, choose_methods, register
from sparsight.attribution.result import Attribution, Reduction, reduce_channels
from sparsight.attribution.subject import Subject

__all__ = [
    "METHODS",
    "Attribution",
    "Explained",
    "Method",
    "Reduction",
    "Subject",
    "attribute",
    "attribute_many",
    "check_method",
    "choose_methods",
    "reduce_channels",
    "register",
]
