"""Search for calls within the input spec that take each outcome of each condition.

First come diverse seeds. Then each outcome that no call took is pursued, from the call with the
smallest branch distance and from others.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.explore import seeds
from pytest_torchexport.explore.conditions import Condition, ConditionId
from pytest_torchexport.explore.constants import constants_of
from pytest_torchexport.explore.moves import mutated
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.paths import ConditionKey
from pytest_torchexport.explore.pursuit import Pursuit
from pytest_torchexport.explore.trials import Base, Found, Goal, Seen, Trials
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import InputSpec

# The share of the budget that seeds may use.
SEED_SHARE = 0.3
# How often each outcome is pursued.
ROUNDS = 3


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
        self._stored = stored
        self._rng = random.Random(seed)
        self._constants = constants_of(observed.code.constants, observed.module)
        self._trials = Trials(spec, observed, before_call)
        self._rounds: dict[Goal, int] = {}
        self._used: dict[Goal, list[Recipe]] = {}
        self._given_up: set[Goal] = set()
        # How often calls at random were made for conditions that may not depend on the input.
        self._at_random = 0
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
            if not trials.depend_on_inputs():
                break  # odder values will not change that
        self._seeded = True

    def _pursue(self) -> Iterator[None]:
        """Pursue each outcome that is still open, in up to ``ROUNDS`` rounds; then mutate calls."""
        trials = self._trials
        trials.searching = True
        while (goal := self._next()) is not None:
            yield from self._pursue_one(goal)
        while any(goal not in self._given_up for goal in trials.open()):
            trials.run(mutated(self._spec, self._any(), self._rng, self._constants))
            yield

    def _next(self) -> Goal | None:
        """Return the open outcome that was pursued least; None if none has a round left.

        Those whose condition was the same on several calls come last: most of them are of the
        configuration, and no input changes them. One to which no call has a distance waits a round.
        """
        goals = [*self._trials.open(doubtful=True), *self._trials.one_order()]
        left = [goal for goal in goals if self._has_rounds_left(goal)]
        return min(left, key=self._turn, default=None)

    def _has_rounds_left(self, goal: Goal) -> bool:
        most = 1 if self._is_doubtful(goal) else ROUNDS
        return goal not in self._given_up and self._rounds.get(goal, 0) < most

    def _is_doubtful(self, goal: Goal) -> bool:
        """Return True if nothing shows that the condition depends on the input.

        Calls at random for one of these are as good for the others.
        """
        seen = self._trials.seen[goal[0]]
        return seen.constant and not seen.on_tensors

    def _turn(self, goal: Goal) -> int:
        trials = self._trials
        measured = any(math.isfinite(base.far) for base in trials.bases(goal))
        waits = ROUNDS if trials.seen[goal[0]].constant else 0
        return self._rounds.get(goal, 0) + waits + (not measured)

    def _pursue_one(self, goal: Goal) -> Iterator[None]:
        """Make all moves towards an outcome once, until a call takes it."""
        number = self._rounds[goal] = self._rounds.get(goal, 0) + 1
        base = self._start(goal)
        pursuit = Pursuit(self._trials, goal, base, self._rng, self._constants)
        if self._trials.only_sizes_matter(base):
            self._given_up.add(goal)
            made = pursuit.of_sizes()
        else:
            doubtful = self._is_doubtful(goal)
            at_random = not doubtful or self._at_random < ROUNDS
            made = pursuit.calls(last=number == ROUNDS, at_random=at_random)
            self._at_random += doubtful
        for _ in made:
            yield
            if self._trials.done(goal):
                return

    def _start(self, goal: Goal) -> Base:
        """Return a call not yet started from: the nearest, the first that got there, a new one."""
        known, first = self._trials.bases(goal), self._trials.first(goal)
        for base in (*known[:1], *([first] if first is not None else []), *known[1:]):
            used = self._used.setdefault(goal, [])
            if all(base.recipe is not recipe for recipe in used):
                used.append(base.recipe)
                return base
        seed = self._seed + self._trials.spent
        recipe = plain_recipe(self._spec, "normal", self._spec.example_sizes, seed)
        path = self._trials.run(recipe)
        return self._trials.base_on(recipe, path, goal) if path is not None else Base(self._any())

    def _any(self) -> Recipe:
        corpus = self._trials.corpus
        return self._rng.choice(corpus).recipe if corpus else example_recipe(self._spec)

    def _below(self, goal: Goal) -> bool:
        """Return True if only a size below the minimum could take the outcome."""
        seen, bases = self._trials.seen[goal[0]], self._trials.bases(goal)
        dims = [self._spec.dims[name] for name in seen.steers & self._spec.dims.keys()]
        if not dims or seen.on_values or not bases or not math.isfinite(bases[0].far):
            return False
        return all(bases[0].recipe.sizes.get(dim.name, dim.example) == dim.low for dim in dims)
