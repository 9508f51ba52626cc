"""The contract of targets, on CUDA."""

from __future__ import annotations

import pytest
from gpu.trial import DEVICE

from pytest_torchexport import targets
from pytest_torchexport.config import names
from pytest_torchexport.testing import TargetContract


class TestEveryTarget(TargetContract):
    @pytest.fixture(params=names.targets())
    def target(self, request: pytest.FixtureRequest) -> targets.Target:
        return targets.get(request.param)

    @pytest.fixture
    def device(self, target: targets.Target) -> str:
        if reason := target.unavailable(DEVICE):
            pytest.skip(reason)
        return DEVICE
