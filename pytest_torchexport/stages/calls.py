"""Calls: the example, those that failed last time, the boundaries, and those that Hypothesis draws.

The only ``@given`` of the package is here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pytest_torchexport.compare import remarks
from pytest_torchexport.effect import weighed
from pytest_torchexport.failures import ArtifactCrashed, ArtifactHung, SpecError
from pytest_torchexport.limits import TimeLimitExceeded
from pytest_torchexport.observe import Returned
from pytest_torchexport.recipes import Recipe, example_recipe, readable
from pytest_torchexport.stages import branches
from pytest_torchexport.stages.bench import Bench
from pytest_torchexport.stages.branches import Trails
from pytest_torchexport.stages.explain import explained
from pytest_torchexport.strategies import boundary_recipes, recipes

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


def run(bench: Bench, key: str, trails: Trails | None) -> None:
    """Run every call, then raise what the first that failed amounts to, shrunk. ``key`` is that of stored
    calls, ``trails`` are the ways through eager, where its conditions were followed.
    """
    with bench.ledger.timed("parity"):
        _every(bench, key, trails)
        if bench.eager.drifted():
            bench.start_anew()
            _every(bench, key, trails)
        failed = bench.ledger.failed
        bench.plan.corpus.store(key, [recipe.as_dict() for recipe, _ in failed])
        if failed:
            _explain(bench, trails)


def _every(bench: Bench, key: str, trails: Trails | None) -> None:
    if trails is not None:
        trails.tried.clear()
    if not _trial(bench, trails, "example", example_recipe(bench.spec), repeats=REPEATS):
        raise SpecError("filter refuses the example itself, or eager does on this device")
    if not bench.ledger.failed:
        _remark(bench)
    stored = readable(bench.spec, bench.plan.corpus.load(key))
    _explicit(bench, trails, "stored", stored, repeats=1)
    boundary = list(boundary_recipes(bench.spec, bench.plan.seed))
    _explicit(bench, trails, "boundary", boundary, repeats=REPEATS)
    explored = trails.recipes if trails is not None else []
    _explicit(bench, trails, "explored", explored, repeats=1)
    _draw(bench, trails, explored)


def weigh(bench: Bench) -> None:
    """Raise Ineffective where hardly anything was checked; keep why a pass means little."""
    bench.ledger.ineffective += weighed(
        bench.judge.effects,
        refused=bench.ledger.calls["rejected"],
        refusal=bench.legal.refusal,
        only_the_examples_values=bench.legal.fell_back and not bench.legal.takes_other_values,
        fixed=bench.legal.fixed,
    )
    for text in bench.judge.effects.partial():
        bench.ledger.note(text)


def _remark(bench: Bench) -> None:
    """Note what the artifact returns otherwise than eager, and may."""
    example = bench.spec.example
    eager, artifact = bench.eager.on_cpu(example), bench.judge.run(example)
    if isinstance(eager, Returned) and isinstance(artifact, Returned):
        for text in remarks(eager.value, artifact.value):
            bench.ledger.note(text)


def _explicit(
    bench: Bench, trails: Trails | None, origin: str, items: Sequence[Recipe], repeats: int
) -> None:
    for number, recipe in enumerate(items):
        if _is_deadly(bench):
            return
        if number and _half_is_over(bench):
            bench.ledger.note(
                f"ran {number} of {len(items)} {origin} calls in half of {bench.plan.limit()}"
            )
            return
        bench.plan.progress(origin, number, len(items))
        _trial(bench, trails, origin, recipe, repeats)


def _draw(bench: Bench, trails: Trails | None, explored: Sequence[Recipe]) -> None:
    import hypothesis
    from hypothesis import errors

    wanted = _max_examples(bench, hypothesis.settings().max_examples)
    if not bench.spec.leaves or _is_deadly(bench):
        return
    late: list[TimeLimitExceeded] = []

    @hypothesis.seed(bench.plan.seed)
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
    @hypothesis.given(recipes(bench.spec, explored))
    def drawn(recipe: Recipe) -> None:
        if _half_is_over(bench):
            raise _OutOfTime
        if _is_deadly(bench):
            raise _Enough
        bench.plan.progress("drawing", bench.ledger.calls["drawn"], wanted)
        try:
            legal = _trial(bench, trails, "drawn", recipe, repeats=1)
        except TimeLimitExceeded as error:
            # Hypothesis would take it for a failing example, and make the call again.
            late.append(error)
            raise _Enough from None
        hypothesis.assume(legal)

    try:
        drawn()
    except errors.Unsatisfiable:
        bench.ledger.note("eager or filter refused every call that was drawn")
    except _Enough:
        if late:
            raise late[0] from None
        bench.ledger.note(f"no more calls after {DEADLY_CALLS} that the artifact did not survive")
    except _OutOfTime:
        bench.ledger.note(
            f"stopped drawing after {bench.ledger.calls['drawn']} of {wanted} calls: half of "
            f"{bench.plan.limit()} was used"
        )


def _half_is_over(bench: Bench) -> bool:
    return bench.deadline.elapsed > DRAWING_SHARE * bench.plan.time_limit


def _is_deadly(bench: Bench) -> bool:
    """Whether enough calls have killed the artifact, or let it hang."""
    deaths = [failure for _, failure in bench.ledger.failed if isinstance(failure, DEADLY)]
    return len(deaths) >= DEADLY_CALLS


def _max_examples(bench: Bench, profile: int) -> int:
    plan = bench.plan
    if plan.max_examples is not None:
        return plan.max_examples
    return plan.options.max_examples or min(profile, plan.max_examples_cap)


def _trial(bench: Bench, trails: Trails | None, origin: str, recipe: Recipe, repeats: int) -> bool:
    """Run one call and book it; False where it is not legal."""
    ledger = bench.ledger
    judgment = bench.judge.call(recipe, repeats)
    if judgment is None:
        ledger.calls["rejected"] += 1
        return False
    ledger.calls[origin] += 1
    if bench.plan.self_test:
        ledger.ran.append((origin, recipe))
    for name, dim in bench.spec.dims.items():
        size = judgment.recipe.sizes.get(name, dim.example)
        ledger.reached.setdefault(name, set()).add(size)
    failed = judgment.failure is not None
    if trails is not None:
        if failed and trails.undecided(judgment.recipe):
            ledger.note("on some calls eager's own rounding decides which branch is taken")
            return True
        trails.book(judgment.recipe, failed)
    if judgment.failure is not None:
        ledger.calls["failed"] += 1
        if len(ledger.failed) < STORED:
            ledger.failed.append((judgment.recipe, judgment.failure))
    return True


def _explain(bench: Bench, trails: Trails | None) -> None:
    """Shrink one failing call, say at which sizes it fails, and whose fault it is; then raise its failure."""
    bench.plan.progress("shrinking")
    recipe, failure = bench.ledger.failed[0]
    fault = None
    if trails is not None:
        trails.told()
        recipe, failure, fault = branches.fault(trails)

    share = SHRINKING_SHARE
    if isinstance(failure, DEADLY):
        share = bench.deadline.elapsed / bench.plan.time_limit + DEADLY_SHARE

    def may_go_on() -> bool:
        return bench.deadline.elapsed <= share * bench.plan.time_limit

    with bench.ledger.timed("shrinking"):
        shrunk, final = explained(
            bench.judge,
            recipe,
            type(failure),
            may_go_on,
            as_well=fault.there if fault is not None else _anywhere,
        )
        bench.ledger.shrunk = shrunk
    failure = final if final is not None and type(final) is type(failure) else failure
    raise fault.failure(failure, shrunk.recipe) if fault is not None else failure


def _anywhere(recipe: Recipe) -> bool:
    """Where no branch is at fault, a smaller call may take any."""
    return True


def key_of(bench: Bench, source: str) -> str:
    """What a stored call depends on: the text of the subject's source and the shapes it was drawn for."""
    shapes = [(leaf.path, str(getattr(leaf, "shape", ""))) for leaf in bench.spec.leaves]
    text = json.dumps([source, shapes, sorted(bench.spec.dims)], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
