"""Check one subject on one target: the flow of an item, from the example to the verdict.

A library call: it knows nothing of pytest, so it works in a notebook and in a script too. The only
``@given`` of the package is here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from pytest_torchexport import sandbox, targets
from pytest_torchexport.calibrate import Calibration
from pytest_torchexport.checks import names as check_names
from pytest_torchexport.checks import parity, round_trip, state
from pytest_torchexport.compare import Tolerance, compare, largest_error
from pytest_torchexport.eager import Eager, buffers_of
from pytest_torchexport.failures import (
    ArtifactHung,
    ArtifactRaised,
    ExportRefused,
    Failure,
    Ineffective,
    OutputsDiffer,
    SpecError,
)
from pytest_torchexport.ledger import Ledger
from pytest_torchexport.legal import Legal
from pytest_torchexport.limits import Deadline, TimeLimitExceeded, in_thread, interrupted_after
from pytest_torchexport.messages import condense, is_about_dims, text_of
from pytest_torchexport.observe import Hung, Outcome, Returned, State, observe, untouched
from pytest_torchexport.plan import Plan
from pytest_torchexport.quiet import Heard, quiet, unheard
from pytest_torchexport.recipes import Recipe, build, describe_recipe, example_recipe
from pytest_torchexport.settings import device_names, target_names
from pytest_torchexport.shrink import shrink
from pytest_torchexport.spec.exporters import EXPORTED_AT, specialized_dims
from pytest_torchexport.spec.inputs import Call, InputSpec, build_spec
from pytest_torchexport.spec.options import parse_check_options
from pytest_torchexport.strategies import boundary_recipes, recipes
from pytest_torchexport.subject import Subject, closed_over
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.foreign import foreign
from pytest_torchexport.verdict import Difference, Sizes, Verdict

# An artifact's first run may differ from its later ones: https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
# Drawing stops at this share of the time limit: the rest is for shrinking and the round trip.
DRAWING_SHARE = 0.5
SHRINKING_SHARE = 0.9
# What the clean process gets at least, however little parity has left of the item's time.
LOADING_SECONDS = 20.0
# How many sizes of a dim a failing call is tried at.
SWEEP = 8
SHOWN_FRAMES = 2
# How many failing calls are kept for the next run.
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
    strict: bool = False,
    **options: Any,
) -> Verdict:
    """Check a module, function or bound method on one target, without pytest.

    ``args`` and ``kwargs`` are the example call of ``forward``; ``options`` are the marker's arguments.
    Returns a Verdict, whose ``raise_for_failure()`` raises. Raises SpecError for options that are wrong
    in themselves, and ValueError for an unknown target or device.
    """
    target_names((target,))
    device_names((device,))
    plan = Plan(
        target=target,
        device=device,
        options=parse_check_options(options),
        seed=seed,
        time_limit=time_limit,
        strict=strict,
    )
    return check(module, [Call(tuple(args), dict(kwargs or {}))], plan)


def check(thing: Any, calls: Sequence[Call], plan: Plan) -> Verdict:
    """The verdict on one subject. ``calls[0]`` is the example; further ones tell which sizes vary."""
    if "round_trip" in (plan.options.checks or check_names()):
        sandbox.warm_up()
    with quiet(plan.device) as heard, untouched(closed_over(thing)):
        return _Item(thing, calls, plan, heard).verdict()


def check_artifact(made: Any, thing: Any, example: Call, plan: Plan) -> Verdict:
    """The verdict on an artifact that somebody else made: a path, or a callable."""
    sandbox.warm_up()
    with quiet(plan.device) as heard:
        return _Item(thing, [example], plan, heard, made=made).verdict()


def export(thing: Any, example: Call, plan: Plan) -> Artifact:
    """The artifact alone, for asserts of the user's own. Raises ExportRefused, SpecError, CannotJudge."""
    with quiet(plan.device) as heard:
        item = _Item(thing, [example], plan, heard)
        item.prepare()
        return item.export()


class CannotJudge(Exception):
    """The item cannot be judged here; the text says why and what to do. A skip, not a failure."""


class _OutOfTime(BaseException):
    """Ends drawing. A BaseException, because Hypothesis takes an Exception for a failing example."""


class _Item:
    """One subject on one target and device."""

    waiting_for = "eager"
    trying: Recipe | None = None
    spec: InputSpec | None = None
    artifact: Artifact | None = None
    shrunk: tuple[Recipe, str, tuple[Sizes, ...]] | None = None

    def __init__(
        self, thing: Any, calls: Sequence[Call], plan: Plan, heard: Heard, made: Any = None
    ) -> None:
        self.made = made
        self.plan = plan
        self.calls = calls
        self.heard = heard
        self.ledger = Ledger()
        self.deadline = Deadline(plan.time_limit)
        self.tolerance = Tolerance(plan.options.rtol, plan.options.atol)
        self.subject = Subject.of(thing)

    # -- the flow ----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Run every stage and say what came of it."""
        checks = self.plan.options.checks or check_names()
        try:
            with interrupted_after(self.plan.time_limit):
                self.prepare()
                self.export()
                if "parity" in checks:
                    self._parity()
                if "state" in checks:
                    self._in_a_row()
            if "round_trip" in checks and self.made is None:
                self._round_trip()  # the clean process keeps its own time
        except CannotJudge as reason:
            return self._verdict("skipped", reason=str(reason))
        except TimeLimitExceeded:
            if self.ledger.failed:
                return self._failed(self.ledger.failed[0][1])
            cls = SpecError if self.waiting_for == "eager" else ArtifactHung
            text = f"{self.waiting_for} did not return within {self._limit()}"
            return self._failed(cls(text, details=self._attempt()))
        except Failure as failure:
            return self._failed(failure)
        except Exception as error:
            # Not the model's fault, but no reason to lose this verdict and those of the other subjects.
            frames = traceback.format_exception(error)[-1 - SHOWN_FRAMES :]
            text = f"{type(error).__name__}: {text_of(error)}; please report it with the model"
            return self._failed(Failure(text, details=tuple("".join(frames).splitlines())))
        return self._verdict("passed")

    def prepare(self) -> None:
        """Eager on the example: does it agree with itself, and which calls are legal."""
        self.plan.progress("eager")
        self._available()
        with self.ledger.timed("eager"):
            self.eager = Eager(self.subject, self.plan, self.ledger.note, self.calls[0])
            self.spec = build_spec(
                self.subject.signature(),
                self.calls,
                self.plan.options,
                self.subject.annotations(),
            )
            self.eager.prepare(self.spec.example)
            self.legal = Legal(self.spec, self.eager, self.ledger.note)
            self.spec = self.legal.spec
            self.calibration = Calibration(self.eager.pristine, self.plan.seed)

    def export(self) -> Artifact:
        """Export a copy once; torch's refusal is a failure where the target was named, else a skip."""
        assert self.spec is not None
        self.plan.progress("export")
        self.waiting_for = "the exporter"
        made = self._export() if self.made is None else self._foreign()
        if isinstance(made, NotApplicable):
            raise CannotJudge(f"not applicable: {made.reason}")
        self.artifact = made
        for note in getattr(made, "notes", ()):
            self.ledger.note(note)
        attributes = self.eager.attributes if self.eager.fresh_each_call else ()
        self._artifact_state = State(
            made.module, thorough=self.eager.stateful, attributes=attributes
        )
        return made

    def _export(self) -> Artifact | NotApplicable:
        assert self.spec is not None
        target = targets.get(self.plan.target)
        example = self._export_example() if target.specializes else self.spec.example
        options = dict((self.plan.options.export_options or {}).get(self.plan.target, {}))
        subject = self.eager.pristine.copy().to(self.plan.device)
        try:
            with self.ledger.timed("export"), torch.no_grad(), unheard():
                return target.export(
                    subject.function, example.clone().to(self.plan.device), self.spec, **options
                )
        except TimeLimitExceeded:
            raise
        except Exception as error:
            self._refused(error)

    def _foreign(self) -> Artifact | NotApplicable:
        assert self.spec is not None
        outcome = self.eager.on_cpu(self.spec.example)
        assert isinstance(outcome, Returned)
        try:
            return foreign(self.made, self.plan, outcome, self._blocked())
        except (OSError, ValueError) as error:
            raise SpecError(f"check_artifact: {error}") from None

    def _parity(self) -> None:
        assert self.spec is not None
        with self.ledger.timed("parity"):
            if not self._trial("example", example_recipe(self.spec), repeats=REPEATS):
                raise SpecError("filter refuses the example itself, or eager does on this device")
            self._explicit("stored", self._stored(), repeats=1)
            boundary = list(boundary_recipes(self.spec, self.plan.seed))
            self._explicit("boundary", boundary, repeats=REPEATS)
            self._draw()
            failed = self.ledger.failed
            self.plan.corpus.store(self._key(), [recipe.as_dict() for recipe, _ in failed])
            if failed:
                self._explain()
        self._effective()

    def _in_a_row(self) -> None:
        """Equal calls from the pristine state, none undone, where forward changes its module."""
        assert self.spec is not None
        if not self.eager.stateful:
            return
        with self.ledger.timed("state"):
            example = self.spec.example
            expected, left = self.eager.sequence(example, state.LENGTH)
            actual, right = self._runs(example)
            state.check(expected, actual, (left, right), self.tolerance)

    def _round_trip(self) -> None:
        assert self.spec is not None
        assert self.artifact is not None
        self.plan.progress("round trip")
        call = self.spec.example
        expected = [_on_cpu(outcome) for outcome in self._runs(call)[0]]
        for outcome in expected:
            if not isinstance(outcome, Returned):
                raise ArtifactRaised(f"on the example: {outcome}")
        if self.eager.random and _own_stream(expected):
            self.ledger.note(
                "round trip not checked: the artifact draws from a random stream of its own"
            )
            return
        with self.ledger.timed("round trip"):
            note = round_trip.check(
                self.artifact,
                target=self.plan.target,
                device=self.plan.device,
                call=call,
                expected=expected,
                tolerance=self.tolerance,
                seed=self.plan.seed,
                limit=max(self.deadline.left, LOADING_SECONDS),
                blocked=self._blocked(),
                imports=self.plan.runtime_imports,
            )
            if note:
                self.ledger.note(note)

    # -- stages in detail --------------------------------------------------------------------------

    def _available(self) -> None:
        device = self.plan.device
        reason = _missing_device(device) or targets.get(self.plan.target).unavailable(device)
        if reason and self.plan.strict:
            raise Ineffective(f"unavailable: {reason}")
        if reason:
            raise CannotJudge(f"unavailable: {reason}")

    def _export_example(self) -> Call:
        """The example, at size 2 of each dim that varies and whose own size exporters would freeze."""
        assert self.spec is not None
        dims = specialized_dims(self.spec)
        recipe = example_recipe(self.spec, {dim.name: EXPORTED_AT for dim in dims})
        call = build(self.spec, recipe) if dims else None
        if call is None or not isinstance(self.eager.on_cpu(call), Returned):
            return self.spec.example
        names = ", ".join(f"{dim.name} (the example's is {dim.example})" for dim in dims)
        self.ledger.note(
            f"exported at size {EXPORTED_AT} of {names}: exporters freeze sizes 0 and 1"
        )
        return call

    def _refused(self, error: Exception) -> NoReturn:
        assert self.spec is not None
        reason, where = condense(error)
        details = []
        said = self.plan.options.shapes is not None or self.plan.options.dynamic_shapes is not None
        assumed = [dim for dim in self.spec.dims.values() if not dim.declared and not said]
        if assumed and is_about_dims(error):
            names = ", ".join(repr(dim.name) for dim in assumed)
            details.append(
                f"that {names} varies was only assumed; if it does not: "
                f'shapes={{{self.spec.tensors[0].path!r}: "..."}}'
            )
        if not self.plan.named:
            hint = f" ({details[0]})" if details else ""
            raise CannotJudge(f"{self.plan.target} refused the module: {reason}{hint}") from None
        raise ExportRefused(reason, details=tuple(details), where=where) from None

    def _effective(self) -> None:
        """Whether anything was really checked: always said, a failure only under strict."""
        if self.ledger.calls["boundary"] + self.ledger.calls["drawn"]:
            return
        text = f"eager refused all {self.ledger.calls['rejected']} generated calls"
        if self.plan.strict:
            raise Ineffective(text)
        self.ledger.note(f"{text}: only the example was compared")

    # -- calls -------------------------------------------------------------------------------------

    def _explicit(self, origin: str, items: Sequence[Recipe], repeats: int) -> None:
        for number, recipe in enumerate(items):
            if number and self.deadline.elapsed > DRAWING_SHARE * self.plan.time_limit:
                self.ledger.note(
                    f"ran {number} of {len(items)} {origin} calls in half of {self._limit()}"
                )
                return
            self.plan.progress(origin, number, len(items))
            self._trial(origin, recipe, repeats)

    def _draw(self) -> None:
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
                f"stopped drawing after {self.ledger.calls['drawn']} of {wanted} calls: half of "
                f"{self._limit()} was used"
            )

    def _max_examples(self, profile: int) -> int:
        if self.plan.max_examples is not None:
            return self.plan.max_examples
        return self.plan.options.max_examples or min(profile, self.plan.max_examples_cap)

    def _trial(self, origin: str, recipe: Recipe, repeats: int) -> bool:
        """Run one call and book it; False where it is not legal."""
        assert self.spec is not None
        legal, failure = self._judge(recipe, repeats)
        if not legal:
            self.ledger.calls["rejected"] += 1
            return False
        self.ledger.calls[origin] += 1
        for name, dim in self.spec.dims.items():
            self.ledger.reached.setdefault(name, set()).add(recipe.sizes.get(name, dim.example))
        if failure is not None:
            self.ledger.calls["failed"] += 1
            if len(self.ledger.failed) < STORED:
                self.ledger.failed.append((recipe, failure))
        return True

    def _judge(self, recipe: Recipe, repeats: int = 1) -> tuple[bool, Failure | None]:
        """Whether the call is legal, and its failure."""
        self.waiting_for, self.trying = "eager", recipe
        found = self.legal.call(recipe)
        if found is None:
            return False, None
        call, outcome = found
        expected = self.eager.on_device(call, outcome)
        if not isinstance(expected, Returned):
            return False, None
        for _ in range(repeats):
            differences = self._differences(call, expected, self._run(call))
            if differences and self._no_answer(differences):
                return False, None
            try:
                parity.check(differences)
            except Failure as failure:
                return True, failure.with_traceback(None)  # its frames hold the tensors of the call
        return True, None

    def _run(self, call: Call) -> Outcome:
        """What the artifact does with the call, from its state as it was exported."""
        outcome = self._run_on(call)
        self._artifact_state.restore()
        return outcome

    def _runs(self, call: Call) -> tuple[list[Outcome], dict[str, torch.Tensor]]:
        """The same call in a row, each from where the one before ended, and the buffers that are left."""
        assert self.artifact is not None
        outcomes = [self._run_on(call) for _ in range(state.LENGTH)]
        left = buffers_of(self.artifact.module)
        self._artifact_state.restore()
        return outcomes, left

    def _run_on(self, call: Call) -> Outcome:
        assert self.artifact is not None
        self.waiting_for = "the artifact"
        left = max(self.deadline.left - 1.0, 0.5)
        outcome = observe(
            self.artifact,
            call.to(self.plan.device),
            seed=self.plan.seed,
            run=(lambda go: in_thread(go, left)) if self.artifact.native_loops else None,
        )
        if isinstance(outcome, Hung):
            raise TimeLimitExceeded
        return outcome

    def _differences(self, call: Call, expected: Returned, actual: Outcome) -> list[Difference]:
        differences = [self._named(item) for item in compare(expected, actual, self.tolerance)]
        if isinstance(actual, Returned):
            self.ledger.met(largest_error(expected.value, actual.value))
            # Float64 draws other random numbers: there eager's own error cannot be told.
            if differences and not self.tolerance.given and not self.eager.random:
                differences = self.calibration.keep_bugs(differences, call, expected, actual)
                if not differences:
                    self.ledger.note(
                        "some differences beyond the dtype's tolerance are explained by eager's own error "
                        "there (see the explanation of when two numbers are the same)"
                    )
        return differences

    def _no_answer(self, differences: Sequence[Difference]) -> bool:
        """Whether eager itself returns nan wherever the artifact differs, on values that were only assumed:
        a fully masked row has no right answer. On the example, or on declared values, it is a difference.
        """
        assert self.spec is not None
        declared = any(leaf.domain.declared for leaf in self.spec.tensors)
        if declared or self.eager.returns_nan or any(d.expected != "nan" for d in differences):
            return False
        self.ledger.note("eager returns nan on some generated calls, which are left out")
        return True

    def _named(self, difference: Difference) -> Difference:
        """A difference in the inputs under the name that the user gave the input."""
        if difference.kind != "state":
            return difference
        assert self.spec is not None
        raw, _ = self.spec.example.flatten("inputs")
        names = dict(zip((path for path, _ in raw), self.spec.leaves, strict=True))
        leaf = names.get(difference.path)
        path = f"input {leaf.path} after the call" if leaf is not None else difference.path
        return dataclasses.replace(difference, path=path)

    # -- failures ----------------------------------------------------------------------------------

    def _explain(self) -> NoReturn:
        """Shrink the first failing call and say at which sizes it fails; then raise its failure."""
        assert self.spec is not None
        self.plan.progress("shrinking")
        recipe, failure = self.ledger.failed[0]
        cls = type(failure)
        if cls is OutputsDiffer and self.eager.random:
            self._same_stream()

        def still_fails(candidate: Recipe) -> bool:
            out_of_time = self.deadline.elapsed > SHRINKING_SHARE * self.plan.time_limit
            return not out_of_time and type(self._quietly(candidate)) is cls

        with self.ledger.timed("shrinking"):
            recipe = shrink(self.spec, recipe, still_fails)
            final = self._quietly(recipe)
            call = build(self.spec, recipe)
            text = describe_recipe(self.spec, recipe, call) if call is not None else ""
            self.shrunk = (recipe, text, self._sweep(recipe))
        raise final if type(final) is cls else failure

    def _same_stream(self) -> None:
        """A random artifact that does not follow torch's seed cannot be compared with eager. Raises
        CannotJudge; returns where the artifact is not random at all: then it is a constant, and wrong.
        """
        assert self.spec is not None
        if _own_stream([self._run(self.spec.example), self._run(self.spec.example)]):
            text = (
                f"forward is random, and {self.plan.target} draws from another random stream than eager: "
                "their values cannot be compared"
            )
            if self.plan.strict:
                raise Ineffective(text)
            raise CannotJudge(text)

    def _quietly(self, recipe: Recipe) -> Failure | None:
        """The failure of a call that is tried only to explain another."""
        try:
            return self._judge(recipe)[1]
        except SpecError:
            return None

    def _sweep(self, recipe: Recipe) -> tuple[Sizes, ...]:
        """At which sizes of each dim the call fails: the others as in the example, or else as in the call."""
        assert self.spec is not None
        example = {name: dim.example for name, dim in self.spec.dims.items()}
        found = []
        for name in self.spec.dims:
            sizes = self._sizes(name, recipe, example)
            if not sizes.failing and recipe.sizes != example:
                sizes = self._sizes(name, recipe, recipe.sizes)
            found.append(sizes)
        return tuple(found)

    def _sizes(self, name: str, recipe: Recipe, others: Mapping[str, int]) -> Sizes:
        assert self.spec is not None
        dim = self.spec.dims[name]
        ok: list[int] = []
        failing: list[int] = []
        for size in sorted({*list(dim.sizes[:SWEEP]), dim.high, dim.example, recipe.sizes[name]}):
            tried = dataclasses.replace(recipe, sizes={**others, name: size})
            try:
                legal, failure = self._judge(tried)
            except SpecError:
                continue
            if legal:
                (ok if failure is None else failing).append(size)
        return Sizes(dim=name, example=dim.example, ok=tuple(ok), failing=tuple(failing))

    # -- bookkeeping -------------------------------------------------------------------------------

    def _blocked(self) -> list[str]:
        """The packages of the model's source, which the process that serves it does not have."""
        allowed = {name.partition(".")[0] for name in self.plan.runtime_imports}
        return [name for name in self.subject.packages() if name not in allowed]

    def _attempt(self) -> tuple[str, ...]:
        """The call that was being made, for what never came back from it."""
        if self.spec is None or self.trying is None:
            return ()
        call = build(self.spec, self.trying)
        return () if call is None else (f"call: {describe_recipe(self.spec, self.trying, call)}",)

    def _limit(self) -> str:
        return f"the item's time limit of {self.plan.time_limit:g} s (torchexport_time_limit)"

    def _key(self) -> str:
        """What a stored call depends on: the subject's source and the shapes it was drawn for."""
        assert self.spec is not None
        shapes = [(leaf.path, str(getattr(leaf, "shape", ""))) for leaf in self.spec.leaves]
        text = json.dumps([self.subject.source(), shapes, sorted(self.spec.dims)], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _stored(self) -> list[Recipe]:
        assert self.spec is not None
        found = []
        for data in self.plan.corpus.load(self._key()):
            try:
                recipe = Recipe.from_dict(data)
            except (KeyError, TypeError, ValueError):
                continue  # written by another version: as good as nothing stored
            legal = all(
                recipe.sizes.get(n, d.example) in d.sizes for n, d in self.spec.dims.items()
            )
            if legal and len(recipe.leaves) == len(self.spec.leaves):
                found.append(recipe)
        return found

    def _failed(self, failure: Failure) -> Verdict:
        recipe, text, sizes = self.shrunk or (None, "", ())
        return self._verdict(
            "failed",
            failure=type(failure).__name__,
            reason=str(failure),
            details=failure.details,
            where=failure.where or self.heard.traced,
            differences=failure.differences,
            recipe=recipe.as_dict() if recipe else None,
            call=text,
            shrunk=recipe is not None,
            sizes=sizes,
        )

    def _verdict(self, status: Any, **fields: Any) -> Verdict:
        return Verdict(
            subject=self.subject.name,
            target=self.plan.target,
            device=self.plan.device,
            status=status,
            calls=dict(self.ledger.calls),
            reached={name: tuple(sorted(sizes)) for name, sizes in self.ledger.reached.items()},
            assumed=self.spec.assumed if self.spec is not None else (),
            baked=self.artifact.baked if self.artifact is not None else (),
            notes=tuple(self.ledger.notes),
            warnings=tuple(self.heard.warnings),
            seed=self.plan.seed,
            seconds=dict(self.ledger.seconds),
            max_error=self.ledger.max_error,
            **fields,
        )


def _own_stream(outcomes: Sequence[Outcome]) -> bool:
    """Whether equal calls from equal seeds and states differ: the random stream is not torch's."""
    first, *rest = outcomes
    return isinstance(first, Returned) and any(
        compare(first, other, Tolerance()) for other in rest if isinstance(other, Returned)
    )


def _on_cpu(outcome: Outcome) -> Outcome:
    """Tensors cross to the clean process and back by way of the CPU."""
    if not isinstance(outcome, Returned):
        return outcome
    return Returned(Call((outcome.value,)).to("cpu").args[0], Call())


def _missing_device(device: str) -> str | None:
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"device {device!r}: torch.cuda.is_available() is false here"
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return f"device {device!r}: there are only {torch.cuda.device_count()} CUDA devices here"
    return None
