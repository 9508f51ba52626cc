"""Give every test pytester, and torch one thread."""

from __future__ import annotations

import pytest
import torch

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
