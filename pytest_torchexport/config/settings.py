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
    DEVICES,
    DIRECTORY,
    FLAG,
    KNOWN_MODES,
    MODE,
    PLACES,
    TARGETS,
    WHOLE_NUMBER,
    Value,
    choice,
    functions,
    module_names,
    number,
    report_specs,
    shard_name,
    text,
    whole_number,
)

# The directory of known failures, in pytest's root directory.
KNOWN_DIRECTORY = "torchexport-known"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row: ``torchexport_<name>`` in the ini file, ``--torchexport-<name>`` as a flag.

    ``kind``: the type of pytest's ini option. ``help``: its first sentence fits into a line of
    ``pytest --help``.
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
    def short(self) -> str:
        """The first sentence of the help."""
        return f"{self.help.partition('. ')[0].removesuffix('.')}."

    @property
    def ini(self) -> str:
        return f"torchexport_{self.name}"

    @property
    def option(self) -> str:
        return f"--torchexport-{self.name.replace('_', '-')}"


def _row(default: Any, value: Value, *, help: str) -> Any:  # noqa: A002  # as argparse names it
    """Return a field with what its Setting has beside name and default."""
    return dataclasses.field(default=default, metadata={**vars(value), "help": help})


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
        TARGETS,
        help="Targets of tests that name none; as a flag: only these. 'none' gives the plain tests"
        " back.",
    )
    devices: tuple[str, ...] = _row(
        (),
        DEVICES,
        help="Devices of tests that name none; as a flag: only these. Default: cpu, and cuda if "
        "torch has one.",
    )
    max_examples: int | None = _row(
        None,
        WHOLE_NUMBER,
        help="Calls drawn per item. Default: a tenth of the max_examples of the Hypothesis "
        "profile, so 10, and up to half of it, so 50, as long as they bring something new; the "
        "search for branches takes up to four times as many calls of eager, or 200.",
    )
    min_branch_coverage: float = _row(
        0.0,
        number(lambda value: 0 <= value <= 100, "a percentage from 0 to 100", "PERCENT"),
        help="Fail an item whose calls took less of its branches. A branch is an outcome of a "
        "condition that the inputs steer; those that no call took were not compared.",
    )
    follow: tuple[str, ...] = _row(
        (),
        Value(_followed, "names of modules other than torch", "NAMES"),
        help="Packages whose branches are followed too. Followed anyway: your own files, the "
        "package of the module's class and the files that define its parts.",
    )
    strict: bool = _row(
        False,
        FLAG,
        help="Fail instead of skipping or warning. For example if a target or device is "
        "unavailable, if a limit that is set could not be applied, or if nothing was really "
        "checked. The summary names the versions of torch and ONNX on which the plugin's own "
        "tests have not run.",
    )
    self_test: bool = _row(
        False,
        FLAG,
        help="Say which known bugs the calls of an item would catch. After each item that passes, "
        "they are seeded into its artifact: a frozen size, a perturbed weight, a dropped output, "
        "a cast, a swapped branch. With --torchexport-strict a missed one is a failure.",
    )
    report: tuple[tuple[str, str], ...] = _row(
        (),
        Value(report_specs, "FORMAT:PATH, for example json:torchexport.json", "FORMAT:PATH"),
        help="Write the verdicts to a file. May be given several times; written also if the run is"
        " interrupted. Formats: html, json, markdown, comment, github, sarif, and those of other "
        "packages. The path - prints the report at the end of the run.",
    )
    known: str = _row(
        "check",
        choice("verb for known failures", KNOWN_MODES, "VERB"),
        help="What becomes of known failures. 'check': they are xfails, and one that is fixed "
        "fails its item; 'create': the failures of this run become known; 'tighten': entries of "
        "what is fixed are removed. In CI the files are written too, and the items stay red: "
        "somebody has to commit them.",
    )
    known_reason: str = _row(
        "",
        Value(text, "a text", "TEXT"),
        help="Why the failures that become known are accepted.",
    )
    shard: str = _row(
        "1/1",
        Value(shard_name, "K/N, for example 2/4", "K/N"),
        help="Run only part K of N of the selected tests. The parts are equal, of tests marked or "
        "not. The items of a test stay together; its parametrizations may not.",
    )
    time_limit: float = _row(
        300.0,
        number(lambda value: 0 < value < math.inf, "a positive number of seconds", "SECONDS"),
        help="Seconds for one module on one target. Drawing stops at half of them. A call of the "
        "artifact may take a fifth, at least a minute, at most half; then it hangs "
        "(ArtifactHung).",
    )
    isolate: bool = _row(
        False,
        FLAG,
        help="Make every call of an artifact in a process of its own. An artifact that crashes, "
        "hangs or takes all memory then fails only its item. Without it an item is isolated if "
        "its artifact killed the clean process, or an earlier run.",
    )
    memory_limit: int | None = _row(
        None,
        Value(
            lambda value: None if value == "auto" else whole_number(value),
            "a whole number of megabytes, or auto",
            "MEGABYTES",
        ),
        help="Megabytes that an artifact's process may allocate. More is a failure "
        "(ArtifactCrashed). 'auto': three quarters of the memory of this machine or its "
        "container.",
    )
    mode: str = _row(
        "eval",
        MODE,
        help="The mode of modules during the check. 'eval': they are put into eval mode and "
        "restored; 'train': training mode is meant; 'as-is': a module left in training mode is a "
        "failure; 'sampling': eval mode in which dropout is meant.",
    )
    runtime_imports: tuple[str, ...] = _row(
        (),
        Value(module_names, "names of modules", "NAMES"),
        help="Modules that the process that serves artifacts imports. For example libraries of "
        "custom operators and pytree registrations: the clean process imports them before an "
        "artifact.",
    )
    after_export: tuple[str, ...] = _row(
        (),
        Value(functions, "names of functions, package.module:function", "NAMES"),
        help="Functions that change the file after the export. Each gets the path of "
        "the file, and returns that of the file it made, or nothing if it changed it in place. "
        "The last file is judged.",
    )
    threads: int = _row(
        1,
        # The system refuses some ten thousand.
        Value(lambda value: whole_number(value, 1024), "a whole number from 1 to 1024", "N"),
        help="Threads that serve your artifacts. If more than 1, calls of an item that passes are "
        "repeated in a clean process with so many, on CUDA with the runtime's own precision "
        "(TF32): a result that changes from repeat to repeat is a warning. All other calls are "
        "made with one thread.",
    )
    ship: str = _row(
        "",
        DIRECTORY,
        help="Write each artifact that passes below this directory. To deploy what was verified, "
        "each has torchexport.json beside it: checksums, sizes and versions, which "
        "'pytest-torchexport verify' compares.",
    )
    max_size_ratio: float = _row(
        0.0,
        number(lambda value: value >= 0, "a positive number; 0 for no limit", "RATIO"),
        help="Fail an item whose artifact holds weights twice. It may take this many times the "
        "bytes of its module's parameters and buffers (tied ones count once), and 1 MiB for the "
        "program (ArtifactTooLarge).",
    )
    cache: str = _row(
        "",
        DIRECTORY,
        help="Keep passes here, and check only what has changed since. Changes count of your "
        "files, weights, calls, options, settings, versions, machine. Not with --torchexport-ship"
        " or --torchexport-max-slowdown, which need the artifact.",
    )
    max_slowdown: float = _row(
        0.0,
        number(
            lambda value: value >= 0,
            "a positive number; inf measures without a limit, 0 does not measure",
            "RATIO",
        ),
        help="Fail an item whose artifact is slower than eager. Some calls of each artifact that "
        "passes are timed beside eager, with one thread; it may take this many times as long, "
        "beyond the noise of the machine (ArtifactSlower). -v and the reports show the medians. "
        "Not of an artifact that is called in a process of its own.",
    )
    serve_on: tuple[str, ...] = _row(
        (),
        PLACES,
        help="Where artifacts are served: devices, C++, environments. An artifact is loaded "
        "there too: by a program in C++ (cpp), by this execution provider of ONNX Runtime "
        "(TensorrtExecutionProvider), or in another environment, by the path of its interpreter "
        "(envs/serving/bin/python). Versions of ONNX Runtime (onnxruntime>=1.17) need not be "
        "installed: a table says what they load. If such a device is missing here, constants that "
        "tie an artifact to its own device are still a failure.",
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
