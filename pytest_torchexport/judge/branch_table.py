"""Tell which branch failing calls are the fault of, and tabulate what became of each condition.

A call that fails off the example's path is the fault of the branch that best tells failing calls
from passing ones. A call that fails on the example's own path is not the fault of a branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_torchexport.explore.conditions import (
    Condition,
    ConditionKey,
    ConditionOutcome,
    Path,
    moving,
)
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.search import Explored, Found, Goal, Seen, found_on
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.outcomes.messages import refuses_its_inputs
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    Failure,
    Ineffective,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.source_line import SourceLine, short_path
from pytest_torchexport.results.verdict import Branch, BranchStatus
from pytest_torchexport.targets.formats.facts import Branches

VERIFIED: Final = "verified"
DIVERGES: Final = "diverges"
EQUAL: Final = "frozen but equal"
UNDECIDED: Final = "not judged"
# A condition on sizes alone whose other outcome needs sizes outside the declared ones, or an empty
# tensor.
OUTSIDE: Final = "outside the sizes"
UNREACHED: Final = "unreached"
RAISES: Final = "raises"
CONSTANT: Final = "constant"
# What an artifact does if it takes another branch than eager. If it refuses the call, that is not a
# branch.
SYMPTOMS = (OutputsDiffer, StructureDiffers, StateDiffers, ArtifactRaised)


@dataclass(frozen=True)
class Tried:
    """A call on a known path, and whether the artifact failed on it.

    ``unsure``: it differs there, and that may be eager's own error.
    """

    found: Found
    failed: bool
    unsure: bool = False


def may_be_frozen(failure: Failure) -> bool:
    return isinstance(failure, SYMPTOMS) and not refuses_its_inputs(str(failure))


def frozen(
    failure: Failure,
    condition: Condition,
    goal: Goal,
    ways: tuple[Found, Found],
) -> BranchFrozen:
    """Return BranchFrozen for a failure whose branch is known.

    ``goal`` is the condition and eager's outcome on the failing call; ``ways`` are the paths of the
    example and of the failing call.
    """
    there, here = (way.decisions.count((goal[0], True)) for way in ways)
    symptom = " ".join(str(failure).split())
    often = "once" if there == 1 else f"{there} times", "once" if here == 1 else f"{here} times"
    frozen_as = (
        (
            f"the artifact always goes round {often[0]}, as on the example; "
            f"eager {often[1]} on the call below"
        )
        if condition.kind in ("for", "while") and there != here
        else f"the artifact has no branch for {condition.text}, and eager takes {goal[1]} on the "
        "call below"
    )
    return BranchFrozen(
        frozen_as,
        details=(*([f"so {symptom}"] if symptom else []), *failure.details),
        where=place(condition),
        differences=failure.differences,
    )


def has_branch(artifact: Branches | None, condition: Condition) -> bool | None:
    """Return True if the artifact has a branch at the condition; None if it does not tell."""
    if artifact is None:
        return None
    if artifact.covers(condition.file, condition.first_line, condition.end_line):
        return True
    return None if artifact.unplaced else False


def unreached(branches: Iterable[Branch]) -> Iterator[str]:
    """Yield, in sentences, the outcomes that no call proves and the artifact has no branch for."""
    for branch in branches:
        if not branch.counted or branch.in_artifact is not False:
            continue
        for outcome, status in branch.status.items():
            took = status == UNDECIDED and branch.counts.get(outcome, 0)
            if status == UNREACHED or took:
                calls = "calls that eager's own error decides" if took else "no call"
                yield (
                    f"{_named(branch)}: {calls} made it {outcome}, and the artifact has no branch "
                    "there: that outcome is not verified"
                )


def enough(coverage: float | None, wanted: float, branches: Sequence[Branch]) -> None:
    """Raise Ineffective if calls took less than the wanted share of outcomes, in percent."""
    if coverage is None or coverage >= wanted:
        return
    missing = [
        f"{_named(branch)}: {outcome} {status}"
        for branch in branches
        if branch.counted
        for outcome, status in branch.status.items()
        if status in (UNREACHED, UNDECIDED)
    ]
    raise Ineffective(
        f"branch coverage is {coverage:.1f} %, "
        f"torchexport_min_branch_coverage asks for {wanted:g} %",
        details=tuple(missing),
    )


def _named(branch: Branch) -> str:
    module = f" in {branch.module}" if branch.module else ""
    return f"{branch.where}  {branch.statement.rstrip(':')}{module}"


def place(condition: Condition) -> SourceLine:
    """Return the line of a condition, with the statement that it decides."""
    return SourceLine(short_path(condition.file), condition.line, condition.statement)


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchResults:
    """The paths through eager that are known, and on which of their calls the artifact failed.

    ``artifact`` are the branches that its program still has; None if it does not tell. ``more`` are
    calls that take branches which the artifact alone has. ``tried`` grows with the calls.
    """

    spec: InputSpec
    observed: Observed
    explored: Explored
    artifact: Branches | None
    more: tuple[Recipe, ...] = ()
    tried: list[Tried] = field(default_factory=list)

    @property
    def example(self) -> Found:
        return self.explored.corpus[0]

    @property
    def straight(self) -> bool:
        """True if no condition that was met depends on the input."""
        complete = self.explored.seeded and not self.observed.code.unread
        return complete and not any(seen.depends for seen in self.explored.seen.values())

    @property
    def recipes(self) -> Sequence[Recipe]:
        """The calls that together take every path that was found, besides the example."""
        return [*(found.recipe for found in self.explored.corpus[1:]), *self.more]

    def path(self, recipe: Recipe) -> Path | None:
        """Return the path of a call; None if eager does not take it while it is observed."""
        call = build(self.spec, recipe)
        if call is None:
            return None
        with self.observed.installed():
            return self.observed.run(call)

    def found(self, recipe: Recipe) -> Found | None:
        path = self.path(recipe)
        return found_on(recipe, path) if path is not None else None

    def beside_example(self, recipe: Recipe) -> Callable[[Recipe], bool] | None:
        """Return a predicate of calls on the example's path, if this call is on it; else None."""
        found = self.found(recipe)
        if found is None or found.decisions != self.example.decisions:
            return None

        def beside(other: Recipe) -> bool:
            path = self.path(other)
            return path is not None and path.decisions() == self.example.decisions

        return beside

    def row(self, least: int, most: int) -> Sequence[Path]:
        """Return the paths of the example's calls in a row.

        Between ``least`` and ``most`` of them: as many as conditions of the model change in.
        """

        def goes_on(paths: Sequence[Path]) -> bool:
            return len(paths) < least or bool(self._moving(paths))

        with self.observed.installed():
            return self.observed.in_a_row(self.spec.example, most, goes_on)

    def unsettled(self, row: Sequence[Path]) -> Iterator[str]:
        """Yield, in sentences, the outcomes that a longer row of calls might take.

        Not those of loops, nor those for which the artifact has a branch.
        """
        taken = {goal for path in row for goal in path.taken()}
        seen = self.explored.seen
        for key in self._moving(row):
            condition = self.observed.conditions[key[0]]
            if condition.loops or has_branch(self.artifact, condition) is not False:
                continue
            for outcome in condition.outcomes:
                if (key, outcome) not in taken and outcome not in seen.get(key, Seen()).counts:
                    yield (
                        f"{str(place(condition)).rstrip(':')}: it depends on what forward changes, "
                        f"and no call in a row of {len(row)} made it {outcome}: the artifact has "
                        "no branch there, and that outcome is not verified"
                    )

    def _moving(self, row: Sequence[Path]) -> list[ConditionKey]:
        own, conditions = self.observed.code.is_of_model, self.observed.conditions
        return [key for key in moving(row) if own(conditions[key[0]])]

    def book(self, recipe: Recipe, *, failed: bool, unsure: bool = False) -> None:
        corpus = self.explored.corpus
        found = next((known for known in corpus if known.recipe == recipe), None)
        if found is None and failed:
            found = self.found(recipe)
        if found is not None:
            self.tried.append(Tried(found, failed, unsure))

    def guilty(self, failing: Found) -> Goal | None:
        """Return the outcome that best tells failing calls from passing ones.

        None if the failing call is on the example's own path.

        Candidates are the outcomes that this failing call took and the example did not, of
        conditions that the example or a passing call also met; beside them, loops that it ran
        another number of times. The measure is Ochiai's coefficient: failing calls with the
        outcome, over the root of all failing calls times all calls with it
        (https://doi.org/10.1109/TAICPART.2007.13). Of equals, the earlier one.
        """
        example = self.example
        if failing.decisions == example.decisions:
            return None
        met, taken = self._met(), dict.fromkeys(failing.decisions)
        new = failing.taken - example.taken
        suspects = [goal for goal in taken if goal in new and goal[0] in met]
        if not suspects:
            # A loop that ran another number of times, or a condition in one of its rounds. Paths
            # that part at no condition: a number that was baked in chose another module.
            pairs = zip(example.decisions, failing.decisions, strict=False)
            left, right = next((pair for pair in pairs if pair[0] != pair[1]), (None, None))
            if left is None or right is None or left[0] != right[0]:
                return None
            suspects = [right]

        def way(found: Found, goal: Goal) -> int:
            """Return 1, 0 or -1 for an outcome that is taken more often than on the example."""
            times, usual = (each.decisions.count(goal) for each in (found, example))
            return (times > usual) - (times < usual)

        # Fewer rounds than on the example are another outcome than more. If a loop is left before
        # its end, what leaves it decides.
        ways = {
            goal: way(failing, goal)
            for goal in taken
            if goal[1] and self._loops(goal[0]) and way(failing, goal)
            if all((goal[0], False) in found.decisions for found in (failing, example))
        }
        failures = sum(item.failed for item in self.tried)

        def tells(goal: Goal) -> float:
            having = [
                item.failed
                for item in self.tried
                if (
                    way(item.found, goal) == ways[goal]
                    if goal in ways
                    else goal in item.found.taken
                )
            ]
            return sum(having) / math.sqrt(max(failures * len(having), 1))

        # The first of equals.
        return max((goal for goal in taken if goal in suspects or goal in ways), key=tells)

    def guilty_beside(self, where: SourceLine) -> Iterator[SourceLine]:
        """Yield the lines of further conditions to blame, for calls that one decides as usual."""

        def there(found: Found) -> list[Goal]:
            conditions = self.explored.conditions
            return [
                goal
                for goal in found.decisions
                if place(conditions[goal[0][0]]).place == where.place
            ]

        usual = there(self.example)
        for failing in (item.found for item in self.tried if item.failed):
            goal = self.guilty(failing) if there(failing) == usual else None
            if goal is not None:
                yield place(self.explored.conditions[goal[0][0]])

    def _loops(self, key: ConditionKey) -> bool:
        return key in self.explored.seen and self.explored.conditions[key[0]].loops

    def _met(self) -> set[ConditionKey]:
        """Return the conditions that the example or a passing call met."""
        right = [self.example, *(item.found for item in self.tried if not item.failed)]
        return {key for found in right for key, _ in found.decisions}

    def table(self, culprit: Goal | None = None) -> tuple[Branch, ...]:
        """Return every condition that was met, and what became of each of its outcomes."""
        right = [item.found for item in self.tried if not item.failed and not item.unsure]
        passed = {goal for found in right for goal in found.taken}
        failed = {goal for item in self.tried if item.failed for goal in item.found.taken}
        met = self._met()
        wrong = {goal for goal in failed - passed - self.example.taken if goal[0] in met}
        if culprit is not None:
            wrong.add(culprit)
            if self._loops(culprit[0]):
                # It may have run four times instead of three: both are the outcome "2+ iterations".
                wrong |= {goal for goal in failed if goal[0] == culprit[0]}
        return tuple(self._row(key, passed, wrong) for key in self.explored.seen)

    def _row(self, key: ConditionKey, passed: Collection[Goal], wrong: Collection[Goal]) -> Branch:
        seen, condition = self.explored.seen[key], self.explored.conditions[key[0]]
        in_artifact = has_branch(self.artifact, condition)
        declared = {name for name, dim in self.spec.dims.items() if dim.declared}

        def status(outcome: ConditionOutcome) -> BranchStatus:
            goal = (key, outcome)
            if goal in wrong:
                return DIVERGES
            if not seen.varies:
                # A search that was cut short among its seeds cannot tell a flag from a size that it
                # did not reach.
                cut = self.explored.stopped and not self.explored.seeded
                return UNDECIDED if cut else CONSTANT
            if outcome not in seen.counts:
                outside = bool(seen.steers) and seen.steers <= declared
                return OUTSIDE if outside or goal in self.explored.below else UNREACHED
            if goal not in passed:
                return UNDECIDED
            unlike = in_artifact is False and goal not in self.example.taken
            return EQUAL if unlike else VERIFIED

        raised = tuple(outcome for outcome in seen.counts if outcome in condition.raises)
        outcomes: tuple[ConditionOutcome, ...] = (*condition.outcomes, *raised)
        return Branch(
            where=SourceLine(short_path(condition.file), condition.line),
            statement=condition.statement,
            text=condition.text,
            module=key[1],
            kind=condition.kind,
            on_values=seen.on_values,
            counts={str(outcome): count for outcome, count in seen.counts.items()},
            status={str(outcome): status(outcome) for outcome in outcomes}
            | {str(outcome): RAISES for outcome in condition.raises if outcome not in seen.counts},
            in_artifact=in_artifact,
        )
