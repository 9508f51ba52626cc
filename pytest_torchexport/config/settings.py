"""One table of settings: each field of ``Settings`` is a row with its default, check, legal values and help.

Everything else reads the rows: pytest's ini options and flags, ``check_export``'s keywords, the reference page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_torchexport.config.validate import (
    MODES,
    device_names,
    followed,
    megabytes,
    mode_name,
    module_names,
    percent,
    positive_int,
    report_specs,
    seconds,
    served_on,
    target_names,
)

_ROW = "row"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row: ``torchexport_<name>`` in the ini file and, if ``flag``, ``--torchexport-<name>``."""

    name: str
    default: Any
    check: Callable[[Any], Any]
    legal: str
    help: str
    flag: bool = False
    metavar: str | None = None

    @property
    def kind(self) -> Literal["args", "bool", "string"]:
        """The type of pytest's ini option."""
        if isinstance(self.default, tuple):
            return "args"
        return "bool" if isinstance(self.default, bool) else "string"

    @property
    def shown_default(self) -> str:
        """The default as it is written in an ini file."""
        if self.kind == "args":
            return " ".join(self.default)
        if self.default is None:
            return "auto"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default).lower()

    @property
    def ini(self) -> str:
        """The name in the ini file."""
        return f"torchexport_{self.name}"

    @property
    def option(self) -> str:
        """The flag on the command line."""
        return f"--torchexport-{self.name.replace('_', '-')}"


def _row(
    default: Any,
    *,
    check: Callable[[Any], Any],
    legal: str,
    help: str,  # noqa: A002  # argparse's own word for it
    flag: bool = False,
    metavar: str | None = None,
) -> Any:
    row = {"check": check, "legal": legal, "help": help, "flag": flag, "metavar": metavar}
    return dataclasses.field(default=default, metadata={_ROW: row})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ini file and command line say, validated. Limits are in seconds and megabytes."""

    targets: tuple[str, ...] = _row(
        ("trace", "script", "export", "onnx"),
        check=target_names,
        legal="target names, or 'none'",
        help="Targets for tests whose marker names none. On the command line: keep only these "
        "('none' gives the plain tests back).",
        flag=True,
        metavar="NAMES",
    )
    devices: tuple[str, ...] = _row(
        (),
        check=device_names,
        legal="cpu, cuda, cuda:N",
        help="Devices for tests whose marker names none (default: cpu, and cuda where torch has one). "
        "On the command line: keep only these.",
        flag=True,
        metavar="NAMES",
    )
    max_examples: int = _row(
        50,
        check=positive_int,
        legal="a whole number of at least 1",
        help="Calls drawn per item: the Hypothesis profile's max_examples, but never more than this. "
        "On the command line: exactly this, whatever profile and marker say.",
        flag=True,
        metavar="N",
    )
    explore_calls: int = _row(
        200,
        check=positive_int,
        legal="a whole number of at least 1",
        help="Calls of eager that the search for branches may take per item (more for a nightly run); it ends "
        "earlier where every branch was taken, or after 5 seconds per 200 calls.",
        flag=True,
        metavar="N",
    )
    min_branch_coverage: float = _row(
        0.0,
        check=percent,
        legal="a percentage from 0 to 100",
        help="Fail an item whose calls took less than this share of the outcomes of the conditions that its "
        "inputs steer.",
        flag=True,
        metavar="PERCENT",
    )
    follow: tuple[str, ...] = _row(
        (),
        check=followed,
        legal="names of modules other than torch",
        help="Packages whose branches are followed too, besides your own files and the package that the "
        "checked module's class comes from.",
    )
    strict: bool = _row(
        False,
        check=bool,
        legal="true, false",
        help="Fail where a target or device is unavailable or nothing was really checked, instead of "
        "skipping or warning.",
        flag=True,
    )
    self_test: bool = _row(
        False,
        check=bool,
        legal="true, false",
        help="After each item that passes, seed known bugs into its artifact (a frozen size, a perturbed "
        "weight, a dropped output, a cast, a swapped branch) and say which of them the item's calls catch; "
        "with --torchexport-strict a missed one is a failure.",
        flag=True,
    )
    report: tuple[tuple[str, str], ...] = _row(
        (),
        check=report_specs,
        legal="FORMAT:PATH, for example json:torchexport.json",
        help="Write the verdicts to a file when the session ends; may be given several times.",
        flag=True,
        metavar="FORMAT:PATH",
    )
    time_limit: float = _row(
        300.0,
        check=seconds,
        legal="a positive number of seconds",
        help="Seconds that checking one module on one target may take. Drawing stops at half of it; an "
        "artifact that does not return by then is a failure (ArtifactHung).",
    )
    isolate: bool = _row(
        False,
        check=bool,
        legal="true, false",
        help="Make every call of an artifact in a process of its own, so that one that crashes, hangs or takes "
        "all memory fails its item and nothing else. Without it an item is isolated where its artifact "
        "killed the clean process, or the last run.",
        flag=True,
    )
    call_limit: float = _row(
        60.0,
        check=seconds,
        legal="a positive number of seconds",
        help="Seconds that loading an artifact in the clean process may take, and each call of it there; one that "
        "does not return by then is a failure (ArtifactHung).",
    )
    memory_limit: int | None = _row(
        None,
        check=megabytes,
        legal="a whole number of megabytes, or auto",
        help="Megabytes that an artifact's process may allocate; one that wants more is a failure "
        "(ArtifactCrashed). 'auto': three quarters of the memory of this machine or its container.",
    )
    mode: str = _row(
        "eval",
        check=mode_name,
        legal=", ".join(MODES),
        help="'eval': modules are put into eval mode for the check and restored; 'train': training mode "
        "is meant; 'as-is': a module left in training mode is a failure.",
    )
    runtime_imports: tuple[str, ...] = _row(
        (),
        check=module_names,
        legal="names of modules",
        help="Modules that the process which serves your artifacts imports anyway (custom op libraries, pytree "
        "registrations): imported before an artifact is loaded in the clean process.",
    )
    serve_on: tuple[str, ...] = _row(
        (),
        check=served_on,
        legal="cpu, cuda, cuda:N",
        help="Devices that your artifacts are served on: what was saved on another is loaded there as well. Where "
        "such a device is missing, constants that tie an artifact to its own are a failure all the same.",
    )


TABLE = tuple(
    Setting(name=field.name, default=field.default, **field.metadata[_ROW])
    for field in dataclasses.fields(Settings)
)
# Rows that are about a run of pytest and mean nothing for one check.
OF_A_RUN = ("targets", "devices", "report")


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return settings with these values, each checked by its row. Raises ValueError that names the setting."""
    rows = {row.name: row for row in TABLE}
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = value if value == rows[name].default else rows[name].check(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error} Legal: {rows[name].legal}.") from None
    return Settings(**checked)
