"""The check of a loop: over many steps, the artifact does what eager does.

First each step gets eager's own inputs (teacher-forced), in a row: these are judged like all calls.
Then each gets what the artifact made (free-running), and may be as far off as eager is from itself
there: in float64, and with its results rounded otherwise, through the same loop.
Raises the failure of the first step that differs: OutputsDiffer, StructureDiffers, StateDiffers,
ArtifactRaised, DimsNarrowed, ArtifactCrashed, ArtifactHung. Raises SpecError if the loop reaches a
size that the user's dims leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from pytest_torchexport.eager.unrolled import Made, Wiring
from pytest_torchexport.inputs.pytrees import flatten
from pytest_torchexport.inputs.recipes import example_recipe, recorded_recipes
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import carried_differences, failure_of
from pytest_torchexport.judge.log import Activity, Shrunk
from pytest_torchexport.judge.other_runs import Leaves, Runs
from pytest_torchexport.judge.rounding import AMBIGUOUS, WEIGHED, judged_by
from pytest_torchexport.outcomes.compare import compare, compare_values
from pytest_torchexport.outcomes.observe import Outcome, Returned, differ
from pytest_torchexport.results.failures import ArtifactRaised, SpecError, StateDiffers
from pytest_torchexport.results.verdict import Difference, LoopSteps

ADDS_UP = "each step alone agrees: what it is off adds up, beyond what eager's own rounding does"
KEEPS_STATE = "the artifact keeps state of its own between steps, which its step does not have"
NOTHING_CARRIED = (
    "nothing that a step returns becomes an input of the next one, and the module keeps no state: "
    "name it in carry=, or make it by a function in feed="
)
NOT_FOLLOWED = "the step changes its module, and the artifact does not follow"


@dataclass(frozen=True)
class Parted:
    """The first step (from 0) at which the artifact differs."""

    number: int
    differences: Sequence[Difference]

    @property
    def step(self) -> int:
        return self.number + 1


def run(case: Case) -> None:
    """Run the loop both ways. Raise the failure of the step that differs first."""
    assert case.plan.loop is not None
    wiring, log = Wiring(loop=case.plan.loop, spec=case.spec), case.log
    returned = wiring.loop.carry or any(map(callable, wiring.loop.feed.values()))
    if not returned and not case.reference.stateful:
        log.ineffective.append(NOTHING_CARRIED)
    with log.timed("loop"):
        recipes = [example_recipe(case.spec), *recorded_recipes(case.spec)]
        if len(recipes) < wiring.loop.steps:
            raise SpecError(
                "the loop reaches sizes that dims= and shapes= leave out: declare those of all of "
                f"its {wiring.loop.steps} steps, or fewer steps="
            )
        for recipe in recipes:
            log.covered.saw(case.spec, recipe)
        eager = _in_eager(case, wiring)
        for made in eager:
            assert isinstance(made.outcome, Returned)
            log.outputs.saw(made.call, made.outcome)
        forced = _teacher_forced(case, eager)
        free, ties = _free_running(case, wiring, eager, quick=forced is not None)
    log.ineffective += log.outputs.complaints(case.judge.tolerance)
    parted = [each for each in (forced, free) if each is not None]
    first = min(parted, key=lambda each: each.number, default=None)
    paths = [each.path for each in first.differences if each.path] if first is not None else []
    log.loop = LoopSteps(
        steps=len(eager),
        teacher_forced=forced.step if forced is not None else None,
        free_running=free.step if free is not None else None,
        leaf=paths[0] if paths else "",
        ties=ties,
    )
    if first is not None:
        _raise(case, wiring, eager, first, forced=first is forced)


def _in_eager(case: Case, wiring: Wiring) -> list[Made]:
    """Return eager's steps on the item's device. On the CPU, they were made before."""
    reference, before = case.reference, case.reference.tensors()
    run = reference.anew(case.plan.device, state=reference.stateful)
    with case.log.during(Activity.EAGER):
        # Of the state, only what changes: a model may be large.
        eager = [
            replace(made, state={n: t for n, t in made.state.items() if differ(t, before[n])})
            for made in wiring.unroll(run)
        ]
    if not isinstance(eager[-1].outcome, Returned):
        device = case.plan.device
        raise SpecError(f"eager raises at step {len(eager)} on {device}: {eager[-1].outcome}")
    return eager


def _teacher_forced(case: Case, eager: Sequence[Made]) -> Parted | None:
    judge, stateful = case.judge, case.reference.stateful
    with judge.row(state=stateful) as run:
        for number, made in enumerate(eager):
            case.plan.progress("steps with eager's inputs", number, len(eager))
            found, state = run(made.call)
            case.log.calls["teacher-forced"] = number + 1
            assert isinstance(made.outcome, Returned)
            if stateful:
                row = [each.call for each in eager[: number + 1]]
                kept = {n: t for n, t in made.state.items() if n not in case.reference.caches}
                more = carried_differences(kept, state, judge.tolerance)
                states = made.state, state
                differences = judge.differences(
                    row, made.outcome, found, states, more, known=WEIGHED
                )
            else:
                differences = judge.differences([made.call], made.outcome, found, known=WEIGHED)
            if differences:
                return Parted(number, differences)
    return None


def _free_running(
    case: Case, wiring: Wiring, eager: Sequence[Made], *, quick: bool
) -> tuple[Parted | None, tuple[int, ...]]:
    """Return the first step that differs, and the steps after which rounding decided."""
    log, ties = case.log, list[int]()
    if case.random_paths:
        return None, ()  # it draws other numbers, and would go on with them
    calls = [made.call for made in eager]
    envelope = _Envelope.of(case, wiring, eager, quick=quick)
    with case.judge.row() as run:
        call = calls[0]
        for number, made in enumerate(eager):
            case.plan.progress("steps with its own outputs", number, len(eager))
            found, _ = run(call)
            log.calls["free-running"] = number + 1
            differences = envelope.differences(number, made.outcome, found)
            if differences:
                return Parted(number, differences), tuple(ties)
            if number + 1 < len(eager):
                assert isinstance(found, Returned)
                following = wiring.following(call, found.value, number)
                call, parted = wiring.led(following, calls[number + 1])
                ties += [number + 1] * parted
    return None, tuple(ties)


def _leaves(outcome: Outcome) -> Leaves:
    return dict(flatten(outcome.value, "output")[0]) if isinstance(outcome, Returned) else {}


@dataclass(eq=False)
class _Envelope:
    """Measures how far eager's own loop is from itself at a step, when that is asked for first.

    ``quick``: the artifact has failed already, and a few runs are enough.
    """

    case: Case
    more: Iterator[Callable[[int], Runs]]
    quick: bool
    runs: Callable[[int], Runs] | None = None

    @classmethod
    def of(cls, case: Case, wiring: Wiring, eager: Sequence[Made], *, quick: bool) -> _Envelope:
        def unroll(function: Callable[[Call], Outcome]) -> Iterator[Leaves]:
            for made in wiring.unroll(lambda call: (function(call), {}), eager):
                yield _leaves(made.outcome)

        return cls(case, case.judge.of_loop(unroll), quick)

    def differences(self, number: int, expected: Outcome, found: Outcome) -> list[Difference]:
        """Return the differences of a step that eager's own loop does not explain."""
        judge, log, hidden = self.case.judge, self.case.log, self.case.random_paths
        if not isinstance(expected, Returned) or not isinstance(found, Returned):
            return compare(expected, found, judge.tolerance)
        differences = [
            item
            for item in compare_values(expected.value, found.value, judge.tolerance)
            if item.kind != "values" or not (judge.in_eight_bits or item.path in hidden)
        ]
        if not differences or judge.tolerance.given or any(d.total is None for d in differences):
            return differences
        with log.during(Activity.EAGER):
            wanted, there = _leaves(expected), _leaves(found)
            judged, _ = judged_by(self._runs(number), differences, wanted, there, quick=True)
        log.explain(judged.explained)
        drowned = [item.path for item in judged.explained if item.cause == AMBIGUOUS]
        if drowned:
            log.caution(
                f"{', '.join(drowned)}: in the loop, eager's own rounding becomes as large as the "
                "output, and hides what the artifact does; steps= makes the loop shorter"
            )
        return judged.bugs

    def _runs(self, number: int) -> Iterator[Runs]:
        """Yield the runs of a step that an earlier step has made already, then further ones."""
        self.runs = self.runs or next(self.more)
        yield self.runs(number)
        for more in () if self.quick else self.more:
            self.runs = more
            yield more(number)


def _raise(
    case: Case, wiring: Wiring, eager: Sequence[Made], first: Parted, *, forced: bool
) -> NoReturn:
    """Raise the failure of a step, with the step and what differs in its text.

    ``forced``: the step got eager's inputs. Raises CannotJudge if nobody named the target and the
    artifact raises on the example itself.
    """
    loop, expected = case.log.loop, eager[first.number].outcome
    assert loop is not None
    assert isinstance(expected, Returned)
    failure = failure_of(first.differences, case.reference.written_at)
    assert failure is not None
    kind, text = type(failure), str(failure)
    if isinstance(failure, ArtifactRaised) and not first.number:
        case.refused(f"made an artifact that raises on the example itself: {failure}")
    call, stateful, more = eager[first.number].call, case.reference.stateful, list[str]()
    case.log.calls["failed"] = 1
    if not forced and not first.number:
        kind, more = StateDiffers, [KEEPS_STATE]
    elif not forced:
        more = [ADDS_UP] if loop.teacher_forced is None else []
    elif stateful and first.number:
        kind, more = StateDiffers, [NOT_FOLLOWED]
    elif not stateful:
        if case.judge.differences([call], expected, case.judge.run(call), known=WEIGHED):
            recipe = [example_recipe(case.spec), *recorded_recipes(case.spec)][first.number]
            case.log.shrunk = Shrunk.as_made(case.spec, recipe, call)
        else:
            kind, more = StateDiffers, [KEEPS_STATE]
    if forced and kind is StateDiffers:
        case.log.row = [made.call for made in eager[: first.step]]
    to = wiring.carried_to(loop.leaf)
    named = f"{to}, carried from {loop.leaf}," if to else loop.leaf
    raise kind(
        f"step {first.step} of {loop.steps}: {text or f'{named} differs from eager'}",
        details=(*loop.lines(), *more, *failure.details),
        where=failure.where,
        differences=failure.differences,
        output=failure.output,
    )
