"""Sequences: calls in a row, none of which is undone."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.checks import state
from pytest_torchexport.observe import Returned, tensors_of
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.stages.bench import Bench
from pytest_torchexport.strategies import boundary_recipes


def stay(bench: Bench) -> None:
    """Raise where the artifact has a state and forward has none: then no call of it says what the next one does. What
    it keeps to itself does not count as long as nobody sees it.
    """
    if bench.eager.stateful:
        return
    example, length = bench.spec.example, state.LENGTH
    with bench.ledger.timed("state"):
        wanted = bench.eager.on_device(example, bench.eager.on_cpu(example))
        if not isinstance(wanted, Returned):
            return
        row = bench.judge.in_a_row([example] * length)
        for number, (found, _) in enumerate(row, start=1):
            differences = bench.judge.differences([example], wanted, found)
            if differences and number == 1:
                return  # parity tells what it does, and tries more
            state.followed(number, length, differences, (), stateful=False)


def start(bench: Bench) -> None:
    """Raise where the artifact does not start in the state in which the module was."""
    if bench.eager.stateful:
        pristine = bench.eager.pristine.copy().to(bench.plan.device)
        carried = bench.judge.tensors()
        state.exported(tensors_of(pristine.module), carried, bench.eager.changes)


def follow(bench: Bench) -> None:
    """Calls from the pristine state, none undone: the example again and again, then calls of other values
    and sizes. Raise where the artifact parts from eager.
    """
    if not bench.eager.stateful:
        return
    with bench.ledger.timed("state"):
        for calls in _sequences(bench):
            _follow(bench, calls)


def _sequences(bench: Bench) -> list[list[Call]]:
    example = bench.spec.example
    others = [
        found.call
        for recipe in boundary_recipes(bench.spec, bench.plan.seed)
        if (found := bench.legal.call(recipe)) is not None
    ]
    step = max(1, len(others) // state.LENGTH)
    return [[example] * state.LENGTH, [example, *others[::step][: state.LENGTH]]]


def _follow(bench: Bench, calls: Sequence[Call]) -> None:
    eager, judge = bench.eager, bench.judge
    before = tensors_of(eager.pristine.module)
    pairs = zip(eager.in_a_row(calls), judge.in_a_row(calls), strict=True)
    for number, ((wanted, left), (found, right)) in enumerate(pairs, start=1):
        if not isinstance(wanted, Returned):
            bench.ledger.note(f"eager does not return from call {number} in a row: {wanted}")
            return
        more = state.carried_differences(left, right, judge.tolerance)
        differences = judge.differences(calls[:number], wanted, found, (left, right), more)
        state.followed(number, len(calls), differences, eager.changes, stateful=True)
        dropped = state.not_carried(before, left, right)
        if dropped:
            bench.ledger.note(
                f"the artifact does not carry {', '.join(dropped)}, which forward changes"
            )
