"""Move a call towards one outcome of one condition.

Each kind of move is weak where another is strong. Compared values are written into the input. The
gradient of the distance is followed; what has none, because it counts, rounds or is saturated, gets
slopes. Rows are repeated, and calls on both sides of the outcome are mixed. Places that were chosen
and numbers that were read are changed, whatever was computed from them. Sizes are stepped. Last,
the call is changed at random.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from pytest_torchexport.explore import assignments, moves
from pytest_torchexport.explore.probe import Number, Probe
from pytest_torchexport.explore.trials import Base, Goal, Trials
from pytest_torchexport.inputs.recipes import Recipe

# Calls with compared numbers written into the input, and with others that give such results.
WRITTEN, ASSIGNED = 12, 4
# Steps along the gradient. One that leaves more than this part of the distance does not help.
GRADIENT_STEPS = 30
# Steps back to conditions that a step has lost, before it is given up.
REPAIRS = 3
PROGRESS = 0.985
TINY = 1e-30
# Steps along slopes that saturated functions do not have. Not each of them comes nearer.
MARCH = 6
# Rounds of replaced indices.
SWAPS = 8
# Calls halved between two.
HALVINGS = 8
# Places that are chosen in place of others; to the first of them lead several steps.
PLACES, FIRST_PLACES, FIRST_STEPS = 16, 3, 3
# How often they are gone through.
CHOICES = 3
# Numbers that are changed, and how often a change is extrapolated.
NUMBERS, FIRST_NUMBERS, EXTRAPOLATED = 8, 2, 3
# How often the same number is changed, as long as it comes nearer.
STEERED = 12
CLIMB = 25
# Values of one size for which another one is changed.
LINES = 16


class Pursuit:
    """The moves towards one outcome, each from ``base``, the nearest call that they have found."""

    def __init__(
        self,
        trials: Trials,
        goal: Goal,
        base: Base,
        rng: random.Random,
        constants: Sequence[float],
    ) -> None:
        self.base = base
        self._trials = trials
        self._spec = trials.spec
        self._goal = goal
        self._rng = rng
        self._constants = constants
        # The call from which no step along the gradient helps.
        self._stuck: Base | None = None
        self._jiggled = False

    def of_sizes(self) -> Iterator[None]:
        """Make the moves that change sizes alone, call by call."""
        yield from self._step_sizes()
        yield from self._step_two_sizes()

    def calls(self, *, last: bool, at_random: bool = True) -> Iterator[None]:
        """Make the moves, call by call.

        At random only if ``at_random``, and in the last round or without a slope.
        """
        by_value = (self._descend, self._swap, self._repeat_rows, self._descend)
        beyond = (self._halve, self._choose, self._steer, self._reread)
        if self._trials.seen[self._goal[0]].on_tensors:
            order = [self._write, *by_value, *beyond, self._step_sizes, self._march]
        else:
            order = [self._write, self.of_sizes, *by_value, *beyond, self._march]
        for move in order:
            yield from move()
        if not at_random:
            return
        probe = self._probe()
        if last or probe is None or not probe.demands:
            yield from self._climb()

    def _try(self, recipe: Recipe | None) -> Base | None:
        """Try a call, and start from it if it comes nearer. Return None if eager refuses it."""
        path = self._trials.run(recipe) if recipe is not None else None
        if recipe is None or path is None:
            return None
        found = self._trials.base_on(recipe, path, self._goal)
        if found.far < self.base.far:
            self.base = found
        return found

    def _probe(self, base: Base | None = None, *, saturated: bool = False) -> Probe | None:
        return self._trials.probe(base or self.base, saturated=saturated)

    # -- values ---------------------------------------------------------------------------------

    def _write(self) -> Iterator[None]:
        base = self.base
        probe = self._trials.probe(base, origins=True)
        if probe is not None:
            yield
            written = moves.written(self._spec, base.recipe, probe, base.wanted)
            assigned = assignments.assigned(self._spec, base.recipe, probe, base.wanted)
            for recipe in itertools.chain(
                itertools.islice(written, WRITTEN), itertools.islice(assigned, ASSIGNED)
            ):
                self._try(recipe)
                yield

    def _descend(self) -> Iterator[None]:
        """Make steps along the gradient as long as they help.

        The next step is up to twice as long as one that helped.
        """
        lengths: Sequence[float] = moves.STEPS
        for _ in range(GRADIENT_STEPS):
            start = self.base
            if start is self._stuck:
                return
            probe = self._probe()
            if probe is None or not moves.slopes(self._spec, probe):
                yield from self._jiggle()
                return
            yield
            helped = 0.0
            for length, recipe in self._steps(start, probe, lengths):
                found = self._try(recipe)
                yield
                if found is not None and length == lengths[0]:
                    yield from self._repair(start, found)
                if self.base.far < PROGRESS * start.far:
                    helped = length * start.far / max(self.base.far, TINY)
                    break
            if not helped:
                self._stuck = start
                return
            lengths = moves.lengths_after(helped)

    def _jiggle(self) -> Iterator[None]:
        """Descend from a call beside the base, once: in the base itself nothing has a slope."""
        start = self.base
        if self._jiggled or start.position is None:
            return
        self._jiggled = True
        for part in moves.JIGGLES:
            found = self._try(moves.jiggled(self._spec, start.recipe, self._rng, part))
            yield
            if found is not None and found.position is not None:
                self.base = found
                yield from self._descend()
                if not self.base.far < start.far:
                    self.base = start
                return

    def _repair(self, start: Base, found: Base) -> Iterator[None]:
        """Go back to the path of ``start`` where a step has left it: there the condition is."""
        for _ in range(REPAIRS):
            lost = start.deviation(found)
            probe = self._probe(lost) if lost is not None else None
            if lost is None or probe is None or not probe.demands:
                return
            yield
            again = self._try(moves.stepped(self._spec, lost.recipe, probe, moves.STEPS[0]))
            yield
            if again is None:
                return
            found = again

    def _steps(
        self, start: Base, probe: Probe, lengths: Sequence[float]
    ) -> Iterator[tuple[float, Recipe]]:
        """Yield steps of these lengths.

        Where whole numbers are compared, elements may count: then single ones are moved as well.
        """
        for length in lengths:
            recipe = moves.stepped(self._spec, start.recipe, probe, length)
            if recipe is None:
                return
            yield length, recipe
            if length == lengths[0]:
                single = moves.singled(self._spec, start.recipe, probe)
                if start.far.is_integer() and single is not None:
                    yield moves.STEPS[0], single
                short = moves.stepped(self._spec, start.recipe, probe, moves.SHORT)
                if length > moves.SHORT and short is not None:
                    yield moves.SHORT, short

    def _swap(self) -> Iterator[None]:
        """Replace indices into tables as long as this helps."""
        for _ in range(SWAPS):
            start, probe = self.base, self._probe()
            if probe is None or probe.swaps.get(0) is None:
                return
            yield
            for recipe in moves.swapped(self._spec, start.recipe, probe):
                self._try(recipe)
                yield
                if self.base is not start:
                    break
            else:
                return

    def _march(self) -> Iterator[None]:
        """Go on along slopes where the distance is flat: of saturated functions, and of counts.

        Then descend from there.
        """
        here = self.base
        for _ in range(MARCH):
            probe = self._probe(here, saturated=True)
            flat = probe is not None and (probe.saturated or here.far.is_integer())
            if probe is None or not probe.demands or not flat:
                break
            yield
            found = self._try(moves.stepped(self._spec, here.recipe, probe, moves.STEPS[0]))
            yield
            if found is None:
                break
            here = found
        if here.far < math.inf:
            nearest, self.base = self.base, here
            yield from self._descend()
            if not self.base.far < nearest.far:
                self.base = nearest

    def _repeat_rows(self) -> Iterator[None]:
        """Make calls whose rows are all equal: what one row needs, all have then."""
        for recipe in moves.repeated(self._spec, self.base.recipe):
            self._try(recipe)
            yield

    def _halve(self) -> Iterator[None]:
        """Look between the call and others beyond the outcome: there ``==`` and bands are met."""
        start, key = self.base, self._goal[0]
        for other in self._trials.beyond(self._goal, start):
            near, far = start.recipe, other
            for _ in range(HALVINGS):
                middle = moves.between(self._spec, near, far)
                path = self._trials.run(middle) if middle is not None else None
                if middle is None or path is None:
                    break
                yield
                if any(event.key == key and event.side == start.side for event in path.events):
                    near = middle
                else:
                    far = middle

    # -- what the condition was computed from ---------------------------------------------------

    def _choose(self) -> Iterator[None]:
        """Let other places be chosen: to the first aims lead several steps, to others one.

        Again as long as this helps.
        """
        for _ in range(CHOICES):
            start = self.base
            for number in range(PLACES):
                yield from self._aim(number, FIRST_STEPS if number < FIRST_PLACES else 1)
            if self.base is start:
                return

    def _aim(self, number: int, steps: int) -> Iterator[None]:
        """Step towards the place with this number."""
        here = self.base
        for _ in range(steps):
            probe = self._probe(here)
            gaps = probe.places.get(number) if probe is not None else None
            if probe is None or not gaps or all(gap.missing <= 0 for gap in gaps):
                return
            yield
            step = moves.stepped(self._spec, here.recipe, probe, moves.STEPS[0], gaps)
            found = self._try(step)
            yield
            if found is None:
                return
            here = found

    def _steer(self) -> Iterator[None]:
        """Change the numbers that were read last, one after the other, as long as this helps."""
        for position in range(NUMBERS):
            for _ in range(STEERED):
                start, probe = self.base, self._probe()
                number = probe.numbers.get(position) if probe is not None else None
                if number is None or not number.gradients:
                    return
                yield
                missing = start.far if position < FIRST_NUMBERS else None
                for amount in moves.amounts(number.value, missing):
                    yield from self._change(start, number, amount)
                    if self.base is not start:
                        break
                if not self.base.far < PROGRESS * start.far:
                    break

    def _reread(self) -> Iterator[None]:
        """Change the integers that were read last, which have no slope, as long as this helps."""
        for position in range(FIRST_NUMBERS):
            for _ in range(STEERED):
                start = self.base
                probe = self._trials.probe(start, origins=True)
                if probe is None or not probe.reads:
                    return
                yield
                base, far = start.recipe, start.far
                for recipe in assignments.reread(self._spec, base, probe, position, far):
                    self._try(recipe)
                    yield
                    if self.base is not start:
                        break
                else:
                    break

    def _change(self, here: Base, number: Number, amount: float) -> Iterator[None]:
        """Let a number rise, then extrapolate to where the distance ends, if it changed."""
        for _ in range(EXTRAPOLATED):
            found = self._try(moves.against(self._spec, here.recipe, number.gradients, -amount))
            yield
            gained = here.far - found.far if found is not None else 0.0
            if found is None or not gained or not math.isfinite(gained):
                return
            here, amount = found, amount * found.far / gained

    # -- sizes, and at random -------------------------------------------------------------------

    def _step_sizes(self) -> Iterator[None]:
        """Step one size or number at a time, and double the step as long as it gets nearer."""
        start = self.base
        for neighbour in moves.neighbours(self._spec, start.recipe):
            for way in (1, -1):
                steps, best = way, start.far
                while True:
                    found = self._try(neighbour(steps))
                    if found is None:
                        break
                    yield
                    if not found.far < best:
                        break
                    best, steps = found.far, steps * 2

    def _step_two_sizes(self) -> Iterator[None]:
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
            found = self._try(neighbour(way))
            if found is None:
                continue
            yield
            gained = far - found.far
            if gained and math.isfinite(gained):
                self._try(neighbour(way * round(far / gained)))
                yield
            return

    def _climb(self) -> Iterator[None]:
        """Change the call at random, and keep changes that do not get further away."""
        recipe, best = self.base.recipe, self.base.far
        for _ in range(CLIMB):
            changed = moves.mutated(self._spec, recipe, self._rng, self._constants)
            found = self._try(changed)
            yield
            if (found.far if found is not None else math.inf) <= best:
                recipe, best = changed, found.far if found is not None else math.inf
