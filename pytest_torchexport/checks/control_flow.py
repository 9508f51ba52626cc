"""The check ``control_flow``: whichever branch eager takes, the artifact takes it too.

Calls are searched that together take every outcome of every condition. They are made with the other
calls; a failing call off the example's path is blamed on the branch that best tells failing calls
from passing ones.
Raises BranchFrozen; Ineffective if the branch coverage that was asked for is not reached.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import NoReturn

import torch

from pytest_torchexport.explore.observed import Kept, Observed
from pytest_torchexport.explore.search import Budget, Explored, Found, Goal, Search
from pytest_torchexport.inputs.building import build, build_leaves, readable
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, with_leaves
from pytest_torchexport.inputs.strategies import examples
from pytest_torchexport.judge.branch_table import (
    BranchResults,
    enough,
    frozen,
    has_branch,
    may_be_frozen,
    unreached,
)
from pytest_torchexport.judge.case import Case, explained
from pytest_torchexport.judge.log import BEFORE_CALLS, Activity
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.verdict import coverage_of

# Calls of the search for branches: so many, or so many per drawn call for a more thorough run. It
# ends earlier if every outcome was taken, or after this part of them without anything new.
EXPLORED, EXPLORED_PER_EXAMPLE, IN_VAIN = 200, 4, 2
# Numbers in the literals of a search that are kept for the next run.
MAX_STORED_NUMBERS = 500_000
MAX_STORED = 32
# A shrunk call stays further from the threshold than this part of the compared value, and for
# another device than the CPU, one to export at too.
CLEAR = 1e-3
# How often the interval between the example and a failing call is halved to find the threshold.
HALVINGS = 12


# -- the search ------------------------------------------------------------------------------------


def explore(case: Case) -> Case | None:
    """Search for calls; return a case that knows them. None if there is nothing to search."""
    observed = case.observed
    if observed is None or not observed.branches():
        return None
    log, plan = case.log, case.plan
    for name in observed.code.unread:
        log.note(f"no source of {name}: of its conditions only those on tensors are seen")
    for name in plan.settings.follow:
        if name not in sys.modules:
            log.note(f"torchexport_follow: nothing has imported {name}")
    if not observed.code.complete:
        log.note("forward leads to more functions than are followed: not all branches are known")
    with log.timed("explore"), log.during(Activity.EAGER):
        explored, kept = case.reference.learned.once("branches", partial(_explored, case, observed))
        observed.heed(kept)
    if not explored.corpus or explored.corpus[0].recipe != example_recipe(case.spec):
        log.note("eager could not be observed on the example: its branches were not followed")
        if plan.settings.min_branch_coverage:
            log.ineffective.append("branch coverage is not known: eager could not be observed")
        return None
    if explored.stopped:
        case.reference.learned.keep_from_others()  # the next item may have more time
        log.ineffective.append(
            f"the search for branches stopped after {explored.stopped}: not every outcome was "
            "looked for (torchexport_max_examples gives calls and time)"
        )
    plan.corpus.store(case.key, _kept(explored), shared=True)
    found = BranchResults(
        spec=case.spec,
        observed=observed,
        explored=explored,
        artifact=case.artifact.facts.branches(),
    )
    return dataclasses.replace(case, branches=found)


def _explored(case: Case, observed: Observed) -> tuple[Explored, Kept]:
    explored = _search(case, observed)
    if observed.drifted():
        explored = _search(case, observed)
    return explored, observed.kept


def explore_artifact(case: Case) -> Case | None:
    """Find calls that take the branches of the artifact which no call of eager gets to.

    Eager gets there if it is told that it is exported. Not if the artifact has killed a process:
    eager would then run here what killed it there.
    """
    branches = case.branches
    if branches is None or case.runner.isolated or not case.questions:
        return None
    explored = branches.explored
    met = {key[0] for key in explored.seen}
    alone = {
        own_id
        for own_id, condition in explored.conditions.items()
        if own_id not in met and has_branch(branches.artifact, condition)
    }
    if not alone:
        return None
    observed = Observed(
        case.reference,
        case.plan.seed,
        case.plan.settings.follow,
        answers=case.traits.answers,
    )
    with case.log.timed("explore"), case.log.during(Activity.EAGER):
        corpus = _search(case, observed).corpus
    more = (found.recipe for found in corpus if any(key[0] in alone for key, _ in found.taken))
    return dataclasses.replace(case, branches=dataclasses.replace(branches, more=tuple(more)))


def _search(case: Case, observed: Observed) -> Explored:
    plan, settings = case.plan, case.plan.settings
    calls = max(EXPLORED, EXPLORED_PER_EXAMPLE * examples(plan))
    budget = Budget(
        calls=calls,
        in_vain=calls // IN_VAIN,
        patience=BEFORE_CALLS * settings.time_limit,
    )
    return Search(
        case.spec,
        observed,
        seed=plan.seed,
        budget=budget,
        stored=readable(case.spec, plan.corpus.load(case.key, shared=True)),
        before_call=case.log.try_call,
    ).run(lambda done, total: plan.progress("calls for branches", done, total))


def _kept(explored: Explored) -> list[dict[str, object]]:
    """Return the calls to store for the next run: those that the search found."""
    kept: list[dict[str, object]] = []
    numbers = 0
    for found in filter(lambda found: found.searched, explored.corpus):
        numbers += sum(
            leaf.data.tensor.numel() for leaf in found.recipe.leaves if leaf.kind == "literal"
        )
        if numbers <= MAX_STORED_NUMBERS and len(kept) < MAX_STORED:
            kept.append(found.recipe.as_dict())
    return kept


# -- whose fault a failing call is -----------------------------------------------------------------


def attribute(case: Case) -> None:
    """Raise BranchFrozen if a branch is to blame for the failing calls.

    Otherwise put the failing call first that is to be explained: the first that no branch is to
    blame for.
    """
    branches, log = case.branches, case.log
    if branches is None or not log.failed:
        return
    log.branches = branches.table()
    with log.during(Activity.EAGER):  # observed calls; the judge says when the artifact runs
        blamed: list[tuple[Recipe, Failure, Goal]] = []
        for recipe, failure in log.failed:
            goal = _blamed(case, branches, recipe, failure, first=not blamed)
            if goal is None:
                log.failed.insert(0, (recipe, failure))
                return
            blamed.append((recipe, failure, goal))
        recipe, failure, goal = blamed[0]
        _raise_blamed(case, branches, goal, recipe, failure)


def _blamed(
    case: Case, branches: BranchResults, recipe: Recipe, failure: Failure, *, first: bool
) -> Goal | None:
    """Return the outcome that a failing call is the fault of; None if it is of no branch.

    The ``first`` one is proved: an artifact that is exported at another call on the same path takes
    the branch, and if it fails on the failing call too, a value was baked in.
    """
    found = branches.found(recipe) if may_be_frozen(failure) else None
    if found is None:
        return None
    goal = branches.guilty(found)
    if goal is None or not first:
        return goal
    # The item's device may round to the other side of a threshold.
    clear = 0.0 if case.plan.device == "cpu" else CLEAR
    verge = _on_the_verge(branches, recipe, found, clear)
    call = build(case.spec, verge) if verge is not None else None
    # torch.jit.trace does not survive an operation that raises: see CRASHES_ON_CAUGHT_ERRORS.
    if call is None or branches.observed.catches:
        return goal
    second = case.exported_or_refused(call)
    return goal if isinstance(second, str) or case.failure_of(second, recipe) is None else None


def _on_the_verge(
    branches: BranchResults, failing: Recipe, found: Found, clear: float
) -> Recipe | None:
    """Return the mixture nearest to the example's values that stays on the failing call's path.

    None if there is none: no float lies between the two calls, or all are nearer to a threshold
    than the part ``clear`` of what is compared.
    """
    far = build_leaves(branches.spec, failing) or []
    near = build_leaves(branches.spec, example_recipe(branches.spec, failing.sizes)) or []
    floats = [
        index
        for index, (one, other) in enumerate(zip(near, far, strict=False))
        if all(isinstance(leaf, torch.Tensor) and leaf.is_floating_point() for leaf in (one, other))
    ]
    taken, missed, verge = 1.0, 0.0, None
    for _ in range(HALVINGS if floats else 0):
        share = (taken + missed) / 2
        mixed = {i: torch.lerp(near[i].double(), far[i].double(), share) for i in floats}
        recipe = with_leaves(failing, {i: mixed[i].to(far[i].dtype) for i in floats})
        path = branches.path(recipe)
        if (
            path is not None
            and path.decisions() == found.decisions
            and all(event.margin >= clear for event in path.events)
        ):
            taken, verge = share, recipe
        else:
            missed = share
    return verge


def _raise_blamed(
    case: Case, branches: BranchResults, goal: Goal, recipe: Recipe, failure: Failure
) -> NoReturn:
    """Raise BranchFrozen for the smallest call with the same outcome.

    The failure itself if the artifact has a branch there.
    """
    key, _ = goal
    condition = branches.explored.conditions[key[0]]
    example = branches.path(branches.example.recipe)
    rounds = example.loops.get(key) if example is not None else None

    def takes_the_same_turn(candidate: Recipe) -> bool:
        """Return True if a call takes the same outcome, clear of the condition's threshold."""
        path = branches.path(candidate)
        if path is None:
            return False
        if condition.loops:
            return path.loops.get(key) != rounds
        events = [event for event in path.events if (event.key, event.outcome) == goal]
        return bool(events) and not any(event.margin < CLEAR for event in events)

    failure = explained(case, recipe, failure, as_well=takes_the_same_turn)
    case.log.branches = branches.table(goal)
    if has_branch(branches.artifact, condition) is not False:
        raise failure
    shrunk = case.log.shrunk
    way = branches.found(shrunk.recipe if shrunk is not None else recipe) or branches.example
    raise frozen(failure, condition, goal, (branches.example, way))


# -- which branches a pass covers ------------------------------------------------------------------


def weigh(case: Case) -> None:
    """Log the outcomes that no call took although the artifact has no branch there."""
    branches, log = case.branches, case.log
    if branches is None:
        return
    log.branches = branches.table()
    rows = zip(branches.explored.seen, log.branches, strict=True)
    conditions, own = branches.explored.conditions, branches.observed.code.is_of_model
    # Conditions of a library around its models are left out: transformers' outputs look at their
    # own fields.
    near = [row for key, row in rows if own(conditions[key[0]])]
    log.ineffective += unreached(near)


def require(case: Case) -> None:
    """Raise Ineffective if the branch coverage that was asked for is not reached.

    The last step, so that it hides no other failure.
    """
    rows, wanted = case.log.branches, case.plan.settings.min_branch_coverage
    enough(coverage_of(rows), wanted, rows)
