"""Move a call towards a goal: an outcome of a condition, or thresholds of operators.

A goal is a set of demands: numbers of a call that are to be above, below or at other numbers. A
``Probe`` says how far a call is from them and which way leads there. Each move is weak where
another is strong, and all start from the nearest call so far.
"""

from __future__ import annotations

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_torchexport.explore import moves
from pytest_torchexport.explore.conditions import Path
from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.inputs.strategies import within_memory

# Calls with numbers written into the input.
WRITTEN = 12
# Steps along slopes. One that leaves more than this part of the distance does not help.
STEPS, PROGRESS = 30, 0.985
# Steps back to conditions that a step has lost, before it is given up.
REPAIRS = 3
# Rounds of replaced indices, changes at random.
SWAPS, CLIMB = 8, 25
# Values of one size for which another one is changed.
LINES = 16
# Sizes on either side that are tried where nothing tells how far away the goal is.
SIZES = 48
# Nearer than this is as near as it gets.
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Base:
    """A call to start from towards a goal.

    ``far`` is its distance to the goal. Of a condition, ``position`` is the place on the call's
    ``path`` where it came nearest; None: at no condition.
    """

    recipe: Recipe
    far: float = math.inf
    position: int | None = None
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
                return Base(other.recipe, left.far, position, other.path)
        return None


class World(ABC):
    """The place where calls are made: eager with conditions, or one side with thresholds.

    ``spent`` counts them, with those of probes. ``lengths`` are those of the first steps, in parts
    of the distance, and ``constants`` the numbers that a random change may write.
    """

    lengths: Sequence[float] = moves.LENGTHS
    constants: Sequence[float] = ()

    def __init__(
        self, spec: InputSpec, seed: int, before_call: Callable[[Recipe], object] | None
    ) -> None:
        self.spec = spec
        self.rng = random.Random(seed)
        self.spent = 0
        self._before_call = before_call
        self._probed: tuple[object, Probe | None] | None = None

    @abstractmethod
    def near(self, recipe: Recipe, goal: Any) -> Base | None:
        """Make a call, and return it as a base; None if it is refused or does not get there."""

    @abstractmethod
    def _probe(self, call: Call, base: Base, goal: Any) -> Probe | None:
        """Return the demands that lead from a call to a goal; None if it does not get there."""

    def probe(self, base: Base, goal: Any) -> Probe | None:
        """Probe a call towards a goal. It takes one more run, but for the call probed last."""
        asked = base.recipe, base.position, goal
        if self._probed is None or self._probed[0] != asked:
            call = build(self.spec, base.recipe)
            self.spent += call is not None
            probe = self._probe(call, base, goal) if call is not None else None
            self._probed = asked, probe
        return self._probed[1]

    def _call(self, recipe: Recipe) -> Call | None:
        """Count a call, and build it; None if it is not legal, or needs too much memory."""
        self.spent += 1
        if self._before_call is not None:
            self._before_call(recipe)
        return build(self.spec, recipe) if within_memory(self.spec, recipe.sizes) else None


class Pursuit:
    """The moves towards one goal, each from ``base``, the nearest call that they have found."""

    def __init__(self, world: World, goal: Any, base: Base) -> None:
        self.base = base
        self._world = world
        self._spec = world.spec
        self._goal = goal

    def make(self, names: Iterable[str]) -> Iterator[None]:
        for name in names:
            yield from MOVES[name].make(self)

    def _try(self, recipe: Recipe | None) -> Base | None:
        """Try a call, and start from it if it comes nearer. Return None if it is refused."""
        if recipe is None:
            return None
        tried = self._world.near(recipe, self._goal)
        if tried is not None and tried.far < self.base.far:
            self.base = tried
        return tried

    def _probe(self, base: Base | None = None) -> Probe | None:
        return self._world.probe(base or self.base, self._goal)

    # -- values ---------------------------------------------------------------------------------

    def write(self) -> Iterator[None]:
        start = self.base
        probe = self._probe()
        if probe is not None:
            yield
            written = moves.written(self._spec, start.recipe, probe)
            for recipe in itertools.islice(written, WRITTEN):
                self._try(recipe)
                yield

    def descend(self) -> Iterator[None]:
        """Make steps as long as they help: the next one is up to twice as long."""
        lengths = self._world.lengths
        for _ in range(STEPS):
            start = self.base
            probe = self._probe()
            if probe is None or not moves.slopes(self._spec, probe):
                return
            yield
            helped = 0.0
            for length in lengths:
                tried = self._try(moves.stepped(self._spec, start.recipe, probe, length))
                yield
                if tried is not None and length == lengths[0]:
                    yield from self._repair(start, tried)
                if self.base.far < PROGRESS * start.far:
                    helped = length * start.far / max(self.base.far, TINY)
                    break
            if not helped:
                return
            lengths = (min(2 * helped, self._world.lengths[0]), *lengths[1:4])

    def _repair(self, start: Base, tried: Base) -> Iterator[None]:
        """Go back to the path of ``start`` where a step has left it: there the condition is."""
        for _ in range(REPAIRS):
            lost = start.deviation(tried)
            probe = self._probe(lost) if lost is not None else None
            if lost is None or probe is None or not probe.demands:
                return
            yield
            again = self._try(moves.stepped(self._spec, lost.recipe, probe, self._world.lengths[0]))
            yield
            if again is None:
                return
            tried = again

    def swap(self) -> Iterator[None]:
        for _ in range(SWAPS):
            start, probe = self.base, self._probe()
            if probe is None or not probe.swaps():
                return
            yield
            for recipe in moves.swapped(self._spec, start.recipe, probe):
                self._try(recipe)
                yield
                if self.base is not start:
                    break
            else:
                return

    def repeat(self) -> Iterator[None]:
        for recipe in moves.repeated(self._spec, self.base.recipe):
            self._try(recipe)
            yield

    # -- sizes, and at random -------------------------------------------------------------------

    def size(self) -> Iterator[None]:
        """Double the step as long as it gets nearer, and begin again from there."""
        for _ in range(STEPS):
            start = self.base
            for neighbour in moves.neighbours(self._spec, start.recipe):
                for way in (1, -1):
                    steps, best = way, start.far
                    while True:
                        tried = self._try(neighbour(steps))
                        if tried is None:
                            break
                        yield
                        if not tried.far < best:
                            break
                        best, steps = tried.far, steps * 2
            if not self.base.far < start.far or self.base.far <= 0:
                return

    def every_size(self) -> Iterator[None]:
        """Try the sizes of each dim in turn, those near the call's own first."""
        recipe = self.base.recipe
        for neighbour in moves.neighbours(self._spec, recipe):
            for steps in range(1, SIZES):
                for way in (1, -1):
                    if self._try(neighbour(way * steps)) is not None:
                        yield

    def two_sizes(self) -> Iterator[None]:
        """Change a size or number to where the distance ends, for each value of another one."""
        start = self.base
        ways = len(moves.neighbours(self._spec, start.recipe))
        values = [way * steps for steps in range(1, LINES + 1) for way in (1, -1)]
        for one, other in itertools.combinations(range(ways), 2):
            neighbour = moves.neighbours(self._spec, start.recipe)[one]
            legal = (moved for moved in map(neighbour, values) if moved is not None)
            for moved in itertools.islice(legal, LINES):
                here = self._try(moved)
                yield
                if here is not None:
                    yield from self._follow(moves.neighbours(self._spec, moved)[other], here.far)

    def _follow(self, neighbour: Callable[[int], Recipe | None], far: float) -> Iterator[None]:
        """Step a size once, and then to where the distance would end if it went on like this."""
        for way in (1, -1):
            tried = self._try(neighbour(way))
            if tried is None:
                continue
            yield
            gained = far - tried.far
            if gained and math.isfinite(gained):
                self._try(neighbour(way * round(far / gained)))
                yield
            return

    def climb(self) -> Iterator[None]:
        """Keep changes that do not get further away."""
        recipe, best = self.base.recipe, self.base.far
        for _ in range(CLIMB):
            changed = moves.mutated(self._spec, recipe, self._world.rng, self._world.constants)
            tried = self._try(changed)
            yield
            far = tried.far if tried is not None else math.inf
            if far <= best:
                recipe, best = changed, far


@dataclass(frozen=True)
class Move:
    """A way from a call to others, and why there is one."""

    make: Callable[[Pursuit], Iterator[None]]
    why: str


MOVES = {
    "write": Move(Pursuit.write, "a compared number is in the input: put the other one there"),
    "descend": Move(Pursuit.descend, "floats have slopes, smooth or of the step that was taken"),
    "swap": Move(Pursuit.swap, "ids have no slope, but the rows of their table have"),
    "repeat": Move(Pursuit.repeat, "what one row needs, all rows have then"),
    "size": Move(Pursuit.size, "sizes decide without any number"),
    "every size": Move(Pursuit.every_size, "a text made of a size decides"),
    "two sizes": Move(Pursuit.two_sizes, "their product, sum or ratio decides"),
    "climb": Move(Pursuit.climb, "where nothing shows a way, near calls are better than any"),
}
