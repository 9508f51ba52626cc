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
from pytest_torchexport.checks import dims, round_trip, state
from pytest_torchexport.checks import names as check_names
from pytest_torchexport.compare import Tolerance, compare_values, remarks
from pytest_torchexport.eager import Eager
from pytest_torchexport.explain import Shrunk, explained, sweep
from pytest_torchexport.failures import (
    ArtifactHung,
    ArtifactRaised,
    DimsNarrowed,
    ExportRefused,
    Failure,
    Ineffective,
    OutputsDiffer,
    SpecError,
)
from pytest_torchexport.judge import Judge, Runnable
from pytest_torchexport.ledger import Ledger
from pytest_torchexport.legal import Legal
from pytest_torchexport.limits import Deadline, TimeLimitExceeded, interrupted_after
from pytest_torchexport.messages import condense, is_about_dims, text_of
from pytest_torchexport.observe import Returned, tensors_of, untouched
from pytest_torchexport.plan import Plan
from pytest_torchexport.quiet import Heard, quiet, unheard
from pytest_torchexport.recipes import (
    Recipe,
    build,
    describe_recipe,
    example_recipe,
    plain_recipe,
)
from pytest_torchexport.self_test import MISSED, self_test
from pytest_torchexport.settings import device_names, target_names
from pytest_torchexport.spec.exporters import EXPORTED_AT, specialized_dims
from pytest_torchexport.spec.inputs import Call, InputSpec, build_spec
from pytest_torchexport.spec.options import parse_check_options
from pytest_torchexport.strategies import boundary_recipes, recipes
from pytest_torchexport.subject import Subject, closed_over
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.foreign import foreign
from pytest_torchexport.targets.sizes import refused_at
from pytest_torchexport.verdict import Verdict

# An artifact's first run may differ from its later ones: https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
# Drawing stops at this share of the time limit: the rest is for shrinking and the round trip.
DRAWING_SHARE = 0.5
SHRINKING_SHARE = 0.9
# What the clean process gets at least, however little parity has left of the item's time.
LOADING_SECONDS = 20.0
SHOWN_FRAMES = 2
# How many failing calls are kept for the next run.
STORED = 10
# An item whose eager takes a smaller share of the generated calls, and fewer than this, checked hardly anything.
ACCEPTED_SHARE = 0.1
HARDLY_ANY = 10
TOO_FEW = 3


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
    self_test: bool = False,
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
        self_test=self_test,
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


_HOW_TO_DECLARE = (
    "say which calls are legal: values= for what an input may hold, map= for what ties inputs",
    "together, dims= for sizes; filter= only for what these cannot say",
)


class CannotJudge(Exception):
    """The item cannot be judged here; the text says why and what to do. A skip, not a failure."""


class _OutOfTime(BaseException):
    """Ends drawing. A BaseException, because Hypothesis takes an Exception for a failing example."""


class _Item:
    """One subject on one target and device."""

    spec: InputSpec | None = None
    artifact: Artifact | None = None
    shrunk: Shrunk | None = None

    def __init__(
        self, thing: Any, calls: Sequence[Call], plan: Plan, heard: Heard, made: Any = None
    ) -> None:
        self.made = made
        self.plan = plan
        self.calls = calls
        self.heard = heard
        self.ledger = Ledger()
        self.deadline = Deadline(plan.time_limit)
        self.ineffective: list[str] = []
        self.seeded: dict[str, str] = {}
        self.subject = Subject.of(thing)

    # -- the flow ----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Run every stage and say what came of it."""
        checks = self.plan.options.checks or check_names()
        try:
            with interrupted_after(self.plan.time_limit):
                self.prepare()
                self.export()
                self._random_stream()
                if "state" in checks:
                    self._as_exported()
                if "dims" in checks:
                    self._dims()
                if "parity" in checks:
                    self._parity()
                if "state" in checks:
                    self._in_a_row()
                if self.judge.random_paths:
                    self._unjudged()
            if "round_trip" in checks and self.made is None:
                self._round_trip()  # the clean process keeps its own time
            if self.plan.self_test:
                self._self_test()
        except CannotJudge as reason:
            return self._verdict("skipped", reason=str(reason))
        except TimeLimitExceeded:
            if self.ledger.failed:
                return self._failed(self.ledger.failed[0][1])
            cls = SpecError if self.ledger.waiting_for == "eager" else ArtifactHung
            text = f"{self.ledger.waiting_for} did not return within {self._limit()}"
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
            names = [leaf.path for leaf in self.spec.leaves]
            self.eager.prepare(self.spec.example, names)
            self.legal = Legal(self.spec, self.eager, self.ledger.note)
            self.spec = self.legal.spec
            self._declared()

    def _declared(self) -> None:
        """Ask eager for every boundary size that was declared: a wrong declaration is told before anything
        is made of it. Raises SpecError.
        """
        assert self.spec is not None
        if any(dim.declared for dim in self.spec.dims.values()):
            for recipe in boundary_recipes(self.spec, self.plan.seed):
                self.legal.call(recipe)

    def export(self) -> Artifact:
        """Export a copy once; torch's refusal is a failure where the target was named, else a skip."""
        assert self.spec is not None
        self.plan.progress("export")
        self.ledger.waiting_for = "the exporter"
        made = self._export() if self.made is None else self._foreign()
        if isinstance(made, NotApplicable):
            raise CannotJudge(f"not applicable: {made.reason}")
        self.artifact = made
        for note in getattr(made, "notes", ()):
            self.ledger.note(note)
        self.judge = self._judge_of(made, self.ledger)
        return made

    def _judge_of(self, artifact: Runnable, ledger: Ledger) -> Judge:
        return Judge(
            artifact,
            plan=self.plan,
            eager=self.eager,
            legal=self.legal,
            ledger=ledger,
            deadline=self.deadline,
        )

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

    def _random_stream(self) -> None:
        """Where forward is random: does the artifact vary with the seed, and as eager does."""
        assert self.spec is not None
        if not self.eager.random:
            return
        seed = self.plan.seed
        first, second, other = (
            self.judge.run(self.spec.example, at) for at in (seed, seed, seed + 1)
        )
        runs = [item for item in (first, second, other) if isinstance(item, Returned)]
        wanted = self.eager.on_cpu(self.spec.example)
        if len(runs) < len((first, second, other)) or not isinstance(wanted, Returned):
            return  # parity tells what it raises
        returned = _on_cpu(runs[0])
        if any(d.kind != "values" for d in compare_values(wanted.value, returned, Tolerance())):
            return  # and what it returns
        if self.eager.differing(runs[0], runs[1]):
            self.judge.random_paths = self.eager.random
        elif not self.eager.differing(runs[0], runs[2]):
            raise OutputsDiffer(
                "the artifact is constant where eager varies with the random seed",
                details=tuple(self.eager.draws),
            )

    def _unjudged(self) -> None:
        """What is random and on a stream of the artifact's own cannot be compared. Raises CannotJudge."""
        text = (
            f"forward is random, and {self.plan.target} draws from another random stream than eager: "
            f"the values of {', '.join(sorted(self.judge.random_paths))} cannot be compared"
        )
        if self.plan.strict:
            raise Ineffective(text)
        raise CannotJudge(text)

    def _as_exported(self) -> None:
        """Whether the artifact starts in the state in which the module was."""
        assert self.artifact is not None
        if self.eager.stateful and self.made is None:
            pristine = tensors_of(self.eager.pristine.copy().to(self.plan.device).module)
            state.exported(pristine, tensors_of(self.artifact.module), self.eager.changes)

    def _dims(self) -> None:
        """What the program's metadata says about sizes, held against calls."""
        assert self.spec is not None
        audit = getattr(self.artifact, "audit", None)
        suspicions = audit(self.spec, self.spec.example) if audit is not None else ()
        tried: list[Recipe] = []

        def witness(sizes: Mapping[str, int]) -> Failure | None:
            assert self.spec is not None
            for recipe in (
                plain_recipe(self.spec, "normal", self._sizes | dict(sizes), self.plan.seed),
                example_recipe(self.spec, sizes),
            ):
                failure = self.judge.quietly(recipe)
                if failure is not None and self.judge.quietly(self._resized(recipe)) is None:
                    tried.append(recipe)
                    return failure
            return None

        if not suspicions:
            return
        with self.ledger.timed("dims"):
            try:
                for cleared in dims.check(suspicions, witness):
                    self.ledger.note(cleared)
            except DimsNarrowed:
                recipe = tried[-1]
                call = build(self.spec, recipe)
                text = describe_recipe(self.spec, recipe, call) if call is not None else ""
                self.shrunk = Shrunk(recipe, text, sweep(self.judge, recipe), searched=False)
                raise

    def _resized(self, recipe: Recipe) -> Recipe:
        """The same call at the sizes of the example, or at those that an exporter was given instead: what
        fails there too is not about sizes.
        """
        assert self.spec is not None
        sizes = self._sizes
        if recipe.sizes == sizes:
            sizes |= {dim.name: EXPORTED_AT for dim in specialized_dims(self.spec)}
        return dataclasses.replace(recipe, sizes=sizes)

    @property
    def _sizes(self) -> dict[str, int]:
        """The example's own."""
        assert self.spec is not None
        return {name: dim.example for name, dim in self.spec.dims.items()}

    def _parity(self) -> None:
        assert self.spec is not None
        with self.ledger.timed("parity"):
            if not self._trial("example", example_recipe(self.spec), repeats=REPEATS):
                raise SpecError("filter refuses the example itself, or eager does on this device")
            if not self.ledger.failed:
                self._remark()
            self._explicit("stored", self._stored(), repeats=1)
            boundary = list(boundary_recipes(self.spec, self.plan.seed))
            self._explicit("boundary", boundary, repeats=REPEATS)
            self._draw()
            failed = self.ledger.failed
            self.plan.corpus.store(self._key(), [recipe.as_dict() for recipe, _ in failed])
            if failed:
                self._explain()
        self._effective()

    def _remark(self) -> None:
        """Note what the artifact returns otherwise than eager, and may."""
        assert self.spec is not None
        eager, artifact = self.eager.on_cpu(self.spec.example), self.judge.run(self.spec.example)
        if isinstance(eager, Returned) and isinstance(artifact, Returned):
            for text in remarks(eager.value, artifact.value):
                self.ledger.note(text)

    def _in_a_row(self) -> None:
        """Calls from the pristine state, none undone, where forward changes its module: the example again
        and again, and then calls of other values and sizes.
        """
        if not self.eager.stateful:
            return
        with self.ledger.timed("state"):
            for calls in self._sequences():
                self._follow(calls)

    def _follow(self, calls: Sequence[Call]) -> None:
        assert self.artifact is not None
        eager = self.eager.in_a_row(calls)
        artifact = self.judge.in_a_row(calls)
        start = tensors_of(self.eager.pristine.module)
        for number, (wanted, found) in enumerate(zip(eager, artifact, strict=True), start=1):
            outcome, left = wanted
            if not isinstance(outcome, Returned):
                return  # eager itself does not survive being called again: nothing to hold against anyone
            more = state.carried_differences(left, found[1], self.judge.tolerance)
            differences = self.judge.differences(
                calls[:number], outcome, found[0], (left, found[1]), more
            )
            state.followed(number, len(calls), differences, self.eager.changes)
            dropped = state.not_carried(start, left, found[1])
            if dropped:
                self.ledger.note(
                    f"the artifact does not carry {', '.join(dropped)}, which forward changes"
                )

    def _sequences(self) -> list[list[Call]]:
        assert self.spec is not None
        example = self.spec.example
        others = [
            found.call
            for recipe in boundary_recipes(self.spec, self.plan.seed)
            if (found := self.legal.call(recipe)) is not None
        ]
        step = max(1, len(others) // state.LENGTH)
        mixed = [example, *others[::step][: state.LENGTH]]
        return [[example] * state.LENGTH, mixed]

    def _round_trip(self) -> None:
        assert self.spec is not None
        assert self.artifact is not None
        self.plan.progress("round trip")
        call = self.spec.example
        in_memory = self.judge.in_a_row([call] * state.LENGTH)
        expected = [
            Returned(_on_cpu(outcome), Call()) if isinstance(outcome, Returned) else outcome
            for outcome, _ in in_memory
        ]
        for outcome in expected:
            if not isinstance(outcome, Returned):
                raise ArtifactRaised(f"on the example: {outcome}")
        with self.ledger.timed("round trip"):
            note = round_trip.check(
                self.artifact,
                target=self.plan.target,
                device=self.plan.device,
                call=call,
                expected=expected,
                tolerance=self.judge.tolerance,
                seed=self.plan.seed,
                limit=max(self.deadline.left, LOADING_SECONDS),
                blocked=self._blocked(),
                imports=self.plan.runtime_imports,
            )
            if note:
                self.ledger.note(note)

    def _self_test(self) -> None:
        """Which seeded bugs the calls of this item would have caught."""
        assert self.spec is not None
        assert self.artifact is not None
        self.plan.progress("self-test")
        example = self.eager.on_cpu(self.spec.example)
        with self.ledger.timed("self-test"):
            self.seeded = self_test(
                lambda mutant: self._judge_of(mutant, Ledger()),
                artifact=self.artifact,
                subject=self.eager.pristine.copy().to(self.plan.device),
                spec=self.spec,
                outputs=example.value if isinstance(example, Returned) else None,
                calls=self.ledger.ran,
            )
        missed = [name for name, came in self.seeded.items() if came.startswith(MISSED)]
        if missed and self.plan.strict:
            raise Ineffective(f"self-test: this item would miss a {', a '.join(missed)}")

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
        where = refused_at(error) or where
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
        """Whether anything was really checked. Hardly any legal calls are a failure; outputs that say little
        are told, and a failure only under strict.
        """
        accepted = self.ledger.calls["boundary"] + self.ledger.calls["drawn"]
        refused = self.ledger.calls["rejected"]
        different = self.judge.effects.calls
        if accepted < min(HARDLY_ANY, ACCEPTED_SHARE * (accepted + refused)):
            raise Ineffective(
                f"eager takes {accepted} of {accepted + refused} generated calls",
                details=self._how_to_declare(),
            )
        if (refused or self.legal.fell_back) and different <= TOO_FEW:
            raise Ineffective(
                f"eager refuses all but {different} different calls", details=self._how_to_declare()
            )
        fell_back = self.legal.fell_back and not self.legal.takes_other_values
        if fell_back:
            self.ineffective.append(
                "eager takes no other values than the example's: only sizes varied"
            )
        if self.spec is not None and self.spec.dims and not fell_back:
            self.ineffective += [
                f"eager takes only one size of {name}: {min(sizes)}"
                for name, sizes in self.ledger.reached.items()
                if len(sizes) == 1
            ]
        self.ineffective += self.judge.effects.complaints()
        for text in self.judge.effects.partial():
            self.ledger.note(text)
        if self.plan.strict and self.ineffective:
            raise Ineffective(self.ineffective[0], details=tuple(self.ineffective[1:]))

    def _how_to_declare(self) -> tuple[str, ...]:
        refusal = self.legal.refusal
        said = (f"the first that it refused: {refusal:.200}",) if refusal else ()
        return (*said, *_HOW_TO_DECLARE)

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
        judgment = self.judge.call(recipe, repeats)
        if judgment is None:
            self.ledger.calls["rejected"] += 1
            return False
        self.ledger.calls[origin] += 1
        if self.plan.self_test:
            self.ledger.ran.append((origin, recipe))
        for name, dim in self.spec.dims.items():
            size = judgment.recipe.sizes.get(name, dim.example)
            self.ledger.reached.setdefault(name, set()).add(size)
        if judgment.failure is not None:
            self.ledger.calls["failed"] += 1
            if len(self.ledger.failed) < STORED:
                self.ledger.failed.append((judgment.recipe, judgment.failure))
        return True

    # -- failures ----------------------------------------------------------------------------------

    def _explain(self) -> NoReturn:
        """Shrink the first failing call and say at which sizes it fails; then raise its failure."""
        self.plan.progress("shrinking")
        recipe, failure = self.ledger.failed[0]
        with self.ledger.timed("shrinking"):
            self.shrunk, final = explained(self.judge, recipe, type(failure), self._may_shrink)
        raise final if type(final) is type(failure) else failure

    def _may_shrink(self) -> bool:
        return self.deadline.elapsed <= SHRINKING_SHARE * self.plan.time_limit

    # -- bookkeeping -------------------------------------------------------------------------------

    def _blocked(self) -> list[str]:
        """The packages of the model's source, which the process that serves it does not have."""
        allowed = {name.partition(".")[0] for name in self.plan.runtime_imports}
        return [name for name in self.subject.packages() if name not in allowed]

    def _attempt(self) -> tuple[str, ...]:
        """The call that was being made, for what never came back from it."""
        trying = self.ledger.trying
        call = build(self.spec, trying) if self.spec is not None and trying is not None else None
        if self.spec is None or trying is None or call is None:
            return ()
        return (f"call: {describe_recipe(self.spec, trying, call)}",)

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
        shrunk = self.shrunk
        return self._verdict(
            "failed",
            failure=type(failure).__name__,
            reason=str(failure),
            details=failure.details,
            where=failure.where or self.heard.traced,
            differences=failure.differences,
            recipe=shrunk.recipe.as_dict() if shrunk else None,
            call=shrunk.text if shrunk else "",
            shrunk=shrunk is not None and shrunk.searched,
            sizes=shrunk.sizes if shrunk else (),
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
            explained=tuple(self.ledger.explained.values()),
            ineffective=tuple(self.ineffective),
            self_test=self.seeded,
            **fields,
        )


def _on_cpu(outcome: Returned) -> Any:
    """What it returned, on the CPU."""
    return Call((outcome.value,)).to("cpu").args[0]


def _missing_device(device: str) -> str | None:
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"device {device!r}: torch.cuda.is_available() is false here"
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return f"device {device!r}: there are only {torch.cuda.device_count()} CUDA devices here"
    return None
