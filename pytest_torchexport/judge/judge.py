"""Judge one call: is it legal, and does the artifact do with it what eager does.

Parity, the audit of sizes, the shrinker and the self-test all ask this.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls, ReferenceCall
from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.eager.reference import Reference, has_nan
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.log import UNTIL_CALLS, Activity, ItemLog, Shrunk
from pytest_torchexport.judge.other_runs import Leaves, OtherRuns, Runs, leaves_after
from pytest_torchexport.judge.rounding import TIE, Calibration
from pytest_torchexport.judge.runner import Runner
from pytest_torchexport.outcomes.compare import Tolerance, compare, compare_values, largest_error
from pytest_torchexport.outcomes.limits import Deadline, TimeLimitExceeded
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.outcomes.observe import (
    NotTransferable,
    Outcome,
    Returned,
    Run,
    Tensors,
    TimedOut,
)
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    DimsNarrowed,
    Failure,
    NotRepeatable,
    OutputsDiffer,
    SpecError,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

Lines = Mapping[StateRef, SourceLine]
# Calls in a row: the first may differ from the second (a warm-up), the second from the third (a
# counter).
LENGTH = 3


def carried_differences(
    eager: Mapping[str, Any], artifact: Mapping[str, Any], tolerance: Tolerance
) -> list[Difference]:
    return [
        difference
        for name in eager
        if name in artifact
        for difference in compare_values(eager[name], artifact[name], tolerance, name)
    ]


def input_after_the_call(path: str) -> str:
    return f"input {path} after the call"


def written_at(differences: Sequence[Difference], lines: Lines) -> SourceLine | None:
    """Return the line that writes the first place that differs.

    If only outputs differ: the line that writes the module's state, unless there are several.
    ``lines`` are those of forward's writes.
    """
    inputs = {ref: line for ref, line in lines.items() if ref.kind == "input"}
    of_module = {ref: line for ref, line in lines.items() if ref not in inputs}
    named = {str(ref): line for ref, line in of_module.items()}
    named |= {input_after_the_call(ref.path): line for ref, line in inputs.items()}
    places = [item.path for item in differences if item.path in named]
    if places:
        return named[places[0]]
    states = any(item.kind == "state" for item in differences)
    found = set() if states else set(of_module.values())
    return found.pop() if len(found) == 1 else None


# The first kind that occurs names the failure: a kind that makes the others meaningless comes
# before them.
KINDS: tuple[tuple[str, type[Failure]], ...] = (
    ("hung", ArtifactHung),
    ("crashed", ArtifactCrashed),
    ("raised", ArtifactRaised),
    ("structure", StructureDiffers),
    ("dtype", OutputsDiffer),
    ("shape", OutputsDiffer),
    ("device", OutputsDiffer),
    ("values", OutputsDiffer),
    ("state", StateDiffers),
)


def failure_class(differences: Sequence[Difference]) -> type[Failure] | None:
    """Return the class of failure that these differences amount to, or None if there are none."""
    present = {difference.kind for difference in differences}
    return next((cls for kind, cls in KINDS if kind in present), None)


def failure_of(differences: Sequence[Difference], lines: Lines) -> Failure | None:
    """Return the failure that these differences amount to, or None if there are none.

    ``lines`` are those of forward's writes.
    """
    cls = failure_class(differences)
    if cls is None:
        return None
    first = differences[0]
    if cls in (ArtifactCrashed, ArtifactHung):
        return cls(first.actual, output=first.what)
    if cls is StateDiffers:
        where = written_at(differences, lines)
        return cls(where=where, differences=tuple(differences))
    if cls is not ArtifactRaised:
        return cls(differences=tuple(differences))
    text, where = first.actual, first.where
    if is_guard(text):  # the program's own guard on a size
        cls, text = DimsNarrowed, " ".join(text.split())
    return cls(text, where=where, differences=tuple(differences))


# The most that a file in eight bits may be off in a row of calls, in parts of the output.
ROW_IN_EIGHT_BITS = 0.25


def _parted(wanted: Any, found: Any, most: float) -> bool:
    """Return True if one is infinite or nan where the other is not, or if they are far apart.

    ``most``: the root mean square of their difference, in parts of that of what is wanted.
    """
    if not (is_plain(wanted) and is_plain(found)):
        return True
    own, other = wanted.detach().cpu().double(), found.detach().cpu().double()
    finite = own.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return True
    return math.isfinite(most) and bool((other - own)[finite].norm() > most * own[finite].norm())


NOT_PROVED = "differs by ties, not proved: the numbers that the artifact decides on are not seen"


@dataclasses.dataclass(frozen=True)
class Judgment:
    """The failure of a legal call, and the call as eager took it, with eager's outcome.

    ``unsure``: a difference was let pass, as a tie or because eager's own error is as large.
    """

    made: ReferenceCall
    failure: Failure | None
    unsure: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class Judge:
    """Run eager and one artifact on calls, each from its pristine state."""

    runner: Runner
    plan: Plan
    reference: Reference
    accepted: AcceptedCalls
    log: ItemLog
    deadline: Deadline
    random_paths: frozenset[str]
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        reference, plan = self.reference, self.plan
        traits = targets.get(plan.target).traits
        runtime = traits.rtol
        if self.precision is not None and self.precision.is_floating_point:
            # A number in the code is rounded in the file, and not in eager in that precision.
            runtime = max(runtime, torch.finfo(self.precision).eps / 2)
        self.tolerance = Tolerance(plan.options.rtol, plan.options.atol, runtime=runtime)
        self._calibration = Calibration(
            OtherRuns(
                reference.pristine,
                plan.seed,
                stateful=reference.stateful,
                device=plan.device,
                precision=None if self.in_eight_bits else self.precision,
                may_go_on=lambda: not self.deadline.is_past(UNTIL_CALLS),
            ),
            shown=lambda call, see: self.runner.show(call, plan.seed, see),
            usual=self._usual,
            leaves_out_casts=plan.device.partition(":")[0] in traits.leaves_out_casts,
        )

    @property
    def in_eight_bits(self) -> bool:
        """True if the numbers of the artifact are judged over calls (``narrow.py``)."""
        return self.precision is torch.int8 and not self.tolerance.given

    def aside(self) -> Judge:
        """Return this judge, which knows what it measured of eager, with a log of its own."""
        other = copy.copy(self)
        other.log = ItemLog()
        return other

    def call(
        self, recipe: Recipe, repeats: int = 1, *, counted: bool = True, kept: bool = True
    ) -> Judgment | None:
        """Return the judgment on a call, run ``repeats`` times on the artifact; None if not legal.

        ``counted``: eager's outputs of the call count for what a pass is worth. ``kept``: the
        artifact's outcome is, for who makes the call again. Raises NotRepeatable if eager does not
        agree with itself on the call.
        """
        self.log.trying = recipe
        found = self.accepted.call(recipe)
        if found is None:
            return None
        expected = self.reference.on_device(found.call, found.outcome)
        if not isinstance(expected, Returned):
            device = self.plan.device
            self.log.note(
                f"calls that eager takes on the CPU only are left out: {device}: {expected}"
            )
            return None
        if counted:
            self.log.outputs.saw(found.call, expected)
        before = self.log.unsure
        for number in range(repeats):
            actual = self.run(found.call, again=number > 0 or not kept)
            if isinstance(actual, NotTransferable) and not actual.own_class:
                self.log.note(f"left out, because it is isolated: {actual}")
                return None
            try:
                # Of an item that is red already, more failing calls only count.
                known = len(self.log.failed) if counted else 0
                differences = self.differences([found.call], expected, actual, known=known)
            except NotRepeatable:
                self.log.shrunk = Shrunk.as_made(self.accepted.spec, found.recipe, found.call)
                raise
            if differences and self._no_answer(found.recipe, differences):
                return None
            failure = failure_of(differences, self.reference.written_at)
            if failure is not None:
                return Judgment(found, failure)
        return Judgment(found, None, unsure=self.log.unsure > before)

    def quietly(self, recipe: Recipe) -> Failure | None:
        try:
            judgment = self.call(recipe, counted=False)
        except SpecError:
            return None
        return judgment.failure if judgment is not None else None

    def run(self, call: Call, seed: int | None = None, *, again: bool = False) -> Outcome:
        with self.log.during(Activity.ARTIFACT):
            seed = self.plan.seed if seed is None else seed
            return self._in_time(self.runner.run(call, seed, again=again))

    def in_a_row(self, calls: Sequence[Call]) -> list[tuple[Outcome, Tensors]]:
        with self.log.during(Activity.ARTIFACT):
            found = self.runner.in_a_row(calls, self.plan.seed)
            return [(self._in_time(outcome), tensors) for outcome, tensors in found]

    @contextmanager
    def row(self, *, state: bool = False) -> Iterator[Run]:
        """Yield a function that makes a call from the state that its call before has left."""
        with self.runner.row(self.plan.seed, state=state) as made:

            def run(call: Call) -> tuple[Outcome, Tensors]:
                with self.log.during(Activity.ARTIFACT):
                    outcome, tensors = made(call)
                    return self._in_time(outcome), tensors

            yield run

    def of_loop(
        self, unroll: Callable[[Callable[[Call], Outcome]], Iterator[Leaves]]
    ) -> Iterator[Callable[[int], Runs]]:
        """Yield eager's other runs of the steps of a loop: see ``OtherRuns.of_loop``."""
        return self._calibration.runs.of_loop(unroll, draws=bool(self.reference.random))

    def tensors(self) -> Tensors:
        return self.runner.tensors()

    def differences(
        self,
        calls: Sequence[Call],
        expected: Returned,
        actual: Outcome,
        states: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
        more: Sequence[Difference] = (),
        *,
        known: int = 0,
    ) -> list[Difference]:
        """Return the differences after the last of ``calls`` that eager's error does not explain.

        ``states`` are eager's and the artifact's tensors by name, ``more`` their differences.
        ``known``: the failures that the item has already; more of them are judged by fewer runs.
        """
        differences = [
            item
            for item in (*compare(expected, actual, self.tolerance), *more)
            if item.path not in self.random_paths or item.kind != "values"
        ]
        if self.in_eight_bits and isinstance(actual, Returned):
            leaves = leaves_after(expected, states[0]), leaves_after(actual, states[1])
            # In a row of calls, a state that is lost adds up.
            most = ROW_IN_EIGHT_BITS if len(calls) > 1 else math.inf
            differences = [
                item
                for item in differences
                if item.kind != "values"
                or _parted(leaves[0].get(item.path), leaves[1].get(item.path), most)
            ]
        elif isinstance(actual, Returned):
            if not self.random_paths and all(item.kind == "values" for item in differences):
                error = largest_error(expected.value, actual.value)
                if error is not None:
                    self.log.max_error = max(error, self.log.max_error or 0.0)
            if differences and not self.tolerance.given:
                with self.log.during(Activity.EAGER):
                    judged = self._calibration.judge(
                        differences,
                        calls,
                        leaves_after(expected, states[0]),
                        leaves_after(actual, states[1]),
                        known=known,
                    )
                self.log.explain(judged.explained)
                ties = [item.path for item in judged.explained if item.cause == TIE]
                if ties and not judged.proved:
                    self.log.caution(f"{', '.join(ties)}: {NOT_PROVED}")
                differences = judged.bugs
        return [self._named(item) for item in differences]

    def _usual(self) -> list[Call]:
        """Return calls whose numbers are neither equal nor zero, as far as the spec has such."""
        calls = [self.accepted.spec.example]
        sizes = {name: dim.example for name, dim in self.accepted.spec.dims.items()}
        try:
            found = self.accepted.call(
                plain_recipe(self.accepted.spec, "normal", sizes, self.plan.seed)
            )
        except SpecError:
            found = None
        return [*calls, found.call] if found is not None else calls

    def _in_time(self, outcome: Outcome) -> Outcome:
        """Raise TimeLimitExceeded if a call in this process hung, which used up the item's time."""
        if isinstance(outcome, TimedOut) and not self.runner.isolated:
            raise TimeLimitExceeded
        return outcome

    def _no_answer(self, recipe: Recipe, differences: Sequence[Difference]) -> bool:
        """Return True if eager returns nan wherever the artifact differs, on assumed values.

        A fully masked row has no right answer. On the example's values, or on declared ones, it is
        a difference.
        """
        declared = any(leaf.domain.declared for leaf in self.accepted.spec.tensors)
        if declared or any(d.expected != "nan" for d in differences):
            return False
        if self.reference.returns_nan:
            return False
        # Nor if eager returns nan at these sizes on the example's values too.
        call = build(self.accepted.spec, example_recipe(self.accepted.spec, recipe.sizes))
        outcome = self.reference.on_cpu(call) if call is not None else None
        if isinstance(outcome, Returned) and has_nan(outcome.value):
            return False
        self.log.caution("eager returns nan on some generated calls, which are left out")
        return True

    def _named(self, difference: Difference) -> Difference:
        """Return a difference in the inputs under the name that the user gave the input."""
        if difference.kind != "state":
            return difference
        raw, _ = self.accepted.spec.example.flatten("inputs")
        names = dict(zip((path for path, _ in raw), self.accepted.spec.leaves, strict=True))
        leaf = names.get(difference.path)
        path = input_after_the_call(leaf.path) if leaf is not None else difference.path
        return dataclasses.replace(difference, path=path)
