"""The log of an item so far. Its size does not depend on the number of calls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from pytest_torchexport.inputs.recipes import Recipe, describe_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.judge.coverage import Covered, OutputActivity
from pytest_torchexport.outcomes.cuda import ContextLost
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.verdict import (
    ArtifactSize,
    Assumption,
    Branch,
    Difference,
    DrawnUntil,
    Latency,
    LoopSteps,
    SeededBug,
    Uncovered,
)

# Seconds that a diagnosis may take, or so many times what the export took if that is longer.
# Chosen, not measured: a failure may take as long again as an item of the zoo does.
DIAGNOSIS, TIMES_EXPORT = 10.0, 3.0
# By these shares of the time limit ends: what comes before the calls; the calls, and what
# calibrates their differences; shrinking, and repeats in production. The rest is for other steps.
BEFORE_CALLS, UNTIL_CALLS, UNTIL_SHRUNK = 0.25, 0.5, 0.9
ORIGINS = (
    "example",
    "inputs",
    "recorded",
    "boundary",
    "stored",
    "explored",
    "drawn",
    "searched",
    "failed",
    "rejected",
)


class Activity(Enum):
    """The party at work: the one to blame when the item's time is up."""

    PLUGIN = "the plugin itself"
    EAGER = "eager"
    EXPORTER = "the exporter"
    ARTIFACT = "the artifact"
    SAVING = "saving the artifact"
    AFTER_EXPORT = "a function of after_export"


@dataclass(frozen=True)
class Shrunk:
    """A failing call for the report; ``searched`` if it is the smallest that was found."""

    recipe: Recipe
    text: str
    searched: bool = True

    @classmethod
    def as_made(cls, spec: InputSpec, recipe: Recipe, call: Call) -> Shrunk:
        return cls(recipe, describe_recipe(spec, recipe, call), searched=False)


@dataclass(frozen=True)
class Held:
    """A failure that is raised only if no other step raises one, and the calls that show it."""

    failure: Failure
    calls: Sequence[Call] | None = None


@dataclass
class ItemLog:
    """The facts that the steps of an item record for its verdict.

    ``calls`` counts calls by origin, and ``drawn_until`` says why no more were drawn; ``covered``
    is what they reached, ``uncovered`` what they left out. ``activity`` is what runs now, and
    ``trying`` the call that is made. ``ran`` keeps the calls for the self-test, if one is asked
    for. ``failed_inputs``: the names of the real inputs that failed. ``outputs`` is what eager
    returned over all calls. ``held`` are failures that are raised
    only if no other step raises one. ``row`` are the calls whose last one failed, if these are
    other ones than a single recipe says; none if the state at the start did.
    """

    assumed: tuple[Assumption, ...] = ()
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORIGINS, 0))
    drawn_until: DrawnUntil = ""
    covered: Covered = field(default_factory=Covered)
    uncovered: Uncovered = field(default_factory=Uncovered)
    notes: dict[str, None] = field(default_factory=dict)
    cautions: dict[str, None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    max_error: float | None = None
    size: ArtifactSize | None = None
    latency: list[Latency] = field(default_factory=list)
    explained: dict[tuple[str, str], Difference] = field(default_factory=dict)
    # How often a difference was let pass that rounding alone does not prove right.
    unsure: int = 0
    ran: list[tuple[str, Recipe]] = field(default_factory=list)
    failed: list[tuple[Recipe, Failure]] = field(default_factory=list)
    failed_inputs: list[str] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    shrunk: Shrunk | None = None
    ineffective: list[str] = field(default_factory=list)
    self_test: list[SeededBug] = field(default_factory=list)
    branches: tuple[Branch, ...] = ()
    loop: LoopSteps | None = None
    outputs: OutputActivity = field(default_factory=OutputActivity)
    activity: Activity = Activity.PLUGIN
    trying: Recipe | None = None
    row: Sequence[Call] | None = None
    # What the user's code and the exporter have warned of so far.
    warned: Mapping[str, None] = field(default_factory=dict)

    def diagnosis_seconds(self, *, wanted: bool) -> float:
        return max(DIAGNOSIS, TIMES_EXPORT * self.seconds.get("export", 0.0)) if wanted else 0.0

    def news(self) -> tuple[int, int, int]:
        """Return counts, of which one changes if a call brings something new.

        That is a size, a memory layout, a failure, or an error of another power of two.
        """
        return self.covered.count, len(self.failed), math.frexp(self.max_error or 0.0)[1]

    def note(self, text: str) -> None:
        """Keep a sentence for the reader, once."""
        self.notes[" ".join(text.split())] = None

    def caution(self, text: str) -> None:
        """Keep a sentence that the summary shows of a pass, once."""
        self.cautions[text] = None

    def try_call(self, recipe: Recipe) -> None:
        self.trying = recipe

    def hold(self, failure: Failure, calls: Sequence[Call] | None = None) -> None:
        self.held.append(Held(failure.with_traceback(None), calls))

    def explain(self, differences: Sequence[Difference]) -> None:
        """Keep the worst difference per output and cause that is no bug."""
        self.unsure += any(item.cause != "rounding" for item in differences)
        for item in differences:
            kept = self.explained.get((item.path, item.cause))
            if kept is None or (item.max_abs or 0.0) > (kept.max_abs or 0.0):
                self.explained[item.path, item.cause] = item

    def of_inputs(self) -> Iterator[str]:
        """Yield the real inputs that failed, in a sentence, if there are any."""
        if self.failed_inputs:
            count = f"{len(self.failed_inputs)} of {self.calls['inputs']}"
            yield f"real inputs: {count} fail: {few(self.failed_inputs)}"

    def forget_calls(self) -> None:
        self.calls = dict.fromkeys(ORIGINS, 0)
        for kept in (self.explained, self.ran, self.failed, self.failed_inputs):
            kept.clear()
        self.max_error, self.drawn_until = None, ""
        self.covered = Covered()
        self.outputs = OutputActivity()

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Record who is at work in the block. It stays if time runs out or CUDA is lost there."""
        before, self.activity = self.activity, activity
        try:
            yield
        except (KeyboardInterrupt, TimeLimitExceeded, ContextLost):
            raise
        except BaseException:
            self.activity = before
            raise
        self.activity = before

    @contextmanager
    def making(self, row: Sequence[Call] | None) -> Iterator[None]:
        """Record the calls in a row if the block raises the failure of the last one."""
        try:
            yield
        except Failure:
            self.row = row
            raise

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage's, without that of other stages inside."""
        start = time.perf_counter() - sum(self.seconds.values())
        try:
            yield
        finally:
            spent = time.perf_counter() - sum(self.seconds.values()) - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 4)
