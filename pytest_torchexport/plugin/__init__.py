"""Drives pytest: options, marker, fixture; ``Run`` has the hooks. No other room knows pytest.

pytest loads this file at every start, also for suites that do not use the plugin. Nothing that it
loads then imports torch.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_torchexport.plugin import items

if TYPE_CHECKING:
    from pytest_torchexport.plugin.fixture import TorchExport
    from pytest_torchexport.plugin.run import Run

RUN = "torchexport-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    items.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "torchexport(*targets, **options): export the modules this test calls and compare the "
        "artifacts with eager on generated shapes and values",
    )
    from pytest_torchexport.plugin.run import Run

    config.pluginmanager.register(Run(config, items.read_configuration(config)), RUN)


@pytest.fixture
def torchexport(request: pytest.FixtureRequest) -> Generator[TorchExport]:
    """Check and export modules on the item's target and device."""
    run: Run = request.config.pluginmanager.get_plugin(RUN)  # type: ignore[assignment]
    if not hasattr(request, "param"):
        pytest.skip("--torchexport-targets or --torchexport-devices leaves no target for this test")
    yield from run.fixture(request.node, request.param)
