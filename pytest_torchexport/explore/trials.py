"""Try calls, and remember what each of them showed about the conditions.

Separate from the search, which decides on the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pytest_torchexport.explore.conditions import MORE, NONE, ONCE, ConditionOutcome
from pytest_torchexport.explore.distance import operands_of
from pytest_torchexport.explore.numbers import Origin
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.paths import ConditionKey, Event, Path
from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.explore.provenance import Compared, Reduced, Uncompared
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf, ValueLeaf
from pytest_torchexport.inputs.strategies import within_memory

# Calls kept per outcome, and in all: the first shows the outcome, a second guards against chance.
KEPT_PER_OUTCOME = 2
KEPT = 96
# Calls per outcome that the search may start from.
BASES = 3
# Of a condition that fewer calls evaluated it is not known whether it depends on the input.
FEW_CALLS = 3
# Stands among names of dims for the values of any argument.
VALUES = "values"
# Stands among outcomes as the goal of a condition that has both in each call, as a loop's has: the
# same outcomes in another order, so that the loop ends earlier or later.
OUTCOMES_REORDERED = "its outcomes in another order"

Goal = tuple[ConditionKey, ConditionOutcome]


@dataclass(frozen=True)
class Found:
    """A call that eager accepts, and its path. ``searched`` is True unless a seed made the call."""

    recipe: Recipe
    decisions: tuple[Goal, ...]
    taken: frozenset[Goal]
    searched: bool = False


def found_on(recipe: Recipe, path: Path, *, searched: bool = False) -> Found:
    """Return the call with its path."""
    return Found(recipe, path.decisions(), frozenset(path.taken()), searched)


@dataclass(frozen=True, eq=False)
class Base:
    """A call to start from towards an outcome.

    ``far`` is its distance to the outcome, and ``position`` the place on its path where it came
    nearest (None: at no condition). ``wanted`` is the outcome that the condition is to have there,
    and ``side`` is that of ``Event.side``. ``path`` is the call's.
    """

    recipe: Recipe
    far: float = math.inf
    position: int | None = None
    wanted: bool = False
    side: int = 0
    path: Path = field(default_factory=Path)

    def deviation(self, other: Base) -> Base | None:
        """Return another call as a base at the condition where it leaves this call's path.

        It is to have this call's outcome there. None if it gets to ``position`` or loops otherwise.
        """
        mine = self.path.events[: self.position]
        for position, (event, left) in enumerate(zip(mine, other.path.events, strict=False)):
            if event.key != left.key:
                return None
            if event.outcome != left.outcome:
                return _base_at(left, position, other.recipe, other.path)
        return None


def _base_at(event: Event, position: int, recipe: Recipe, path: Path) -> Base:
    """Return the call as a base towards the outcome that an event did not have."""
    return Base(recipe, _far(event), position, not event.outcome, event.side, path)


@dataclass
class Seen:
    """The facts about one condition in one module.

    ``counts`` says how often each outcome was taken. ``steers`` are the names of the dims that
    decide it, and ``VALUES`` if values do.
    """

    counts: dict[ConditionOutcome, int] = field(default_factory=dict)
    steers: set[str] = field(default_factory=set)
    # The marks of the condition on the first call that evaluated it, and the sizes of that call.
    first: tuple[tuple[object, ...], Mapping[str, int]] | None = None
    # Whether it depends on the input: a flag of the configuration is the same on every call.
    varies: bool = False
    # How many calls evaluated it.
    calls: int = 0
    # Whether it compares tensors. Then it may depend on the input even if it never varied.
    on_tensors: bool = False
    # Whether the source reads an operand from a tensor; ``len`` of a result is no tensor.
    read: bool = False
    # Whether it is a loop that a call left before its end.
    left: bool = False
    # Its outcomes, in their order, on the first call, and whether another call had another order.
    order: tuple[ConditionOutcome, ...] = ()
    reordered: bool = False

    @property
    def constant(self) -> bool:
        """Return True if it was the same on several calls."""
        return not self.varies and self.calls >= FEW_CALLS

    @property
    def depends(self) -> bool:
        """Return True if it may depend on the input: it varied, or compares tensors."""
        return self.varies or self.on_tensors

    @property
    def on_values(self) -> bool:
        """Return True if values decide it, and not sizes alone."""
        return VALUES in self.steers

    @property
    def one_order(self) -> bool:
        """Return True if values decide it several times, always with the same outcomes."""
        repeated = self.varies and self.on_tensors and len(set(self.order)) > 1
        return repeated and not self.reordered

    def compare(self, marks: tuple[object, ...], sizes: Mapping[str, int]) -> None:
        """Learn from another call what decides the condition: values, or the one size changed."""
        self.calls += 1
        if self.first is None:
            self.first = marks, sizes
        known, at = self.first
        # How often a helper meets a condition does not change it.
        if set(marks) != set(known):
            self.varies = True
            changed = [name for name in sizes if sizes[name] != at.get(name)]
            self.steers.update(changed[:1] if len(changed) == 1 else () if changed else (VALUES,))

    def follow(self, order: tuple[ConditionOutcome, ...]) -> None:
        """Learn from a call whether the outcomes come in another order.

        It is the same one if a loop was only reached more or fewer times.
        """
        self.order = self.order or order
        self.reordered |= any(one != other for one, other in zip(self.order, order, strict=False))


class Trials:
    """Runs calls of eager one by one.

    ``spent`` counts them, and those of probes; ``refused`` those that eager refuses. ``corpus`` are
    the calls that are kept. ``searching`` says that no seed makes the calls.
    """

    def __init__(
        self,
        spec: InputSpec,
        observed: Observed,
        before_call: Callable[[Recipe], None] | None = None,
    ) -> None:
        self.spec = spec
        self.spent = self.refused = 0
        self.seen: dict[ConditionKey, Seen] = {}
        self.corpus: list[Found] = []
        self.searching = False
        # A value of ``time.perf_counter`` at which a call is cut.
        self.deadline = math.inf
        self._observed = observed
        self._before_call = before_call
        self._paths: set[object] = set()
        self._bases: dict[Goal, list[Base]] = {}
        self._first: dict[Goal, Base] = {}
        self._sides: dict[tuple[ConditionKey, int], Base] = {}
        self._probed: tuple[object, Probe | None] | None = None
        self._unsteady: frozenset[ConditionKey] = frozenset()

    # -- one call -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Run the example, and once more if it meets conditions.

        Conditions that differ when it is repeated are decided by a clock or a counter, and by no
        input.
        """
        deadline, self.deadline = self.deadline, math.inf
        first = self.run(example_recipe(self.spec))
        self.deadline = deadline
        met = first.marks() if first is not None else {}
        call = build(self.spec, example_recipe(self.spec)) if met else None
        again = self._observed.run(call) if call is not None else None
        if again is not None:
            marks = again.marks()
            self._unsteady = frozenset(key for key, mark in met.items() if mark != marks.get(key))

    def run(self, recipe: Recipe) -> Path | None:
        """Run a call and learn from its path. Return None if eager refuses the call."""
        self.spent += 1
        if self._before_call is not None:
            self._before_call(recipe)
        call = build(self.spec, recipe) if within_memory(self.spec, recipe.sizes) else None
        path = self._observed.run(call, self.deadline) if call is not None else None
        if path is None:
            self.refused += 1
            return None
        sizes = self.spec.all_sizes(recipe.sizes)
        for position, event in enumerate(path.events):
            self._learn(event, position, recipe, path)
        for key, marks in path.marks().items():
            seen = self.seen.setdefault(key, Seen())
            if key not in self._unsteady:
                seen.compare(marks, sizes)
        for key, order in path.orders().items():
            self.seen[key].follow(order)
        for key, lengths in path.loops.items():
            ended = sum(event.key == key and not event.outcome for event in path.events)
            self.seen[key].left |= ended < len(lengths)
            for wanted in (NONE, ONCE, MORE):
                self._keep_base((key, wanted), self._loop_base(recipe, path, key, wanted))
        for (key, outcome), count in path.taken().items():
            counts = self.seen[key].counts
            counts[outcome] = counts.get(outcome, 0) + count
        self._keep(recipe, path)
        return path

    def probe(self, base: Base, *, saturated: bool = False, origins: bool = False) -> Probe | None:
        """Probe the base where it came nearest. It takes one more call of eager, once."""
        if base.position is None:
            return None
        asked = base.recipe, base.position, base.wanted, saturated
        if self._probed is None or self._probed[0] not in ((*asked, origins), (*asked, True)):
            call = build(self.spec, base.recipe)
            if call is None:
                return None
            self.spent += 1
            found = self._observed.probe(
                call,
                base.position,
                base.wanted,
                self.deadline,
                saturated=saturated,
                origins=origins,
            )
            self._probed = (*asked, origins), found
        return self._probed[1]

    def only_sizes_matter(self, base: Base) -> bool:
        """Return True if the numbers that decide at the base are the same on every legal call.

        As in ``mask.all()``, if the mask of the example is all ones.
        """
        if self.spec.map is not None or any(map(_is_varied_argument, self.spec.leaves)):
            return False
        probe = self.probe(base, origins=True)
        if probe is None or not isinstance(probe.provenance, (Compared, Reduced, Uncompared)):
            return False
        compared = operands_of(probe.provenance)
        tensors = [item for item in compared if not isinstance(item, (bool, int, float))]
        # What was told before may be what they are compared, computed or cut off with.
        origins = [*map(probe.tape.of, tensors), *probe.told]
        return bool(tensors) and all(map(self._is_fixed, origins))

    def _is_fixed(self, origin: Origin | None) -> bool:
        """Return True if a tensor is computed from inputs alone whose numbers never vary."""
        inputs = origin.inputs() if origin is not None else None
        leaves = [self.spec.leaves[index] for index in inputs or ()]
        return bool(leaves) and all(
            isinstance(leaf, TensorLeaf) and leaf.domain.is_one_value for leaf in leaves
        )

    def _learn(self, event: Event, position: int, recipe: Recipe, path: Path) -> None:
        if event.on_values or event.read:
            seen = self.seen.setdefault(event.key, Seen())
            seen.on_tensors |= event.on_values
            seen.read |= event.read
        if isinstance(event.outcome, bool):
            base = _base_at(event, position, recipe, path)
            self._keep_base((event.key, not event.outcome), base)
            if math.isfinite(base.far):
                self._keep_base((event.key, OUTCOMES_REORDERED), base)
            known = self._sides.get((event.key, event.side))
            if known is None or base.far < known.far:
                self._sides[event.key, event.side] = base

    def _keep_base(self, goal: Goal, base: Base) -> None:
        kept = self._bases.setdefault(goal, [])
        self._first.setdefault(goal, base)
        if len(kept) == BASES and not base.far < kept[-1].far:
            return
        same = next((known for known in kept if known.recipe is base.recipe), None)
        if same is None:
            kept.append(base)
        elif base.far < same.far:
            kept[kept.index(same)] = base
        kept.sort(key=lambda known: known.far)
        del kept[BASES:]

    def _keep(self, recipe: Recipe, path: Path) -> None:
        """Add a call to the corpus if its path or one of its outcomes is new or rare."""
        found = found_on(recipe, path, searched=self.searching)
        rare = any(self._kept(goal) < KEPT_PER_OUTCOME for goal in found.taken)
        new = found.decisions not in self._paths and len(self.corpus) < KEPT
        if rare or new:
            self._paths.add(found.decisions)
            self.corpus.append(found)

    def _kept(self, goal: Goal) -> int:
        return sum(goal in found.taken for found in self.corpus)

    # -- what is known --------------------------------------------------------------------------

    def depend_on_inputs(self) -> bool:
        """Return True if some condition may depend on the input."""
        return any(seen.depends for seen in self.seen.values())

    def open(self, *, doubtful: bool = False) -> Iterator[Goal]:
        """Yield the outcomes that no call took, of conditions that may depend on the input.

        ``doubtful``: also of those that never varied, if they are read from tensors or few calls
        evaluated them; not if a clock or a counter decides them.
        """
        for key, seen in list(self.seen.items()):
            unsure = doubtful and key not in self._unsteady
            if seen.depends or (unsure and (seen.read or seen.calls < FEW_CALLS)):
                for outcome in self._observed.conditions[key[0]].outcomes:
                    if outcome not in seen.counts:
                        yield key, outcome

    def one_order(self) -> Iterator[Goal]:
        """Yield the goal of another order for each condition that has one order only."""
        for key, seen in list(self.seen.items()):
            if seen.one_order and (key, OUTCOMES_REORDERED) in self._bases:
                yield key, OUTCOMES_REORDERED

    def done(self, goal: Goal) -> bool:
        """Return True if a call took the outcome."""
        key, outcome = goal
        seen = self.seen[key]
        return seen.reordered if outcome == OUTCOMES_REORDERED else outcome in seen.counts

    def base_on(self, recipe: Recipe, path: Path, goal: Goal) -> Base:
        """Return the call as a base: the place on its path where it came nearest to the outcome."""
        key, wanted = goal
        if wanted in (NONE, ONCE, MORE):
            return self._loop_base(recipe, path, key, wanted)
        found = (
            _base_at(event, position, recipe, path)
            for position, event in enumerate(path.events)
            if event.key == key and event.outcome != wanted
        )
        return min(found, key=lambda base: base.far, default=Base(recipe, path=path))

    def _loop_base(
        self, recipe: Recipe, path: Path, key: ConditionKey, wanted: ConditionOutcome
    ) -> Base:
        """Return the call as a base towards a number of rounds.

        A loop that calls leave may be left in its first round: there the last condition decides.
        """
        missing = _rounds_missing(path.loops.get(key, []), wanted)
        begun = [i for i, event in enumerate(path.events) if event.key == key and event.outcome]
        if wanted == ONCE and missing and self.seen[key].left and len(begun) > 1:
            for position in range(begun[1] - 1, begun[0], -1):
                event = path.events[position]
                if event.on_values and math.isfinite(_far(event)):
                    base = _base_at(event, position, recipe, path)
                    return replace(base, far=base.far / (1 + base.far))
        return Base(recipe, missing, path=path)

    def bases(self, goal: Goal) -> list[Base]:
        """Return the calls that came nearest to an outcome, the nearest first."""
        return self._bases.get(goal, [])

    def first(self, goal: Goal) -> Base | None:
        """Return the first call that got to the condition and did not take the outcome."""
        return self._first.get(goal)

    def beyond(self, goal: Goal, base: Base) -> Iterator[Recipe]:
        """Yield a call on the other side of an equality, and one that does not get there."""
        key, _ = goal
        opposite = self._sides.get((key, -base.side)) if base.side else None
        if opposite is not None:
            yield opposite.recipe
        for found in reversed(self.corpus):
            if all(known != key for known, _ in found.taken):
                yield found.recipe
                return


def _is_varied_argument(leaf: TensorLeaf | ValueLeaf) -> bool:
    """Return True for a Python argument that has other values on other calls."""
    return isinstance(leaf, ValueLeaf) and bool(leaf.values is not None or leaf.recorded)


def _far(event: Event) -> float:
    return math.inf if event.distance is None else event.distance


def _rounds_missing(lengths: list[int], wanted: ConditionOutcome) -> float:
    aim = {NONE: 0, ONCE: 1, MORE: 2}[str(wanted)]
    return min(
        (0 if wanted == MORE and length > aim else abs(length - aim) for length in lengths),
        default=math.inf,
    )
