"""Only for test_bert.py: transformers imports torchvision, which some installations cannot load."""

from __future__ import annotations

import pytest
from real.models import stub_torchvision


@pytest.fixture(scope="session", autouse=True)
def loadable_torchvision():
    stub_torchvision()
