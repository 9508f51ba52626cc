"""The check ``state``: over calls in a row, the artifact's state follows eager's.

Raises StateDiffers: the artifact keeps a state that forward does not have, does not start in the
module's state, or parts from eager in a row of calls. Raises ArtifactCrashed or ArtifactHung if it
does not survive a row. A buffer with ``persistent=False`` is a cache: if it alone differs, and the
outputs of each row agree, that is a note.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from pytest_torchexport.explore.search import Goal
from pytest_torchexport.explore.seeds import constants_of, lengths_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import (
    LENGTH,
    Lines,
    carried_differences,
    failure_class,
    written_at,
)
from pytest_torchexport.judge.log import UNTIL_CALLS, Activity
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Returned, named_tensors
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, StateDiffers
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.base import StartsAnew

# More calls in a row if conditions of forward depend on what it changes, or if a number of its code
# or state may be one of calls.
LONGEST = 64
# Other calls that are each made several times in a row, and how often at most.
REPEATED, TIMES = 12, 5
# Numbers of the module that are kept in a row: all of its parameters and buffers after each call.
MOST_NUMBERS = 2**26

Tensors = Mapping[str, Any]


def check_stateless(case: Case) -> None:
    """Raise StateDiffers if the artifact carries state between calls and forward does not.

    State that never changes an output is ignored.
    """
    if case.reference.stateful:
        return
    example = case.spec.example
    with case.log.timed("state"):
        wanted = case.reference.on_device(example, case.reference.on_cpu(example))
        if not isinstance(wanted, Returned):
            return
        row = case.judge.in_a_row([example] * LENGTH)
        for number, (found, _) in enumerate(row, start=1):
            differences = case.judge.differences([example], wanted, found)
            if differences and number == 1:
                return  # parity judges this, on more calls
            with case.log.making([example] * number):
                raise_if_parted(number, LENGTH, differences, {}, stateful=False)


def check_start(case: Case) -> None:
    """Raise StateDiffers if the artifact does not start in the module's state."""
    eager, judge = case.reference, case.judge
    if case.foreign or not eager.stateful:
        return
    tensors = eager.tensors()
    carried = judge.tensors()
    registers, caches = _split(tensors, eager.caches)
    with case.log.making([]):
        raise_if_moved_on(registers, carried, eager.written_at)
    moved = carried_differences(caches, carried, Tolerance(0.0, 0.0))
    if not moved:
        return
    row = [case.spec.example] * LENGTH
    pairs = zip(eager.in_a_row(row), judge.in_a_row(row), strict=True)
    for number, ((wanted, _), (found, _)) in enumerate(pairs, start=1):
        if isinstance(wanted, Returned) and judge.differences(row[:number], wanted, found):
            raise_if_moved_on(caches, carried, eager.written_at)
    case.log.note(_of_caches("exporting ran forward and changed", moved))


def check_rows(case: Case) -> None:
    """Raise StateDiffers if the artifact and eager part in a row of calls, none of them undone.

    First a row of the example's calls, then those with other values and sizes. Both sides start in
    the pristine state. The first row is as long as conditions change in it and numbers may count
    it, up to ``LONGEST``; log what a still longer one might take.
    """
    if not case.reference.stateful:
        return
    with case.log.timed("state"):
        most = _most(case)
        with case.log.during(Activity.EAGER):
            row = case.branches.row(LENGTH, most) if case.branches else ()
        # The row ends at the last call that took an outcome for the first time.
        known: set[Goal] = set()
        length = LENGTH
        for number, path in enumerate(row, start=1):
            length = length if known.issuperset(path.taken()) else max(LENGTH, number)
            known |= set(path.taken())
        if not case.deadline.is_past(UNTIL_CALLS):
            length = max(length, _counted(case, most))
        for calls in rows(case, length):
            _check_row(case, calls)
    if case.branches:
        case.log.ineffective += case.branches.unsettled(row)


def rows(case: Case, length: int) -> list[list[Call]]:
    """Return the rows of calls: the example again and again, and then with other calls.

    Last, other calls that are each made several times: forward may count those of a kind.
    """
    example = case.spec.example
    others = [found.call for found in case.calls(case.boundary())]
    step = max(1, len(others) // LENGTH)
    searched = [found.call for found in case.calls(case.explored)]
    kinds = [*searched[: REPEATED // 2], *others[:: max(1, len(others) // (REPEATED // 2))]]
    repeated = [call for call in kinds[:REPEATED] for _ in range(min(length, TIMES))]
    return [
        [example] * length,
        [example, *others[::step][:LENGTH]],
        repeated[: _most(case)],
    ]


def _most(case: Case) -> int:
    """Return how many calls a row may have: fewer for a large module."""
    numbers = sum(tensor.numel() for _, tensor in named_tensors(case.reference.pristine.module))
    return max(LENGTH, min(LONGEST, MOST_NUMBERS // max(numbers, 1)))


def _counted(case: Case, most: int) -> int:
    """Return how many calls forward may count, by the numbers of its code and of its state.

    One more than the number, as it may be exceeded; 0 if no number is below ``most``.
    """
    module, observed = case.reference.pristine.module, case.observed
    code = observed.code.all_constants if observed is not None else ()
    numbers = [*constants_of(code, module), *lengths_of(module)]
    whole = (int(number) for number in numbers if number == int(number))
    return max((number + 1 for number in whole if LENGTH <= number < most), default=0)


def _check_row(case: Case, calls: Sequence[Call]) -> None:
    eager, judge = case.reference, case.judge
    before = eager.tensors()
    hidden: list[Difference] = []
    pairs = zip(eager.in_a_row(calls), judge.in_a_row(calls), strict=True)
    for number, ((wanted, left), (found, right)) in enumerate(pairs, start=1):
        if not isinstance(wanted, Returned):
            case.log.note(f"eager does not return from call {number} in a row: {wanted}")
            return
        registers, caches = _split(left, eager.caches)
        more = carried_differences(registers, right, judge.tolerance)
        differences = judge.differences(calls[:number], wanted, found, (left, right), more)
        with case.log.making(calls[:number]):
            raise_if_parted(
                number, len(calls), differences, eager.written_at, stateful=True, state=left
            )
        dropped = not_carried(before, left, right)
        # Of these no state is seen.
        unseen = case.foreign and case.traits.flat
        if dropped and not (unseen or isinstance(case.artifact, StartsAnew)):
            case.log.note(
                f"the artifact does not carry {', '.join(dropped)}, which forward changes"
            )
        hidden += carried_differences(caches, right, judge.tolerance)
    if hidden:
        case.log.note(_of_caches("calls in a row leave other numbers than eager's in", hidden))


def raise_if_moved_on(pristine: Tensors, carried: Tensors, lines: Lines) -> None:
    """Raise StateDiffers if the export itself changed the state: tracing runs forward."""
    found = carried_differences(pristine, carried, Tolerance(0.0, 0.0))
    if found:
        raise StateDiffers(
            "exporting ran forward and kept the changed state: the artifact does not start in the "
            "module's state",
            where=written_at(found, lines),
            differences=tuple(found),
        )


def raise_if_parted(
    number: int,
    length: int,
    differences: Sequence[Difference],
    lines: Lines,
    *,
    stateful: bool,
    state: Container[str] = (),
) -> None:
    """Raise if the artifact parts from eager at call ``number`` of ``length`` in a row.

    ``stateful``: forward changes its module, in ``lines`` as far as they are known; ``state`` are
    the names of its tensors. Parity judges the outputs of the first call.
    """
    found = [item for item in differences if number > 1 or item.path in state]
    if not found:
        return
    row = f"call {number} of {length} in a row"
    ended = failure_class(found)
    if ended in (ArtifactCrashed, ArtifactHung):
        raise ended(found[0].actual, details=(row,), output=found[0].what)
    what = (
        "forward changes its module, and the artifact does not follow"
        if stateful
        else "the artifact keeps state between calls, and forward does not"
    )
    text = f"{row}: {what}"
    raise StateDiffers(text, where=written_at(found, lines), differences=tuple(found))


def not_carried(eager: Tensors, changed: Tensors, artifact: Tensors) -> list[str]:
    """Return the names of the tensors that forward changes and that the artifact does not have."""
    exact = Tolerance(0.0, 0.0)
    return [
        name
        for name, before in eager.items()
        if name not in artifact
        and name in changed
        and compare_values(before, changed[name], exact, name)
    ]


def _split(tensors: Tensors, names: Container[str]) -> tuple[Tensors, Tensors]:
    others = {name: tensor for name, tensor in tensors.items() if name not in names}
    return others, {name: tensor for name, tensor in tensors.items() if name in names}


def _of_caches(what: str, differences: Sequence[Difference]) -> str:
    names = ", ".join(dict.fromkeys(item.path for item in differences))
    return f"{what} {names} (persistent=False); no output shows it"
