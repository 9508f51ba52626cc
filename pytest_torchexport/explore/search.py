"""Search for calls within the input spec that take each outcome of each condition.

First come diverse seeds. Then each outcome that no call took is a goal, pursued from the call with
the smallest branch distance.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.explore import moves, seeds
from pytest_torchexport.explore.conditions import (
    MORE,
    NONE,
    ONCE,
    Condition,
    ConditionId,
    ConditionKey,
    ConditionOutcome,
    Path,
)
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.explore.pursuit import Base, Pursuit, World
from pytest_torchexport.explore.seeds import constants_of
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec

# The share of the budget that seeds may use.
SEED_SHARE = 0.3
# How often each outcome is pursued: from the nearest call, then from new ones.
ROUNDS = 3
# Moves that change sizes, and those that change numbers.
SIZES = ("size", "two sizes")
BY_VALUE = ("descend", "swap", "repeat", "descend")
# Calls kept per outcome, and in all: the first shows the outcome, a second guards against chance.
KEPT_PER_OUTCOME = 2
KEPT = 96
# Of a condition that fewer calls evaluated it is not known whether it depends on the input.
FEW_CALLS = 3
# Stands among names of dims for the values of any argument.
VALUES = "values"
ROUNDS_OF_LOOPS = (NONE, ONCE, MORE)
# Goal of a condition with the same row of outcomes on every call: another row, because the artifact
# may have the loop unrolled.
OTHERWISE = "otherwise"

Goal = tuple[ConditionKey, ConditionOutcome]


@dataclass(frozen=True)
class Found:
    """A call that eager accepts, and its path. ``searched`` is True unless a seed made the call."""

    recipe: Recipe
    decisions: tuple[Goal, ...]
    taken: frozenset[Goal]
    searched: bool = False


def found_on(recipe: Recipe, path: Path, *, searched: bool = False) -> Found:
    return Found(recipe, path.decisions(), frozenset(path.taken()), searched)


@dataclass
class Seen:
    """The facts about one condition in one module.

    ``counts`` says how often each outcome was taken. ``steers`` are the names of the dims that
    decide it, and ``VALUES`` if values do.
    """

    counts: Counter[ConditionOutcome] = field(default_factory=Counter)
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
    # Its outcomes on a call, in their order: at most two such rows, the second is another one.
    rows: set[tuple[object, ...]] = field(default_factory=set)

    @property
    def constant(self) -> bool:
        """Return True if no values changed it on several calls; sizes may have."""
        return not self.on_values and self.calls >= FEW_CALLS

    @property
    def depends(self) -> bool:
        """Return True if it may depend on the input: it varied, or compares tensors."""
        return self.varies or self.on_tensors

    @property
    def stays(self) -> bool:
        """Return True if tensors decided it several times on each call, always in the same way."""
        outcomes = [set(row) for row in self.rows]
        return self.on_tensors and len(outcomes) == 1 and len(outcomes[0]) > 1

    @property
    def on_values(self) -> bool:
        """Return True if values decide it, and not sizes alone."""
        return VALUES in self.steers

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


class Trials(World):
    """Runs calls of eager one by one.

    ``refused`` counts those that eager refuses. ``corpus`` are the calls that are kept.
    ``searching`` says that no seed makes the calls.
    """

    def __init__(
        self,
        spec: InputSpec,
        observed: Observed,
        before_call: Callable[[Recipe], None] | None = None,
    ) -> None:
        super().__init__(spec, before_call)
        self.refused = 0
        self.seen: dict[ConditionKey, Seen] = {}
        self.corpus: list[Found] = []
        self.searching = False
        # A value of ``time.perf_counter`` at which a call is cut.
        self.deadline = math.inf
        self._observed = observed
        self._paths: set[object] = set()
        # The call that came nearest to each outcome that it did not take.
        self.bases: dict[Goal, Base] = {}
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
        call = self._begin(recipe)
        path = self._observed.run(call, self.deadline) if call is not None else None
        if path is None:
            self.refused += 1
            return None
        self._learn(recipe, path)
        # Kept if its path or one of its outcomes is new or rare.
        found = found_on(recipe, path, searched=self.searching)
        taken = Counter(goal for known in self.corpus for goal in known.taken)
        rare = any(taken[goal] < KEPT_PER_OUTCOME for goal in found.taken)
        new = found.decisions not in self._paths and len(self.corpus) < KEPT
        if rare or new:
            self._paths.add(found.decisions)
            self.corpus.append(found)
        return path

    def _learn(self, recipe: Recipe, path: Path) -> None:
        sizes = self.spec.all_sizes(recipe.sizes)
        rows: dict[ConditionKey, list[object]] = {}
        for position, event in enumerate(path.events):
            if event.on_tensors or event.read:
                seen = self.seen.setdefault(event.key, Seen())
                seen.on_tensors |= event.on_tensors
                seen.read |= event.read
            if isinstance(event.outcome, bool):
                base = Base.at(event, position, recipe, path)
                self._keep_base((event.key, not event.outcome), base)
                self._keep_base((event.key, OTHERWISE), base)
                rows.setdefault(event.key, []).append(event.outcome)
        for key, marks in path.marks().items():
            seen = self.seen.setdefault(key, Seen())
            if key not in self._unsteady:
                seen.compare(marks, sizes)
                if len(seen.rows) < 2 and key in rows:
                    seen.rows.add(tuple(rows[key]))
        for key in path.loops:
            for wanted in ROUNDS_OF_LOOPS:
                self._keep_base((key, wanted), self.base_on(recipe, path, (key, wanted)))
        for (key, outcome), count in path.taken().items():
            self.seen[key].counts[outcome] += count

    def near(self, recipe: Recipe, goal: Goal) -> Base | None:
        path = self.run(recipe)
        return self.base_on(recipe, path, goal) if path is not None else None

    def probe(self, base: Base, goal: Goal) -> Probe | None:
        """Probe the base where it came nearest."""
        return super().probe(base, goal) if base.position is not None else None

    def _probe(self, call: Call, base: Base, goal: Goal) -> Probe | None:
        assert base.position is not None
        return self._observed.probe(call, base.position, base.wanted, self.deadline)

    def _keep_base(self, goal: Goal, base: Base) -> None:
        if base.far < self.bases.setdefault(goal, base).far:
            self.bases[goal] = base

    # -- what is known --------------------------------------------------------------------------

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

    def done(self, goal: Goal) -> bool:
        key, outcome = goal
        seen = self.seen[key]
        return not seen.stays if outcome == OTHERWISE else outcome in seen.counts

    def base_on(self, recipe: Recipe, path: Path, goal: Goal) -> Base:
        """Return the call as a base: the place on its path where it came nearest to the outcome."""
        key, wanted = goal
        if wanted in ROUNDS_OF_LOOPS:
            aim = ROUNDS_OF_LOOPS.index(wanted)
            lengths = [min(length, 2) for length in path.loops.get(key, [])]
            missing = min((abs(length - aim) for length in lengths), default=math.inf)
            return Base(recipe, missing, path=path)
        found = (
            Base.at(event, position, recipe, path)
            for position, event in enumerate(path.events)
            if event.key == key and event.outcome != wanted
        )
        return min(found, key=lambda base: base.far, default=Base(recipe, path=path))


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

    def __init__(
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
        self._stored = stored
        self._rng = random.Random(seed)
        self._constants = constants_of(observed.code.constants, observed.module)
        self._trials = Trials(spec, observed, before_call)
        self._rounds: Counter[Goal] = Counter()
        # Whether calls at random were made for a condition that may not depend on the input.
        self._at_random = False
        self._seeded = False

    def run(self, progress: Callable[[int, int], None]) -> Explored:
        """Search until every outcome was taken, nothing is left to try, or the budget is spent.

        ``progress`` is called with the number of calls made and the budget.
        """
        trials, budget = self._trials, self._budget
        trials.deadline = time.perf_counter() + budget.patience
        busy_until = time.thread_time() + budget.seconds
        stopped = ""
        with self._observed.installed():
            for _ in itertools.chain(self._begin(), self._pursue()):
                progress(trials.spent, budget.calls)
                made = f"{trials.spent} of {budget.calls} calls"
                if time.perf_counter() > trials.deadline:
                    stopped = f"{made}, in {budget.patience:g} s"
                    break
                if time.thread_time() > busy_until:
                    stopped = f"{made}, in {budget.seconds:g} s of processor time"
                    break
                if trials.spent >= budget.calls:
                    break
        return Explored(
            conditions=dict(self._observed.conditions),
            seen=trials.seen,
            corpus=tuple(trials.corpus),
            calls=trials.spent,
            refused=trials.refused,
            below=frozenset(filter(self._below, trials.open())),
            stopped=stopped,
            seeded=self._seeded,
        )

    def _begin(self) -> Iterator[None]:
        """Run the example, stored calls, and seeds; the example alone if it meets no condition."""
        trials = self._trials
        trials.begin()
        yield
        if not trials.seen:
            return  # the comparisons in the source, which are no tests, were all of tensors
        trials.searching = True
        for recipe in self._stored:
            trials.run(recipe)
            yield
        trials.searching = False
        most = max(1, int(SEED_SHARE * self._budget.calls))
        for kind in (seeds.plain, seeds.odd):
            for recipe in itertools.islice(kind(self._spec, self._constants, self._seed), most):
                trials.run(recipe)
                yield
            if not any(seen.depends for seen in trials.seen.values()):
                break  # odder values will not change that
        self._seeded = True

    def _pursue(self) -> Iterator[None]:
        """Pursue each outcome that is still open; then mutate calls."""
        trials = self._trials
        trials.searching = True
        while (goal := self._next()) is not None:
            yield from self._pursue_one(goal)
        while any(not self._is_doubtful(goal) for goal in trials.open()):
            known = [found.recipe for found in trials.corpus] or [example_recipe(self._spec)]
            start = self._rng.choice(known)
            trials.run(moves.mutated(self._spec, start, self._rng, self._constants))
            yield

    def _next(self) -> Goal | None:
        """Return the open outcome that was pursued least; None if none has a round left.

        Those whose condition was the same on several calls come last: most of them are of the
        configuration, and no input changes them. One to which no call has a distance waits a round.
        """
        staying = [(key, OTHERWISE) for key, seen in self._trials.seen.items() if seen.stays]
        left = (
            goal
            for goal in (*self._trials.open(doubtful=True), *staying)
            if self._rounds[goal]
            < (1 if self._is_doubtful(goal) or goal[1] == OTHERWISE else ROUNDS)
        )
        return min(
            left,
            key=lambda goal: (
                self._is_doubtful(goal),
                self._rounds[goal] + (not math.isfinite(self._trials.bases[goal].far)),
            ),
            default=None,
        )

    def _is_doubtful(self, goal: Goal) -> bool:
        """Return True if nothing shows that the condition depends on the input.

        A tensor that is compared may be one that no call changes, as the sum of a mask of ones.
        Calls at random for one of these are as good for the others.
        """
        return self._trials.seen[goal[0]].constant

    def _pursue_one(self, goal: Goal) -> Iterator[None]:
        """Make all moves towards an outcome, until a call takes it."""
        self._rounds[goal] += 1
        base = self._trials.bases[goal]
        if self._rounds[goal] > 1:
            seed = self._seed + self._trials.spent
            new = plain_recipe(self._spec, "normal", self._spec.example_sizes, seed)
            base = self._trials.near(new, goal) or base
        pursuit = Pursuit(self._trials, goal, base, rng=self._rng, constants=self._constants)
        for _ in pursuit.make(self._moves(goal)):
            yield
            if self._trials.done(goal):
                return

    def _moves(self, goal: Goal) -> Iterator[str]:
        on_tensors = self._trials.seen[goal[0]].on_tensors
        yield from ("write", *(() if on_tensors else SIZES), *BY_VALUE)
        if on_tensors:
            yield "size"
        doubtful = self._is_doubtful(goal)
        if not (doubtful and self._at_random):
            self._at_random |= doubtful
            yield "climb"

    def _below(self, goal: Goal) -> bool:
        """Return True if only a size below the minimum could take the outcome."""
        seen, base = self._trials.seen[goal[0]], self._trials.bases[goal]
        dims = [self._spec.dims[name] for name in seen.steers & self._spec.dims.keys()]
        if not dims or seen.on_values or not math.isfinite(base.far):
            return False
        return all(base.recipe.sizes.get(dim.name, dim.example) == dim.low for dim in dims)
