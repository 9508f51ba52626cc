"""A plugin of ``scripts/check-gpu``: end a part when its time is up."""

from __future__ import annotations

import os
import time

import pytest

# Seconds; without the variable there is no limit.
UNTIL = time.monotonic() + float(os.environ.get("TORCHEXPORT_GPU_SECONDS", "inf"))


def pytest_runtest_logfinish(nodeid: str, location: object) -> None:
    if time.monotonic() > UNTIL:
        pytest.exit(f"out of time after {nodeid}", returncode=pytest.ExitCode.INTERRUPTED)
