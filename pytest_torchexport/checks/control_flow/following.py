"""Branches: calls that take every way through eager, and which branch a failing call is the fault of."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from pytest_torchexport.checks.control_flow import outcomes_met
from pytest_torchexport.checks.control_flow.outcomes_met import Tried
from pytest_torchexport.explore.conditions import ConditionId
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.paths import Event, Path
from pytest_torchexport.explore.search import Explored, Found, Goal, Search, found_on
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.recipes import (
    Recipe,
    build,
    build_leaves,
    example_recipe,
    readable,
    with_leaves,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, exported
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.verdict import Branch, coverage_of
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.branches import Branches, difference

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
class BranchResults:
    """The ways through eager that are known, and what the artifact did on each."""

    case: Case
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
        call = build(self.case.spec, recipe)
        if call is None:
            return None
        with self.observed.installed():
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
        call = build(self.case.spec, recipe)
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

    def _branches_there(self, condition: ConditionId) -> bool:
        return (
            outcomes_met.has_branch(self.artifact, self.explored.conditions[condition]) is not False
        )

    def _does_beside(self, call: Call, way: float) -> bool:
        """Whether the artifact does with a call what eager does beside it."""
        case = self.case
        own = case.eager.on_cpu(call)
        done = case.judge.run(call)
        for other in _beside(call, way):
            outcome = case.eager.on_cpu(other)
            if not isinstance(own, Returned) or not isinstance(outcome, Returned):
                continue
            wanted = case.eager.on_device(other, outcome)
            if not isinstance(wanted, Returned):
                continue
            wanted = dataclasses.replace(wanted, inputs=own.inputs)  # which were moved on purpose
            if not case.judge.differences([other], wanted, done):
                return True
        return False

    def told(self) -> None:
        """Put what is known of every branch into the ledger."""
        self.case.log.branches = self.table()

    def table(self, culprit: Goal | None = None) -> tuple[Branch, ...]:
        """What became of every condition."""
        dims = self.case.spec.dims
        return outcomes_met.table(
            self.explored,
            self.tried,
            self.artifact,
            self.example,
            culprit,
            frozenset(name for name, dim in dims.items() if dim.declared),
        )


def explore(case: Case, key: str) -> BranchResults | None:
    """Search for calls; None where there is nothing to search, or eager cannot be observed."""
    observed = case.observed
    if observed is None or not (
        observed.conditions or observed.code.unread or observed.code.not_followed
    ):
        return None
    log, plan = case.log, case.plan
    for name in observed.code.unread:
        log.note(f"no source of {name}: of its conditions only those on tensors are seen")
    for name in plan.settings.follow:
        if name not in sys.modules:
            log.note(f"torchexport_follow: nothing has imported {name}")
    if not observed.code.complete:
        log.note("forward leads to more functions than are followed: not all branches are known")
    if observed.code.not_followed:
        log.note(
            f"branches in {', '.join(observed.code.not_followed)} are not followed; torchexport_follow does"
        )
    with log.timed("explore"):
        explored = _search(case, observed, key)
        if observed.drifted():
            explored = _search(case, observed, key)
    if not explored.corpus or explored.corpus[0].recipe != example_recipe(case.spec):
        log.note("eager could not be observed on the example: its branches were not followed")
        if plan.settings.min_branch_coverage:
            log.ineffective.append("branch coverage is not known: eager could not be observed")
        return None
    if explored.stopped:
        log.note(f"the search for branches stopped after {explored.stopped}")
    plan.corpus.store(key, _kept(explored), shared=True)
    return BranchResults(
        case=case,
        observed=observed,
        explored=explored,
        example=explored.corpus[0],
        artifact=case.artifact.facts.branches(),
    )


def _search(case: Case, observed: Observed, key: str) -> Explored:
    plan = case.plan
    return Search(
        case.spec,
        observed,
        seed=plan.seed,
        calls=plan.settings.explore_calls,
        seconds=min(
            SECONDS_PER_CALL * plan.settings.explore_calls, 0.25 * plan.settings.time_limit
        ),
        stored=readable(case.spec, plan.corpus.load(key, shared=True)),
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

    branch_results: BranchResults
    goal: Goal

    def there(self, recipe: Recipe) -> bool:
        """Whether a call takes the same wrong turn, clear of the threshold."""
        path = self.branch_results.path(recipe)
        if path is None:
            return False
        key, _ = self.goal
        if self.branch_results.explored.conditions[key[0]].loops:
            return path.loops.get(key) != self.rounds
        events = [event for event in path.events if (event.key, event.outcome) == self.goal]
        return bool(events) and not any(e.rounded and e.relative < CLEAR for e in events)

    @cached_property
    def rounds(self) -> list[int] | None:
        """How often the loop at fault goes round on the example."""
        path = self.branch_results.path(self.branch_results.example.recipe)
        return path.loops.get(self.goal[0]) if path is not None else None

    def failure(self, failure: Failure, recipe: Recipe) -> Failure:
        """The failure under its right name, where the artifact has no branch there."""
        branch_results = self.branch_results
        condition = branch_results.explored.conditions[self.goal[0][0]]
        branch_results.case.log.branches = branch_results.table(self.goal)
        if outcomes_met.has_branch(branch_results.artifact, condition) is not False:
            return failure
        way = branch_results.found(recipe) or branch_results.example
        return outcomes_met.frozen(
            failure,
            condition,
            self.goal,
            (branch_results.example, way),
            tuple(_proof(branch_results, recipe)),
        )


def fault(branch_results: BranchResults) -> tuple[Recipe, Failure, Fault | None]:
    """The failing call to explain: the first on the example's own path, which no branch is to blame for;
    else the first, with its branch.
    """
    first: tuple[Recipe, Failure, Fault | None] | None = None
    for recipe, failure in branch_results.case.log.failed:
        found = branch_results.found(recipe)
        if found is None or not outcomes_met.may_be_frozen(failure):
            return recipe, failure, None
        goal = outcomes_met.guilty(branch_results.example, found, branch_results.tried)
        if goal is None:
            return recipe, failure, None
        if first is None and not _taken_elsewhere(branch_results, recipe, found):
            return recipe, failure, None
        first = first or (recipe, failure, Fault(branch_results, goal))
    assert first is not None, "asked only where calls failed"
    return _on_the_examples_path(branch_results, first[0]) or first


def _on_the_examples_path(
    branch_results: BranchResults, recipe: Recipe
) -> tuple[Recipe, Failure, None] | None:
    """The example's own values at the failing call's sizes, where they fail without leaving its path."""
    other = example_recipe(branch_results.case.spec, recipe.sizes)
    path = branch_results.path(other)
    if path is None or path.decisions() != branch_results.example.decisions:
        return None
    failure = branch_results.case.judge.quietly(other)
    return (other, failure, None) if failure is not None else None


def _taken_elsewhere(branch_results: BranchResults, failing: Recipe, found: Found) -> bool:
    """Whether the way through eager alone is at fault: then what is exported at another call on the same way is
    right on this one too. Where it is not, a number was baked in, and no condition is to blame.
    """
    other = _passing_twin(branch_results, failing, found) or _on_the_verge(
        branch_results, failing, found
    )
    call = build(branch_results.case.spec, other) if other is not None else None
    second = (
        _exported_at(branch_results, other, call)
        if other is not None and call is not None
        else None
    )
    if not isinstance(second, NotApplicable | str | None):
        return branch_results.case.judge_of(second, ItemLog()).quietly(failing) is None
    return True  # nothing speaks against it


def _passing_twin(branch_results: BranchResults, failing: Recipe, found: Found) -> Recipe | None:
    """A call on the same way on which the artifact is right; of the same sizes, which an exporter may bake in
    behind a branch as well.
    """
    twins = [item.found for item in branch_results.tried if not item.failed]
    return next(
        (
            twin.recipe
            for twin in twins
            if twin.decisions == found.decisions and twin.recipe.sizes == failing.sizes
        ),
        None,
    )


def _on_the_verge(branch_results: BranchResults, failing: Recipe, found: Found) -> Recipe | None:
    """Between the example's values and the failing call's, the last on the failing call's way; None where no
    float lies between them.
    """
    far = build_leaves(branch_results.case.spec, failing)
    near = build_leaves(
        branch_results.case.spec, example_recipe(branch_results.case.spec, failing.sizes)
    )
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
        path = branch_results.path(recipe)
        if path is not None and path.decisions() == found.decisions:
            taken, verge = share, recipe
        else:
            missed = share
    return verge


def _exported_at(
    branch_results: BranchResults, recipe: Recipe, call: Call
) -> Artifact | NotApplicable | str | None:
    """The artifact made at another call; the exporter's reason where it refuses, None where it is not asked."""
    if branch_results.path(recipe) is None or branch_results.observed.catches:
        return None  # torch.jit.trace does not survive an operation that raises: see targets.trace.CAUGHT
    try:
        return exported(
            branch_results.case.eager, branch_results.case.plan, branch_results.case.spec, call
        )
    except TimeLimitExceeded:
        raise
    except Exception as error:
        return condense(error)[0]


def _proof(branch_results: BranchResults, recipe: Recipe) -> Iterator[str]:
    """A second trace, made at the failing call: it agrees with eager there, and is another program."""
    program = branch_results.case.artifact.program
    call = build(branch_results.case.spec, recipe)
    scripts = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    if not isinstance(program, scripts) or call is None:
        return
    second = _exported_at(branch_results, recipe, call)
    if isinstance(second, str):
        yield f"exported at this call it is refused: {second}"
    if second is None or isinstance(second, NotApplicable | str):
        return
    lines = difference(program.inlined_graph, second.program.inlined_graph)
    if lines:
        agrees = branch_results.case.judge_of(second, ItemLog()).quietly(recipe) is None
        yield f"exported at this call it is another program{', and agrees with eager' if agrees else ''}:"
        yield from lines


def weigh(branch_results: BranchResults) -> None:
    """Say what a pass does not rest on: outcomes that no call took, where the artifact has made up its mind."""
    branch_results.told()
    rows = zip(branch_results.explored.seen, branch_results.case.log.branches, strict=True)
    conditions, own = branch_results.explored.conditions, branch_results.observed.code.is_of_model
    # Of what a library does around its models (transformers' outputs look at their own fields) nobody needs to hear.
    near = [row for key, row in rows if own(conditions[key[0]])]
    branch_results.case.log.ineffective += outcomes_met.unreached(near)


def gate(case: Case) -> None:
    """Raise Ineffective where the branch coverage that was asked for is not reached: last of all, so that it
    hides nothing that is wrong.
    """
    rows, wanted = case.log.branches, case.plan.settings.min_branch_coverage
    outcomes_met.enough(coverage_of(rows), wanted, rows)


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
