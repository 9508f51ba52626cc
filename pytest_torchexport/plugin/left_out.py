"""Say why a run is not one of all tests: a test that it does not see may be there all the same.

Separate from the known failures, of which only a run that leaves nothing out drops those whose test
is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_torchexport.plugin.ini_and_flags import Configuration

# The key under which a worker of xdist sends what it left out: the controller collects nothing.
KEY = "torchexport_left_out"


class LeftOut:
    """The tests that a run leaves out. Registered as a plugin, for what the hooks show."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        self._asked = tuple(_asked(config, configuration))
        self._deselected = 0
        self._not_collected: list[str] = []
        self._elsewhere: list[str] = []
        self._to_run: set[str] = set()

    def why(self) -> str:
        """Return why this run may lack tests; empty if it is known to have all of them."""
        unfinished = len(self._to_run)
        late = [f"{_items(unfinished)} did not run to the end"] if unfinished else []
        return next(iter([*self._asked, *self.collected(), *self._elsewhere, *late]), "")

    def collected(self) -> list[str]:
        """Return what the collection of this process left out."""
        count = self._deselected
        found = [f"{_items(count)} {'were' if count > 1 else 'was'} deselected"] if count else []
        return [*found, *(f"{name} was not collected" for name in self._not_collected)]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that raised, or that is skipped as a whole."""
        if not report.passed:
            self._not_collected.append(report.nodeid or "a directory")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what -k, -m, --deselect, a shard and others leave out."""
        self._deselected += len(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the items that are to run."""
        self._to_run.update(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note the items that the workers are to run."""
        self._to_run.update(ids)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that an item has run: -x and an interrupt leave others."""
        self._to_run.discard(nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take from a worker of xdist what it left out."""
        self._elsewhere += (getattr(node, "workeroutput", None) or {}).get(KEY, ())


def _items(count: int) -> str:
    return f"{count} item{'s' if count > 1 else ''}"


def _asked(config: pytest.Config, configuration: Configuration) -> Iterator[str]:
    """Yield what the command line leaves out and no hook tells of."""
    if hasattr(config, "workerinput"):
        return  # the controller has the command line
    if configuration.only_targets is not None:
        yield "--torchexport-targets, or a survey, leaves out targets"
    if configuration.only_devices is not None:
        yield "--torchexport-devices leaves out devices"
    if config.getoption("runxfail", default=False):
        yield "--runxfail ignores known failures"
    for name in ("lf", "ignore", "ignore_glob"):
        if config.getoption(name, default=None):
            yield f"--{name.replace('_', '-')} leaves out files"
    if config.args_source is not config.ArgsSource.TESTPATHS and not _has_all(config):
        yield f"only {' '.join(config.args)} was asked for"


def _has_all(config: pytest.Config) -> bool:
    """Return True if pytest's arguments hold all tests: the ini's testpaths, or the rootdir."""
    start, root = config.invocation_params.dir, config.rootpath
    given = [Path(start, argument).resolve() for argument in config.args]
    patterns = config.getini("testpaths")
    whole = [path for pattern in patterns for path in root.glob(pattern)] or [root]
    return all(
        any(path.resolve().is_relative_to(each) for each in given if each.is_dir())
        for path in whole
    )
