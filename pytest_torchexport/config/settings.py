"""The table of settings: each field of ``Settings`` is a row with default, check and help.

pytest's ini options and flags, ``check_export`` and the reference page read the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_torchexport.config.validate import (
    KNOWN_MODES,
    MODES,
    choice,
    device_names,
    module_names,
    number,
    report_specs,
    shard_name,
    target_names,
    text,
    truth,
    whole_number,
)

# The directory of known failures, in pytest's root directory.
KNOWN_DIRECTORY = "torchexport-known"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row: ``torchexport_<name>`` in the ini file, ``--torchexport-<name>`` as a flag.

    ``kind``: the type of pytest's ini option.
    """

    name: str
    default: Any
    check: Callable[[Any], Any]
    legal: str
    help: str
    metavar: str | None = None

    @property
    def kind(self) -> Literal["args", "bool", "string"]:
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

    def checked(self, value: Any, source: str) -> Any:
        """Return a value as Settings holds it.

        Raises ValueError that names its source (``--torchexport-mode``) and what is legal.
        """
        try:
            if self.kind != "args":
                return None if value is self.default is None else self.check(value)
            if isinstance(value, str) or any(not isinstance(item, str) for item in value):
                raise ValueError(f"{value!r:.80} is not a list of names.")
            return self.check(value) if value or self.default else ()
        except (ValueError, TypeError) as error:
            words = str(error) or f"{value!r:.80} is not legal."
            raise ValueError(f"{source}: {words} Legal: {self.legal}.") from None

    @property
    def ini(self) -> str:
        return f"torchexport_{self.name}"

    @property
    def option(self) -> str:
        return f"--torchexport-{self.name.replace('_', '-')}"


def _row(default: Any, **row: Any) -> Any:
    """Return a field: ``row`` are the fields of its Setting."""
    return dataclasses.field(default=default, metadata=row)


def _followed(values: Iterable[str]) -> tuple[str, ...]:
    names = module_names(values)
    if any(name.partition(".")[0] == "torch" for name in names):
        raise ValueError("'torch' cannot be followed: its code runs while a forward is observed.")
    return names


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of ini file and command line. Limits are in seconds and megabytes."""

    targets: tuple[str, ...] = _row(
        ("trace", "script", "export", "onnx"),
        check=target_names,
        legal="target names, or 'none'",
        help="Targets for tests whose marker names none. On the command line: keep only these "
        "('none' gives the plain tests back).",
        metavar="NAMES",
    )
    devices: tuple[str, ...] = _row(
        (),
        check=device_names,
        legal="cpu, cuda, cuda:N",
        help="Devices for tests whose marker names none (default: cpu, and cuda if torch has one). "
        "On the command line: keep only these.",
        metavar="NAMES",
    )
    max_examples: int | None = _row(
        None,
        check=whole_number,
        legal="a whole number of at least 1",
        help="Calls drawn per item, for a run that is to be quicker or more thorough. Default: "
        "half the max_examples of the Hypothesis profile, so 50; the search for branches takes "
        "four times as many calls of eager, at least 200. A flag goes before the marker.",
        metavar="N",
    )
    min_branch_coverage: float = _row(
        0.0,
        check=number(lambda value: 0 <= value <= 100),
        legal="a percentage from 0 to 100",
        help="Fail an item whose calls took less than this share of the outcomes of the conditions "
        "that its inputs steer: its other outcomes were not compared.",
        metavar="PERCENT",
    )
    follow: tuple[str, ...] = _row(
        (),
        check=_followed,
        legal="names of modules other than torch",
        help="Packages whose branches are followed too, because your model calls them: besides "
        "your own files, the package of the module's class and the files that define its parts.",
        metavar="NAMES",
    )
    strict: bool = _row(
        False,
        check=truth,
        legal="true, false",
        help="Fail, instead of skipping or warning, if a target or device is unavailable, if a "
        "limit that is set could not be applied, or if nothing was really checked. The summary "
        "names the versions of Python, torch and ONNX on which the plugin's own tests have not "
        "run.",
    )
    self_test: bool = _row(
        False,
        check=truth,
        legal="true, false",
        help="After each item that passes, seed known bugs into its artifact (a frozen size, a "
        "perturbed weight, a dropped output, a cast, a swapped branch) and report which of them "
        "the item's calls catch. With --torchexport-strict a missed one is a failure.",
    )
    report: tuple[tuple[str, str], ...] = _row(
        (),
        check=report_specs,
        legal="FORMAT:PATH, for example json:torchexport.json",
        help="Write the verdicts to a file, also if the run is interrupted; may be given several "
        "times. Formats: html, json, markdown, comment, github, sarif, and those of other "
        "packages. The path - prints the report at the end of the run.",
        metavar="FORMAT:PATH",
    )
    known: str = _row(
        "check",
        check=choice("verb for known failures", KNOWN_MODES),
        legal=", ".join(KNOWN_MODES),
        help="'check': known failures are xfails, and one that is fixed fails its item; 'create': "
        "the failures of this run become known; 'tighten': entries of what is fixed are removed. "
        "In CI the files are written too, and the items stay red: somebody has to commit them.",
        metavar="VERB",
    )
    known_reason: str = _row(
        "",
        check=text,
        legal="a text",
        help="Why the failures that become known by --torchexport-known=create are accepted.",
        metavar="TEXT",
    )
    shard: str = _row(
        "1/1",
        check=shard_name,
        legal="K/N, for example 2/4",
        help="Run only the K-th of N equal parts of the selected tests, marked or not, for a job "
        "of its own. The items of a test stay together; its parametrizations may not.",
        metavar="K/N",
    )
    time_limit: float = _row(
        300.0,
        check=number(lambda value: 0 < value < math.inf),
        legal="a positive number of seconds",
        help="Seconds for one module on one target, so that none holds up a run. Drawing stops at "
        "half of them. A call of the artifact may take a fifth, at least a minute, at most half; "
        "then it hangs (ArtifactHung).",
        metavar="SECONDS",
    )
    isolate: bool = _row(
        False,
        check=truth,
        legal="true, false",
        help="Make every call of an artifact in a process of its own: an artifact that crashes, "
        "hangs or takes all memory then fails only its item. Without it an item is isolated if its "
        "artifact killed the clean process, or an earlier run.",
    )
    memory_limit: int | None = _row(
        None,
        check=lambda value: None if value == "auto" else whole_number(value),
        legal="a whole number of megabytes, or auto",
        help="Megabytes that an artifact's process may allocate, if the machine has other work; "
        "more is a failure (ArtifactCrashed). 'auto': three quarters of the memory of this machine "
        "or its container.",
        metavar="MEGABYTES",
    )
    mode: str = _row(
        "eval",
        check=choice("mode", MODES),
        legal=", ".join(MODES),
        help="'eval': modules are put into eval mode for the check and restored; 'train': training "
        "mode is meant; 'as-is': a module left in training mode is a failure.",
        metavar="MODE",
    )
    runtime_imports: tuple[str, ...] = _row(
        (),
        check=module_names,
        legal="names of modules",
        help="Modules that the process that serves your artifacts imports too (libraries of custom "
        "operators, pytree registrations): the clean process imports them before an artifact.",
        metavar="NAMES",
    )
    threads: int = _row(
        1,
        check=lambda value: whole_number(value, 1024),  # the system refuses some ten thousand
        legal="a whole number from 1 to 1024",
        help="Threads that serve your artifacts. If more than 1, calls of an item that passes are "
        "repeated in a clean process with so many, on CUDA with the runtime's own precision "
        "(TF32): a result that changes from repeat to repeat is a warning. All other calls are "
        "made with one thread.",
        metavar="N",
    )
    ship: str = _row(
        "",
        check=text,
        legal="a path",
        help="Write the files of each artifact that passes below this directory, to deploy what "
        "was verified, each with torchexport.json: checksums, sizes and versions, which "
        "'python -m pytest_torchexport verify' compares.",
        metavar="DIRECTORY",
    )
    max_size_ratio: float = _row(
        0.0,
        check=number(lambda value: value >= 0),
        legal="a positive number; 0 for no limit",
        help="Fail an item whose artifact holds weights twice: it takes more bytes than this many "
        "times the parameters and buffers of its module (tied ones count once), and 1 MiB for the "
        "program (ArtifactTooLarge).",
        metavar="RATIO",
    )
    cache: str = _row(
        "",
        check=text,
        legal="a path",
        help="Keep the verdicts of passes in this directory, and check again only what has changed "
        "since: your files, weights, calls, options, settings, versions, machine. Not with "
        "--torchexport-ship or --torchexport-max-slowdown, which need the artifact.",
        metavar="DIRECTORY",
    )
    max_slowdown: float = _row(
        0.0,
        check=number(lambda value: value >= 0),
        legal="a positive number; inf measures without a limit, 0 does not measure",
        help="Time some calls of each artifact that passes beside eager, with one thread, and fail "
        "an item that takes more than this many times as long, beyond the noise of the machine "
        "(ArtifactSlower). -v and the reports show the medians. Not of an artifact that is called "
        "in a process of its own.",
        metavar="RATIO",
    )
    serve_on: tuple[str, ...] = _row(
        (),
        check=device_names,
        legal="cpu, cuda, cuda:N",
        help="Devices that serve your artifacts, if others than those that export them: an "
        "artifact is loaded there too. If such a device is missing here, constants that tie an "
        "artifact to its own device are still a failure.",
        metavar="NAMES",
    )


TABLE = tuple(
    Setting(name=field.name, default=field.default, **field.metadata)
    for field in dataclasses.fields(Settings)
)
# Rows that have no meaning for one check without pytest.
OF_A_RUN = ("targets", "devices", "report", "known", "known_reason", "shard")


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return settings with these values, checked. Raises ValueError that names the setting."""
    rows = {row.name: row for row in TABLE}
    return Settings(**{name: rows[name].checked(value, name) for name, value in values.items()})
