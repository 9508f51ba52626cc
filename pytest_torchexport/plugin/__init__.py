"""Drives pytest: the hooks, each of which delegates to ``Run``. The only room that knows pytest.

pytest loads this file at every start, also for suites that do not use the plugin. Nothing that it
loads then imports torch.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_torchexport.plugin import ini_and_flags
from pytest_torchexport.plugin.items import select_shard

if TYPE_CHECKING:
    from pytest_torchexport.plugin.fixture import TorchExport
    from pytest_torchexport.plugin.run import Run

RUN = "torchexport-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options and flags."""
    ini_and_flags.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, read the settings, register the run's state as a plugin."""
    config.addinivalue_line(
        "markers",
        "torchexport(*targets, **options): export the modules this test calls and compare the "
        "artifacts with eager on generated shapes and values",
    )
    from pytest_torchexport.plugin.run import Run

    config.pluginmanager.register(Run(config, ini_and_flags.read(config)), RUN)


def _run(config: pytest.Config) -> Run:
    return config.pluginmanager.get_plugin(RUN)  # type: ignore[return-value]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return a line with the settings that are set, or None if none is."""
    active = _run(config).configuration.active
    return f"torchexport: {' '.join(active)}" if active else None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item per target and device of a marked test."""
    _run(metafunc.config).generate(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse markers that are wrong and made no items; keep the items of a replay."""
    _run(config).refuse_markers(items)
    _run(config).select(items)


@pytest.hookimpl(specname="pytest_collection_modifyitems", trylast=True)
def pytest_torchexport_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of this shard, of those that -m, -k and others have left."""
    part, parts = map(int, _run(config).configuration.settings.shard.split("/"))
    if parts > 1:
        select_shard(config, items, part, parts)


@pytest.fixture
def torchexport(request: pytest.FixtureRequest) -> Generator[TorchExport]:
    """Check and export modules on the item's target and device."""
    run = _run(request.config)
    if not hasattr(request, "param"):
        pytest.skip("--torchexport-targets or --torchexport-devices leaves no target for this test")
    yield from run.fixture(request.node, request.param)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Record the body of a marked test, then check the modules that it called."""
    return (yield from _run(pyfuncitem.config).around_body(pyfuncitem))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Wrap a marked ``unittest`` method, which is one item for all targets."""
    return (yield from _run(item.config).around_call(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdicts and the failure's own text on the report."""
    report = yield
    _run(item.config).finish_report(item, call, report)
    return report
