"""Branches: calls that take every way through eager, and which branch a failing call is the fault of."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from pytest_torchexport.checks import control_flow
from pytest_torchexport.checks.control_flow import Tried
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.recorder import Event, Path
from pytest_torchexport.explore.search import Explored, Found, Goal, Search, found_on
from pytest_torchexport.failures import Failure
from pytest_torchexport.ledger import Ledger
from pytest_torchexport.limits import TimeLimitExceeded
from pytest_torchexport.messages import condense
from pytest_torchexport.observe import Returned
from pytest_torchexport.recipes import (
    Recipe,
    build,
    build_leaves,
    example_recipe,
    readable,
    with_leaves,
)
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.stages.bench import Bench, exported
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.branches import Branches, difference
from pytest_torchexport.tree import tree_map
from pytest_torchexport.verdict import Branch, coverage_of

# Seconds per call of the budget: a stop for slow models, 5 s for the default 200.
SECONDS_PER_CALL = 0.025
# Numbers in the literals of a search that are kept for the next run.
MAX_STORED_NUMBERS = 500_000
MAX_STORED = 32
# Nearer to its threshold than so many units in the last place, a sum of floats decides either way (study: flips
# up to a relative margin of 1e-7 in float32, none from 1e-6 on); in half precision only a few units are that little.
UNITS = 100
FINE = 1e-4
COARSE = 4
# A shrunk call stays further from the threshold than this part of what is compared.
CLEAR = 1e-3
# How many calls beside one on a threshold are tried.
BESIDE = 8
# How close to the turn a call between the example and a failing one is looked for.
HALVINGS = 12


@dataclass
class Trails:
    """The ways through eager that are known, and what the artifact did on each."""

    bench: Bench
    observed: Observed
    explored: Explored
    example: Found
    artifact: Branches | None
    tried: list[Tried] = field(default_factory=list)

    @property
    def recipes(self) -> list[Recipe]:
        """The calls that together take every way that was found."""
        return [found.recipe for found in self.explored.corpus if found is not self.example]

    def path(self, recipe: Recipe) -> Path | None:
        """The path of a call; None where eager, observed, does not take it."""
        call = build(self.bench.spec, recipe)
        if call is None:
            return None
        with self.observed.watching():
            return self.observed.run(call)

    def found(self, recipe: Recipe) -> Found | None:
        """The call by its path, likewise."""
        path = self.path(recipe)
        return found_on(recipe, path) if path is not None else None

    def book(self, recipe: Recipe, failed: bool) -> None:
        """Remember what became of a call that was searched for, or that failed."""
        corpus = self.explored.corpus
        found = next((known for known in corpus if known.recipe == recipe), None)
        if found is None and failed:
            found = self.found(recipe)
        if found is not None:
            self.tried.append(Tried(found, failed))

    def undecided(self, recipe: Recipe) -> bool:
        """Whether a failing call stands on the threshold of a branch that the artifact has too, and the
        artifact does what eager does a hair's breadth beside it: then rounding decides. What is compared must
        have been computed: an element of the input was not rounded.
        """
        path = self.path(recipe) if self.artifact is not None else None
        call = build(self.bench.spec, recipe)
        if path is None or call is None:
            return False
        eps = _precision(call)
        near = [
            event.relative
            for event in path.events
            if event.rounded
            and event.relative <= max(min(UNITS * eps, FINE), COARSE * eps)
            and self._branches_there(event.key[0])
            and not _stands_in(call, event)
        ]
        return bool(near) and self._does_beside(call, max(COARSE * max(near), COARSE * eps))

    def _branches_there(self, number: int) -> bool:
        return control_flow.has_branch(self.artifact, self.explored.sites[number]) is not False

    def _does_beside(self, call: Call, way: float) -> bool:
        """Whether the artifact does with a call what eager does beside it."""
        bench = self.bench
        own = bench.eager.on_cpu(call)
        done = bench.judge.run(call)
        for other in _beside(call, way):
            outcome = bench.eager.on_cpu(other)
            if not isinstance(own, Returned) or not isinstance(outcome, Returned):
                continue
            wanted = bench.eager.on_device(other, outcome)
            if not isinstance(wanted, Returned):
                continue
            wanted = dataclasses.replace(wanted, inputs=own.inputs)  # which were moved on purpose
            if not bench.judge.differences([other], wanted, done):
                return True
        return False

    def told(self) -> None:
        """Put what is known of every branch into the ledger."""
        self.bench.ledger.branches = self.table()

    def table(self, culprit: Goal | None = None) -> tuple[Branch, ...]:
        """What became of every condition."""
        dims = self.bench.spec.dims
        return control_flow.table(
            self.explored,
            self.tried,
            self.artifact,
            self.example,
            culprit,
            frozenset(name for name, dim in dims.items() if dim.declared),
        )


def explore(bench: Bench, key: str) -> Trails | None:
    """Search for calls; None where there is nothing to search, or eager cannot be observed."""
    observed = bench.observed
    if observed is None or not (observed.sites or observed.unread or observed.elsewhere):
        return None
    ledger, plan = bench.ledger, bench.plan
    for name in observed.unread:
        ledger.note(f"no source of {name}: of its conditions only those on tensors are seen")
    for name in plan.follow:
        if name not in sys.modules:
            ledger.note(f"torchexport_follow: nothing has imported {name}")
    if not observed.complete:
        ledger.note("forward leads to more functions than are followed: not all branches are known")
    if observed.elsewhere:
        ledger.note(
            f"branches in {', '.join(observed.elsewhere)} are not followed; torchexport_follow does"
        )
    with ledger.timed("explore"):
        explored = _search(bench, observed, key)
        if observed.drifted():
            explored = _search(bench, observed, key)
    if not explored.corpus or explored.corpus[0].recipe != example_recipe(bench.spec):
        ledger.note("eager could not be observed on the example: its branches were not followed")
        if plan.min_branch_coverage:
            ledger.ineffective.append("branch coverage is not known: eager could not be observed")
        return None
    if explored.stopped:
        ledger.note(f"the search for branches stopped after {explored.stopped}")
    plan.corpus.store(key, _kept(explored), shared=True)
    read: Callable[[], Branches | None] | None = getattr(bench.artifact, "branches", None)
    return Trails(
        bench=bench,
        observed=observed,
        explored=explored,
        example=explored.corpus[0],
        artifact=read() if read is not None else None,
    )


def _search(bench: Bench, observed: Observed, key: str) -> Explored:
    plan = bench.plan
    return Search(
        bench.spec,
        observed,
        seed=plan.seed,
        calls=plan.explore_calls,
        seconds=min(SECONDS_PER_CALL * plan.explore_calls, 0.25 * plan.time_limit),
        stored=readable(bench.spec, plan.corpus.load(key, shared=True)),
    ).run(lambda done, total: plan.progress("branches", done, total))


def _kept(explored: Explored) -> list[dict[str, object]]:
    """What is worth finding again: the calls that no seed is."""
    kept: list[dict[str, object]] = []
    numbers = 0
    for found in filter(lambda found: found.searched, explored.corpus):
        numbers += sum(
            leaf.data.tensor.numel() for leaf in found.recipe.leaves if leaf.kind == "literal"
        )
        if numbers <= MAX_STORED_NUMBERS and len(kept) < MAX_STORED:
            kept.append(found.recipe.as_dict())
    return kept


@dataclass(frozen=True)
class Fault:
    """A failing call whose branch is known."""

    trails: Trails
    goal: Goal

    def there(self, recipe: Recipe) -> bool:
        """Whether a call takes the same wrong turn, clear of the threshold."""
        path = self.trails.path(recipe)
        if path is None:
            return False
        key, _ = self.goal
        if self.trails.explored.sites[key[0]].loops:
            return path.loops.get(key) != self.rounds
        events = [event for event in path.events if (event.key, event.outcome) == self.goal]
        return bool(events) and not any(e.rounded and e.relative < CLEAR for e in events)

    @cached_property
    def rounds(self) -> list[int] | None:
        """How often the loop at fault goes round on the example."""
        path = self.trails.path(self.trails.example.recipe)
        return path.loops.get(self.goal[0]) if path is not None else None

    def failure(self, failure: Failure, recipe: Recipe) -> Failure:
        """The failure under its right name, where the artifact has no branch there."""
        trails = self.trails
        site = trails.explored.sites[self.goal[0][0]]
        trails.bench.ledger.branches = trails.table(self.goal)
        if control_flow.has_branch(trails.artifact, site) is not False:
            return failure
        way = trails.found(recipe) or trails.example
        return control_flow.frozen(
            failure,
            site,
            self.goal,
            (trails.example, way),
            tuple(_proof(trails, recipe)),
        )


def fault(trails: Trails) -> tuple[Recipe, Failure, Fault | None]:
    """The failing call to explain: the first on the example's own path, which no branch is to blame for;
    else the first, with its branch.
    """
    first: tuple[Recipe, Failure, Fault | None] | None = None
    for recipe, failure in trails.bench.ledger.failed:
        found = trails.found(recipe)
        if found is None or not control_flow.may_be_frozen(failure):
            return recipe, failure, None
        goal = control_flow.guilty(trails.example, found, trails.tried)
        if goal is None:
            return recipe, failure, None
        if first is None and not _taken_elsewhere(trails, recipe, found):
            return recipe, failure, None
        first = first or (recipe, failure, Fault(trails, goal))
    assert first is not None, "asked only where calls failed"
    return _on_the_examples_path(trails, first[0]) or first


def _on_the_examples_path(trails: Trails, recipe: Recipe) -> tuple[Recipe, Failure, None] | None:
    """The example's own values at the failing call's sizes, where they fail without leaving its path."""
    other = example_recipe(trails.bench.spec, recipe.sizes)
    path = trails.path(other)
    if path is None or path.decisions() != trails.example.decisions:
        return None
    failure = trails.bench.judge.quietly(other)
    return (other, failure, None) if failure is not None else None


def _taken_elsewhere(trails: Trails, failing: Recipe, found: Found) -> bool:
    """Whether the way through eager alone is at fault: then what is exported at another call on the same way is
    right on this one too. Where it is not, a number was baked in, and no condition is to blame.
    """
    other = _passing_twin(trails, failing, found) or _on_the_verge(trails, failing, found)
    call = build(trails.bench.spec, other) if other is not None else None
    second = _exported_at(trails, other, call) if other is not None and call is not None else None
    if not isinstance(second, NotApplicable | str | None):
        return trails.bench.judge_of(second, Ledger()).quietly(failing) is None
    return True  # nothing speaks against it


def _passing_twin(trails: Trails, failing: Recipe, found: Found) -> Recipe | None:
    """A call on the same way on which the artifact is right; of the same sizes, which an exporter may bake in
    behind a branch as well.
    """
    twins = [item.found for item in trails.tried if not item.failed]
    return next(
        (
            twin.recipe
            for twin in twins
            if twin.decisions == found.decisions and twin.recipe.sizes == failing.sizes
        ),
        None,
    )


def _on_the_verge(trails: Trails, failing: Recipe, found: Found) -> Recipe | None:
    """Between the example's values and the failing call's, the last on the failing call's way; None where no
    float lies between them.
    """
    far = build_leaves(trails.bench.spec, failing)
    near = build_leaves(trails.bench.spec, example_recipe(trails.bench.spec, failing.sizes))
    if far is None or near is None:
        return None
    floats = [
        index
        for index, leaf in enumerate(far)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    taken, missed, verge = 1.0, 0.0, None
    for _ in range(HALVINGS if floats else 0):
        share = (taken + missed) / 2
        mixed = {i: torch.lerp(near[i].double(), far[i].double(), share) for i in floats}
        recipe = with_leaves(failing, {i: mixed[i].to(far[i].dtype) for i in floats})
        path = trails.path(recipe)
        if path is not None and path.decisions() == found.decisions:
            taken, verge = share, recipe
        else:
            missed = share
    return verge


def _exported_at(
    trails: Trails, recipe: Recipe, call: Call
) -> Artifact | NotApplicable | str | None:
    """The artifact made at another call; the exporter's reason where it refuses, None where it is not asked."""
    if trails.path(recipe) is None or trails.observed.catches:
        return None  # torch.jit.trace does not survive an operation that raises: see targets.trace.CAUGHT
    try:
        return exported(trails.bench.eager, trails.bench.plan, trails.bench.spec, call)
    except TimeLimitExceeded:
        raise
    except Exception as error:
        return condense(error)[0]


def _proof(trails: Trails, recipe: Recipe) -> Iterator[str]:
    """A second trace, made at the failing call: it agrees with eager there, and is another program."""
    program = getattr(trails.bench.artifact, "program", None)
    call = build(trails.bench.spec, recipe)
    scripts = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    if not isinstance(program, scripts) or call is None:
        return
    second = _exported_at(trails, recipe, call)
    if isinstance(second, str):
        yield f"exported at this call it is refused: {second}"
    if second is None or isinstance(second, NotApplicable | str):
        return
    lines = difference(program.inlined_graph, second.program.inlined_graph)
    if lines:
        agrees = trails.bench.judge_of(second, Ledger()).quietly(recipe) is None
        yield f"exported at this call it is another program{', and agrees with eager' if agrees else ''}:"
        yield from lines


def weigh(trails: Trails) -> None:
    """Say what a pass does not rest on: outcomes that no call took, where the artifact has made up its mind."""
    trails.told()
    rows = zip(trails.explored.seen, trails.bench.ledger.branches, strict=True)
    sites, own = trails.explored.sites, trails.observed.is_of_parts
    # Of what a library does around its models (transformers' outputs look at their own fields) nobody needs to hear.
    near = [row for key, row in rows if own(sites[key[0]])]
    trails.bench.ledger.ineffective += control_flow.unreached(near)


def gate(bench: Bench) -> None:
    """Raise Ineffective where the branch coverage that was asked for is not reached: last of all, so that it
    hides nothing that is wrong.
    """
    rows, wanted = bench.ledger.branches, bench.plan.min_branch_coverage
    control_flow.enough(coverage_of(rows), wanted, rows)


def _beside(call: Call, near: float) -> Iterator[Call]:
    """The call with its floats moved by so many parts of themselves: up, down, and at random."""
    generator = torch.Generator().manual_seed(0)

    def moved(leaf: Any, way: int) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.rand(leaf.shape, generator=generator) * 2 - 1 if way > 1 else 1 - 2 * way
        return (leaf * (1 + near * signs)).to(leaf.dtype)

    for way in range(BESIDE):
        args, kwargs = tree_map(partial(moved, way=way), (call.args, dict(call.kwargs)))
        yield Call(args, kwargs)


def _stands_in(call: Call, event: Event) -> bool:
    """Whether every float that a condition compared is an element of the call's inputs, bit for bit, or a
    number of the code's own.
    """
    compared = [item for item in event.operands if isinstance(item, float)]
    floats = [item for item in call.tensors() if item.is_floating_point()]
    computed = [
        number
        for number in compared[: 1 if len(compared) > 1 else None]
        if not any(bool((item.double() == number).any()) for item in floats)
    ]
    return bool(compared) and not computed


def _precision(call: Call) -> float:
    """The coarsest unit in the last place among a call's floats."""
    floats = [item.dtype for item in call.tensors() if item.is_floating_point()]
    return max([torch.finfo(dtype).eps for dtype in floats or [torch.float32]])
