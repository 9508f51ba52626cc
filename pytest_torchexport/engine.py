"""Check one subject on one target: the flow of an item, from the example to the verdict.

A library call: it knows nothing of pytest, so it works in a notebook and in a script too. The only
``@given`` of the package is here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport import sandbox, targets
from pytest_torchexport.calibrate import Calibration
from pytest_torchexport.checks import names as check_names
from pytest_torchexport.checks import parity, round_trip
from pytest_torchexport.compare import Tolerance, compare, largest_error
from pytest_torchexport.domain_probe import narrow_assumed, widen_embeddings
from pytest_torchexport.failures import (
    ArtifactHung,
    ExportRefused,
    Failure,
    Ineffective,
    NotRepeatable,
    SpecError,
    TrainingMode,
)
from pytest_torchexport.limits import Deadline, TimeLimitExceeded, in_thread, interrupted_after
from pytest_torchexport.messages import condense
from pytest_torchexport.observe import Hung, Outcome, Raised, Returned, State, observe
from pytest_torchexport.plan import Plan
from pytest_torchexport.quiet import Heard, quiet, unheard
from pytest_torchexport.recipes import (
    LeafRecipe,
    Recipe,
    build,
    describe_recipe,
    example_recipe,
)
from pytest_torchexport.shrink import shrink
from pytest_torchexport.spec.exporters import EXPORTED_AT, specialized_dims
from pytest_torchexport.spec.inputs import Call, InputSpec, build_spec
from pytest_torchexport.spec.options import Options, parse_options
from pytest_torchexport.strategies import boundary_recipes, recipes, within_memory
from pytest_torchexport.subject import Subject
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.tree import describe, leaves_of
from pytest_torchexport.verdict import Difference, Sizes, Verdict

REPEATS = 3
# Drawing stops at this share of the time limit: the rest is for shrinking and the round trip.
DRAWING_SHARE = 0.5
SWEEP = 8
STORED = 10


def check_export(
    module: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    target: str,
    device: str = "cpu",
    seed: int = 0,
    time_limit: float = 300.0,
    **options: Any,
) -> Verdict:
    """Check a module, function or bound method on one target, without pytest.

    ``args`` and ``kwargs`` are the example call of ``forward``; ``options`` are the marker's arguments.
    Returns a Verdict, whose ``raise_for_failure()`` raises. Raises SpecError for options that are wrong
    in themselves, and ValueError for an unknown target.
    """
    if target not in targets.names():
        raise ValueError(f"unknown target {target!r}; legal: {', '.join(targets.names())}")
    plan = Plan(
        target=target,
        device=device,
        options=parse_options((), options),
        seed=seed,
        time_limit=time_limit,
    )
    return check(module, [Call(tuple(args), dict(kwargs or {}))], plan)


def check(thing: Any, calls: Sequence[Call], plan: Plan) -> Verdict:
    """The verdict on one subject. ``calls[0]`` is the example; further ones tell which sizes vary."""
    sandbox.warm_up()
    with quiet() as heard:
        item = _Item(thing, calls, plan, heard)
        return item.verdict()


def export(thing: Any, example: Call, plan: Plan) -> Artifact:
    """The artifact alone, for asserts of the user's own. Raises ExportRefused or SpecError."""
    with quiet() as heard:
        item = _Item(thing, [example], plan, heard)
        item.prepare()
        return item.export()


class _Skip(Exception):
    """The item cannot be judged here; the text says why and what to do."""


@dataclass
class _Ledger:
    """What happened so far, in numbers: flat in memory, whatever the number of calls."""

    calls: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("example", "boundary", "stored", "drawn", "failed", "rejected"), 0
        )
    )
    reached: dict[str, set[int]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    max_error: float | None = None
    failed: list[tuple[Recipe, Failure]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def met(self, error: float | None) -> None:
        if error is not None:
            self.max_error = max(error, self.max_error or 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 4)


class _Item:
    """One subject on one target and device."""

    def __init__(self, thing: Any, calls: Sequence[Call], plan: Plan, heard: Heard) -> None:
        self.plan = plan
        self.options: Options = plan.options
        self.calls = calls
        self.heard = heard
        self.ledger = _Ledger()
        self.deadline = Deadline(plan.time_limit)
        self.tolerance = Tolerance(plan.options.rtol, plan.options.atol)
        self.original = Subject.of(thing)
        self.fresh_each_call = False
        self.spec: InputSpec | None = None
        self.artifact: Artifact | None = None
        self.contiguous_only = False
        self.shrunk: tuple[Recipe, str, tuple[Sizes, ...]] | None = None

    # -- the flow ----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Run every stage and say what came of it."""
        try:
            with interrupted_after(self.plan.time_limit):
                self.prepare()
                self.export()
                if "parity" in self._checks():
                    self._parity()
                if "round_trip" in self._checks():
                    self._round_trip()
                self._effective()
        except _Skip as skip:
            return self._verdict("skipped", reason=str(skip))
        except TimeLimitExceeded:
            return self._failed(
                ArtifactHung(
                    f"the item did not end within {self.plan.time_limit:g} s (torchexport_time_limit)"
                )
            )
        except Failure as failure:
            return self._failed(failure)
        return self._verdict("passed")

    def prepare(self) -> None:
        """Eager on the example: what is legal, and does eager agree with itself."""
        self.plan.progress("eager")
        target = targets.get(self.plan.target)
        unavailable = _device_unavailable(self.plan.device) or target.unavailable(self.plan.device)
        if unavailable:
            if self.plan.strict:
                raise Ineffective(f"unavailable: {unavailable}")
            raise _Skip(f"unavailable: {unavailable}")
        with self.ledger.timed("eager"):
            self.pristine = self.original.copy()
            self._set_mode(self.pristine)
            spec = build_spec(
                self.original.signature(), self.calls, self.options, self.original.annotations()
            )
            self.eager = self.pristine.copy()
            self.eager_state = State(self.eager.module)
            self._repeatable(spec.example)
            if self.plan.device != "cpu":
                self.moved = self.pristine.copy().to(self.plan.device)
                self.moved_state = State(self.moved.module)
            self.calibration = Calibration(self.pristine, self.plan.seed)
            spec = widen_embeddings(spec, self.pristine)
            self.spec = narrow_assumed(spec, self._eager_cpu, self.ledger.note)

    def export(self) -> Artifact:
        """Export a copy once; torch's refusal is a failure where the target was named, else a skip."""
        assert self.spec is not None
        self.plan.progress("export")
        target = targets.get(self.plan.target)
        example, note = self._export_example(target.specializes)
        if note:
            self.ledger.note(note)
        subject = self.pristine.copy().to(self.plan.device)
        options = dict((self.options.export_options or {}).get(self.plan.target, {}))
        try:
            with self.ledger.timed("export"), torch.no_grad(), unheard():
                made = target.export(
                    subject.function, example.clone().to(self.plan.device), self.spec, **options
                )
        except TimeLimitExceeded:
            raise
        except Exception as error:
            self._refused(error)
        if isinstance(made, NotApplicable):
            raise _Skip(f"not applicable: {made.reason}")
        self.artifact = made
        self.artifact_state = State(made.module, parameters=self.fresh_each_call)
        return made

    def _parity(self) -> None:
        assert self.spec is not None
        with self.ledger.timed("parity"):
            self._explicit("example", [example_recipe(self.spec)], repeats=REPEATS)
            self._explicit("stored", self._stored(), repeats=1)
            boundary = list(boundary_recipes(self.spec, self.plan.seed))
            self._explicit("boundary", boundary, repeats=REPEATS)
            self._drawn()
            self.plan.corpus.store(
                self._corpus_key(), [recipe.as_dict() for recipe, _ in self.ledger.failed[:STORED]]
            )
            if self.ledger.failed:
                self._explain()

    def _round_trip(self) -> None:
        assert self.spec is not None
        assert self.artifact is not None
        self.plan.progress("round trip")
        call = self.spec.example
        with self.ledger.timed("round trip"):
            expected = self._observe_artifact(call)
            if not isinstance(expected, Returned):
                return
            note = round_trip.check(
                self.artifact,
                target=self.plan.target,
                device=self.plan.device,
                call=call,
                expected=Returned(_to_cpu(expected.value), call),
                seed=self.plan.seed,
                limit=max(self.deadline.left, 1.0),
                blocked=self._blocked(),
                imports=self.plan.runtime_imports,
            )
            if note:
                self.ledger.note(note)

    def _effective(self) -> None:
        """Whether anything was really checked: said always, a failure only under strict."""
        run = sum(self.ledger.calls[key] for key in ("boundary", "drawn"))
        if "parity" in self._checks() and not run:
            text = f"eager refused all {self.ledger.calls['rejected']} generated calls"
            if self.plan.strict:
                raise Ineffective(text)
            self.ledger.note(f"{text}: only the example was compared")

    # -- eager -------------------------------------------------------------------------------------

    def _set_mode(self, subject: Subject) -> None:
        mode = self.options.mode or self.plan.mode
        module = subject.module
        if module is None or mode == "train":
            return
        training = [name or subject.name for name, part in module.named_modules() if part.training]
        if not training:
            return
        if mode == "as-is":
            raise TrainingMode(
                f"{', '.join(training[:3])}: call .eval() before exporting, or say mode='train'"
            )
        module.eval()
        self.ledger.note("put into eval mode for the check")

    def _repeatable(self, example: Call) -> None:
        before = _python_state(self.eager.module)
        first = self._eager_cpu(example)
        if isinstance(first, Raised):
            raise SpecError(f"eager raises on the example: {first}", where=first.where)
        if isinstance(first, Hung):
            raise SpecError(
                f"eager did not return on the example within {self.plan.time_limit:g} s"
            )
        if not any(isinstance(leaf, torch.Tensor) for leaf in leaves_of(first.value)):
            raise SpecError(
                f"forward returns {describe(first.value)}, no tensor: nothing to compare"
            )
        for name in first.changed:
            self.ledger.note(f"forward changes torch's {name}; it is put back after each call")
        changed = before != _python_state(self.eager.module)
        self.fresh_each_call = changed or self.eager_state.lost
        if self.fresh_each_call:
            self.ledger.note(
                "forward changes attributes of its module: each call starts from a fresh copy"
            )
            self.eager = self.pristine.copy()
        second = self._eager_cpu(example)
        differences = (
            compare(first, second, Tolerance()) if isinstance(second, (Returned, Raised)) else []
        )
        if differences:
            raise NotRepeatable(
                "two calls on equal inputs, from the same state and seed",
                differences=tuple(differences),
            )

    def _eager_cpu(self, call: Call) -> Outcome:
        if self.fresh_each_call:
            return observe(self.pristine.copy().function, call, seed=self.plan.seed)
        outcome = observe(self.eager.function, call, seed=self.plan.seed)
        self.eager_state.restore()
        return outcome

    def _eager_there(self, call: Call, outcome: Outcome) -> Outcome:
        """Eager on the item's device, for a call that it returned from on the CPU with ``outcome``: an
        out-of-range index on CUDA would poison the process.
        """
        if self.plan.device == "cpu":
            return outcome
        if self.fresh_each_call:
            moved = self.pristine.copy().to(self.plan.device).function
            return observe(moved, call.to(self.plan.device), seed=self.plan.seed)
        outcome = observe(self.moved.function, call.to(self.plan.device), seed=self.plan.seed)
        self.moved_state.restore()
        return outcome

    # -- the artifact ------------------------------------------------------------------------------

    def _observe_artifact(self, call: Call) -> Outcome:
        assert self.artifact is not None
        run = None
        if self.artifact.native_loops:
            left = max(self.deadline.left - 1.0, 0.5)
            run = lambda go: in_thread(go, left)  # noqa: E731  # one line reads better than a def here
        outcome = observe(self.artifact, call.to(self.plan.device), seed=self.plan.seed, run=run)
        if isinstance(outcome, Hung):
            raise ArtifactHung(
                f"the artifact did not return within the item's {self.plan.time_limit:g} s "
                "(torchexport_time_limit)"
            )
        self.artifact_state.restore()
        return outcome

    def _export_example(self, specializes: bool) -> tuple[Call, str]:
        assert self.spec is not None
        dims = specialized_dims(self.spec) if specializes else ()
        if not dims:
            return self.spec.example, ""
        recipe = example_recipe(self.spec, {dim.name: EXPORTED_AT for dim in dims})
        call = build(self.spec, recipe)
        if call is None or not isinstance(self._eager_cpu(call), Returned):
            return self.spec.example, ""
        names = ", ".join(f"{dim.name} (the example's is {dim.example})" for dim in dims)
        return call, f"exported at size {EXPORTED_AT} of {names}: exporters freeze sizes 0 and 1"

    def _refused(self, error: Exception) -> None:
        reason, where = condense(error)
        assumed = [d for d in (self.spec.dims if self.spec else {}).values() if not d.declared]
        details = []
        if assumed and any(dim.name in str(error) or "dynamic" in str(error) for dim in assumed):
            names = ", ".join(repr(dim.name) for dim in assumed)
            path = self.spec.tensors[0].path if self.spec and self.spec.tensors else "x"
            details.append(
                f'that {names} varies was only assumed; if it does not: shapes={{{path!r}: "..."}}'
            )
        if not self.plan.named:
            hint = f" ({details[0]})" if details else ""
            raise _Skip(f"{self.plan.target} refused the module: {reason}{hint}") from None
        raise ExportRefused(reason, details=tuple(details), where=where) from None

    # -- calls -------------------------------------------------------------------------------------

    def _explicit(self, origin: str, items: Sequence[Recipe], repeats: int) -> None:
        for number, recipe in enumerate(items):
            self.plan.progress(origin, number, len(items))
            self._trial(origin, recipe, repeats)

    def _drawn(self) -> None:
        import hypothesis
        from hypothesis import errors

        assert self.spec is not None
        wanted = self._max_examples(hypothesis.settings().max_examples)
        if not self.spec.leaves:
            return

        @hypothesis.seed(self.plan.seed)
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
        @hypothesis.given(recipes(self.spec))
        def drawn(recipe: Recipe) -> None:
            if self.deadline.elapsed > DRAWING_SHARE * self.plan.time_limit:
                raise _OutOfTime
            self.plan.progress("drawing", self.ledger.calls["drawn"], wanted)
            hypothesis.assume(self._trial("drawn", recipe, repeats=1))

        try:
            drawn()
        except errors.Unsatisfiable:
            self.ledger.note("eager or filter refused every call that was drawn")
        except _OutOfTime:
            self.ledger.note(
                f"stopped drawing after {self.ledger.calls['drawn']} of {wanted} calls: half of the time "
                f"limit of {self.plan.time_limit:g} s was used"
            )

    def _max_examples(self, profile: int) -> int:
        if self.plan.max_examples is not None:
            return self.plan.max_examples
        return self.options.max_examples or min(profile, self.plan.max_examples_cap)

    def _trial(self, origin: str, recipe: Recipe, repeats: int) -> bool:
        """Run one call; False where it is outside the domain."""
        assert self.spec is not None
        failure = self._failure(recipe, repeats)
        if failure is _REJECTED:
            self.ledger.calls["rejected"] += 1
            return False
        self.ledger.calls[origin] += 1
        for name, dim in self.spec.dims.items():
            self.ledger.reached.setdefault(name, set()).add(recipe.sizes.get(name, dim.example))
        if isinstance(failure, Failure):
            self.ledger.calls["failed"] += 1
            if len(self.ledger.failed) < STORED:
                self.ledger.failed.append((recipe, failure))
        return True

    def _failure(self, recipe: Recipe, repeats: int = 1) -> Failure | object | None:
        """The failure of one call; None where it passes; _REJECTED where it is no legal call."""
        call, outcome = self._legal_call(recipe)
        if call is None or outcome is None:
            return _REJECTED
        expected = self._eager_there(call, outcome)
        if not isinstance(expected, Returned):
            return _REJECTED
        for _ in range(repeats):
            actual = self._observe_artifact(call)
            differences = self._differences(call, expected, actual)
            try:
                parity.check(differences)
            except Failure as failure:
                return failure
        return None

    def _differences(self, call: Call, expected: Returned, actual: Outcome) -> list[Difference]:
        differences = compare(expected, actual, self.tolerance)
        if isinstance(actual, Returned):
            self.ledger.met(largest_error(expected.value, actual.value))
            if differences and not self.tolerance.given:
                differences = self.calibration.keep_bugs(differences, call, expected, actual)
        return differences

    def _legal_call(self, recipe: Recipe) -> tuple[Call | None, Outcome | None]:
        """The recipe's call and eager's outcome on the CPU, where eager takes it; else two Nones.

        Raises SpecError where eager refuses what the user declared legal.
        """
        assert self.spec is not None
        if not within_memory(self.spec, recipe.sizes):
            self.ledger.note("calls too large to make were left out")
            return None, None
        if self.contiguous_only:
            recipe = _contiguous(recipe)
        call = build(self.spec, recipe)
        if call is None:
            return None, None
        outcome = self._eager_cpu(call)
        if isinstance(outcome, Returned):
            return call, outcome
        if any(leaf.layout != "contiguous" for leaf in recipe.leaves):
            plain = build(self.spec, _contiguous(recipe))
            other = self._eager_cpu(plain) if plain is not None else None
            if isinstance(other, Returned):
                self.contiguous_only = True
                self.ledger.note(
                    "eager refuses non-contiguous inputs: only contiguous ones are legal"
                )
                return plain, other
        self._blame(recipe, outcome)
        return None, None

    def _blame(self, recipe: Recipe, outcome: Outcome) -> None:
        """SpecError if eager still refuses when all that was only assumed is as in the example."""
        assert self.spec is not None
        what = str(outcome) if isinstance(outcome, Raised) else "no return"
        declared = self._declared_part(recipe)
        call = build(self.spec, declared) if declared is not None else None
        refused = self._eager_cpu(call) if call is not None else None
        if declared is None or call is None or isinstance(refused, Returned):
            self.ledger.note(
                f"eager refuses some generated calls, outside what was assumed: {what:.200}"
            )
            return
        assert refused is not None
        sizes = ", ".join(
            f"{n}={declared.sizes[n]}" for n, d in self.spec.dims.items() if d.declared
        )
        ranges = ", ".join(f"{n}: {d.describe()}" for n, d in self.spec.dims.items() if d.declared)
        values = ", ".join(
            f"{leaf.path}: {leaf.domain.describe()}"
            for leaf in self.spec.tensors
            if leaf.domain.declared
        )
        raise SpecError(
            f"eager raises inside the declared range: {refused if isinstance(refused, Raised) else what}",
            details=(
                f"call: {describe_recipe(self.spec, declared, call)}",
                f"declared: {'; '.join(filter(None, (ranges, values)))}"
                + (f" (at {sizes})" if sizes else ""),
                "narrow the range, or say what ties the inputs together with map= or filter=",
            ),
            where=refused.where if isinstance(refused, Raised) else "",
        )

    def _declared_part(self, recipe: Recipe) -> Recipe | None:
        """The same call with everything assumed as in the example; None where nothing was declared."""
        assert self.spec is not None
        sizes = {
            name: recipe.sizes.get(name, dim.example) if dim.declared else dim.example
            for name, dim in self.spec.dims.items()
        }
        leaves = []
        said = any(dim.declared and sizes[n] != dim.example for n, dim in self.spec.dims.items())
        for leaf, item in zip(self.spec.leaves, recipe.leaves, strict=True):
            domain = getattr(leaf, "domain", None)
            declared = (
                domain.declared if domain is not None else getattr(leaf, "values", None) is not None
            )
            said = said or (declared and item.kind != "example")
            leaves.append(item if declared else LeafRecipe(kind="example"))
        return Recipe(sizes=sizes, leaves=tuple(leaves), seed=recipe.seed) if said else None

    # -- failures ----------------------------------------------------------------------------------

    def _explain(self) -> None:
        """Shrink the first failing call and say at which sizes it fails; then raise its failure."""
        assert self.spec is not None
        self.plan.progress("shrinking")
        recipe, failure = self.ledger.failed[0]
        cls = type(failure)

        def still_fails(candidate: Recipe) -> bool:
            if self.deadline.left < 0.1 * self.plan.time_limit:
                return False
            return type(self._quietly(candidate)) is cls

        with self.ledger.timed("shrinking"):
            recipe = shrink(self.spec, recipe, still_fails)
            final = self._quietly(recipe)
            failure = final if isinstance(final, cls) else failure
            call, _ = self._legal_call(recipe)
            text = describe_recipe(self.spec, recipe, call) if call is not None else ""
            self.shrunk = (recipe, text, self._sweep(recipe, still_fails))
        raise failure

    def _quietly(self, recipe: Recipe) -> Failure | object | None:
        try:
            return self._failure(recipe)
        except SpecError:
            return _REJECTED

    def _sweep(self, recipe: Recipe, still_fails: Callable[[Recipe], bool]) -> tuple[Sizes, ...]:
        assert self.spec is not None
        found = []
        for name, dim in self.spec.dims.items():
            sizes = sorted({*list(dim.sizes[:SWEEP]), dim.example, recipe.sizes[name]})
            ok, failing = [], []
            for size in sizes:
                candidate = Recipe(
                    sizes={**recipe.sizes, name: size}, leaves=recipe.leaves, seed=recipe.seed
                )
                result = self._quietly(candidate)
                if isinstance(result, Failure):
                    failing.append(size)
                elif result is None:
                    ok.append(size)
            found.append(Sizes(dim=name, example=dim.example, ok=tuple(ok), failing=tuple(failing)))
        return tuple(found)

    # -- bookkeeping -------------------------------------------------------------------------------

    def _checks(self) -> tuple[str, ...]:
        return self.options.checks or check_names()

    def _blocked(self) -> tuple[str, ...]:
        allowed = {name.partition(".")[0] for name in self.plan.runtime_imports}
        return tuple(name for name in self.original.packages() if name not in allowed)

    def _corpus_key(self) -> str:
        assert self.spec is not None
        shapes = [(leaf.path, str(getattr(leaf, "shape", ""))) for leaf in self.spec.leaves]
        text = json.dumps([self.original.source(), shapes, sorted(self.spec.dims)], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _stored(self) -> list[Recipe]:
        assert self.spec is not None
        found = []
        for data in self.plan.corpus.load(self._corpus_key()):
            try:
                recipe = Recipe.from_dict(data)
            except (KeyError, TypeError, ValueError):
                continue
            if len(recipe.leaves) == len(self.spec.leaves):
                found.append(recipe)
        return found

    def _failed(self, failure: Failure) -> Verdict:
        recipe, text, sizes = self.shrunk or (None, "", ())
        return self._verdict(
            "failed",
            failure=type(failure).__name__,
            reason=str(failure),
            details=failure.details,
            where=failure.where,
            differences=failure.differences,
            recipe=recipe.as_dict() if recipe else None,
            call=text,
            shrunk=recipe is not None,
            sizes=sizes,
        )

    def _verdict(self, status: Any, **fields: Any) -> Verdict:
        spec, artifact = self.spec, self.artifact
        return Verdict(
            subject=self.original.name,
            target=self.plan.target,
            device=self.plan.device,
            status=status,
            calls=dict(self.ledger.calls),
            reached={name: tuple(sorted(sizes)) for name, sizes in self.ledger.reached.items()},
            assumed=spec.assumed if spec is not None else (),
            baked=artifact.baked if artifact is not None else (),
            notes=tuple(self.ledger.notes),
            warnings=tuple(self.heard.warnings),
            seed=self.plan.seed,
            seconds=dict(self.ledger.seconds),
            max_error=self.ledger.max_error,
            **fields,
        )


_REJECTED = object()


class _OutOfTime(BaseException):
    """Ends drawing. A BaseException, because Hypothesis takes an Exception for a failing example."""


def _contiguous(recipe: Recipe) -> Recipe:
    import dataclasses

    leaves = tuple(dataclasses.replace(leaf, layout="contiguous") for leaf in recipe.leaves)
    return dataclasses.replace(recipe, leaves=leaves)


def _device_unavailable(device: str) -> str | None:
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"device {device!r}: torch.cuda.is_available() is false here"
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return f"device {device!r}: there are only {torch.cuda.device_count()} CUDA devices here"
    return None


def _to_cpu(value: Any) -> Any:
    return Call((value,)).to("cpu").args[0]


def _python_state(module: torch.nn.Module | None) -> list[Any]:
    """Python attributes of all submodules, to see whether forward changes them: plain values and the
    lengths of containers (tensors are State's business).
    """
    if module is None:
        return []
    found: list[Any] = []
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, (bool, int, float, str, type(None))):
                found.append((name, value))
            elif isinstance(value, (list, dict, set, tuple)) and not name.startswith("_"):
                found.append((name, len(value), repr(value)[:200] if _small(value) else None))
            elif isinstance(value, torch.Tensor):
                found.append((name, id(value), value._version))
    return found


def _small(value: Any) -> bool:
    return len(value) <= 16 and not any(
        isinstance(leaf, torch.Tensor) or hasattr(leaf, "__dict__") for leaf in leaves_of(value)
    )
