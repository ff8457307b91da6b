"""The same random draws in every run of the tests and of the examples in the docs, however slow.

For new draws by hypothesis: ``pytest --hypothesis-profile=default``.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    torch.manual_seed(0)
