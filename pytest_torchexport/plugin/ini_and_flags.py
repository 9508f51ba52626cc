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
        argument: dict[str, Any] = {"metavar": row.metavar}
        if row.kind == "bool":
            argument = {"action": "store_true"}
        elif row.kind == "args":
            argument["action"] = "append"
        group.addoption(row.option, default=None, help=row.help, **argument)


def read(config: pytest.Config) -> Configuration:
    """Return the settings of ini file and flags. Raises UsageError that names the option."""
    ini: dict[str, Any] = {}
    flags: dict[str, Any] = {}
    active = []
    try:
        for row in TABLE:
            in_file, flag = _in_file(config, row), config.getoption(row.option)
            if in_file is not None:
                ini[row.name] = row.checked(in_file, f"ini option {row.ini}")
            if flag is not None:
                flags[row.name] = row.checked(flag, row.option)
            if (given := in_file if flag is None else flag) is not None:
                text = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
                active.append(f"{row.name.replace('_', '-')}={text}")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    replacing = {name: value for name, value in flags.items() if name not in _NARROWING}
    settings = Settings(**{**ini, **replacing})
    if settings.known == "create" and not settings.known_reason:
        raise pytest.UsageError(
            "--torchexport-known=create: say why the failures of this run are accepted: "
            "--torchexport-known-reason='...'"
        )
    only_targets: tuple[str, ...] | None = flags.get("targets")
    surveyed = None
    if config.getoption("--torchexport-survey"):
        if config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput"):
            raise pytest.UsageError(
                "--torchexport-survey: a survey checks in one process, when all tests have run; "
                "run it without -n and --dist"
            )
        if config.getoption("--torchexport-replay") is not None:
            raise pytest.UsageError("--torchexport-survey: not together with --torchexport-replay")
        surveyed, only_targets = only_targets or settings.targets, ()
    return Configuration(
        settings=settings,
        targets_named="targets" in ini,
        only_targets=only_targets,
        only_devices=flags.get("devices"),
        exact_max_examples=flags.get("max_examples"),
        active=tuple(active),
        surveyed=surveyed,
    )


def _in_file(config: pytest.Config, row: Setting) -> Any:
    """Return what the ini file says, None if it says nothing. Raises ValueError that names it."""
    try:
        return config.getini(row.ini)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise ValueError(f"ini option {row.ini}: {error} Legal: {row.legal}.") from None
