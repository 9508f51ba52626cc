"""Drives pytest: options, marker, fixture; ``Run`` has the hooks. No other room knows pytest.

pytest loads this file at every start, also for suites that do not use the plugin. Nothing that it
loads then imports torch.
"""

from __future__ import annotations

import pytest

from pytest_torchexport.plugin import items


def pytest_addoption(parser: pytest.Parser) -> None:
    items.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "torchexport(*targets, **options): export the modules this test calls and compare the "
        "artifacts with eager on generated shapes and values",
    )
    from pytest_torchexport.plugin.run import Run

    config.pluginmanager.register(Run(config, items.read_configuration(config)), "torchexport-run")
