"""Search for calls within the input spec that take each outcome of each condition.

First come diverse seeds. Then, for each outcome that no call took, the search starts from the call
with the smallest branch distance and applies four moves: write a compared value into the input,
step sizes and numbers, follow the gradient of the distance, climb at random. Each is weak where
another is strong: in a study of 53 modules, 200 calls took 90 % of the outcomes with neither
gradient nor written operands, and 98 % with both (docs/decisions/002-rewriting.md). The same moves
make loops end earlier or later that end after one number of rounds on all calls.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.inputs.recipes import Recipe, build, example_recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import within_memory

# The share of the budget that seeds may use.
SEED_SHARE = 0.3
# How often each outcome is pursued, and with how many calls per move.
ROUNDS = 3
CLIMB = 25
GRADIENT_STEPS = 10
MAX_WRITTEN = 12
# Calls kept per outcome, and in all: the first shows the outcome, a second guards against chance.
KEPT_PER_OUTCOME = 2
KEPT = 96
# Calls per outcome that the moves may start from.
BASES = 3
# Stands among names of dims for the values of any argument.
VALUES = "values"
# Stands among outcomes for a condition that has both on the example, as that of a loop has: its
# outcomes in another order, so that the loop ends earlier or later.
ANOTHER_ORDER = "another order"

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
    nearest (None: at no condition). ``wanted`` is the outcome that the condition is to have there.
    """

    recipe: Recipe
    far: float = math.inf
    position: int | None = None
    wanted: bool = False


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
    # Whether it compares tensors. Then it may depend on the input even if it never varied.
    on_tensors: bool = False
    # Its outcomes, in their order, on the first call, and whether another call had another order.
    order: tuple[ConditionOutcome, ...] = ()
    reordered: bool = False

    @property
    def on_values(self) -> bool:
        """Return True if values decide it, and not sizes alone."""
        return VALUES in self.steers

    @property
    def one_order(self) -> bool:
        """Return True if values decide it several times, always with the same outcomes."""
        repeated = self.varies and self.on_tensors and len(set(self.order)) > 1
        return repeated and not self.reordered

    def compare(self, marks: object, sizes: Mapping[str, int]) -> None:
        """Learn from another call what decides the condition: values, or the one size changed."""
        if self.first is None:
            self.first = marks, sizes
        known, at = self.first
        if marks != known:
            self.varies = True
            changed = [name for name in sizes if sizes[name] != at.get(name)]
            self.steers.update(changed[:1] if len(changed) == 1 else () if changed else (VALUES,))

    def follow(self, order: tuple[ConditionOutcome, ...]) -> None:
        """Learn from a call whether the outcomes come in another order.

        It is the same one if a loop was only reached more or fewer times.
        """
        self.order = self.order or order
        self.reordered |= any(one != other for one, other in zip(self.order, order, strict=False))


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
        self._tries: dict[Goal, int] = {}
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
            goals = [*self._open(), *self._one_order()]
            goals = [goal for goal in goals if self._tries.get(goal, 0) < ROUNDS]
            if not goals:
                break
            for goal in goals:
                if not self._done(goal):
                    self._tries[goal] = self._tries.get(goal, 0) + 1
                    yield from self._pursue_one(goal)
        while any(True for _ in self._open()):
            self._try(moves.mutated(self._spec, self._any(), self._rng, self._constants))
            yield

    def _open(self) -> Iterator[Goal]:
        """Yield the outcomes that no call took, of conditions that may depend on the input."""
        for key, seen in list(self._seen.items()):
            if seen.varies or seen.on_tensors:
                for outcome in self._observed.conditions[key[0]].outcomes:
                    if outcome not in seen.counts:
                        yield key, outcome

    def _one_order(self) -> Iterator[Goal]:
        """Yield the goal of another order for each condition that has one order only."""
        for key, seen in list(self._seen.items()):
            if seen.one_order and (key, ANOTHER_ORDER) in self._bases:
                yield key, ANOTHER_ORDER

    def _below(self, goal: Goal) -> bool:
        """Return True if only a size below the minimum could take the outcome."""
        seen, bases = self._seen[goal[0]], self._bases.get(goal, [])
        dims = [self._spec.dims[name] for name in seen.steers & self._spec.dims.keys()]
        if not dims or seen.on_values or not bases or not math.isfinite(bases[0].far):
            return False
        return all(bases[0].recipe.sizes.get(dim.name, dim.example) == dim.low for dim in dims)

    def _done(self, goal: Goal) -> bool:
        key, outcome = goal
        seen = self._seen[key]
        return seen.reordered if outcome == ANOTHER_ORDER else outcome in seen.counts

    def _any(self) -> Recipe:
        return self._rng.choice(self._corpus).recipe if self._corpus else example_recipe(self._spec)

    # -- one outcome ----------------------------------------------------------------------------

    def _pursue_one(self, goal: Goal) -> Iterator[None]:
        """Make all moves from a near call. Each round starts from another call."""
        bases = self._bases.get(goal) or [Base(self._any())]
        base = bases[(self._tries[goal] - 1) % len(bases)]
        for move in (self._write, self._step_sizes, self._descend, self._climb):
            for _ in move(goal, base):
                yield
                if self._done(goal):
                    return

    def _write(self, goal: Goal, base: Base) -> Iterator[None]:
        probe = self._probe(base)
        if probe is not None:
            yield
            written = moves.written(self._spec, base.recipe, probe, base.wanted)
            for recipe in itertools.islice(written, MAX_WRITTEN):
                self._try(recipe)
                yield

    def _step_sizes(self, goal: Goal, base: Base) -> Iterator[None]:
        """Step one size or number at a time, and double the step as long as it gets nearer."""
        for neighbour in moves.neighbours(self._spec, base.recipe):
            for way in (1, -1):
                steps, best = way, base.far
                while True:
                    recipe = neighbour(steps)
                    path = self._try(recipe) if recipe is not None else None
                    if path is None:
                        break
                    yield
                    now = _missing(path, goal)
                    if not now < best:
                        break
                    best, steps = now, steps * 2

    def _descend(self, goal: Goal, base: Base) -> Iterator[None]:
        """Make Newton steps on the distance; if one does not help, try other step lengths."""
        for _ in range(GRADIENT_STEPS):
            probe = self._probe(base)
            if probe is None or not probe.gradients:
                return
            yield
            for step in moves.STEPS:
                recipe = moves.stepped(self._spec, base.recipe, probe, step)
                path = self._try(recipe) if recipe is not None else None
                yield
                if recipe is None or self._done(goal):
                    return
                now = _missing(path, goal) if path is not None else math.inf
                if path is not None and now < base.far:
                    base = _nearest(recipe, path, goal)
                    break
            else:
                return

    def _climb(self, goal: Goal, base: Base) -> Iterator[None]:
        """Change the call at random, and keep changes that do not get further away."""
        recipe, best = base.recipe, base.far
        for _ in range(CLIMB):
            changed = moves.mutated(self._spec, recipe, self._rng, self._constants)
            path = self._try(changed)
            yield
            now = _missing(path, goal) if path is not None else math.inf
            if now <= best:
                recipe, best = changed, now

    def _probe(self, base: Base) -> Probe | None:
        """Probe the base where it came nearest. It takes one more call of eager."""
        if base.position is None:
            return None
        call = build(self._spec, base.recipe)
        if call is None:
            return None
        self._spent += 1
        return self._observed.probe(call, base.position, base.wanted, self._deadline)

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
        for key, order in path.orders().items():
            self._seen[key].follow(order)
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
            base = Base(recipe, far, position, not event.outcome)
            self._keep_base((event.key, not event.outcome), base)
            if math.isfinite(far):
                self._keep_base((event.key, ANOTHER_ORDER), base)

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


def _nearest(recipe: Recipe, path: Path, goal: Goal) -> Base:
    """Return a call as the base at the place where the condition was nearest to the outcome."""
    key, wanted = goal
    places = [
        (event.distance if event.distance is not None else math.inf, position)
        for position, event in enumerate(path.events)
        if event.key == key and event.outcome != wanted
    ]
    if not places:
        return Base(recipe)
    far, position = min(places)
    return Base(recipe, far, position, not path.events[position].outcome)


def _missing(path: Path, goal: Goal) -> float:
    """Return the distance of a path to an outcome; 0 if it takes the outcome."""
    key, wanted = goal
    if wanted in (NONE, ONCE, MORE):
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
