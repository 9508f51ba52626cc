"""Search for calls within the input spec that take each outcome of each condition.

First come diverse seeds. Then, for each outcome that no call took, the search starts from the call
with the smallest branch distance and applies four moves: write a compared value into the input,
step sizes and numbers, follow the gradient of the distance, climb at random. Each is weak where
another is strong: in a study of 53 modules, 200 calls took 90 % of the outcomes with neither
gradient nor written operands, and 98 % with both (docs/decisions/002-rewriting.md).
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.explore import moves
from pytest_torchexport.explore.conditions import (
    MORE,
    NONE,
    ONCE,
    Condition,
    ConditionId,
    ConditionOutcome,
)
from pytest_torchexport.explore.constants import constants_of
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.paths import ConditionKey, Event, Path
from pytest_torchexport.explore.probe import Number, Probe
from pytest_torchexport.inputs.recipes import Recipe, build, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import within_memory

# The share of the budget that seeds may use.
SEED_SHARE = 0.3
# How often each outcome is pursued, and with how many calls per move.
ROUNDS = 3
CLIMB = 25
GRADIENT_STEPS = 30
# A gradient step that leaves more than this part of the distance is as good as none.
PROGRESS = 0.985
MAX_WRITTEN = 12
HALVINGS = 8
MARCH = 6
# Stands among lengths of steps for a step of single elements.
SINGLE = 0.0
MOST_PLACES, FIRST_PLACES, PLACE_STEPS = 10, 2, 3
MOST_NUMBERS, SECANTS = 8, 3
# Calls kept per outcome, and in all: the first shows the outcome, a second guards against chance.
KEPT_PER_OUTCOME = 2
KEPT = 96
# A condition that fewer calls evaluated is pursued although it never varied.
FEW = 3
# Calls per outcome that the moves may start from.
BASES = 3
# Stands among names of dims for the values of any argument.
VALUES = "values"

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
    nearest (None: at no condition). ``side`` is that of ``Event.side`` there.
    """

    recipe: Recipe
    far: float = math.inf
    position: int | None = None
    side: int = 0


# The steps of a move. It returns the nearest call that it found, or the one it started from.
Moves = Generator[None, None, Base]


@dataclass
class Seen:
    """The facts about one condition in one module.

    ``counts`` says how often each outcome was taken. ``steers`` are the names of the dims that
    decide it, and ``VALUES`` if values do.
    """

    counts: dict[ConditionOutcome, int] = field(default_factory=dict)
    steers: set[str] = field(default_factory=set)
    # The marks of the condition on the first call that evaluated it, and the sizes of that call.
    first: tuple[object, Mapping[str, int]] | None = None
    # Whether it depends on the input: a flag of the configuration is the same on every call.
    varies: bool = False
    # How many calls evaluated it.
    calls: int = 0
    # Whether it compares tensors. Then it may depend on the input even if it never varied.
    on_tensors: bool = False

    @property
    def on_values(self) -> bool:
        """Return True if values decide it, and not sizes alone."""
        return VALUES in self.steers

    def compare(self, marks: object, sizes: Mapping[str, int]) -> None:
        """Learn from another call what decides the condition: values, or the one size changed."""
        self.calls += 1
        if self.first is None:
            self.first = marks, sizes
        known, at = self.first
        if marks != known:
            self.varies = True
            changed = [name for name in sizes if sizes[name] != at.get(name)]
            self.steers.update(changed[:1] if len(changed) == 1 else () if changed else (VALUES,))


@dataclass(frozen=True)
class Explored:
    """The result of a search.

    ``refused`` counts calls that eager refuses. ``below`` are outcomes that only a size below the
    dim's minimum could take, such as ``x.numel() == 0``: the nearest calls had the minimum.
    ``stopped`` says why the search ended early, or is empty. ``seeded`` is True if all kinds of
    seeds were run before it ended.
    """

    conditions: dict[ConditionId, Condition]
    seen: dict[ConditionKey, Seen]
    corpus: tuple[Found, ...]
    calls: int
    refused: int
    below: frozenset[Goal] = frozenset()
    stopped: str = ""
    seeded: bool = True


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a search may take.

    ``seconds`` are those of the processor, so that a forward that waits, or other work on the
    machine, changes nothing. ``patience`` are seconds by the clock.
    """

    calls: int
    seconds: float
    patience: float = math.inf


class Search:
    """One search with a budget. It is the same for the same seed."""

    def __init__(  # keyword-only configuration
        self,
        spec: InputSpec,
        observed: Observed,
        *,
        seed: int,
        budget: Budget,
        stored: Sequence[Recipe] = (),
        before_call: Callable[[Recipe], None] | None = None,
    ) -> None:
        self._spec = spec
        self._observed = observed
        self._seed = seed
        self._budget = budget
        self._calls = budget.calls
        self._stored = stored
        self._before_call = before_call
        self._rng = random.Random(seed)
        self._constants = constants_of(observed.code.constants, observed.module)
        self._spent = 0
        self._refused = 0
        self._seen: dict[ConditionKey, Seen] = {}
        self._corpus: list[Found] = []
        self._paths: set[object] = set()
        self._bases: dict[Goal, list[Base]] = {}
        self._first: dict[Goal, Base] = {}
        self._sides: dict[tuple[ConditionKey, int], Base] = {}
        self._tries: dict[Goal, int] = {}
        self._probed: tuple[object, Probe | None] | None = None
        self._searching = False
        self._seeded = False
        self._unsteady: frozenset[ConditionKey] = frozenset()

    def run(self, progress: Callable[[int, int], None]) -> Explored:
        """Search until every outcome was taken, nothing is left to try, or the budget is spent.

        ``progress`` is called with the number of calls made and the budget.
        """
        self._deadline = time.perf_counter() + self._budget.patience
        busy_until = time.thread_time() + self._budget.seconds
        stopped = ""
        with self._observed.installed():
            steps = itertools.chain(self._begin(), self._pursue())
            for _ in steps:
                progress(self._spent, self._calls)
                made = f"{self._spent} of {self._calls} calls"
                if time.perf_counter() > self._deadline:
                    stopped = f"{made}, in {self._budget.patience:g} s"
                    break
                if time.thread_time() > busy_until:
                    stopped = f"{made}, in {self._budget.seconds:g} s of processor time"
                    break
                if self._spent >= self._calls:
                    break
        return Explored(
            conditions=dict(self._observed.conditions),
            seen=self._seen,
            corpus=tuple(self._corpus),
            calls=self._spent,
            refused=self._refused,
            below=frozenset(filter(self._below, self._open())),
            stopped=stopped,
            seeded=self._seeded,
        )

    # -- the order of calls ---------------------------------------------------------------------

    def _begin(self) -> Iterator[None]:
        """Run the example, stored calls, and seeds; the example alone if there is no condition."""
        deadline, self._deadline = self._deadline, math.inf
        self._unsteady = self._not_repeatable(self._try(example_recipe(self._spec)))
        self._deadline = deadline
        yield
        if not self._observed.conditions:
            return
        self._searching = True
        for recipe in self._stored:
            self._try(recipe)
            yield
        self._searching = False
        most = max(1, int(SEED_SHARE * self._calls))
        for seeds in (
            moves.plain_seeds(self._spec, self._constants, self._seed),
            moves.odd_seeds(self._spec, self._constants, self._seed),
        ):
            for recipe in itertools.islice(seeds, most):
                self._try(recipe)
                yield
            if not any(seen.varies or seen.on_tensors for seen in self._seen.values()):
                break  # nothing depends on the input, and odder values will not change that
        self._seeded = True

    def _not_repeatable(self, first: Path | None) -> frozenset[ConditionKey]:
        """Return the conditions that differ when the same call is repeated.

        A clock or a counter decides them, and no input does.
        """
        call = build(self._spec, example_recipe(self._spec))
        again = self._observed.run(call) if call is not None else None
        if first is None or again is None:
            return frozenset()
        marks = again.marks()
        return frozenset(key for key, mark in first.marks().items() if mark != marks.get(key))

    def _pursue(self) -> Iterator[None]:
        """Pursue each outcome that is still open, in up to ``ROUNDS`` rounds; then mutate calls."""
        self._searching = True
        while True:
            goals = [goal for goal in self._open(FEW) if self._tries.get(goal, 0) < ROUNDS]
            if not goals:
                break
            for goal in goals:
                if not self._done(goal):
                    self._tries[goal] = self._tries.get(goal, 0) + 1
                    yield from self._pursue_one(goal)
        while any(True for _ in self._open()):
            self._try(moves.mutated(self._spec, self._any(), self._rng, self._constants))
            yield

    def _open(self, few: int = 0) -> Iterator[Goal]:
        """Yield the outcomes that no call took, of conditions that may depend on the input.

        Of one that fewer calls than ``few`` evaluated that is not known.
        """
        for key, seen in list(self._seen.items()):
            if seen.varies or seen.on_tensors or seen.calls < few:
                for outcome in self._observed.conditions[key[0]].outcomes:
                    if outcome not in seen.counts:
                        yield key, outcome

    def _below(self, goal: Goal) -> bool:
        """Return True if only a size below the minimum could take the outcome."""
        seen, bases = self._seen[goal[0]], self._bases.get(goal, [])
        dims = [self._spec.dims[name] for name in seen.steers & self._spec.dims.keys()]
        if not dims or seen.on_values or not bases or not math.isfinite(bases[0].far):
            return False
        return all(bases[0].recipe.sizes.get(dim.name, dim.example) == dim.low for dim in dims)

    def _done(self, goal: Goal) -> bool:
        key, outcome = goal
        return outcome in self._seen[key].counts

    def _any(self) -> Recipe:
        return self._rng.choice(self._corpus).recipe if self._corpus else example_recipe(self._spec)

    # -- one outcome ----------------------------------------------------------------------------

    def _pursue_one(self, goal: Goal) -> Iterator[None]:
        """Make all moves from a call. Each round starts from another one."""
        base = self._start(goal)
        on_values = self._seen[goal[0]].on_tensors
        by_value = (self._descend, self._repeat_rows, self._descend, self._halve, self._choose, self._steer)
        moves = (
            (self._write, *by_value, self._step_sizes)
            if on_values
            else (self._write, self._step_sizes, *by_value)
        )
        for move in (*moves, self._march):
            base = yield from move(goal, base)
            if self._done(goal):
                return
        if self._tries[goal] == ROUNDS or not self._has_slope(goal, base):
            yield from self._climb(goal, base)

    def _has_slope(self, goal: Goal, base: Base) -> bool:
        probe = self._probe(goal, base)
        return probe is not None and bool(probe.demands)

    def _start(self, goal: Goal) -> Base:
        """Return the nearest call, then the first that got to the condition, then a new one."""
        nearest = self._bases.get(goal) or [Base(self._any())]
        number = self._tries[goal] - 1
        if number == 0 or goal not in self._first:
            return nearest[number % len(nearest)]
        if number == 1:
            return self._first[goal]
        recipe = plain_recipe(self._spec, "normal", self._spec.example_sizes, self._seed + self._spent)
        path = self._try(recipe)
        return _base(recipe, path, goal) if path is not None else nearest[0]

    def _nearer(self, goal: Goal, base: Base, recipe: Recipe) -> Base:
        """Try a call; return it if it came nearer to the outcome, else the base."""
        path = self._try(recipe)
        found = _base(recipe, path, goal) if path is not None else base
        return found if found.far < base.far else base

    def _write(self, goal: Goal, base: Base) -> Moves:
        probe = self._probe(goal, base)
        start = base
        if probe is not None:
            yield
            written = moves.written(self._spec, start.recipe, probe, bool(goal[1]))
            for recipe in itertools.islice(written, MAX_WRITTEN):
                base = self._nearer(goal, base, recipe)
                yield
        return base

    def _step_sizes(self, goal: Goal, base: Base) -> Moves:
        """Step one size or number at a time, and double the step as long as it gets nearer."""
        for neighbour in moves.neighbours(self._spec, base.recipe):
            for way in (1, -1):
                steps, best = way, base.far
                while True:
                    recipe = neighbour(steps)
                    path = self._try(recipe) if recipe is not None else None
                    if recipe is None or path is None:
                        break
                    yield
                    if self._done(goal):
                        return base
                    now = _missing(path, goal)
                    if not now < best:
                        break
                    best, steps = now, steps * 2
        return base

    def _march(self, goal: Goal, base: Base) -> Moves:
        """Go on along slopes that saturated functions do not have, then descend.

        Not each step comes nearer: the distance is flat.
        """
        here = base
        for _ in range(MARCH):
            probe = self._probe(goal, here, saturated=True)
            if probe is None or not probe.demands:
                break
            if not probe.saturated:
                return base
            yield
            recipe = moves.stepped(self._spec, here.recipe, probe, moves.STEPS[0])
            path = self._try(recipe) if recipe is not None else None
            yield
            if recipe is None or path is None or self._done(goal):
                break
            here = _base(recipe, path, goal)
            base = here if here.far < base.far else base
        return (yield from self._descend(goal, base))

    def _descend(self, goal: Goal, base: Base) -> Moves:
        """Make Newton steps on the distance; if one does not help, try other step lengths.

        The next step is up to twice as long as one that helped.
        """
        lengths: tuple[float, ...] = (moves.STEPS[0], SINGLE, *moves.STEPS[1:])
        for _ in range(GRADIENT_STEPS):
            probe = self._probe(goal, base)
            if probe is None or not probe.demands:
                break
            yield
            for step in lengths:
                recipe = (
                    moves.stepped(self._spec, base.recipe, probe, step)
                    if step
                    else moves.singled(self._spec, base.recipe, probe)
                )
                if recipe is None:
                    return base
                found = self._nearer(goal, base, recipe)
                yield
                if self._done(goal):
                    return found
                if found.far < PROGRESS * base.far:
                    lengths = moves.lengths_after(step * base.far / found.far) if step else (SINGLE, *moves.STEPS)
                    base = found
                    break
            else:
                break
        return base

    def _choose(self, goal: Goal, base: Base) -> Moves:
        """Let other places be chosen: those that are compared in several steps, others in one."""
        for number in range(MOST_PLACES):
            here = base
            for _ in range(PLACE_STEPS if number < FIRST_PLACES else 1):
                probe = self._probe(goal, here)
                gaps = probe.places.get(number) if probe is not None else None
                if probe is None or not gaps or all(gap.missing <= 0 for gap in gaps):
                    break
                yield
                recipe = moves.stepped(self._spec, here.recipe, probe, moves.STEPS[0], gaps)
                path = self._try(recipe) if recipe is not None else None
                yield
                if self._done(goal):
                    return base
                if recipe is None or path is None:
                    break
                here = _base(recipe, path, goal)
        return base

    def _steer(self, goal: Goal, base: Base) -> Moves:
        """Change the numbers that were read last, one after the other."""
        for position in range(MOST_NUMBERS):
            probe = self._probe(goal, base)
            number = probe.numbers.get(position) if probe is not None else None
            if number is None or not number.gradients:
                break
            yield
            for amount in moves.amounts(number.value, base.far if position < 2 else None):
                found = yield from self._change(goal, base, number, amount)
                if self._done(goal):
                    return found
                if found.far < base.far:
                    base = found
                    break
        return base

    def _change(self, goal: Goal, base: Base, number: Number, amount: float) -> Moves:
        """Let a number rise; as long as the distance changes with it, extrapolate to where it ends."""
        here = best = base
        for _ in range(SECANTS):
            recipe = moves.steered(self._spec, here.recipe, number.gradients, amount)
            path = self._try(recipe) if recipe is not None else None
            yield
            if recipe is None or path is None:
                break
            found = _base(recipe, path, goal)
            best = found if found.far < best.far else best
            gained = here.far - found.far
            if self._done(goal) or not math.isfinite(gained) or not gained:
                break
            here, amount = found, amount * found.far / gained
        return best

    def _halve(self, goal: Goal, base: Base) -> Moves:
        """Look between the call and others beyond the outcome: there ``==`` and bands are met."""
        key, _ = goal
        for other in self._beyond(key, base):
            near, far = base.recipe, other
            for _ in range(HALVINGS):
                middle = moves.between(self._spec, near, far)
                path = self._try(middle) if middle is not None else None
                if middle is None or path is None:
                    break
                yield
                if self._done(goal):
                    return base
                if any(event.key == key and event.side == base.side for event in path.events):
                    near = middle
                else:
                    far = middle
        return base

    def _beyond(self, key: ConditionKey, base: Base) -> Iterator[Recipe]:
        """Yield a call on the other side of an equality, and one that does not get there."""
        opposite = self._sides.get((key, -base.side)) if base.side else None
        if opposite is not None:
            yield opposite.recipe
        for found in reversed(self._corpus):
            if all(known != key for known, _ in found.taken):
                yield found.recipe
                return

    def _repeat_rows(self, goal: Goal, base: Base) -> Moves:
        """Make calls whose rows are all equal: what one row needs, all have then."""
        for recipe in moves.repeated(self._spec, base.recipe):
            base = self._nearer(goal, base, recipe)
            yield
            if self._done(goal):
                break
        return base

    def _climb(self, goal: Goal, base: Base) -> Moves:
        """Change the call at random, and keep changes that do not get further away."""
        recipe, best = base.recipe, base.far
        for _ in range(CLIMB):
            changed = moves.mutated(self._spec, recipe, self._rng, self._constants)
            path = self._try(changed)
            yield
            if self._done(goal):
                break
            now = _missing(path, goal) if path is not None else math.inf
            if now <= best:
                recipe, best = changed, now
        return base

    def _probe(self, goal: Goal, base: Base, *, saturated: bool = False) -> Probe | None:
        """Probe the base where it came nearest. It takes one more call of eager, once."""
        if base.position is None or not isinstance(goal[1], bool):
            return None
        asked = base.recipe, base.position, goal[1], saturated
        if self._probed is None or self._probed[0] != asked:
            call = build(self._spec, base.recipe)
            if call is None:
                return None
            self._spent += 1
            found = self._observed.probe(
                call, base.position, goal[1], self._deadline, saturated=saturated
            )
            self._probed = asked, found
        return self._probed[1]

    # -- one call -------------------------------------------------------------------------------

    def _try(self, recipe: Recipe) -> Path | None:
        """Run a call and learn from its path. Return None if eager refuses the call."""
        self._spent += 1
        if self._before_call is not None:
            self._before_call(recipe)
        call = build(self._spec, recipe) if within_memory(self._spec, recipe.sizes) else None
        path = self._observed.run(call, self._deadline) if call is not None else None
        if path is None:
            self._refused += 1
            return None
        sizes = self._spec.example_sizes | dict(recipe.sizes)
        for position, event in enumerate(path.events):
            self._learn(event, position, recipe)
        for key, marks in path.marks().items():
            seen = self._seen.setdefault(key, Seen())
            if key not in self._unsteady:
                seen.compare(marks, sizes)
        for key, lengths in path.loops.items():
            for wanted in (NONE, ONCE, MORE):
                self._keep_base((key, wanted), Base(recipe, _loop_missing(lengths, wanted)))
        for (key, outcome), count in path.taken().items():
            counts = self._seen[key].counts
            counts[outcome] = counts.get(outcome, 0) + count
        self._keep(recipe, path)
        return path

    def _learn(self, event: Event, position: int, recipe: Recipe) -> None:
        if event.on_values:
            self._seen.setdefault(event.key, Seen()).on_tensors = True
        if isinstance(event.outcome, bool):
            far = event.distance if event.distance is not None else math.inf
            base = Base(recipe, far, position, event.side)
            self._keep_base((event.key, not event.outcome), base)
            known = self._sides.get((event.key, event.side))
            if known is None or far < known.far:
                self._sides[event.key, event.side] = base

    def _keep_base(self, goal: Goal, base: Base) -> None:
        kept = self._bases.setdefault(goal, [])
        if len(kept) == BASES and not base.far < kept[-1].far:
            return
        same = next((known for known in kept if known.recipe is base.recipe), None)
        if same is None:
            kept.append(base)
        elif base.far < same.far:
            kept[kept.index(same)] = base
        kept.sort(key=lambda known: known.far)
        del kept[BASES:]
        self._first.setdefault(goal, base)

    def _keep(self, recipe: Recipe, path: Path) -> None:
        """Add a call to the corpus if its path or one of its outcomes is new or rare."""
        found = found_on(recipe, path, searched=self._searching)
        rare = any(self._kept(goal) < KEPT_PER_OUTCOME for goal in found.taken)
        new = found.decisions not in self._paths and len(self._corpus) < KEPT
        if rare or new:
            self._paths.add(found.decisions)
            self._corpus.append(found)

    def _kept(self, goal: Goal) -> int:
        return sum(goal in found.taken for found in self._corpus)


def _base(recipe: Recipe, path: Path, goal: Goal) -> Base:
    """Return a call as a base: where on its path the condition was nearest to the outcome."""
    key, wanted = goal
    found = [
        Base(recipe, event.distance if event.distance is not None else math.inf, position, event.side)
        for position, event in enumerate(path.events)
        if event.key == key and event.outcome != wanted
    ]
    return min(found, key=lambda base: base.far, default=Base(recipe))


def _missing(path: Path, goal: Goal) -> float:
    """Return the distance of a path to an outcome; 0 if it takes the outcome."""
    key, wanted = goal
    if isinstance(wanted, str):
        return _loop_missing(path.loops.get(key, []), wanted)
    far = [
        0.0 if event.outcome == wanted else event.distance
        for event in path.events
        if event.key == key and (event.outcome == wanted or event.distance is not None)
    ]
    return min((item for item in far if item is not None), default=math.inf)


def _loop_missing(lengths: Sequence[int], wanted: ConditionOutcome) -> float:
    aim = {NONE: 0, ONCE: 1, MORE: 2}[str(wanted)]
    return min(
        (0 if wanted == MORE and length > aim else abs(length - aim) for length in lengths),
        default=math.inf,
    )
