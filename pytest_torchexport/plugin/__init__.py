"""The only file that knows pytest's hooks. Each hook delegates; nothing here imports torch.

pytest loads this at every start, also in suites that never heard of us.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_torchexport.plugin import ini_and_flags

if TYPE_CHECKING:
    from pytest_torchexport.plugin.fixture import TorchExport
    from pytest_torchexport.plugin.session import Session

NAME = "torchexport-session"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option group, each flag with its ini twin."""
    ini_and_flags.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, read the settings, keep the session's state on an instance."""
    config.addinivalue_line(
        "markers",
        "torchexport(*targets, **options): export the modules this test calls and compare the artifacts "
        "with eager on generated shapes and values",
    )
    from pytest_torchexport.plugin.session import Session

    config.pluginmanager.register(Session(config, ini_and_flags.read(config)), NAME)


def _session(config: pytest.Config) -> Session:
    return config.pluginmanager.get_plugin(NAME)  # type: ignore[return-value]


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line, only where an option or ini is set."""
    active = _session(config).given.active
    return f"torchexport: {' '.join(active)}" if active else None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A marked test becomes one item per target and device."""
    _session(metafunc.config).generate(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse markers that are wrong and made no items."""
    _session(config).refuse_markers(items)


@pytest.fixture
def torchexport(request: pytest.FixtureRequest) -> Generator[TorchExport]:
    """Export and check modules on this item's target and device: ``check``, ``export``, ``using``."""
    session = _session(request.config)
    if not hasattr(request, "param"):
        pytest.skip(
            "no target is left for this test (--torchexport-targets, --torchexport-devices)"
        )
    yield from session.fixture(request.node, request.param)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Record the body of a marked test, then check what it called."""
    return (yield from _session(pyfuncitem.config).around_body(pyfuncitem))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """unittest methods cannot be parametrized: all targets run after the body."""
    _session(item.config).wrap_method(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdicts and the failure's own text on the report."""
    report = yield
    _session(item.config).finish_report(item, call, report)
    return report
