"""The verdict on one subject on one target and device, and the results of a run: plain data.

All reports are made from it. pytest's reports carry it through xdist, and it is written to files.
Hence it holds no tensors and no live exceptions (they keep frames, and frames keep GPU memory).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_torchexport.results.diagnosis import NOTHING, Diagnosis
from pytest_torchexport.results.plain import made, plain
from pytest_torchexport.results.source_line import SourceLine

SCHEMA_VERSION = 2

# Any other outcome of an item is a failure: also "running", of one whose process is gone.
GREEN = ("passed", "skipped", "xfailed", "xpassed")

Status = Literal["passed", "failed", "skipped"]

SkipKind = Literal[
    "not applicable",  # the target does not take such a subject
    "unavailable",  # the device or a package is not there
    "refused",  # the target makes no artifact that can be used, and the user did not name it
    "not judged",  # the calls cannot be compared
]

DrawnUntil = Literal[
    "",  # no calls were drawn, or not to an end
    "all",  # as many as were asked for
    "nothing new",  # the last calls brought no other size, memory layout or larger error
    "none passes",  # the artifact is wrong on every call
    "deaths",  # the artifact crashed or hung
    "time",  # the share of the time limit was used
]

SeededBugKind = Literal[
    "frozen size",
    "perturbed weight",
    "dropped output",
    "cast to half",
    "swapped branch",
    "every bug",
]

SeededBugResult = Literal["caught", "missed", "does not apply"]

DifferenceKind = Literal[
    "structure", "dtype", "shape", "device", "values", "state", "raised", "hung", "crashed"
]

DifferenceCause = Literal[
    "",  # rounding was not measured
    "bug",
    "rounding",
    "tie",  # an integer or bool that eager's own rounding decides
    "ambiguous",  # eager's own error is as large as its output
]

BranchStatus = Literal[
    "verified",
    "diverges",
    "frozen but equal",
    "not judged",
    "unreached",
    "outside the sizes",
    "raises",  # no legal call takes it
    "constant",  # no input steers the condition
]

AssumptionKind = Literal[
    "dim",  # a dim varies, in a range that the user did not declare
    "no dim",  # no size varies at all
    "shape",  # a tensor keeps the example's shape
    "annotations",  # the dims come from jaxtyping annotations
    "recorded calls",  # the dims are the sizes that differed between recorded calls
    "values",  # the values that a tensor may hold
    "argument",  # a Python argument keeps the example's value
]


@dataclass(frozen=True)
class Assumption:
    """Something that the user did not say and the plugin assumed.

    ``text`` is the sentence that a report prints. Code asks ``kind`` and, if the assumption is
    about a single leaf, its ``path``.
    """

    kind: AssumptionKind
    text: str
    path: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing on which two outcomes disagree.

    ``path``: the leaf, ``output['logits'][0]``. ``expected``: eager's side, ``actual``: the
    artifact's, as texts. ``where``: the user's line that raised. ``own_error``: eager's own error
    at the worst element, None if rounding was not measured.
    """

    kind: DifferenceKind
    path: str
    expected: str
    actual: str
    what: str = ""
    where: SourceLine | None = None
    mismatched: int | None = None
    total: int | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    index: tuple[int, ...] | None = None
    rtol: float | None = None
    atol: float | None = None
    own_error: float | None = None
    cause: DifferenceCause = ""

    def __str__(self) -> str:
        """Return words without the names of the sides."""
        if self.total is None:
            return f"{self.path}: {self.what or f'{self.expected} became {self.actual}'}"
        worst = "" if self.max_abs is None else f", by up to {self.max_abs:.3g}"
        return (
            f"{self.path}: {self.mismatched} of {self.total} elements of {self.what} differ{worst}"
        )

    @property
    def in_own_errors(self) -> float | None:
        """The worst absolute error in units of eager's own; None if that is 0 or not measured."""
        return self.max_abs / self.own_error if self.max_abs and self.own_error else None


@dataclass(frozen=True, kw_only=True)
class SeededBug:
    """A bug that the self-test put into the artifact, and whether the item's calls catch it.

    ``dim``: the dim whose size is frozen, else empty. ``explanation``: the call that catches the
    bug, the number of calls that miss it, or why it does not apply.
    """

    kind: SeededBugKind
    dim: str = ""
    result: SeededBugResult
    explanation: str

    @property
    def name(self) -> str:
        """``perturbed weight``, or ``frozen size of batch``."""
        return f"{self.kind} of {self.dim}" if self.dim else self.kind


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One condition of the user's code in one module, and the status of each of its outcomes.

    ``counts``: outcome to how often eager took it. Outcomes are ``True`` and ``False``, or of a
    loop ``0 iterations``, ``1 iteration`` and ``2+ iterations``; ``status`` has the same keys.
    ``on_values``: tensors decide the condition, and not only sizes and Python arguments.
    ``in_artifact``: the artifact has a branch there; None if that is not known.
    """

    where: SourceLine
    statement: str
    text: str
    module: str
    kind: str
    counts: dict[str, int]
    status: dict[str, BranchStatus]
    on_values: bool = False
    in_artifact: bool | None = None

    @property
    def steered(self) -> bool:
        """True if inputs steer it. A flag of the configuration is the same on every call."""
        return "constant" not in self.status.values()

    @property
    def counted(self) -> bool:
        """True if its outcomes count for the coverage. Loops do not: 0 may be no legal size."""
        return self.steered and self.kind != "for"


@dataclass(frozen=True, kw_only=True)
class Uncovered:
    """The sizes and values that a verdict's calls left out because nobody declared them.

    ``fixed_sizes``: some axes of the inputs kept the example's size. ``open_dims``: the dims that
    were run in an assumed range, and of which the artifact takes any size. ``same_scale``: no float
    was of another order of magnitude than the example's. ``tied``: the inputs that were run with
    the batch of the others alone, though eager takes one of its own. ``constants``: the lines at
    which a trace makes a constant, if some axes kept the example's size.
    """

    fixed_sizes: bool = False
    open_dims: tuple[str, ...] = ()
    same_scale: bool = False
    tied: tuple[str, ...] = ()
    constants: tuple[SourceLine, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArtifactSize:
    """The bytes of an artifact's files, and of the parameters and buffers of its module.

    ``weights``: memory that several of them share counts once.
    """

    files: int
    weights: int

    @property
    def ratio(self) -> float | None:
        """The files in units of the weights; None without weights."""
        return self.files / self.weights if self.weights else None

    def __str__(self) -> str:
        """Return ``10.1 MiB, 9.88 times the weights (1.02 MiB)``."""
        if self.ratio is None:
            return f"{bytes_text(self.files)}, no weights"
        times = f"{number_text(self.ratio)} times the weights"
        return f"{bytes_text(self.files)}, {times} ({bytes_text(self.weights)})"


def bytes_text(number: float) -> str:
    """Return ``512 bytes``, ``1.02 MiB``."""
    if abs(number) < 1024:
        return f"{number:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if abs(number) < 999.5 or unit == "GiB":
            break
    return f"{number_text(number)} {unit}"


def number_text(number: float) -> str:
    """Return ``1.02``, ``65,400``: three digits at least, and no exponent for a large number."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:,.0f}"


def seconds_text(seconds: float) -> str:
    """Return ``412 us``, ``2.5 ms``, ``1.2 s``."""
    if seconds < 0.999:
        unit, times = ("us", 1e6) if seconds < 0.000999 else ("ms", 1e3)
        return f"{seconds * times:.3g} {unit}"
    return f"{seconds:.3g} s"


@dataclass(frozen=True, kw_only=True)
class LoopSteps:
    """The steps of a loop around the subject, counted from 1.

    ``teacher_forced``: the first at which the artifact differs if each step gets eager's inputs,
    ``free_running``: if it gets what the artifact made of them; None: it agrees. ``leaf``: what
    differs first. ``ties``: the steps after which rounding decides an integer of the next one.
    """

    steps: int
    teacher_forced: int | None = None
    free_running: int | None = None
    leaf: str = ""
    ties: tuple[int, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return a line on each way to run the loop, and one on ties."""
        ways = {
            "teacher-forced (eager's inputs at each step)": self.teacher_forced,
            "free-running (its own state and outputs)": self.free_running,
        }
        told = [
            f"{way}: {f'differs first at step {step}' if step else 'agrees'} of {self.steps}"
            for way, step in ways.items()
        ]
        tied = ", ".join(map(str, self.ties))
        ties = [f"ties after step {tied}: went on with eager's integers"] if tied else []
        return (*told, *ties)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of one call: of eager and of the artifact, in turn, many times.

    ``sizes``: those of the call's dims. ``eager`` and ``artifact``: the medians, in seconds.
    ``ratio``: the median of the artifact's in units of eager's, pair by pair; ``low`` and ``high``:
    the ends of what holds the middle 80 % of them. ``slower``: the pairs in which the artifact took
    longer. ``workers``: the processes of the run that were at work, this one included.
    """

    sizes: dict[str, int]
    eager: float
    artifact: float
    ratio: float
    low: float
    high: float
    pairs: int
    slower: int
    workers: int = 1

    @property
    def at(self) -> str:
        """``batch = 4, time = 7``; empty if no size varies."""
        return ", ".join(f"{name} = {size}" for name, size in self.sizes.items())

    @property
    def times(self) -> str:
        """``1.43 times eager (1.38 to 1.51)``."""
        ratio, low, high = map(number_text, (self.ratio, self.low, self.high))
        return f"{ratio} times eager ({low} to {high})"

    def __str__(self) -> str:
        """Return ``412 us, eager 288 us: 1.43 times eager (1.38 to 1.51), at batch = 4``."""
        at = f", at {self.at}" if self.sizes else ""
        others = self.workers - 1
        beside = f", beside {others} other worker{'s' if others > 1 else ''}" if others else ""
        one, other = seconds_text(self.artifact), seconds_text(self.eager)
        return f"{one}, eager {other}: {self.times}{at}{beside}"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The place of a verdict's module among those of one class that a test's body called.

    A module that is called with other dtypes, numbers of axes or Python values counts once more.
    ``number``: from 1 on, in the order of the first calls; ``count``: how many there are. ``call``:
    the arguments of the first call, ``where``: the test's line of it, None if it is not known.
    """

    number: int
    count: int
    call: str
    where: SourceLine | None

    @property
    def which(self) -> str:
        """``2nd of 3``."""
        ordinals = {1: "1st", 2: "2nd", 3: "3rd"}  # and there are never more than 16
        return f"{ordinals.get(self.number, f'{self.number}th')} of {self.count}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of checking one subject on one target and device.

    ``recorded``: which recorded module it is; None for a subject that was given to a check.
    ``failure``: the name of the failure's class. ``skip``: the kind of skip, None if it is none.
    ``calls``: number of calls by origin: ``example``, ``inputs``, ``recorded``, ``boundary``,
    ``stored``, ``explored``, ``drawn``, ``searched``; those that ``failed``; and those that eager
    ``rejected``, outside an assumed range. ``drawn_until``: why no more of them were drawn.
    ``reached``: dim to the sizes that were run. ``uncovered``: what the calls left out.
    ``seconds``: step to seconds. ``max_error``: the largest ``|artifact - eager|``. ``explained``:
    differences beyond the dtype's tolerance that are not bugs, the worst per output and cause.
    ``cautions``: what to know of a pass; ``ineffective``: why it may mean little. ``branches``: the
    conditions of the user's code that calls met. ``isolated``: the artifact was called in a process
    of its own; ``output``: the end of what it printed there. ``size``: that of its files, None if
    there are none. ``latency``: the times of some calls, if that was asked for. ``kept``: the
    artifact's file after a failure; ``script``: the script that shows the failure again.
    ``imports``: the modules that a process has to import before it can load or run the file.
    ``strict``: a doubt would be a failure. ``diagnosis``: what was found out about a failure.
    ``sides``: the names of the two sides of its differences if they are not eager and the target.
    ``unchanged_since``: the day (``2026-07-01``) of the run that gave the verdict, if it was taken
    from the cache; else empty. ``not_kept``: why a run with a cache does not keep it; else empty.
    """

    subject: str
    target: str
    device: str
    status: Status
    failure: str | None = None
    skip: SkipKind | None = None
    reason: str = ""
    details: tuple[str, ...] = ()
    where: SourceLine | None = None
    differences: tuple[Difference, ...] = ()
    call: str = ""
    recipe: dict[str, Any] | None = None
    shrunk: bool = False
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    drawn_until: DrawnUntil = ""
    reached: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    uncovered: Uncovered = Uncovered()
    assumed: tuple[Assumption, ...] = ()
    baked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seed: int | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    max_error: float | None = None
    explained: tuple[Difference, ...] = ()
    cautions: tuple[str, ...] = ()
    ineffective: tuple[str, ...] = ()
    self_test: tuple[SeededBug, ...] = ()
    branches: tuple[Branch, ...] = ()
    isolated: bool = False
    strict: bool = False
    size: ArtifactSize | None = None
    latency: tuple[Latency, ...] = ()
    loop: LoopSteps | None = None
    output: str = ""
    kept: str = ""
    script: str = ""
    imports: tuple[str, ...] = ()
    recorded: Recorded | None = None
    diagnosis: Diagnosis = NOTHING
    sides: tuple[str, ...] = ()
    unchanged_since: str = ""
    not_kept: str = ""

    @property
    def name(self) -> str:
        """The subject; ``Net (2nd of 3)`` if it is one of several recorded modules of its class."""
        if self.recorded is None or self.recorded.count == 1:
            return self.subject
        return f"{self.subject} ({self.recorded.which})"

    @property
    def branch_coverage(self) -> float | None:
        return coverage_of(self.branches)

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, for xdist and JSON, which has no nan: "nan"."""
        return {**plain(self), "branch_coverage": self.branch_coverage}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verdict:
        """Return the verdict that ``as_dict`` made the data from. Unknown keys are left out."""
        verdict: Verdict = made(cls, data)
        return verdict


def with_more(verdict: Verdict, **lines: Iterable[str]) -> Verdict:
    """Return a verdict with more lines of its notes, cautions, or why it may mean little."""
    more: dict[str, Any] = {name: (*getattr(verdict, name), *lines[name]) for name in lines}
    return dataclasses.replace(verdict, **more)


@dataclass(frozen=True, kw_only=True)
class KnownFailure:
    """A failure that a team has accepted, of one subject of one test on one target and device.

    ``test`` is the node id without target and device. ``at``: the user's line where the failure
    shows, or else the operator; empty if it may be any. ``since`` and ``until`` are dates (ISO);
    after ``until`` the failure is no longer accepted. ``when``: requirements (``torch < 2.15``)
    without which it is not expected.
    """

    test: str
    target: str
    device: str
    subject: str
    failure: str
    reason: str
    at: str = ""
    owner: str = ""
    since: str = ""
    until: str = ""
    when: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.test, self.target, self.device, self.subject, self.failure, self.at)

    def __str__(self) -> str:
        """Return ``OutputsDiffer of Net on onnx-cpu (aten.view)``."""
        at = f" ({self.at})" if self.at else ""
        return f"{self.failure} of {self.subject} on {self.target}-{self.device}{at}"


KnownStatus = Literal[
    "known",
    "created",  # became known in this run
    "fixed",  # known, and the subject passes
    "new",  # not known
    "expired",  # known, and accepted until a day that is over
]


@dataclass(frozen=True)
class KnownMatch:
    """The comparison of a failure, or of a known failure that is fixed, with what is known.

    ``now``: the entry to write for it. ``known``: the entry that it was compared with, None if
    there is none; ``file`` holds it. ``why``: what makes a failure new although there is one.
    """

    status: KnownStatus
    now: KnownFailure
    known: KnownFailure | None = None
    file: str = ""
    why: str = ""

    @property
    def is_expected(self) -> bool:
        """True if it makes an item an xfail."""
        return self.status in ("known", "created")


@dataclass(frozen=True)
class ItemResult:
    """The result of one pytest item: one verdict per module and, for unittest methods, target.

    ``outcome`` is pytest's: passed, failed, skipped, xfailed or xpassed; or running, if the item
    has not ended yet. ``target`` and ``device`` are the item's; empty for a unittest method, which
    is one item for all. ``reason`` is pytest's for an item that ended without a verdict, or failed
    although none did: its body failed, or its process is gone; ``traceback``: what pytest prints of
    such a failure. ``known``: how its failures compare with those that are known.
    """

    nodeid: str
    outcome: str
    verdicts: tuple[Verdict, ...]
    target: str = ""
    device: str = ""
    reason: str = ""
    traceback: str = ""
    known: tuple[KnownMatch, ...] = ()


# The facts of the run that an environment has beside versions (``config/what_ran.py``).
RUN_FACTS = ("os", "date", "duration", "command", "seed", "commit")


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of a run's items. ``environment``: the versions they depend on, and what ran.

    ``complete``: the run came to its end. False while it runs, so that the report of a run that was
    killed says so. ``before``: those of an earlier run, which a report compares them with; they are
    no part of the JSON report.
    """

    items: Sequence[ItemResult]
    environment: Mapping[str, str]
    complete: bool
    before: RunResults | None = None


@dataclass(frozen=True)
class Entry:
    """One verdict of an item, or an item that ended without one (None): reports count these."""

    item: ItemResult
    verdict: Verdict | None

    @property
    def outcome(self) -> str:
        """The item's outcome; the verdict's own if it is one of several."""
        item, verdict = self.item, self.verdict
        if verdict is None or len(item.verdicts) == 1:
            return item.outcome
        if verdict.status != "failed":
            return verdict.status
        if any(match.is_expected for match in self._matches):
            return "xfailed"  # whatever else the item failed by
        # The test of a green item expects the failure itself.
        return item.outcome if item.outcome in GREEN else verdict.status

    @property
    def _matches(self) -> list[KnownMatch]:
        """The comparisons of the verdict's failure with known ones."""
        at = self.verdict
        own = (at.target, at.device, at.subject) if at is not None else ()
        return [match for match in self.item.known if match.now.identity[1:4] == own]

    @property
    def expired(self) -> bool:
        """True for a failure that was accepted until a day that is over."""
        return self.failure is not None and any(m.status == "expired" for m in self._matches)

    @property
    def shown(self) -> str:
        """The outcome in a table; of a pass, ``unchecked`` without a verdict, or ``warned``."""
        if self.outcome != "passed":
            return self.outcome
        if self.verdict is None:
            return "unchecked"
        weak = self.verdict.status == "passed" and self.verdict.cautions + self.verdict.ineffective
        return "warned" if weak else "passed"

    @property
    def failure(self) -> Verdict | None:
        return self.verdict if self.verdict is not None and self.verdict.failure else None

    @property
    def column(self) -> str:
        """``trace-cpu``; empty for a unittest method that ended before its checks."""
        at = self.verdict or self.item
        return f"{at.target}-{at.device}" if at.target else ""

    @property
    def test(self) -> str:
        return without_variant(self.item.nodeid, self.column)

    @property
    def fails(self) -> bool:
        return self.outcome not in GREEN

    @property
    def fixed(self) -> list[KnownMatch]:
        """The known failures that do not occur any more, if nothing else makes the entry fail."""
        passed = self.verdict is None or self.verdict.status == "passed"
        known = self.item.known if self.fails and passed else ()
        return [match for match in known if match.status == "fixed"]

    @property
    def key(self) -> tuple[str, ...]:
        """Names that tell it apart from all others of a run, and are the same in the next run."""
        name = self.verdict.name if self.verdict is not None else ""
        return (self.item.nodeid, self.column, name)

    def __str__(self) -> str:
        """Return the node id, and the module if it is one of several."""
        if self.verdict is None or len(self.item.verdicts) == 1:
            return self.item.nodeid
        return f"{self.item.nodeid} {self.verdict.name}"


def entries(items: Iterable[ItemResult]) -> Iterator[Entry]:
    for item in items:
        own = [Entry(item, verdict) for verdict in item.verdicts]
        yield from own
        # An item may fail beside its verdicts, after the last of them.
        if not own or (item.outcome not in GREEN and not any(each.fails for each in own)):
            yield Entry(item, None)


def without_variant(nodeid: str, column: str) -> str:
    """Return the node id of a test without an item's target and device (``trace-cpu``)."""
    variant = column.replace(":", "")
    for part, rest in ((f"[{variant}]", ""), (f"[{variant}-", "["), (f"-{variant}]", "]")):
        if part in nodeid:
            return nodeid.replace(part, rest, 1)
    return nodeid


def coverage_of(branches: Iterable[Branch]) -> float | None:
    """Return the percentage of outcomes taken, of those that inputs steer to; None without any."""
    counted = [
        status
        for branch in branches
        if branch.counted
        for status in branch.status.values()
        if status not in ("raises", "outside the sizes")
    ]
    reached = sum(status not in ("unreached", "not judged") for status in counted)
    return 100.0 * reached / len(counted) if counted else None
