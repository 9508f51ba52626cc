"""Read the table of settings from pytest's ini file and command line.

Separate from the table, which knows no pytest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pytest_torchexport.config.settings import TABLE, Setting, Settings

# Flags of these do not replace ini options: they narrow them, or go before markers too.
_NARROWING = ("targets", "devices", "max_examples")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The settings of a run, and those that only the command line can give.

    ``targets_named``: the ini file names targets. ``only_targets`` and ``only_devices``: keep only
    these; None keeps all. ``exact_max_examples``: the number of drawn calls, before profile and
    marker. ``active``: ``name=value`` of each setting that is set, for the header line.
    ``surveyed``: the targets of a survey, in which markers make no items; None if the run is none.
    """

    settings: Settings
    targets_named: bool = False
    only_targets: tuple[str, ...] | None = None
    only_devices: tuple[str, ...] | None = None
    exact_max_examples: int | None = None
    active: tuple[str, ...] = ()
    surveyed: tuple[str, ...] | None = None


def add_options(parser: pytest.Parser) -> None:
    """Register every row with pytest: one option group, each flag with its ini twin."""
    group = parser.getgroup("torchexport", "PyTorch export parity (pytest-torchexport)")
    # No setting: it is about one run, and makes no sense in an ini file.
    group.addoption(
        "--torchexport-replay",
        metavar="PATH",
        help="Run only the tests with a stored failure in PATH (.torchexport, or a directory in "
        "it), its call first: of another machine's too.",
    )
    group.addoption(
        "--torchexport-survey",
        action="store_true",
        help="Run the tests without markers, check an instance of each module class that they "
        "call, and print which passes on which targets, what keeps the others, and the markers "
        "to try.",
    )
    for row in TABLE:
        # No default here: otherwise a value that repeats the default could not be told from none.
        parser.addini(row.ini, f"{row.help} Legal: {row.legal}.", type=row.kind, default=None)
        if row.kind == "bool":
            group.addoption(row.option, action="store_true", default=None, help=row.help)
        elif row.kind == "args":
            group.addoption(
                row.option, action="append", default=None, metavar=row.metavar, help=row.help
            )
        else:
            group.addoption(row.option, default=None, metavar=row.metavar, help=row.help)


def read(config: pytest.Config) -> Configuration:
    """Return the settings of ini file and flags. Raises UsageError that names the option."""
    values = {row.name: _ini(config, row) for row in TABLE}
    flags = {row.name: _flag(config, row) for row in TABLE}
    values |= {
        name: value for name, value in flags.items() if value is not None and name not in _NARROWING
    }
    settings = Settings(**values)
    if settings.known == "create" and not settings.known_reason:
        raise pytest.UsageError(
            "--torchexport-known=create: say why the failures of this run are accepted: "
            "--torchexport-known-reason='...'"
        )
    surveyed = _surveyed(config, flags["targets"] or settings.targets)
    return Configuration(
        settings=settings,
        targets_named=config.getini("torchexport_targets") is not None,
        only_targets=flags["targets"] if surveyed is None else (),
        only_devices=flags["devices"],
        exact_max_examples=flags["max_examples"],
        active=_active(config),
        surveyed=surveyed,
    )


def _surveyed(config: pytest.Config, targets: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the targets of a survey, None if the run is none. Raises UsageError under xdist."""
    if not config.getoption("--torchexport-survey"):
        return None
    if config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "--torchexport-survey: a survey checks in one process, when all tests have run; run it "
            "without -n and --dist"
        )
    if config.getoption("--torchexport-replay") is not None:
        raise pytest.UsageError("--torchexport-survey: not together with --torchexport-replay")
    return targets


def _ini(config: pytest.Config, row: Setting) -> Any:
    try:
        value = config.getini(row.ini)
        if value is None:
            # Not checked: a list of all targets needs the metadata of every installed package.
            return row.default
        if row.kind == "args" and not value and not row.default:
            return ()
        return row.check(value)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise pytest.UsageError(f"ini option {row.ini}: {error} Legal: {row.legal}.") from None


def _flag(config: pytest.Config, row: Setting) -> Any:
    value = config.getoption(row.option)
    if value is None:
        return None
    try:
        return row.check(value)
    except ValueError as error:
        raise pytest.UsageError(f"{row.option}: {error} Legal: {row.legal}.") from None


def _active(config: pytest.Config) -> tuple[str, ...]:
    lines = []
    for row in TABLE:
        flag = config.getoption(row.option)
        value = flag if flag is not None else config.getini(row.ini)
        if value is None:
            continue
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        lines.append(f"{row.name.replace('_', '-')}={text}")
    return tuple(lines)
