"""Calls: the example, those that failed last time, the boundaries, and those that Hypothesis draws.

The only ``@given`` of the package is here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pytest_torchexport.checks.control_flow import following
from pytest_torchexport.checks.control_flow.following import BranchResults
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, readable
from pytest_torchexport.inputs.strategies import boundary_recipes, recipes
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.explain import explained
from pytest_torchexport.judge.vacuity import weighed
from pytest_torchexport.outcomes.compare import remarks
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, SpecError

# An artifact's first run may differ from its later ones: https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
# Drawing stops at this share of the time limit: the rest is for shrinking and the round trip.
DRAWING_SHARE = 0.5
SHRINKING_SHARE = 0.9
# How many failing calls are kept for the next run.
STORED = 10
# An artifact is loaded anew after each call that kills it or hangs: so many are enough to tell, and shrinking
# stops at this share of the time limit.
DEADLY = (ArtifactCrashed, ArtifactHung)
DEADLY_CALLS = 3
DEADLY_SHARE = 0.1


class _OutOfTime(BaseException):
    """Ends drawing. A BaseException, because Hypothesis takes an Exception for a failing example."""


class _Enough(BaseException):
    """Ends drawing as well."""


def run(case: Case, key: str, branch_results: BranchResults | None) -> None:
    """Run every call, then raise what the first that failed amounts to, shrunk. ``key`` is that of stored
    calls, ``trails`` are the ways through eager, where its conditions were followed.
    """
    with case.log.timed("parity"):
        _every(case, key, branch_results)
        if case.eager.drifted():
            case.start_anew()
            _every(case, key, branch_results)
        failed = case.log.failed
        case.plan.corpus.store(key, [recipe.as_dict() for recipe, _ in failed])
        if failed:
            _explain(case, branch_results)


def _every(case: Case, key: str, branch_results: BranchResults | None) -> None:
    if branch_results is not None:
        branch_results.tried.clear()
    if not _trial(case, branch_results, "example", example_recipe(case.spec), repeats=REPEATS):
        raise SpecError("filter refuses the example itself, or eager does on this device")
    if not case.log.failed:
        _remark(case)
    stored = readable(case.spec, case.plan.corpus.load(key))
    _explicit(case, branch_results, "stored", stored, repeats=1)
    boundary = list(boundary_recipes(case.spec, case.plan.seed))
    _explicit(case, branch_results, "boundary", boundary, repeats=REPEATS)
    explored = branch_results.recipes if branch_results is not None else []
    _explicit(case, branch_results, "explored", explored, repeats=1)
    _draw(case, branch_results, explored)


def weigh(case: Case) -> None:
    """Raise Ineffective where hardly anything was checked; keep why a pass means little."""
    case.log.ineffective += weighed(
        case.judge.effects,
        refused=case.log.calls["rejected"],
        refusal=case.legal.refusal,
        only_the_examples_values=case.legal.fell_back and not case.legal.takes_other_values,
        fixed=case.legal.fixed,
    )
    for text in case.judge.effects.partial():
        case.log.note(text)


def _remark(case: Case) -> None:
    """Note what the artifact returns otherwise than eager, and may."""
    example = case.spec.example
    eager, artifact = case.eager.on_cpu(example), case.judge.run(example)
    if isinstance(eager, Returned) and isinstance(artifact, Returned):
        for text in remarks(eager.value, artifact.value):
            case.log.note(text)


def _explicit(
    case: Case,
    branch_results: BranchResults | None,
    origin: str,
    items: Sequence[Recipe],
    repeats: int,
) -> None:
    for number, recipe in enumerate(items):
        if _is_deadly(case):
            return
        if number and _half_is_over(case):
            case.log.note(
                f"ran {number} of {len(items)} {origin} calls in half of {case.plan.limit()}"
            )
            return
        case.plan.progress(origin, number, len(items))
        _trial(case, branch_results, origin, recipe, repeats)


def _draw(case: Case, branch_results: BranchResults | None, explored: Sequence[Recipe]) -> None:
    import hypothesis
    from hypothesis import errors

    wanted = _max_examples(case, hypothesis.settings().max_examples)
    if not case.spec.leaves or _is_deadly(case):
        return
    late: list[TimeLimitExceeded] = []

    @hypothesis.seed(case.plan.seed)
    @hypothesis.settings(
        max_examples=wanted,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        backend="hypothesis",
    )
    @hypothesis.given(recipes(case.spec, explored))
    def drawn(recipe: Recipe) -> None:
        if _half_is_over(case):
            raise _OutOfTime
        if _is_deadly(case):
            raise _Enough
        case.plan.progress("drawing", case.log.calls["drawn"], wanted)
        try:
            legal = _trial(case, branch_results, "drawn", recipe, repeats=1)
        except TimeLimitExceeded as error:
            # Hypothesis would take it for a failing example, and make the call again.
            late.append(error)
            raise _Enough from None
        hypothesis.assume(legal)

    try:
        drawn()
    except errors.Unsatisfiable:
        case.log.note("eager or filter refused every call that was drawn")
    except _Enough:
        if late:
            raise late[0] from None
        case.log.note(f"no more calls after {DEADLY_CALLS} that the artifact did not survive")
    except _OutOfTime:
        case.log.note(
            f"stopped drawing after {case.log.calls['drawn']} of {wanted} calls: half of "
            f"{case.plan.limit()} was used"
        )


def _half_is_over(case: Case) -> bool:
    return case.deadline.elapsed > DRAWING_SHARE * case.plan.settings.time_limit


def _is_deadly(case: Case) -> bool:
    """Whether enough calls have killed the artifact, or let it hang."""
    deaths = [failure for _, failure in case.log.failed if isinstance(failure, DEADLY)]
    return len(deaths) >= DEADLY_CALLS


def _max_examples(case: Case, profile: int) -> int:
    plan = case.plan
    if plan.max_examples is not None:
        return plan.max_examples
    return plan.options.max_examples or min(profile, plan.settings.max_examples)


def _trial(
    case: Case, branch_results: BranchResults | None, origin: str, recipe: Recipe, repeats: int
) -> bool:
    """Run one call and book it; False where it is not legal."""
    log = case.log
    judgment = case.judge.call(recipe, repeats)
    if judgment is None:
        log.calls["rejected"] += 1
        return False
    log.calls[origin] += 1
    if case.plan.settings.self_test:
        log.ran.append((origin, recipe))
    for name, dim in case.spec.dims.items():
        size = judgment.recipe.sizes.get(name, dim.example)
        log.reached.setdefault(name, set()).add(size)
    failed = judgment.failure is not None
    if branch_results is not None:
        if failed and branch_results.undecided(judgment.recipe):
            log.note("on some calls eager's own rounding decides which branch is taken")
            return True
        branch_results.book(judgment.recipe, failed)
    if judgment.failure is not None:
        log.calls["failed"] += 1
        if len(log.failed) < STORED:
            log.failed.append((judgment.recipe, judgment.failure))
    return True


def _explain(case: Case, branch_results: BranchResults | None) -> None:
    """Shrink one failing call, say at which sizes it fails, and whose fault it is; then raise its failure."""
    case.plan.progress("shrinking")
    recipe, failure = case.log.failed[0]
    fault = None
    if branch_results is not None:
        branch_results.told()
        recipe, failure, fault = following.fault(branch_results)

    share = SHRINKING_SHARE
    if isinstance(failure, DEADLY):
        share = case.deadline.elapsed / case.plan.settings.time_limit + DEADLY_SHARE

    def may_go_on() -> bool:
        return case.deadline.elapsed <= share * case.plan.settings.time_limit

    with case.log.timed("shrinking"):
        shrunk, final = explained(
            case.judge,
            recipe,
            type(failure),
            may_go_on,
            as_well=fault.there if fault is not None else _anywhere,
        )
        case.log.shrunk = shrunk
    failure = final if final is not None and type(final) is type(failure) else failure
    raise fault.failure(failure, shrunk.recipe) if fault is not None else failure


def _anywhere(recipe: Recipe) -> bool:
    """Where no branch is at fault, a smaller call may take any."""
    return True


def key_of(case: Case, source: str) -> str:
    """What a stored call depends on: the text of the subject's source and the shapes it was drawn for."""
    shapes = [(leaf.path, str(getattr(leaf, "shape", ""))) for leaf in case.spec.leaves]
    text = json.dumps([source, shapes, sorted(case.spec.dims)], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
