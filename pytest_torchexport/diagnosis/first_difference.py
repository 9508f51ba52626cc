"""Find the first operator at which two recorded runs differ, of eager and of an artifact.

Only steps that the differing outputs depend on are looked at, and of these the first whose operands
agree and whose results do not: the operators after it carry the difference. A crash is a result.
Then the same operator with other arguments, or with operands that other operators made, is told
from one that gives other numbers on equal ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from pytest_torchexport.checks import state
from pytest_torchexport.diagnosis.alignment import aligned
from pytest_torchexport.diagnosis.fatal import step_place
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.inputs.pytrees import describe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import carried_differences
from pytest_torchexport.outcomes.compare import compare, dense
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.observe import Returned, State, are_one_memory, named_tensors
from pytest_torchexport.outcomes.operator_table import READ, row_of
from pytest_torchexport.outcomes.tape import FromOutside, FromStep, Result, Step, Tape, record
from pytest_torchexport.results.diagnosis import Diagnosis, Place, Structural
from pytest_torchexport.results.failures import StateDiffers
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.base import Artifact

# Differences up to this many epsilons of a tensor's largest number may be rounding: they are only
# looked at if there are no others.
ROUNDING = 64.0
# Arguments that say how and where a tensor is made, and not which numbers it holds.
_HOW = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking", "generator"})
# Operators that a report names of a side.
SHOWN = 4
# Numbers that Python rounds and torch rounds are the same up to this.
CLOSE = 1e-6
NO_NUMBER = object()
# The artifact runs once more for so long, to find a line of it.
SECONDS = 2.0
# Targets whose artifacts run torch's operators in this process.
TARGETS = tuple(target for target, captured in CAPTURED.items() if captured == target)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator that introduces the difference, and how the two sides differ there."""
    here = scene.case.plan.target in TARGETS
    # If torch captured it right, a later step is to blame.
    suspected = known.owner in ("capture", None) and not isinstance(scene.failure, StateDiffers)
    captured = scene.captured if here or suspected else None
    if captured is None:
        return known
    for eager, artifact, differing in _pairs(scene, captured):
        if not (eager.complete and artifact.complete):
            return known
        found = introduced(eager, artifact, differing)
        if found is not None:
            place, structural = _placed(scene, found)
            return replace(known, place=place, structural=structural)
    return known


def _placed(scene: Scene, found: Introduced) -> tuple[Place, Structural]:
    """Return the place, of an operator of the artifact alone as the artifact knows it."""
    step = found.extra if scene.captured is scene.case.artifact else None
    if step is None or scene.call is None or not can_fork():
        return found.place, found.structural
    place = in_fork(partial(step_place, scene, scene.call, step.ordinal), SECONDS)
    if isinstance(place, Death) or place.operator != step.operator_name or place.where is None:
        return found.place, found.structural
    return place, replace(found.structural, where=place.where)


def _pairs(scene: Scene, captured: Artifact) -> Iterator[tuple[Tape, Tape, tuple[str, ...]]]:
    """Yield recordings of the two sides that differ, and the paths at which they do."""
    seed = scene.case.plan.seed
    call = scene.call
    if call is None:
        return
    yield from _in_a_row(scene, captured, [call], seed)
    if isinstance(scene.failure, StateDiffers):
        for row in state.rows(scene.case, state.LONGEST):
            yield from _in_a_row(scene, captured, row, seed)
    else:
        yield from _in_a_row(scene, captured, [call], seed + 1)


def _in_a_row(
    scene: Scene, captured: Artifact, calls: Sequence[Call], seed: int
) -> Iterator[tuple[Tape, Tape, tuple[str, ...]]]:
    """Yield the first of these calls, each made where the one before ended, that differs."""
    case, device = scene.case, scene.case.plan.device
    subject = case.reference.pristine.copy().to(device)
    kept = State(captured.module, thorough=case.reference.stateful)
    try:
        for call in calls:
            moved = call.to(device)
            eager = record(
                subject.function,
                moved,
                seed=seed,
                grad_mode=subject.grad_mode,
                module=subject.module,
            )
            artifact = record(
                captured,
                moved,
                seed=seed,
                grad_mode=case.reference.served,
                module=captured.module,
            )
            differing = _differing(scene, eager, artifact)
            left, right = (dict(named_tensors(each)) for each in (subject.module, captured.module))
            more = carried_differences(left, right, case.judge.tolerance)
            differing += tuple(item.path for item in more)
            if differing:
                yield eager, artifact, differing
                return
    finally:
        kept.restore()


def _differing(scene: Scene, eager: Tape, artifact: Tape) -> tuple[str, ...]:
    """Return the paths at which two outcomes differ; one that is empty if the artifact raised."""
    if not isinstance(eager.outcome, Returned):
        return ()
    found = compare(eager.outcome, artifact.outcome, scene.case.judge.tolerance)
    return tuple(item.path for item in found)


# -- two recordings --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Introduced:
    """The operator that introduces the difference, and how the two sides differ there.

    ``extra``: the artifact's step, if it is one that eager has not.
    """

    place: Place
    structural: Structural
    extra: Step | None = None


def introduced(eager: Tape, artifact: Tape, differing: Sequence[str]) -> Introduced | None:
    """Return where the difference of outputs, given by their paths, comes in; None if unknown.

    If the artifact raised, its last operator is what differs.
    """
    return _Search(eager, artifact, tuple(differing)).found()


@dataclass(frozen=True)
class _Search:
    eager: Tape
    artifact: Tape
    differing: tuple[str, ...]

    @cached_property
    def slices(self) -> tuple[list[int], list[int]]:
        """The steps of each side that the differing outputs depend on, in their order."""
        if self.artifact.raised is not None:
            steps, twin = self.eager.steps, self._likeliest_twin
            left = range(len(steps)) if twin is None else sorted(_behind(steps, [twin]))
            return list(left), sorted(_behind(self.artifact.steps, [self.artifact.raised]))
        sides = (self.eager, self.artifact)
        left, right = (sorted(_behind(side.steps, self._ends_of(side))) for side in sides)
        return left, right

    def _ends_of(self, side: Tape) -> list[int]:
        sources = (side.last.get(path) for path in self.differing)
        return [source.step for source in sources if isinstance(source, FromStep)]

    @cached_property
    def pairs(self) -> Mapping[int, int]:
        """The artifact's step for each step of eager that both have, of those in the slices.

        First those with equal results and parameters, then what has the same name between them.
        """
        # Eager's steps are cut at the same one, if it is known.
        cut = self.artifact.raised is not None and self._likeliest_twin is None
        wanted = [self.eager.steps[number] for number in self.slices[0]]
        found = [self.artifact.steps[number] for number in self.slices[1]]
        left, right = ([_anchor(step) for step in side] for side in (wanted, found))
        anchors = aligned(left, right, right_is_cut=cut)
        names = tuple([_name(step) for step in side] for side in (wanted, found))
        starts, ends = [(-1, -1), *anchors], [*anchors, (len(wanted), len(found))]
        pairs = list(anchors)
        for (i, j), (i_end, j_end) in zip(starts, ends, strict=True):
            inside = names[0][i + 1 : i_end], names[1][j + 1 : j_end]
            if all(inside):
                more = aligned(*inside, right_is_cut=cut and j_end == len(found))
                pairs += [(i + 1 + one, j + 1 + other) for one, other in more]
        return {self.slices[0][i]: self.slices[1][j] for i, j in sorted(pairs)}

    @cached_property
    def _likeliest_twin(self) -> int | None:
        """Eager's step of the operator that raised behind which the most alike ones are.

        None if eager has none behind which half of the artifact's are. It may have more: the
        artifact stores constants.
        """
        if self.artifact.raised is None:
            return None
        behind = _behind(self.artifact.steps, [self.artifact.raised])
        wanted = Counter(_kind(self.artifact.steps[number]) for number in behind)
        last = _name(self.artifact.steps[max(behind)])
        best, least = None, math.inf
        for number, step in enumerate(self.eager.steps):
            if _name(step) == last:
                found = Counter(
                    _kind(self.eager.steps[i]) for i in _behind(self.eager.steps, [number])
                )
                lacking = (wanted - found).total()
                apart = (found - wanted).total() + lacking
                if apart < least and lacking < wanted.total() / 2:
                    best, least = number, apart
        return best

    @cached_property
    def twins(self) -> Mapping[int, int]:
        """Eager's step for each step of the artifact that both have."""
        return {other: one for one, other in self.pairs.items()}

    def found(self) -> Introduced | None:
        """Return the place, the clearest first."""
        unclear: list[Introduced] = []
        for number, twin in self.pairs.items():
            if not self._gap(number, twin):
                continue
            item = self._look(self._operands(number, twin), number)
            if item is None:
                continue
            if item.structural.kind != "same" and self._gap(number, twin) > ROUNDING:
                return item  # the later steps carry it
            unclear.append(item)
        known = (item for item in unclear if item.structural.kind != "same")
        return self._ends() or next(known, None) or next(iter(unclear), None)

    def _gap(self, one: int, other: int) -> float:
        """Return how much the results of two steps differ, in epsilons; a crash is a result."""
        left, right = self.eager.steps[one].results, self.artifact.steps[other].results
        if other == self.artifact.raised or len(left) != len(right):
            return math.inf
        return max(map(_gap_of_results, left, right), default=0.0)

    # -- why a step differs ------------------------------------------------------------------------

    def _operands(self, number: int, twin: int) -> Iterator[tuple[str, Any, Any]]:
        """Yield the arguments that a step has on both sides, by name."""
        left = self.eager.steps[number].arguments
        right = self.artifact.steps[twin].arguments
        for name in left:
            if name in right and name not in _HOW:
                yield from _leaves(name, left[name], right[name])

    def _look(self, operands: Iterator[tuple[str, Any, Any]], number: int) -> Introduced | None:
        """Return how the operands of a step differ."""
        given = list(operands)
        return (
            self._constant(given, number)
            or self._stored(given, number)
            or self._computed(given, number)
            or self._others(given, number)
            or self._same(given, number)
        )

    def _constant(self, given: Sequence[tuple[str, Any, Any]], number: int) -> Introduced | None:
        step = self.eager.steps[number]
        if any(self._are_strangers(left, right) for _, left, right in given):
            return None
        for name, left, right in given:
            one, other = number_of(left), number_of(right)
            if one is NO_NUMBER or other is NO_NUMBER or equal(one, other):
                continue
            found = _other_constant(step.operator_name, name, one, other, step.where)
            return self._at(step, replace(found, read_at=self._read_at(number, one)))
        return None

    def _are_strangers(self, left: Any, right: Any) -> bool:
        """Return True if the steps that two operands come from have other twins than each other.

        Then the two steps that use them are alike, and need not be the same one.
        """
        if not (isinstance(left, FromStep) and isinstance(right, FromStep)):
            return False
        return (
            self.pairs.get(left.step, right.step) != right.step
            or self.twins.get(right.step, left.step) != left.step
        )

    def _read_at(self, number: int, constant: Any) -> SourceLine | None:
        """Return the last line before a step at which eager read a number from a tensor.

        A truth value, as an ``if`` reads it, is no 1.
        """
        for step in reversed(self.eager.steps[:number]):
            made = step.results[0].numbers if step.results else None
            alike = isinstance(made, bool) == isinstance(constant, bool)
            if step.name == READ and alike and equal(made, constant):
                return step.where
        return None

    def _read_on(self, line: SourceLine | None) -> SourceLine | None:
        """Return a line if eager reads a number from a tensor on it."""
        reads = (step.where for step in self.eager.steps if step.name == READ)
        return line if line is not None and line in reads else None

    def _stored(self, given: Sequence[tuple[str, Any, Any]], number: int) -> Introduced | None:
        step = self.eager.steps[number]
        for name, left, right in given:
            if not (isinstance(left, FromOutside) and isinstance(right, FromOutside)):
                continue
            if not gap(left.tensor, right.tensor):
                continue
            return self._at(
                step,
                Structural(
                    kind="stored",
                    operator=step.operator_name,
                    eager=left.name or describe(left.tensor),
                    artifact=right.name or describe(right.tensor),
                    argument=name,
                    where=left.where or step.where,
                    read_at=self._read_on(left.where or step.where),
                ),
            )
        return None

    def _computed(self, given: Sequence[tuple[str, Any, Any]], number: int) -> Introduced | None:
        """Return the operand that eager computes, and that is stored in the artifact."""
        for name, left, right in given:
            if not (isinstance(left, FromStep) and isinstance(right, FromOutside)):
                continue
            made = self.eager.steps[left.step]
            if right.name.startswith("inputs") or self._is_stored(left, right):
                continue
            return self._at(
                made,
                Structural(
                    kind="constant",
                    operator=made.operator_name,
                    eager=made.operator_name,
                    artifact=right.name or describe(right.tensor),
                    argument=name,
                    where=made.where,
                ),
            )
        return None

    def _others(self, given: Sequence[tuple[str, Any, Any]], number: int) -> Introduced | None:
        """Return the operators that made the operands on one side alone."""
        step = self.eager.steps[number]
        apart = [pair for _, *pair in given if not self._is_stored(*pair)]
        left = {item.step for item, _ in apart if isinstance(item, FromStep)}
        right = {item.step for _, item in apart if isinstance(item, FromStep)}
        return self._between(left, right, step)

    def _is_stored(self, left: Any, right: Any) -> bool:
        """Return True if the artifact has stored what eager computes, with the same numbers."""
        computed = isinstance(left, FromStep) and isinstance(right, FromOutside)
        return computed and is_among(self.eager.steps[left.step].results, right.tensor)

    def _between(
        self, left: Collection[int], right: Collection[int], step: Step | None
    ) -> Introduced | None:
        """Return the operators without a twin that end in these steps; ``step`` uses them."""
        wanted = _behind(self.eager.steps, [n for n in left if n not in self.pairs], self.pairs)
        found = _behind(self.artifact.steps, [n for n in right if n not in self.twins], self.twins)
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
                constant = self._constant(list(self._operands(number, twin)), number)
                if constant is not None:
                    return constant
        at = one[0] if one else step
        if at is None:
            at = other[0]
        return self._at(
            at,
            extra=other[0] if not one else None,
            structural=Structural(
                kind="other" if one and other else "missing" if one else "extra",
                operator=(one or other)[0].operator_name,
                eager=_names(one),
                artifact=_names(other),
                where=at.where,
            ),
        )

    def _same(self, given: Sequence[tuple[str, Any, Any]], number: int) -> Introduced:
        step = self.eager.steps[number]
        other = self.artifact.steps[self.pairs[number]]
        return self._at(
            step,
            Structural(
                kind="same",
                operator=step.operator_name,
                eager=_made(step),
                artifact=_made(other),
                where=step.where,
                draws=torch.Tag.nondeterministic_seeded in step.operator.tags,
            ),
        )

    def _ends(self) -> Introduced | None:
        """Return what differs if all operators that both sides have agree."""
        for path in () if self.artifact.raised is not None else self.differing:
            one, other = self.eager.last.get(path), self.artifact.last.get(path)
            left = [one.step] if isinstance(one, FromStep) else []
            right = [other.step] if isinstance(other, FromStep) else []
            last = self.eager.steps[left[0]] if left else None
            if left and right and self.pairs.get(left[0]) == right[0]:
                continue
            found = self._between(left, right, last)
            if found is not None:
                return found
        if self.artifact.raised is not None and self.artifact.raised not in self.twins:
            return self._raised(self.artifact.raised)
        return None

    def _raised(self, number: int) -> Introduced:
        """Return the artifact's last operator, which raised and has no twin in eager."""
        step = self.artifact.steps[number]
        behind = _behind(self.artifact.steps, [number], self.twins)
        return self._at(
            step,
            extra=step,
            structural=Structural(
                kind="extra",
                operator=step.operator_name,
                artifact=_names([self.artifact.steps[each] for each in sorted(behind)]),
                where=step.where,
            ),
        )

    def _at(self, step: Step, structural: Structural, extra: Step | None = None) -> Introduced:
        place = Place(
            operator=structural.operator,
            # Of an operator that eager has not, no module of eager's is known.
            module=step.module if extra is None else "",
            where=structural.read_at or structural.where,
        )
        return Introduced(place, structural, extra)


def _name(step: Step) -> str:
    name = row_of(step.name).same_as or step.name
    # Of two slices in a row the second is no twin of the first.
    return f"{name} of {step.arguments['dim']}" if name == "slice" else name


def _kind(step: Step) -> tuple[str, ...]:
    """Return what a step has in common with its twin whatever the sizes are."""
    outside = (item.name for item in step.arguments.values() if isinstance(item, FromOutside))
    return (_name(step), *filter(None, outside))


def _anchor(step: Step) -> tuple[str, ...]:
    """Return what a step has in common with its twin if neither sizes nor weights differ."""
    outside = (item for item in step.arguments.values() if isinstance(item, FromOutside))
    return (_name(step), _made(step), *(item.name for item in outside))


# -- the steps behind others -----------------------------------------------------------------------


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


# -- arguments and texts ---------------------------------------------------------------------------


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


def _other_constant(
    operator: str, argument: str, one: Any, other: Any, where: SourceLine | None
) -> Structural:
    """Return that an operator is given ``one`` by eager and ``other`` by the artifact."""
    real = isinstance(one, (bool, int, float)) and isinstance(other, (bool, int, float))
    return Structural(
        kind="constant",
        operator=operator,
        eager=_text(one),
        artifact=_text(other),
        argument=argument,
        numbers=(float(one), float(other)) if real else (),
        where=where,
    )


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _names(steps: Sequence[Step]) -> str:
    names = list(dict.fromkeys(step.operator_name for step in steps))
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _made(step: Step) -> str:
    """Return ``float32[2, 3]`` for what a step made."""
    results = (
        f"{str(item.dtype).removeprefix('torch.')}{list(item.shape)}" for item in step.results
    )
    return ", ".join(results)


# -- do two results agree? -------------------------------------------------------------------------
# Unlike outcomes/compare, which judges what a module returns: an intermediate result has no
# tolerance, and is compared on the scale of its largest number alone.


def gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return how much two tensors differ, in epsilons of the largest number; 0 if not at all."""
    if left is right or left.is_meta:
        return 0.0
    if left.dtype != right.dtype or left.device != right.device:
        return math.inf
    try:
        left, right = dense(left.detach()), dense(right.detach())
        if left.shape != right.shape:
            return math.inf
        if are_one_memory(left, right) or torch.equal(left, right):
            return 0.0
        same = (left == right) | ((left != left) & (right != right))
        if bool(same.all()):
            return 0.0
        if not (left.is_floating_point() or left.is_complex()):
            return math.inf
        apart = torch.where(same, 0.0, (left - right).abs().double())
        size = left.abs().double()
        largest = float(torch.where(torch.isfinite(size), size, 0.0).max())
    except (RuntimeError, NotImplementedError):  # a layout without these operators
        return 0.0
    if not largest or not bool(torch.isfinite(apart).all()):
        return math.inf
    return float(apart.max()) / (largest * torch.finfo(left.dtype).eps)


def _gap_of_results(left: Result, right: Result) -> float:
    if (left.shape, left.dtype, left.whole) != (right.shape, right.dtype, right.whole):
        return math.inf
    if isinstance(left.numbers, torch.Tensor) and isinstance(right.numbers, torch.Tensor):
        return gap(left.numbers, right.numbers)
    return 0.0 if equal(left.numbers, right.numbers) else math.inf


def is_among(results: Sequence[Result], tensor: torch.Tensor) -> bool:
    """Return True if a step made these numbers, or if that is not known."""
    made = [item.numbers for item in results if isinstance(item.numbers, torch.Tensor)]
    whole = all(item.whole for item in results)
    return not whole or any(not gap(item, tensor) for item in made)


def number_of(value: Any) -> Any:
    """Return a number, text or dtype; the number of a stored tensor of one; else ``NO_NUMBER``."""
    if isinstance(value, FromOutside):
        single = value.tensor.numel() == 1 and not value.tensor.dim() and not value.name
        return value.tensor.item() if single and not value.tensor.is_meta else NO_NUMBER
    return value if isinstance(value, (bool, int, float, complex, str, torch.dtype)) else NO_NUMBER


def equal(one: Any, other: Any) -> bool:
    """Return True if two numbers or texts are the same but for how Python and torch round."""
    if isinstance(one, (str, torch.dtype)) or isinstance(other, (str, torch.dtype)):
        return bool(one == other)
    if one is None or other is None:
        return one is other
    if isinstance(one, complex) or isinstance(other, complex):
        return bool(abs(one - other) <= CLOSE * abs(one))
    return math.isclose(one, other, rel_tol=CLOSE) or bool(one != one and other != other)
