"""Search for calls within the input spec that take each outcome of each condition.

First come diverse seeds. Then each outcome that no call took is a goal, pursued from the call with
the smallest branch distance.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.explore import moves, seeds
from pytest_torchexport.explore.conditions import (
    ROUNDS,
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
PURSUITS = 3
# Moves that change sizes, and those that change numbers.
SIZES = ("size", "two sizes")
BY_VALUE = ("swap", "repeat", "descend")
# Calls kept per outcome, and in all: the first shows the outcome, a second guards against chance.
KEPT_PER_OUTCOME = 2
KEPT = 96
# Of a condition that fewer calls evaluated it is not known whether it depends on the input.
FEW_CALLS = 3
# Stands among names of dims for the values of any argument.
VALUES = "values"
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
    # Whether it is a handler. What raises, and why, is not seen.
    handles: bool = False
    # Whether a call had another row of outcomes than the first one.
    moved: bool = False

    @property
    def constant(self) -> bool:
        """Return True if no values changed it on several calls; sizes may have."""
        return not self.on_values and self.calls >= FEW_CALLS

    @property
    def depends(self) -> bool:
        """Return True if it may depend on the input: it varied, or compares tensors."""
        return self.varies or self.on_tensors

    @property
    def suspected(self) -> bool:
        """Return True if more calls may show that it depends on the input."""
        return self.depends or self.read or self.handles

    @property
    def stays(self) -> bool:
        """Return True if tensors decided it several times on each call, always in the same way."""
        row = _outcomes(self.first[0]) if self.first is not None else []
        return self.on_tensors and not self.moved and len(set(row)) > 1

    @property
    def on_values(self) -> bool:
        return VALUES in self.steers

    def compare(self, marks: tuple[object, ...], sizes: Mapping[str, int]) -> None:
        """Learn from another call what decides the condition: values, or the one size changed."""
        self.calls += 1
        known, at = self.first = self.first or (marks, sizes)
        self.moved |= _outcomes(marks) != _outcomes(known)
        # How often a helper meets a condition does not change it.
        if set(marks) != set(known):
            self.varies = True
            changed = [name for name in sizes if sizes[name] != at.get(name)]
            self.steers.update(changed[:1] if len(changed) == 1 else () if changed else (VALUES,))


def _outcomes(marks: tuple[object, ...]) -> list[object]:
    """Return the row of outcomes of a condition on a call; of a loop there is none."""
    return [mark[0] for mark in marks if isinstance(mark, tuple)]


@dataclass(frozen=True)
class Explored:
    """The result of a search.

    ``below`` are outcomes that only a size below the dim's minimum could take, such as
    ``x.numel() == 0``: the nearest calls had the minimum. ``stopped`` says why the search ended
    early, or is empty. ``seeded`` is True if all kinds of seeds were run before it ended.
    """

    conditions: dict[ConditionId, Condition]
    seen: dict[ConditionKey, Seen]
    corpus: tuple[Found, ...]
    calls: int
    below: frozenset[Goal] = frozenset()
    stopped: str = ""
    seeded: bool = True


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a search may take.

    ``in_vain``: calls after the last that took a new outcome or came nearer to one. ``patience``:
    seconds by the clock.
    """

    calls: int
    in_vain: int
    patience: float = math.inf


class Search(World):
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
        super().__init__(spec, seed, before_call)
        self._observed = observed
        self._seed = seed
        self._budget = budget
        self._stored = stored
        self.constants = constants_of(observed.code.constants, observed.module)
        # How many calls were made when one took a new outcome, or came nearer to one.
        self._last_news = 0
        # A value of ``time.perf_counter`` at which a call is cut.
        self._deadline = math.inf
        self._seen: dict[ConditionKey, Seen] = {}
        # The calls that are kept, and the paths of them.
        self._corpus: list[Found] = []
        self._paths: set[object] = set()
        # Whether no seed makes the calls, and whether all kinds of seeds were made.
        self._searching = self._seeded = False
        # The call that came nearest to each outcome that it did not take.
        self._nearest: dict[Goal, Base] = {}
        self._rounds: Counter[Goal] = Counter()
        # Conditions that differ when the example is repeated.
        self._unsteady: frozenset[ConditionKey] = frozenset()
        # Whether calls at random were made for a condition that may not depend on the input.
        self._at_random = False

    def run(self, progress: Callable[[int, int], None]) -> Explored:
        """Search until every outcome was taken, nothing is left to try, or the budget is spent.

        ``progress`` is called with the number of calls made and the budget.
        """
        budget, stopped = self._budget, ""
        deadline = time.perf_counter() + budget.patience
        with self._observed.installed():
            for _ in itertools.chain(self._begin(), self._seeds(), self._pursue()):
                self._deadline = deadline  # the example alone is never cut
                progress(self.spent, budget.calls)
                if time.perf_counter() > deadline:
                    stopped = f"{self.spent} of {budget.calls} calls, in {budget.patience:g} s"
                    break
                if self.spent >= min(budget.calls, self._last_news + budget.in_vain):
                    break
        return Explored(
            conditions=dict(self._observed.conditions),
            seen=self._seen,
            corpus=tuple(self._corpus),
            calls=self.spent,
            below=frozenset(filter(self._below, self._open())),
            stopped=stopped,
            seeded=self._seeded,
        )

    # -- which calls ----------------------------------------------------------------------------

    def _begin(self) -> Iterator[None]:
        """Run the example, and once more if it meets conditions.

        Conditions that differ when it is repeated are decided by a clock or a counter, and by no
        input.
        """
        example = example_recipe(self.spec)
        first = self._make(example)
        met = first.marks() if first is not None else {}
        call = build(self.spec, example) if met else None
        again = self._observed.run(call) if call is not None else None
        if again is not None:
            marks = again.marks()
            self._unsteady = frozenset(key for key, mark in met.items() if mark != marks.get(key))
        yield

    def _seeds(self) -> Iterator[None]:
        """Run stored calls, and seeds; none if the example meets no condition."""
        if not self._seen:
            return  # the comparisons in the source, which are no tests, were all of tensors
        self._searching = True
        for recipe in self._stored:
            self._make(recipe)
            yield
        self._searching = False
        most = max(1, int(SEED_SHARE * self._budget.calls))
        for recipes in (
            seeds.first(self.spec, self._seed),
            seeds.plain(self.spec, self.constants, self._seed),
            seeds.odd(self.spec, self.constants, self._seed),
        ):
            for recipe in itertools.islice(recipes, most):
                self._make(recipe)
                yield
            if not any(seen.suspected for seen in self._seen.values()):
                break  # more of them are not likely to change that
        self._seeded = True

    def _pursue(self) -> Iterator[None]:
        """Pursue each outcome that is still open; then mutate calls."""
        self._searching = True
        while (goal := self._next()) is not None:
            pursuit = self._pursuit(goal)
            for _ in pursuit.make(self._moves(goal)):
                yield
                if self._done(goal):
                    break
        while any(not self._is_doubtful(goal) for goal in self._open()):
            known = [found.recipe for found in self._corpus] or [example_recipe(self.spec)]
            start = self.rng.choice(known)
            self._make(moves.mutated(self.spec, start, self.rng, self.constants))
            yield

    def _pursuit(self, goal: Goal) -> Pursuit:
        """Return a pursuit from the nearest call; after the first round, from a new one."""
        self._rounds[goal] += 1
        base = self._nearest[goal]
        if self._rounds[goal] > 1:
            seed = self._seed + self.spent
            new = plain_recipe(self.spec, "normal", self.spec.example_sizes, seed)
            base = self.near(new, goal) or base
        return Pursuit(self, goal, base)

    def _moves(self, goal: Goal) -> Iterator[str]:
        seen = self._seen[goal[0]]
        on_tensors = seen.on_tensors
        if seen.steers and not seen.on_values and not math.isfinite(self._nearest[goal].far):
            yield "every size"
        yield from ("write", *(() if on_tensors else SIZES), *BY_VALUE)
        if on_tensors:
            yield "size"
        doubtful = self._is_doubtful(goal)
        if not (doubtful and self._at_random):
            self._at_random |= doubtful
            yield "climb"

    # -- one call -------------------------------------------------------------------------------

    def _make(self, recipe: Recipe) -> Path | None:
        """Run a call and learn from its path. Return None if eager refuses the call."""
        call = self._call(recipe)
        path = self._observed.run(call, self._deadline) if call is not None else None
        if path is None:
            return None
        self._learn(recipe, path)
        # Kept if its path or one of its outcomes is new or rare.
        found = found_on(recipe, path, searched=self._searching)
        taken = Counter(goal for known in self._corpus for goal in known.taken)
        rare = any(taken[goal] < KEPT_PER_OUTCOME for goal in found.taken)
        new = found.decisions not in self._paths and len(self._corpus) < KEPT
        if rare or new:
            self._paths.add(found.decisions)
            self._corpus.append(found)
        return path

    def _learn(self, recipe: Recipe, path: Path) -> None:
        sizes = self.spec.all_sizes(recipe.sizes)
        for position, event in enumerate(path.events):
            if event.on_tensors or event.read:
                seen = self._seen.setdefault(event.key, Seen())
                seen.on_tensors |= event.on_tensors
                seen.read |= event.read
            if isinstance(event.outcome, bool):
                base = Base(recipe, event.far, position, path)
                self._keep((event.key, not event.outcome), base)
                self._keep((event.key, OTHERWISE), base)
        for key in path.loops:
            for wanted in ROUNDS:
                self._keep((key, wanted), self._base_on(recipe, path, (key, wanted)))
        for key, marks in path.marks().items():
            handles = self._observed.conditions[key[0]].kind == "except"
            seen = self._seen.setdefault(key, Seen(handles=handles))
            if key not in self._unsteady:
                seen.compare(marks, sizes)
        for (key, outcome), count in path.taken().items():
            counts = self._seen[key].counts
            if outcome not in counts:
                self._last_news = self.spent
            counts[outcome] += count

    def _keep(self, goal: Goal, base: Base) -> None:
        if base.far < self._nearest.setdefault(goal, base).far:
            self._nearest[goal] = base
            self._last_news = self.spent

    def near(self, recipe: Recipe, goal: Goal) -> Base | None:
        path = self._make(recipe)
        return self._base_on(recipe, path, goal) if path is not None else None

    def _base_on(self, recipe: Recipe, path: Path, goal: Goal) -> Base:
        """Return the call as a base: the place on its path where it came nearest to the outcome."""
        key, wanted = goal
        if wanted in ROUNDS:
            aim = ROUNDS.index(wanted)
            missing = [abs(min(length, 2) - aim) for length in path.loops.get(key, [])]
            return Base(recipe, min(missing, default=math.inf), path=path)
        found = (
            Base(recipe, event.far, position, path)
            for position, event in enumerate(path.events)
            if event.key == key and event.outcome != wanted
        )
        return min(found, key=lambda base: base.far, default=Base(recipe, path=path))

    def probe(self, base: Base, goal: Goal) -> Probe | None:
        """Probe a call at the condition where it came nearest; None if it is at none."""
        return super().probe(base, goal) if base.position is not None else None

    def _probe(self, call: Call, base: Base, goal: Goal) -> Probe | None:
        assert base.position is not None
        wanted = not base.path.events[base.position].outcome
        return self._observed.probe(call, base.position, wanted, self._deadline)

    # -- what is known --------------------------------------------------------------------------

    def _open(self, *, doubtful: bool = False) -> Iterator[Goal]:
        """Yield the outcomes that no call took, of conditions that may depend on the input.

        ``doubtful``: also of those that never varied, if they are read from tensors or few calls
        evaluated them; not if a clock or a counter decides them.
        """
        for key, seen in list(self._seen.items()):
            unsure = doubtful and key not in self._unsteady
            if seen.depends or (unsure and (seen.read or seen.calls < FEW_CALLS)):
                for outcome in self._observed.conditions[key[0]].outcomes:
                    if outcome not in seen.counts:
                        yield key, outcome

    def _done(self, goal: Goal) -> bool:
        key, outcome = goal
        seen = self._seen[key]
        return not seen.stays if outcome == OTHERWISE else outcome in seen.counts

    def _is_doubtful(self, goal: Goal) -> bool:
        """Return True if nothing shows that the condition depends on the input.

        A tensor that is compared may be one that no call changes, as the sum of a mask of ones.
        Calls at random for one of these are as good for the others.
        """
        return self._seen[goal[0]].constant

    def _next(self) -> Goal | None:
        """Return the open outcome that was pursued least; None if none has a round left.

        Those whose condition was the same on several calls come last: most of them are of the
        configuration, and no input changes them. One to which no call has a distance waits a round.
        """

        def left(goal: Goal) -> bool:
            once = self._is_doubtful(goal) or goal[1] == OTHERWISE
            return self._rounds[goal] < (1 if once else PURSUITS)

        def order(goal: Goal) -> tuple[bool, int]:
            waits = not math.isfinite(self._nearest[goal].far)
            return self._is_doubtful(goal), self._rounds[goal] + waits

        staying = [(key, OTHERWISE) for key, seen in self._seen.items() if seen.stays]
        every = itertools.chain(self._open(doubtful=True), staying)
        return min(filter(left, every), key=order, default=None)

    def _below(self, goal: Goal) -> bool:
        """Return True if only a size below the minimum could take the outcome."""
        seen, base = self._seen[goal[0]], self._nearest[goal]
        dims = [self.spec.dims[name] for name in seen.steers & self.spec.dims.keys()]
        if not dims or seen.on_values or not math.isfinite(base.far):
            return False
        return all(base.recipe.sizes.get(dim.name, dim.example) == dim.low for dim in dims)
