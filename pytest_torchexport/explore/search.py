"""The search: calls, within the input spec, that take each outcome of each condition.

Diverse seeds first, then every outcome that is still open is gone for from the call that came nearest to
it: by writing what is compared into the input, by stepping sizes and numbers, along the gradient of the
distance, by climbing. Each is weak where another is strong (control-flow study: with neither gradient nor
written operands 90 % of outcomes at 200 calls, with both 98 %; feedback from coverage added nothing).
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.explore import moves
from pytest_torchexport.explore.conditions import MORE, NONE, ONCE, Outcome, Site
from pytest_torchexport.explore.constants import mined
from pytest_torchexport.explore.observed import Observed, Probe
from pytest_torchexport.explore.recorder import Event, Key, Path
from pytest_torchexport.inputs.recipes import Recipe, build, example_recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import within_memory

# The share of the calls that seeds may take, and how often and with how many calls an outcome is gone for.
SEED_SHARE = 0.3
ROUNDS = 3
CLIMB = 25
GRADIENT_STEPS = 10
MOST_WRITTEN = 12
# Calls kept per outcome, and in all: the first shows it, another guards against luck.
KEPT_PER_OUTCOME = 2
KEPT = 96
BASES = 3
# What steers a condition that is not decided by sizes.
VALUES = "values"

Goal = tuple[Key, Outcome]


@dataclass(frozen=True)
class Found:
    """A call that eager takes, and the path it took; ``searched`` where no seed made it."""

    recipe: Recipe
    decisions: tuple[Goal, ...]
    taken: frozenset[Goal]
    searched: bool = False


def found_on(recipe: Recipe, path: Path, *, searched: bool = False) -> Found:
    """A call by its path."""
    return Found(recipe, path.decisions(), frozenset(path.taken()), searched)


@dataclass(frozen=True, eq=False)
class Base:
    """A call to go for an outcome from: how far it was from it, and where on its path it came nearest (None:
    at no condition).
    """

    recipe: Recipe
    far: float = math.inf
    position: int | None = None


@dataclass
class Seen:
    """What is known of one condition in one module: how often it came out how, and what steers it: names of
    dims, and ``VALUES`` for values of any argument.
    """

    counts: dict[Outcome, int] = field(default_factory=dict)
    steers: set[str] = field(default_factory=set)
    # What it was made of, each time it came, on the first call that met it, and that call's sizes.
    first: tuple[object, Mapping[str, int]] | None = None
    # Whether inputs reach it at all: a flag of the configuration is the same on every call.
    varies: bool = False
    # Whether tensors are compared: what never varied so far may do so yet.
    on_tensors: bool = False

    @property
    def on_values(self) -> bool:
        """Whether sizes alone do not decide it."""
        return VALUES in self.steers

    def met(self, marks: object, sizes: Mapping[str, int]) -> None:
        """See what a call changed about it: its values alone, or one of its sizes."""
        if self.first is None:
            self.first = marks, sizes
        known, at = self.first
        if marks != known:
            self.varies = True
            changed = [name for name in sizes if sizes[name] != at.get(name)]
            self.steers.update(changed[:1] if len(changed) == 1 else () if changed else (VALUES,))


@dataclass(frozen=True)
class Explored:
    """What a search came to. ``stopped`` says why it ended early, where it did; ``below`` are outcomes that only
    sizes below the smallest could take: what came nearest had these (``x.numel() == 0``). ``seeded`` where values and
    sizes of all kinds were tried before it ended.
    """

    sites: dict[int, Site]
    seen: dict[Key, Seen]
    corpus: tuple[Found, ...]
    calls: int
    refused: int
    below: frozenset[Goal] = frozenset()
    stopped: str = ""
    seeded: bool = True


class Search:
    """One search, in so many calls and at most so many seconds; the same for the same seed."""

    def __init__(
        self,
        spec: InputSpec,
        observed: Observed,
        *,
        seed: int,
        calls: int,
        seconds: float,
        stored: Sequence[Recipe] = (),
    ) -> None:
        self._spec = spec
        self._observed = observed
        self._seed = seed
        self._calls = calls
        self._seconds = seconds
        self._stored = stored
        self._rng = random.Random(seed)
        self._constants = mined(observed.constants, observed.module)
        self._spent = 0
        self._refused = 0
        self._seen: dict[Key, Seen] = {}
        self._corpus: list[Found] = []
        self._paths: set[object] = set()
        self._bases: dict[Goal, list[Base]] = {}
        self._tries: dict[Goal, int] = {}
        self._searching = False
        self._seeded = False
        self._unsteady: frozenset[Key] = frozenset()

    def run(self, told: Callable[[int, int], None]) -> Explored:
        """Search until every outcome was taken, nothing is left to try, or the budget is spent."""
        self._deadline = time.perf_counter() + self._seconds
        stopped = ""
        with self._observed.watching():
            steps = itertools.chain(self._begin(), self._pursue())
            for _ in steps:
                told(self._spent, self._calls)
                if time.perf_counter() > self._deadline:
                    stopped = f"{self._spent} of {self._calls} calls in {self._seconds:g} s"
                    break
                if self._spent >= self._calls:
                    break
        return Explored(
            sites=dict(self._observed.sites),
            seen=self._seen,
            corpus=tuple(self._corpus),
            calls=self._spent,
            refused=self._refused,
            below=frozenset(filter(self._below, self._open())),
            stopped=stopped,
            seeded=self._seeded,
        )

    # -- what to try -----------------------------------------------------------------------------------

    def _begin(self) -> Iterator[None]:
        """The example, what was found before, and seeds. Ends at once where the code decides nothing."""
        deadline, self._deadline = self._deadline, math.inf
        self._unsteady = self._differs_by_itself(self._try(example_recipe(self._spec)))
        self._deadline = deadline
        yield
        if not self._observed.sites:
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
                break  # other values of the same kind will not change that
        self._seeded = True

    def _differs_by_itself(self, first: Path | None) -> frozenset[Key]:
        """Conditions that are otherwise on the very same call: a clock or a counter steers them, no input."""
        call = build(self._spec, example_recipe(self._spec))
        again = self._observed.run(call) if call is not None else None
        if first is None or again is None:
            return frozenset()
        marks = again.marks()
        return frozenset(key for key, mark in first.marks().items() if mark != marks.get(key))

    def _pursue(self) -> Iterator[None]:
        """Every outcome that is still open, one after the other, and round again."""
        self._searching = True
        while True:
            goals = [goal for goal in self._open() if self._tries.get(goal, 0) < ROUNDS]
            if not goals:
                break
            for goal in goals:
                if not self._done(goal):
                    self._tries[goal] = self._tries.get(goal, 0) + 1
                    yield from self._go_for(goal)
        while any(True for _ in self._open()):
            self._try(moves.mutated(self._spec, self._any(), self._rng, self._constants))
            yield

    def _open(self) -> Iterator[Goal]:
        """Outcomes that no call has taken, of conditions that the inputs may reach."""
        for key, seen in list(self._seen.items()):
            if seen.varies or seen.on_tensors:
                for outcome in self._observed.sites[key[0]].outcomes:
                    if outcome not in seen.counts:
                        yield key, outcome

    def _below(self, goal: Goal) -> bool:
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

    # -- one outcome -----------------------------------------------------------------------------------

    def _go_for(self, goal: Goal) -> Iterator[None]:
        """All moves, from a call that came near. Other rounds begin at other calls."""
        bases = self._bases.get(goal) or [Base(self._any())]
        base = bases[(self._tries[goal] - 1) % len(bases)]
        for move in (self._write, self._step_sizes, self._descend, self._climb):
            for _ in move(goal, base):
                yield
                if self._done(goal):
                    return

    def _write(self, goal: Goal, base: Base) -> Iterator[None]:
        probe = self._probe(goal, base)
        if probe is not None:
            yield
            written = moves.written(self._spec, base.recipe, probe, bool(goal[1]))
            for recipe in itertools.islice(written, MOST_WRITTEN):
                self._try(recipe)
                yield

    def _step_sizes(self, goal: Goal, base: Base) -> Iterator[None]:
        """One size or number at a time, faster as long as it gets nearer."""
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
        """Newton's steps on what is missing; where one does not help, a shorter and a longer one."""
        for _ in range(GRADIENT_STEPS):
            probe = self._probe(goal, base)
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
                    base = Base(recipe, now, _nearest(path, goal))
                    break
            else:
                return

    def _climb(self, goal: Goal, base: Base) -> Iterator[None]:
        """Changes at random, kept where they come nearer."""
        recipe, best = base.recipe, base.far
        for _ in range(CLIMB):
            changed = moves.mutated(self._spec, recipe, self._rng, self._constants)
            path = self._try(changed)
            yield
            now = _missing(path, goal) if path is not None else math.inf
            if now <= best:
                recipe, best = changed, now

    def _probe(self, goal: Goal, base: Base) -> Probe | None:
        """What the base knows where it came nearest; one more call of eager."""
        if base.position is None or not isinstance(goal[1], bool):
            return None
        call = build(self._spec, base.recipe)
        if call is None:
            return None
        self._spent += 1
        return self._observed.probe(call, base.position, goal[1], self._deadline)

    # -- one call --------------------------------------------------------------------------------------

    def _try(self, recipe: Recipe) -> Path | None:
        """Run a call and keep what it shows; None where eager refuses it."""
        self._spent += 1
        call = build(self._spec, recipe) if within_memory(self._spec, recipe.sizes) else None
        path = self._observed.run(call, self._deadline) if call is not None else None
        if path is None:
            self._refused += 1
            return None
        sizes = self._spec.example_sizes | dict(recipe.sizes)
        for position, event in enumerate(path.events):
            self._saw(event, position, recipe)
        for key, marks in path.marks().items():
            seen = self._seen.setdefault(key, Seen())
            if key not in self._unsteady:
                seen.met(marks, sizes)
        for key, lengths in path.loops.items():
            for wanted in (NONE, ONCE, MORE):
                self._keep_base((key, wanted), Base(recipe, _loop_missing(lengths, wanted)))
        for (key, outcome), count in path.taken().items():
            counts = self._seen[key].counts
            counts[outcome] = counts.get(outcome, 0) + count
        self._keep(recipe, path)
        return path

    def _saw(self, event: Event, position: int, recipe: Recipe) -> None:
        if event.on_values:
            self._seen.setdefault(event.key, Seen()).on_tensors = True
        if isinstance(event.outcome, bool):
            far = event.distance if event.distance is not None else math.inf
            self._keep_base((event.key, not event.outcome), Base(recipe, far, position))

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
        found = found_on(recipe, path, searched=self._searching)
        rare = any(self._kept(goal) < KEPT_PER_OUTCOME for goal in found.taken)
        room = len(self._corpus) < KEPT
        if rare or (room and found.decisions not in self._paths):
            self._paths.add(found.decisions)
            self._corpus.append(found)

    def _kept(self, goal: Goal) -> int:
        return sum(goal in found.taken for found in self._corpus)


def _nearest(path: Path, goal: Goal) -> int | None:
    """Where on a path the condition came nearest to coming out as wanted."""
    key, wanted = goal
    places = [
        (event.distance if event.distance is not None else math.inf, position)
        for position, event in enumerate(path.events)
        if event.key == key and event.outcome != wanted
    ]
    return min(places)[1] if places else None


def _missing(path: Path, goal: Goal) -> float:
    """How far a path is from an outcome: 0 where it takes it."""
    key, wanted = goal
    if isinstance(wanted, str):
        return _loop_missing(path.loops.get(key, []), wanted)
    far = [
        0.0 if event.outcome == wanted else event.distance
        for event in path.events
        if event.key == key and (event.outcome == wanted or event.distance is not None)
    ]
    return min((item for item in far if item is not None), default=math.inf)


def _loop_missing(lengths: Sequence[int], wanted: Outcome) -> float:
    aim = {NONE: 0, ONCE: 1, MORE: 2}[str(wanted)]
    return min(
        (0 if wanted == MORE and length > aim else abs(length - aim) for length in lengths),
        default=math.inf,
    )
