"""Find the first operator at which two recorded runs differ, of eager and of an artifact.

Only steps that the differing outputs depend on are looked at, and of these the first whose operands
agree and whose results do not: the operators after it carry the difference. A crash is a result.
Then the same operator with other arguments, or with operands that other operators made, is told
from one that gives other numbers on equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch

from pytest_torchexport.checks import state
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.inputs.pytrees import describe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import LENGTH, carried_differences
from pytest_torchexport.outcomes.compare import compare, gap
from pytest_torchexport.outcomes.observe import Returned, State, named_tensors
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.tape import FromOutside, FromStep, Step, Tape, record
from pytest_torchexport.results.diagnosis import Diagnosis, Place, Structural
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import StateDiffers
from pytest_torchexport.targets.base import Artifact

# Differences up to this many epsilons of a tensor's largest number may be rounding: they are only
# looked at if there are no others.
ROUNDING = 64.0
# Arguments that say how and where a tensor is made, and not which numbers it holds.
_HOW = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking", "generator"})
# Numbers that Python rounds and torch rounds are the same up to this.
CLOSE = 1e-6
NO_NUMBER = object()
# With more insertions and deletions the two are different programs: only the begin is aligned.
MOST = 600

Pairs = list[tuple[int, int]]
# The last pair, and those before it.
Linked: TypeAlias = "tuple[tuple[int, int], Linked] | None"


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator that introduces the difference, and how the two sides differ there."""
    target = scene.case.plan.target
    # If torch captured it right, a later step is to blame.
    suspected = known.owner in ("capture", None) and not isinstance(scene.failure, StateDiffers)
    captured = scene.captured if CAPTURED.get(target) == target or suspected else None
    call, seed = scene.call, scene.case.plan.seed
    if captured is None or call is None:
        return known
    rows = [([call], seed), ([call], seed + 1)]
    if isinstance(scene.failure, StateDiffers):
        length = len(scene.case.log.row or ()) or LENGTH
        rows = [(row, seed) for row in ([call], *state.rows(scene.case, length))]
    found = next(filter(None, (_in_a_row(scene, captured, *row) for row in rows)), None)
    if found is None:
        return known
    return replace(known, place=found.place, structural=found.structural)


def _in_a_row(
    scene: Scene, captured: Artifact, calls: Sequence[Call], seed: int
) -> Introduced | None:
    """Make each call where the one before ended. Return what the first that differs shows."""
    case, device = scene.case, scene.case.plan.device
    subject, tolerance = scene.subject(), case.judge.tolerance
    sides = (
        (subject.function, subject.module, subject.grad_mode),
        (captured, captured.module, case.reference.served),
    )
    kept = State(captured.module, thorough=case.reference.stateful)
    try:
        for call in calls:
            eager, artifact = (
                record(run, call.to(device), seed=seed, grad_mode=mode, module=module)
                for run, module, mode in sides
            )
            left, right = (dict(named_tensors(module)) for _, module, _ in sides)
            differing = carried_differences(left, right, tolerance)
            if isinstance(eager.outcome, Returned):
                differing = [*compare(eager.outcome, artifact.outcome, tolerance), *differing]
            if differing:
                # Before the state is restored: tapes hold its tensors, not copies of them.
                whole = eager.complete and artifact.complete
                paths = [item.path for item in differing]
                return Search(eager, artifact, paths).found() if whole else None
    finally:
        kept.restore()
    return None


# -- two recordings --------------------------------------------------------------------------------


class Introduced(NamedTuple):
    """The operator that introduces the difference, and how the two sides differ there."""

    place: Place
    structural: Structural


@dataclass(frozen=True)
class Search:
    """The search for where the difference of outputs comes in, which are given by their paths."""

    eager: Tape
    artifact: Tape
    differing: Sequence[str]

    @cached_property
    def slices(self) -> tuple[list[int], list[int]]:
        """The steps of each side that the differing outputs depend on, in their order."""
        raised = self.artifact.raised
        if raised is not None:
            return [*range(len(self.eager.steps))], sorted(_behind(self.artifact.steps, [raised]))

        def behind(side: Tape) -> list[int]:
            sources = (side.last.get(path) for path in self.differing)
            ends = [source.step for source in sources if isinstance(source, FromStep)]
            return sorted(_behind(side.steps, ends))

        return behind(self.eager), behind(self.artifact)

    @cached_property
    def pairs(self) -> Mapping[int, int]:
        """The artifact's step for each step of eager that both have, of those in the slices.

        First those with equal results and parameters, then what has the same name between them.
        """
        cut = self.artifact.raised is not None
        wanted = [self.eager.steps[number] for number in self.slices[0]]
        found = [self.artifact.steps[number] for number in self.slices[1]]

        def anchor(step: Step) -> tuple[str, ...]:
            """Return the parts that twins have alike if neither sizes nor weights differ."""
            outside = (item for item in step.arguments.values() if isinstance(item, FromOutside))
            return (_name(step), _made(step), *(item.name for item in outside))

        anchors = aligned([*map(anchor, wanted)], [*map(anchor, found)], right_is_cut=cut)
        names = tuple([_name(step) for step in side] for side in (wanted, found))
        starts, ends = [(-1, -1), *anchors], [*anchors, (len(wanted), len(found))]
        pairs = list(anchors)
        for (i, j), (i_end, j_end) in zip(starts, ends, strict=True):
            inside = names[0][i + 1 : i_end], names[1][j + 1 : j_end]
            if all(inside):
                more = aligned(*inside, right_is_cut=cut and j_end == len(found))
                pairs += [(i + 1 + one, j + 1 + other) for one, other in more]
        return {self.slices[0][i]: self.slices[1][j] for i, j in sorted(pairs)}

    def found(self) -> Introduced | None:
        """Return where it comes in; None if unknown. If the artifact raised, its last operator."""
        unclear: list[Introduced] = []
        for number, twin in self.pairs.items():
            apart = self._gap(number, twin)
            if not apart:
                continue
            item = self._looked_at(number, twin)
            if item.structural.kind != "same" and apart > ROUNDING:
                return item  # the later steps carry it
            unclear.append(item)
        unclear.sort(key=lambda item: item.structural.kind == "same")
        return self._ends() or next(iter(unclear), None)

    def _gap(self, one: int, other: int) -> float:
        """Return how much the results of two steps differ, in epsilons; a crash is a result."""
        left, right = self.eager.steps[one].results, self.artifact.steps[other].results
        if other == self.artifact.raised or len(left) != len(right):
            return math.inf
        most = 0.0
        for mine, theirs in zip(left, right, strict=True):
            if (mine.shape, mine.dtype, mine.whole) != (theirs.shape, theirs.dtype, theirs.whole):
                return math.inf
            both = mine.numbers, theirs.numbers
            if all(isinstance(numbers, torch.Tensor) for numbers in both):
                most = max(most, gap(*both))
            elif not equal(*both):
                return math.inf
        return most

    # -- why a step differs ------------------------------------------------------------------------

    def _looked_at(self, number: int, twin: int) -> Introduced:
        """Return how the operands of a step differ, or its result on equal ones."""
        given = list(self._operands(number, twin))
        step = self.eager.steps[number]
        found = self._constant(given, step) or self._stored(given, step) or self._computed(given)
        if found is None:
            # The operators that made the operands on one side alone.
            apart = [pair for _, *pair in given if not self._is_stored(*pair)]
            left = {item.step for item, _ in apart if isinstance(item, FromStep)}
            right = {item.step for _, item in apart if isinstance(item, FromStep)}
            found = self._between(left, right, step)
        return found or _at(
            step,
            kind="same",
            eager=_made(step),
            artifact=_made(self.artifact.steps[twin]),
            draws=torch.Tag.nondeterministic_seeded in step.operator.tags,
        )

    def _operands(self, number: int, twin: int) -> Iterator[tuple[str, Any, Any]]:
        left = self.eager.steps[number].arguments
        right = self.artifact.steps[twin].arguments
        for name in left:
            if name in right and name not in _HOW:
                yield from _leaves(name, left[name], right[name])

    def _constant(self, given: Sequence[tuple[str, Any, Any]], step: Step) -> Introduced | None:
        for name, *sides in given:
            one, other = map(number_of, sides)
            if one is NO_NUMBER or other is NO_NUMBER or equal(one, other):
                continue
            eager, artifact = (f"{n:.6g}" if isinstance(n, float) else str(n) for n in (one, other))
            real = all(isinstance(n, (bool, int, float)) for n in (one, other))
            numbers = (float(one), float(other)) if real else ()
            told: dict[str, Any] = {"eager": eager, "artifact": artifact, "numbers": numbers}
            return _at(step, kind="constant", argument=name, **told)
        return None

    def _stored(self, given: Sequence[tuple[str, Any, Any]], step: Step) -> Introduced | None:
        """Return the stored operand that is another one, and holds other numbers."""
        for name, left, right in given:
            both = isinstance(left, FromOutside) and isinstance(right, FromOutside)
            if both and gap(left.tensor, right.tensor):
                return _at(
                    step,
                    kind="stored",
                    argument=name,
                    eager=left.name or describe(left.tensor),
                    artifact=right.name or describe(right.tensor),
                    where=left.where or step.where,
                )
        return None

    def _computed(self, given: Sequence[tuple[str, Any, Any]]) -> Introduced | None:
        """Return the operand that eager computes, and that is stored in the artifact."""
        for name, left, right in given:
            if not (isinstance(left, FromStep) and isinstance(right, FromOutside)):
                continue
            if not (right.name.startswith("inputs") or self._is_stored(left, right)):
                made = self.eager.steps[left.step]
                stored = right.name or describe(right.tensor)
                text = made.operator_name
                return _at(made, kind="constant", argument=name, eager=text, artifact=stored)
        return None

    def _is_stored(self, left: Any, right: Any) -> bool:
        """Return True if the artifact has stored what eager computes, as far as is known."""
        if not (isinstance(left, FromStep) and isinstance(right, FromOutside)):
            return False
        results = self.eager.steps[left.step].results
        made = [item.numbers for item in results if isinstance(item.numbers, torch.Tensor)]
        unknown = not all(item.whole for item in results)
        return unknown or any(not gap(numbers, right.tensor) for numbers in made)

    def _between(
        self, left: Collection[int], right: Collection[int], step: Step | None
    ) -> Introduced | None:
        """Return the operators without a twin that end in these steps; ``step`` uses them."""
        twins = {*self.pairs.values()}
        wanted = _behind(self.eager.steps, [n for n in left if n not in self.pairs], self.pairs)
        found = _behind(self.artifact.steps, [n for n in right if n not in twins], twins)
        one = [self.eager.steps[n] for n in sorted(wanted)]
        other = [self.artifact.steps[n] for n in sorted(found)]
        if not one and not other:
            moved = sorted({self.pairs[n] for n in left if n in self.pairs} ^ set(right))
            if not moved or step is None:
                return None
            one, other = [step], [self.artifact.steps[n] for n in moved]
        if list(map(_name, one)) == list(map(_name, other)):
            # A step without operands may stand elsewhere in the artifact, which alignment misses.
            for number, twin in zip(sorted(wanted), sorted(found), strict=True):
                given = list(self._operands(number, twin))
                constant = self._constant(given, self.eager.steps[number])
                if constant is not None:
                    return constant
        at = one[0] if one else step or other[0]
        return _at(
            at,
            kind="other" if one and other else "missing" if one else "extra",
            is_eagers=bool(one),
            operator=(one or other)[0].operator_name,
            eager=_names(one),
            artifact=_names(other),
        )

    def _ends(self) -> Introduced | None:
        """Return the difference that is left if all operators that both sides have agree."""
        raised = self.artifact.raised
        for path in () if raised is not None else self.differing:
            left, right = (
                [last.step] if isinstance(last, FromStep) else []
                for last in (self.eager.last.get(path), self.artifact.last.get(path))
            )
            if left and right and self.pairs.get(left[0]) == right[0]:
                continue
            found = self._between(left, right, self.eager.steps[left[0]] if left else None)
            if found is not None:
                return found
        if raised is None or raised in self.pairs.values():
            return None
        # The artifact's last operator has no twin in eager.
        step = self.artifact.steps[raised]
        behind = sorted(_behind(self.artifact.steps, [raised], self.pairs.values()))
        names = _names([self.artifact.steps[number] for number in behind])
        return _at(step, kind="extra", is_eagers=False, artifact=names)


def _at(step: Step, *, is_eagers: bool = True, **fields: Any) -> Introduced:
    """Return a difference at a step; ``fields`` are those of Structural."""
    told = Structural(**{"operator": step.operator_name, "where": step.where, **fields})
    # Of an operator that eager has not, no module of eager's is known.
    module = step.module if is_eagers else ""
    return Introduced(Place(operator=told.operator, module=module, where=told.where), told)


def _behind(steps: Sequence[Step], ends: Collection[int], stop: Collection[int] = ()) -> set[int]:
    """Return these steps and those that they depend on, except what lies behind ``stop``."""
    found: set[int] = set()
    waiting = list(ends)
    while waiting:
        number = waiting.pop()
        if number not in found and number not in stop:
            found.add(number)
            waiting += steps[number].sources
    return found


def _name(step: Step) -> str:
    name = row_of(step.name).same_as or step.name
    # Of two slices in a row the second is no twin of the first.
    return f"{name} of {step.arguments['dim']}" if name == "slice" else name


def _made(step: Step) -> str:
    """Return ``float32[2, 3]`` for what a step made."""
    return ", ".join(f"{str(r.dtype).removeprefix('torch.')}{list(r.shape)}" for r in step.results)


def _names(steps: Sequence[Step]) -> str:
    return few(list(dict.fromkeys(step.operator_name for step in steps)))


def _leaves(name: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of an argument of both sides; a list of another length as a whole."""
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            yield name, f"{len(left)} elements", f"{len(right)} elements"
            return
        for one, other in zip(left, right, strict=True):
            yield from _leaves(name, one, other)
    elif left is not None and right is not None:
        yield name, left, right


def number_of(value: Any) -> Any:
    """Return a number, text or dtype; the number of a stored tensor of one; else ``NO_NUMBER``."""
    if isinstance(value, FromOutside):
        single = value.tensor.numel() == 1 and not value.tensor.dim() and not value.name
        return value.tensor.item() if single and not value.tensor.is_meta else NO_NUMBER
    return value if isinstance(value, (bool, int, float, complex, str, torch.dtype)) else NO_NUMBER


def equal(one: Any, other: Any) -> bool:
    """Return True if two numbers or texts are the same but for how Python and torch round."""
    numbers = (bool, int, float, complex)
    if not (isinstance(one, numbers) and isinstance(other, numbers)):
        return one is other or (isinstance(one, (str, torch.dtype)) and bool(one == other))
    same = one == other or (one != one and other != other)  # nan
    # Less, not equal: both sides are infinite if one number is.
    return same or abs(one - other) < CLOSE * abs(one)


# -- alignment -------------------------------------------------------------------------------------


def aligned(
    left: Sequence[Hashable], right: Sequence[Hashable], *, right_is_cut: bool = False
) -> Pairs:
    """Return the pairs of indices at which the two are the same: as many as there can be.

    By the fewest insertions and deletions (Myers, Algorithmica 1, 1986). Not ``difflib``: it looks
    for the longest common block, and of networks with equal blocks it may match the second block of
    one side with the first of the other.

    ``right_is_cut``: the right one ends early; what the left one has beyond does not count.
    """
    # By diagonal (left less right): how far the left one is read, and its pairs.
    ends: dict[int, tuple[int, Linked]] = {1: (0, None)}
    for edits in range(MOST + 1):
        ended: list[tuple[int, Linked]] = []
        for diagonal in range(-edits, edits + 1, 2):
            inserted, deleted = ends.get(diagonal + 1), ends.get(diagonal - 1)
            if deleted is None or (inserted is not None and deleted[0] < inserted[0]):
                x, pairs = inserted or (0, None)
            else:
                x, pairs = deleted[0] + 1, deleted[1]
            while x < len(left) and x - diagonal < len(right) and left[x] == right[x - diagonal]:
                pairs = (x, x - diagonal), pairs
                x += 1
            ends[diagonal] = x, pairs
            if x - diagonal >= len(right) and (right_is_cut or x >= len(left)):
                ended.append(ends[diagonal])
        if ended:
            _, pairs = max(ended, key=lambda end: end[0])  # with the most pairs
            break
    else:
        diagonals = range(-MOST, MOST + 1, 2)
        _, pairs = ends[max(diagonals, key=lambda diagonal: 2 * ends[diagonal][0] - diagonal)]
    found = []
    while pairs is not None:
        last, pairs = pairs
        found.append(last)
    return found[::-1]
