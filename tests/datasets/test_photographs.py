"""Photographs that installed libraries carry."""

from __future__ import annotations

import socket

import pytest

from sparsight.datasets import photographs
from sparsight.datasets.photographs import PHOTOGRAPHS, photograph
from sparsight.errors import InputError


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_every_photograph_opens_without_the_network(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    pytest.importorskip(photographs._FILES[name][0])
    image = photograph(name)
    assert image.mode == "RGB"
    assert min(image.size) >= 200


def test_unknown_photograph_is_refused():
    with pytest.raises(InputError, match="choose from"):
        photograph("unicorn")


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"sparsight\[demo\]"):
        photograph("cat")


def test_missing_file_is_refused(monkeypatch):
    monkeypatch.setitem(photographs._FILES, "cat", ("skimage", "data/gone.png"))
    with pytest.raises(InputError, match="scikit-image"):
        photograph("cat")
