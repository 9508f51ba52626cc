"""Make transformers importable for test_bert.py: some installations cannot load torchvision."""

from __future__ import annotations

import pytest
from real.models import stub_torchvision


@pytest.fixture(scope="session", autouse=True)
def loadable_torchvision():
    stub_torchvision()
