"""Find the operator that introduces a difference, given the recordings of eager and artifact.

Only steps that the differing outputs depend on are looked at, and of these the first whose results
differ: the operators after it carry the difference. Then the same operator with other arguments, or
with operands that other operators made, is told from one that gives other numbers on equal ones.
Nothing is run here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from pytest_torchexport.diagnosis.agreement import (
    NO_NUMBER,
    equal,
    error_of,
    is_among,
    number_of,
    results_differ,
    tensors_differ,
)
from pytest_torchexport.diagnosis.alignment import aligned
from pytest_torchexport.inputs.pytrees import describe
from pytest_torchexport.outcomes.operator_table import READ, row_of
from pytest_torchexport.outcomes.tape import (
    FromOutside,
    FromStep,
    Source,
    Step,
    Tape,
)
from pytest_torchexport.results.diagnosis import Place, Structural
from pytest_torchexport.results.source_line import SourceLine

# Differences up to this many epsilons of a tensor's largest number may be rounding: they are only
# looked at if there are no others.
ROUNDING = 64.0
# Arguments that say how and where a tensor is made, and not which numbers it holds.
_HOW = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking", "generator"})
# Operators that a report names of a side.
SHOWN = 4


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
        known = {self.slices[0][i]: self.slices[1][j] for i, j in sorted(pairs)}
        if self.artifact.raised is not None and self.artifact.raised not in known.values():
            known |= self._twin_of_raised(self.artifact.raised, known)
        return known

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

    def _twin_of_raised(self, raised: int, pairs: Mapping[int, int]) -> Mapping[int, int]:
        """Return the artifact's last operator beside the first of eager on the same operands.

        Eager runs what no output of the artifact depends on, as for a condition: for an alignment
        that ends there the operator may be one more.
        """
        last = self.artifact.steps[raised]
        for number, step in enumerate(self.eager.steps):
            if (
                number not in pairs
                and _name(step) == _name(last)
                and _from_twins(step, last, pairs)
            ):
                return {number: raised}
        return {}

    @cached_property
    def twins(self) -> Mapping[int, int]:
        """Eager's step for each step of the artifact that both have."""
        return {other: one for one, other in self.pairs.items()}

    def found(self) -> Introduced | None:
        """Return the place, the clearest first."""
        unclear: list[Introduced] = []
        for number, twin in self.pairs.items():
            if not self._differ(number, twin):
                continue
            item = self._look(self._operands(number, twin), number)
            if item is None:
                continue
            if item.structural.kind != "same" and self._error(number, twin) > ROUNDING:
                return item  # the later steps carry it
            unclear.append(item)
        known = (item for item in unclear if item.structural.kind != "same")
        return self._ends() or next(known, None) or next(iter(unclear), None)

    # -- the steps that differ ---------------------------------------------------------------------

    def _differ(self, one: int, other: int) -> bool:
        left, right = self.eager.steps[one].results, self.artifact.steps[other].results
        return (
            other == self.artifact.raised
            or len(left) != len(right)
            or any(results_differ(a, b) for a, b in zip(left, right, strict=True))
        )

    def _error(self, one: int, other: int) -> float:
        """Return how much the results of two steps that differ do so, in epsilons."""
        left, right = self.eager.steps[one].results, self.artifact.steps[other].results
        if other == self.artifact.raised or len(left) != len(right):
            return math.inf
        pairs = zip(left, right, strict=True)
        return max(error_of(a, b) for a, b in pairs if results_differ(a, b))

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
            if not tensors_differ(left.tensor, right.tensor):
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
        if not one and len(other) == 1 and other[0].name == "slice":
            return self._at(at, extra=other[0], structural=self._sliced(other[0], at))
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

    def _sliced(self, step: Step, at: Step) -> Structural:
        """Return how a slice of the artifact differs from all, which eager does not slice."""
        given = step.arguments["self"]
        made = self.artifact.steps[given.step].results[0] if isinstance(given, FromStep) else None
        shape = made.shape if made is not None else given.tensor.shape
        start = step.arguments["start"] or 0
        name, left, right = (
            ("start", 0, start)
            if start
            else ("end", shape[step.arguments["dim"]], step.arguments["end"])
        )
        return _other_constant(step.operator_name, name, left, right, at.where)

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


def _from_twins(step: Step, other: Step, pairs: Mapping[int, int]) -> bool:
    """Return True if two steps have tensors of the same sources, and at least one.

    The artifact may have a constant where a step of eager computes.
    """
    sources = [
        [item for item in each.arguments.values() if isinstance(item, Source)]
        for each in (step, other)
    ]
    return (
        bool(sources[0])
        and len(sources[0]) == len(sources[1])
        and all(_are_twins(one, two, pairs) for one, two in zip(*sources, strict=True))
        and not all(_is_constant(source) for source in sources[1])
    )


def _are_twins(one: Source, other: Source, pairs: Mapping[int, int]) -> bool:
    if isinstance(one, FromStep):
        return (
            pairs.get(one.step) == other.step
            if isinstance(other, FromStep)
            else _is_constant(other)
        )
    return isinstance(other, FromOutside) and one.name == other.name


def _is_constant(source: Source) -> bool:
    return isinstance(source, FromOutside) and not source.name


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
