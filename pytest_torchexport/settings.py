"""One table of settings: name, ini, flag, type, default, help. Everything else reads ``Settings``.

Separate so that a new setting is one row here, and the reference page is generated from the same rows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pytest_torchexport import targets as target_registry

MODES = ("eval", "train", "as-is")
REPORT_FORMATS = ("json",)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row: ``torchexport_<name>`` in the ini file and, where ``flag``, ``--torchexport-<name>``."""

    name: str
    kind: Literal["args", "string", "bool"]
    default: Any
    help: str
    check: Callable[[Any], Any]
    legal: str
    flag: bool = False
    metavar: str | None = None

    @property
    def ini(self) -> str:
        """The name in the ini file."""
        return f"torchexport_{self.name}"

    @property
    def option(self) -> str:
        """The flag on the command line."""
        return f"--torchexport-{self.name.replace('_', '-')}"


def nearest(name: object, legal: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest legal name, or nothing."""
    match = difflib.get_close_matches(str(name), list(legal), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def target_names(values: Iterable[str]) -> tuple[str, ...]:
    """Known target names, or ``none`` alone. Raises ValueError."""
    names = tuple(dict.fromkeys(name for value in values for name in value.split(",") if name))
    if names == ("none",):
        return ()
    known = target_registry.names()
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a target; legal: {', '.join(known)}.{nearest(name, known)}"
            )
    if not names:
        raise ValueError(f"no target given; legal: {', '.join(known)}.")
    return names


def device_names(values: Iterable[str]) -> tuple[str, ...]:
    """``cpu``, ``cuda`` or ``cuda:N``. Raises ValueError."""
    names = tuple(dict.fromkeys(name for value in values for name in str(value).split(",") if name))
    for name in names:
        kind, colon, index = name.partition(":")
        if name != "cpu" and (kind != "cuda" or (colon and not index.isdigit())):
            raise ValueError(
                f"{name!r} is not a device; legal: cpu, cuda, cuda:N."
                f"{nearest(name, ('cpu', 'cuda'))}"
            )
    if not names:
        raise ValueError("no device given; legal: cpu, cuda, cuda:N.")
    return names


def served_on(values: Iterable[str]) -> tuple[str, ...]:
    """As device names, or none at all. Raises ValueError."""
    names = tuple(values)
    return device_names(names) if names else ()


def positive_int(value: Any) -> int:
    """An int of at least 1, given as such or as text. Raises ValueError."""
    if isinstance(value, bool) or (
        not isinstance(value, int) and not re.fullmatch("[0-9]+", str(value))
    ):
        raise ValueError(f"{value!r} is not a whole number of at least 1.")
    number = int(value)
    if number < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1.")
    return number


def percent(value: Any) -> float:
    """A number from 0 to 100. Raises ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 100:
        raise ValueError(f"{value!r} is not a percentage from 0 to 100.")
    return number


def seconds(value: Any) -> float:
    """A positive finite number of seconds. Raises ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} is not a positive number of seconds.")
    return number


def megabytes(value: Any) -> int | None:
    """A whole number of megabytes, or None for ``auto``. Raises ValueError."""
    return None if value == "auto" else positive_int(value)


def mode_name(value: Any) -> str:
    """One of MODES. Raises ValueError."""
    if value not in MODES:
        raise ValueError(
            f"{value!r} is not a mode; legal: {', '.join(MODES)}.{nearest(value, MODES)}"
        )
    return str(value)


def report_specs(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``FORMAT:PATH`` pairs. Raises ValueError."""
    pairs = []
    for value in values:
        form, colon, path = value.partition(":")
        if form not in REPORT_FORMATS or not colon or not path:
            raise ValueError(
                f"{value!r} is not FORMAT:PATH; legal formats: {', '.join(REPORT_FORMATS)} "
                f"(json:torchexport.json).{nearest(form, REPORT_FORMATS)}"
            )
        pairs.append((form, path))
    return tuple(pairs)


def module_names(values: Iterable[str]) -> tuple[str, ...]:
    """Dotted module names. Raises ValueError."""
    names = tuple(values)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a module.")
    return names


def followed(values: Iterable[str]) -> tuple[str, ...]:
    """Names of modules, torch's left out. Raises ValueError."""
    names = module_names(values)
    if any(name.partition(".")[0] == "torch" for name in names):
        raise ValueError("'torch' cannot be followed: its code runs while a forward is observed.")
    return names


TABLE: tuple[Setting, ...] = (
    Setting(
        name="targets",
        kind="args",
        default=["trace", "script", "export", "onnx"],
        check=target_names,
        legal="target names, or 'none'",
        help="Targets for tests whose marker names none. On the command line: keep only these "
        "('none' gives the plain tests back).",
        flag=True,
        metavar="NAMES",
    ),
    Setting(
        name="devices",
        kind="args",
        default=[],
        check=device_names,
        legal="cpu, cuda, cuda:N",
        help="Devices for tests whose marker names none (default: cpu, and cuda where torch has one). "
        "On the command line: keep only these.",
        flag=True,
        metavar="NAMES",
    ),
    Setting(
        name="max_examples",
        kind="string",
        default="50",
        check=positive_int,
        legal="a whole number of at least 1",
        help="Calls drawn per item: the Hypothesis profile's max_examples, but never more than this. "
        "On the command line: exactly this, whatever profile and marker say.",
        flag=True,
        metavar="N",
    ),
    Setting(
        name="explore_calls",
        kind="string",
        default="200",
        check=positive_int,
        legal="a whole number of at least 1",
        help="Calls of eager that the search for branches may take per item (more for a nightly run); it ends "
        "earlier where every branch was taken, or after 5 seconds per 200 calls.",
        flag=True,
        metavar="N",
    ),
    Setting(
        name="min_branch_coverage",
        kind="string",
        default="0",
        check=percent,
        legal="a percentage from 0 to 100",
        help="Fail an item whose calls took less than this share of the outcomes of the conditions that its "
        "inputs steer.",
        flag=True,
        metavar="PERCENT",
    ),
    Setting(
        name="follow",
        kind="args",
        default=[],
        check=followed,
        legal="names of modules other than torch",
        help="Packages whose branches are followed too, besides your own files and the package that the "
        "checked module's class comes from.",
    ),
    Setting(
        name="strict",
        kind="bool",
        default=False,
        check=bool,
        legal="true, false",
        help="Fail where a target or device is unavailable or nothing was really checked, instead of "
        "skipping or warning.",
        flag=True,
    ),
    Setting(
        name="self_test",
        kind="bool",
        default=False,
        check=bool,
        legal="true, false",
        help="After each item that passes, seed known bugs into its artifact (a frozen size, a perturbed "
        "weight, a dropped output, a cast, a swapped branch) and say which of them the item's calls catch; "
        "with --torchexport-strict a missed one is a failure.",
        flag=True,
    ),
    Setting(
        name="report",
        kind="args",
        default=[],
        check=report_specs,
        legal="json:PATH",
        help="Write the verdicts to a file when the session ends; may be given several times.",
        flag=True,
        metavar="FORMAT:PATH",
    ),
    Setting(
        name="time_limit",
        kind="string",
        default="300",
        check=seconds,
        legal="a positive number of seconds",
        help="Seconds that checking one module on one target may take. Drawing stops at half of it; an "
        "artifact that does not return by then is a failure (ArtifactHung).",
    ),
    Setting(
        name="isolate",
        kind="bool",
        default=False,
        check=bool,
        legal="true, false",
        help="Make every call of an artifact in a process of its own, so that one that crashes, hangs or takes "
        "all memory fails its item and nothing else. Without it an item is isolated where its artifact "
        "killed the clean process, or the last run.",
        flag=True,
    ),
    Setting(
        name="call_limit",
        kind="string",
        default="60",
        check=seconds,
        legal="a positive number of seconds",
        help="Seconds that loading an artifact in the clean process may take, and each call of it there; one that "
        "does not return by then is a failure (ArtifactHung).",
    ),
    Setting(
        name="memory_limit",
        kind="string",
        default="auto",
        check=megabytes,
        legal="a whole number of megabytes, or auto",
        help="Megabytes that an artifact's process may allocate; one that wants more is a failure "
        "(ArtifactCrashed). 'auto': three quarters of the memory of this machine or its container.",
    ),
    Setting(
        name="mode",
        kind="string",
        default="eval",
        check=mode_name,
        legal=", ".join(MODES),
        help="'eval': modules are put into eval mode for the check and restored; 'train': training mode "
        "is meant; 'as-is': a module left in training mode is a failure.",
    ),
    Setting(
        name="runtime_imports",
        kind="args",
        default=[],
        check=module_names,
        legal="names of modules",
        help="Modules that the process which serves your artifacts imports anyway (custom op libraries, pytree "
        "registrations): imported before an artifact is loaded in the clean process.",
    ),
    Setting(
        name="serve_on",
        kind="args",
        default=[],
        check=served_on,
        legal="cpu, cuda, cuda:N",
        help="Devices that your artifacts are served on: what was saved on another is loaded there as well. Where "
        "such a device is missing, constants that tie an artifact to its own are a failure all the same.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ini file and command line say, validated."""

    targets: tuple[str, ...] = ("trace", "script", "export", "onnx")
    targets_named: bool = False
    only_targets: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ()
    only_devices: tuple[str, ...] | None = None
    max_examples: int = 50
    exact_max_examples: int | None = None
    explore_calls: int = 200
    min_branch_coverage: float = 0.0
    follow: tuple[str, ...] = ()
    strict: bool = False
    self_test: bool = False
    report: tuple[tuple[str, str], ...] = ()
    time_limit: float = 300.0
    isolate: bool = False
    call_limit: float = 60.0
    memory_limit: int | None = None
    mode: str = "eval"
    runtime_imports: tuple[str, ...] = ()
    serve_on: tuple[str, ...] = ()
    active: tuple[str, ...] = ()


def add_options(parser: pytest.Parser) -> None:
    """Register every row with pytest: one option group, each flag with its ini twin."""
    group = parser.getgroup("torchexport", "PyTorch export parity (pytest-torchexport)")
    for row in TABLE:
        # No default here: only so can one that repeats the default be told from none.
        parser.addini(row.ini, f"{row.help} Legal: {row.legal}.", type=row.kind, default=None)
        if not row.flag:
            continue
        if row.kind == "bool":
            group.addoption(row.option, action="store_true", default=None, help=row.help)
        elif row.kind == "args":
            group.addoption(
                row.option, action="append", default=None, metavar=row.metavar, help=row.help
            )
        else:
            group.addoption(row.option, default=None, metavar=row.metavar, help=row.help)


def read(config: pytest.Config) -> Settings:
    """Ini and flags as Settings. Raises pytest.UsageError that names the place and the legal values."""
    ini = {row.name: _ini(config, row) for row in TABLE}
    cli = {row.name: _flag(config, row) for row in TABLE if row.flag}
    return Settings(
        targets=ini["targets"],
        targets_named=_is_set(config, "torchexport_targets"),
        only_targets=cli["targets"],
        devices=ini["devices"],
        only_devices=cli["devices"],
        max_examples=ini["max_examples"],
        exact_max_examples=cli["max_examples"],
        explore_calls=_first(cli["explore_calls"], ini["explore_calls"]),
        min_branch_coverage=_first(cli["min_branch_coverage"], ini["min_branch_coverage"]),
        follow=ini["follow"],
        strict=bool(cli["strict"] or ini["strict"]),
        self_test=bool(cli["self_test"] or ini["self_test"]),
        report=_first(cli["report"], ini["report"]),
        time_limit=ini["time_limit"],
        isolate=bool(cli["isolate"] or ini["isolate"]),
        call_limit=ini["call_limit"],
        memory_limit=ini["memory_limit"],
        mode=ini["mode"],
        runtime_imports=ini["runtime_imports"],
        serve_on=ini["serve_on"],
        active=_active(config, cli),
    )


def _first(said: Any, otherwise: Any) -> Any:
    return otherwise if said is None else said


def _ini(config: pytest.Config, row: Setting) -> Any:
    try:
        value = config.getini(row.ini)
        if value is None:
            # Not checked: to list the targets costs a look through every installed package's metadata.
            return tuple(row.default) if row.kind == "args" else row.check(row.default)
        return row.check(value) if value or row.default else ()
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


def _is_set(config: pytest.Config, name: str) -> bool:
    return config.getini(name) is not None


def _active(config: pytest.Config, cli: dict[str, Any]) -> tuple[str, ...]:
    """``name=value`` of every option or ini that is set, for the header line."""
    lines = []
    for row in TABLE:
        if cli.get(row.name) is not None:
            value = config.getoption(row.option)
        elif _is_set(config, row.ini):
            value = config.getini(row.ini)
        else:
            continue
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        lines.append(f"{row.name.replace('_', '-')}={text}")
    return tuple(lines)
