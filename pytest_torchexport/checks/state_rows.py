"""Sequences: calls in a row, none of which is undone."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.checks import state
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import Returned, tensors_of


def stay(case: Case) -> None:
    """Raise where the artifact has a state and forward has none: then no call of it says what the next one does. What
    it keeps to itself does not count as long as nobody sees it.
    """
    if case.eager.stateful:
        return
    example, length = case.spec.example, state.LENGTH
    with case.log.timed("state"):
        wanted = case.eager.on_device(example, case.eager.on_cpu(example))
        if not isinstance(wanted, Returned):
            return
        row = case.judge.in_a_row([example] * length)
        for number, (found, _) in enumerate(row, start=1):
            differences = case.judge.differences([example], wanted, found)
            if differences and number == 1:
                return  # parity tells what it does, and tries more
            state.followed(number, length, differences, (), stateful=False)


def start(case: Case) -> None:
    """Raise where the artifact does not start in the state in which the module was."""
    if case.eager.stateful:
        pristine = case.eager.pristine.copy().to(case.plan.device)
        carried = case.judge.tensors()
        state.exported(tensors_of(pristine.module), carried, case.eager.changes)


def follow(case: Case) -> None:
    """Calls from the pristine state, none undone: the example again and again, then calls of other values
    and sizes. Raise where the artifact parts from eager.
    """
    if not case.eager.stateful:
        return
    with case.log.timed("state"):
        for calls in _sequences(case):
            _follow(case, calls)


def _sequences(case: Case) -> list[list[Call]]:
    example = case.spec.example
    others = [
        found.call
        for recipe in boundary_recipes(case.spec, case.plan.seed)
        if (found := case.legal.call(recipe)) is not None
    ]
    step = max(1, len(others) // state.LENGTH)
    return [[example] * state.LENGTH, [example, *others[::step][: state.LENGTH]]]


def _follow(case: Case, calls: Sequence[Call]) -> None:
    eager, judge = case.eager, case.judge
    before = tensors_of(eager.pristine.module)
    pairs = zip(eager.in_a_row(calls), judge.in_a_row(calls), strict=True)
    for number, ((wanted, left), (found, right)) in enumerate(pairs, start=1):
        if not isinstance(wanted, Returned):
            case.log.note(f"eager does not return from call {number} in a row: {wanted}")
            return
        more = state.carried_differences(left, right, judge.tolerance)
        differences = judge.differences(calls[:number], wanted, found, (left, right), more)
        state.followed(number, len(calls), differences, eager.changes, stateful=True, state=left)
        dropped = state.not_carried(before, left, right)
        if dropped:
            case.log.note(
                f"the artifact does not carry {', '.join(dropped)}, which forward changes"
            )
