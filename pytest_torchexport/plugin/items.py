"""From ini file, flags and markers to items: the targets and devices that a test is run on.

pytest loads this file at every start: what a marker needs is imported once there is one. The table
of settings, which knows no pytest, is in ``config/settings.py``.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_torchexport.config.settings import TABLE, Setting, Settings

if TYPE_CHECKING:
    from pytest_torchexport.config.options import Options
    from pytest_torchexport.results.failures import Failure
    from pytest_torchexport.results.verdict import Verdict

MARKER = FIXTURE = "torchexport"
# The verdicts of an item, until they are put on its report.
VERDICTS: pytest.StashKey[list[Verdict]] = pytest.StashKey()
# The lowest one that pyproject.toml declares, in an extra: commands on reports need no torch.
LOWEST_TORCH = (2, 9)
# Flags of these do not replace ini options: they narrow them, or go before markers too.
_NARROWING = ("targets", "devices", "max_examples")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The settings of a run, and those that only the command line can give.

    ``targets_named``: the ini file names targets. ``only_targets`` and ``only_devices``: keep only
    these; None keeps all. ``exact_max_examples``: the number of drawn calls, before profile and
    marker. ``active``: ``name=value`` of each setting that is set, for the header line.
    ``surveyed``: the targets of a survey, in which markers make no items; None if the run is none.
    ``recorded``: the directory of a run that stores calls and checks nothing; else empty.
    """

    settings: Settings
    targets_named: bool = False
    only_targets: tuple[str, ...] | None = None
    only_devices: tuple[str, ...] | None = None
    exact_max_examples: int | None = None
    active: tuple[str, ...] = ()
    surveyed: tuple[str, ...] | None = None
    recorded: str = ""


def add_options(parser: pytest.Parser) -> None:
    """Register every row with pytest: one option group, each flag with its ini twin."""
    group = parser.getgroup("torchexport", "pytest-torchexport (in the ini file: torchexport_NAME)")
    # No setting: it is about one run, and makes no sense in an ini file.
    group.addoption(
        "--torchexport-replay",
        metavar="PATH",
        nargs="?",
        const="",
        help="Run only tests with a stored failure, its call first.",
    )
    group.addoption(
        "--torchexport-survey",
        action="store_true",
        help="Check what unmarked tests call; print markers to try.",
    )
    group.addoption(
        "--torchexport-record",
        metavar="DIR",
        help="Store the calls that tests make of modules, for inputs=; nothing is checked.",
    )
    for row in TABLE:
        # No default here: otherwise a value that repeats the default could not be told from none.
        parser.addini(row.ini, "", type=row.kind, default=None)  # the flag's help is enough
        argument: dict[str, Any] = {"metavar": row.metavar}
        if row.kind == "bool":
            argument = {"action": "store_true"}
        elif row.kind == "args":
            argument["action"] = "append"
        group.addoption(row.option, default=None, help=row.short, **argument)


def read_configuration(config: pytest.Config) -> Configuration:
    """Return the settings of ini file and flags. Raises UsageError that names the option."""
    _refuse_together(config, "--torchexport-record", "--torchexport-survey", "--torchexport-replay")
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
                several = given if isinstance(given, (list, tuple)) else (given,)
                text = ",".join(str(each).strip(", ") for each in several)
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
        surveyed, only_targets = only_targets or settings.targets, ()
    recorded = config.getoption("--torchexport-record") or ""
    if recorded:
        only_targets = ()
    return Configuration(
        settings=settings,
        targets_named="targets" in ini,
        only_targets=only_targets,
        only_devices=flags.get("devices"),
        exact_max_examples=flags.get("max_examples"),
        active=tuple(active),
        surveyed=surveyed,
        recorded=recorded,
    )


def _refuse_together(config: pytest.Config, *flags: str) -> None:
    given = [flag for flag in flags if config.getoption(flag) not in (None, False)]
    if len(given) > 1:
        raise pytest.UsageError(f"{given[0]}: not together with {given[1]}")


@functools.cache
def torch_missing() -> str:
    """Return that torch is missing or too old, with what to install; empty if it is there."""
    from pytest_torchexport.config import tested

    said = "is not installed" if importlib.util.find_spec("torch") is None else ""
    with suppress(metadata.PackageNotFoundError):
        if not said and tested.numbers(version := metadata.version("torch")) < LOWEST_TORCH:
            said = f"{version} is too old"
    return said and f"torch {said}: pip install 'pytest-torchexport[torch]'"


def _in_file(config: pytest.Config, row: Setting) -> Any:
    """Return a setting's value in the ini file, or None. Raises ValueError that names it."""
    try:
        return config.getini(row.ini)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise ValueError(f"ini option {row.ini}: {error} Legal: {row.legal}.") from None


# -- markers and items -----------------------------------------------------------------------------


class Variant(NamedTuple):
    """One item of a test: its target, its device, and the options of its markers.

    ``named`` and ``device_named``: the user asked for this target, and for this device, by name.
    """

    target: str
    device: str
    named: bool
    device_named: bool
    options: Options

    @property
    def id(self) -> str:
        """``trace-cpu``, or ``trace-cuda1``: some tools end a node id at a colon."""
        return f"{self.target}-{self.device.replace(':', '')}"

    @property
    def xfail(self) -> list[tuple[type[Failure], str]]:
        """The failure that the marker expects here, with the reason; none without one."""
        entries = self.options.xfail or {}
        keys = (f"{self.target}-{self.device}", self.target)
        return [entries[key] for key in keys if key in entries][:1]


def variant_of(item: pytest.Item) -> Variant | None:
    """Return the variant that an item of the plugin is; None for others and unittest methods."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    variant = parameters.get(FIXTURE)
    return variant if isinstance(variant, Variant) else None


def name_of_test(item: pytest.Item) -> str:
    """Return the node id of an item's test: without target and device."""
    from pytest_torchexport.results.verdict import without_variant

    variant = variant_of(item)
    return item.nodeid if variant is None else without_variant(item.nodeid, variant.id)


def is_marked(node: pytest.Item | pytest.Collector) -> bool:
    return node.get_closest_marker(MARKER) is not None


def options_of(node: pytest.Item | pytest.Collector) -> Options | None:
    """Return the arguments of all markers on a node, merged; None without a marker.

    The closest marker goes first. Raises CollectError that names the test and the argument, or
    what to install if there is no torch.
    """
    if missing := torch_missing():
        raise pytest.Collector.CollectError(f"{node.nodeid}: {missing}")
    if not is_marked(node):
        return None
    from pytest_torchexport.config.options import Options, parse_options
    from pytest_torchexport.results.failures import SpecError

    merged = Options()
    for mark in node.iter_markers(MARKER):
        try:
            merged = merged.over(parse_options(mark.args, mark.kwargs))
        except SpecError as error:
            raise pytest.Collector.CollectError(
                f"{node.nodeid}: @pytest.mark.torchexport: {error}"
            ) from None
    return merged


def variants(options: Options, configuration: Configuration) -> list[Variant]:
    """Return the items of a test: targets x devices, narrowed by the command line."""
    settings = configuration.settings
    names = options.targets if options.targets is not None else settings.targets
    named = options.targets is not None or configuration.targets_named
    if configuration.only_targets is not None:
        names = tuple(name for name in names if name in configuration.only_targets)
    only = configuration.only_devices
    devices = options.devices or settings.devices or only
    device_named = bool(devices)
    if not devices:
        import torch

        # Not is_available: it initializes the driver, which no fork of this process could use then.
        devices = ("cpu", "cuda") if torch.cuda.device_count() else ("cpu",)
    return [
        Variant(name, device, named or bool(configuration.only_targets), device_named, options)
        for name in names
        for device in devices
        if only is None or device in only
    ]


def keep_only(
    config: pytest.Config,
    items: list[pytest.Item],
    names: Container[str],
    name_of: Callable[[pytest.Item], str],
) -> None:
    left_out = [item for item in items if name_of(item) not in names]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if name_of(item) in names]
