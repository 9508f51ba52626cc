"""Check one subject on one target: the flow of an item, from the example to the verdict.

A library call: it knows nothing of pytest, so it works in a notebook and in a script too.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from pytest_torchexport import targets
from pytest_torchexport.checks import dims_audit, foreign, parity, randomness, self_test, state_rows
from pytest_torchexport.checks.control_flow import following
from pytest_torchexport.checks.control_flow.following import BranchResults
from pytest_torchexport.checks.round_trip import serving
from pytest_torchexport.checks.round_trip.trip import RoundTrip
from pytest_torchexport.config import names
from pytest_torchexport.config.options import NAMES, parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import OF_A_RUN, TABLE, settings_from
from pytest_torchexport.config.validate import device_names, target_names
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT, specialized_dims
from pytest_torchexport.inputs.recipes import Recipe, build, example_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec, build_spec
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case, exported
from pytest_torchexport.judge.loading import loader_of
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.runners import Isolated
from pytest_torchexport.outcomes.limits import (
    Deadline,
    TimeLimitExceeded,
    interrupted_after,
    survived,
)
from pytest_torchexport.outcomes.messages import (
    condense,
    is_about_dims,
    printable,
    short_path,
    text_of,
)
from pytest_torchexport.outcomes.observe import Returned, untouched
from pytest_torchexport.outcomes.subject import (
    Subject,
    closed_over,
    local_packages,
    missing_device,
    weight_of,
)
from pytest_torchexport.outcomes.torch_state import CapturedOutput, quiet
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ExportRefused,
    Failure,
    Ineffective,
    LoadFailed,
    RoundTripDiffers,
    SpecError,
)
from pytest_torchexport.results.verdict import SkipKind, Verdict
from pytest_torchexport.sandbox.session import warm_up
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.sizes import refused_at
from pytest_torchexport.targets.refusals import remedy

# Eager's rehearsal stops at this share of the time limit.
REHEARSAL_SHARE = 0.25
# What may kill the interpreter is tried in a copy of it, for so long.
TRYING_SECONDS = 60.0
SHOWN_FRAMES = 2
# Of weights of so many bytes the copies are collected after each item: that takes some 50 ms.
LARGE = 2**24
# A dim of no more sizes takes each of them in the clean process before it does here.
FEW_SIZES = 8
# A check's settings by name, besides what the marker's arguments say.
SETTINGS_OF_A_CHECK = tuple(row.name for row in TABLE if row.name not in (*OF_A_RUN, *NAMES))
# After which failures a person wants the very file.
KEPT_AFTER = (ArtifactCrashed, ArtifactHung, LoadFailed, RoundTripDiffers)


def check_export(
    module: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    target: str,
    device: str = "cpu",
    seed: int = 0,
    keep: Path | None = None,
    **options: Any,
) -> Verdict:
    """Check a module, function or bound method on one target, without pytest.

    ``args`` and ``kwargs`` are the example call of ``forward``. ``options`` are the marker's arguments and the
    settings of a check by their names (``strict=True``, ``time_limit=60``): seconds, megabytes. ``keep`` is a
    directory, made if needed, for the artifact's files after a failure to save, load, or survive a call.
    Returns a Verdict, whose ``raise_for_failure()`` raises. Raises SpecError for an option that is wrong in itself,
    ValueError for an unknown target or device or a wrong setting.
    """
    target_names((target,))
    device_names((device,))
    own = {name: options.pop(name) for name in SETTINGS_OF_A_CHECK if name in options}
    settings = settings_from(own)
    plan = Plan(
        target=target,
        device=device,
        options=parse_check_options(options),
        settings=settings,
        seed=seed,
        why_isolated="isolate=True" if settings.isolate else "",
        keep=keep,
    )
    return check(module, [Call(tuple(args), dict(kwargs or {}))], plan)


def check(thing: Any, given: Sequence[Call], plan: Plan) -> Verdict:
    """The verdict on one subject. ``given[0]`` is the example; further ones tell which sizes vary."""
    with quiet(plan.device) as heard, untouched(closed_over(thing)):
        return _judged(_Item(thing, given, plan, heard))


def check_artifact(made: Any, thing: Any, example: Call, plan: Plan) -> Verdict:
    """The verdict on an artifact that somebody else made: a path, or a callable."""
    with quiet(plan.device) as heard, untouched(closed_over(thing)):
        return _judged(_Item(thing, [example], plan, heard, made=made))


def _judged(item: _Item) -> Verdict:
    """The item's verdict. What it worked with refers to one another in rings: copies of large weights are not left
    to Python's collector, which counts objects and not bytes.
    """
    size = weight_of(item.subject.module)
    try:
        return item.verdict()
    finally:
        item.__dict__.clear()
        if size > LARGE:
            gc.collect()


def export(thing: Any, example: Call, plan: Plan) -> Artifact:
    """The artifact alone, for asserts of the user's own. Raises ExportRefused, SpecError, CannotJudge."""
    with quiet(plan.device) as heard, untouched(closed_over(thing)):
        item = _Item(thing, [example], plan, heard)
        item.prepare()
        return item.export().artifact


class CannotJudge(Exception):
    """The item cannot be judged here: a skip and not a failure. The text says why and what to do."""

    def __init__(self, text: str, kind: SkipKind = "not judged") -> None:
        super().__init__(text)
        self.kind = kind


class _Item:
    """One subject on one target and device."""

    spec: InputSpec | None = None
    artifact: Artifact | None = None
    observed: Observed | None = None
    case: Case | None = None
    trip: RoundTrip | None = None
    kept: str = ""

    def __init__(
        self, thing: Any, given: Sequence[Call], plan: Plan, heard: CapturedOutput, made: Any = None
    ) -> None:
        self.made = made
        self.plan = plan
        self.given = given
        self.heard = heard
        self.log = ItemLog()
        self.deadline = Deadline(plan.settings.time_limit)
        self.subject = Subject.of(thing)

    # -- the flow ----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Run every stage and say what came of it."""
        try:
            return self._judged()
        finally:
            if self.trip is not None:
                self.trip.close()
            if isinstance(self.artifact, Isolated):
                self.artifact.close()

    def _judged(self) -> Verdict:
        try:
            with interrupted_after(self.plan.settings.time_limit):
                self.prepare()
                case = self.export()
            self._begin_trip(case)  # the clean process keeps its own time
            with interrupted_after(self.deadline.left):
                self._in_memory(case)
            if self.trip is not None:
                self.trip.raise_what_was_held()
            if self.plan.settings.self_test:
                self_test.seed_bugs(case)  # and so does this
            following.gate(case)
        except CannotJudge as reason:
            return self._verdict("skipped", skip=reason.kind, reason=printable(str(reason)))
        except TimeLimitExceeded:
            if self.log.failed:
                return self._failed(self.log.failed[0][1])
            text = f"{self.log.waiting_for} did not return within {self.plan.limit()}"
            if self.log.waiting_for == "eager":
                return self._failed(SpecError(text, details=self._attempt()))
            return self._failed(ArtifactHung(text, details=self._attempt()))
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
        self._warm_up()
        with self.log.timed("eager"):
            self.eager = Reference(self.subject, self.plan, self.log.note, self.given[0])
            self.spec = build_spec(
                self.subject.signature(),
                self.given,
                self.plan.options,
                self.subject.annotations(),
            )
            names = [leaf.path for leaf in self.spec.leaves]
            self.eager.prepare(self.spec.example, names)
            if self._checks("control_flow"):
                self.observed = Observed(self.eager, self.plan.seed, self.plan.settings.follow)
                self.observed.learn(self.spec.example)
                self.eager.guard(self.observed)
            self.legal = AcceptedCalls(self.spec, self.eager, self.log.note)
            self.spec = self.legal.spec
            self._rehearse()

    def _rehearse(self) -> None:
        """Eager alone on the boundary calls: a wrong declaration is told before anything is made of it
        (SpecError), and a forward that changes its module on other calls than the example is found out.
        """
        assert self.spec is not None
        for recipe in boundary_recipes(self.spec, self.plan.seed):
            if self.deadline.elapsed > REHEARSAL_SHARE * self.plan.settings.time_limit:
                return
            self.legal.call(recipe)
        self.eager.drifted()

    def export(self) -> Case:
        """Export a copy once; torch's refusal is a failure where the target was named, else a skip."""
        assert self.spec is not None
        self.plan.progress("export")
        self.log.waiting_for = "the exporter"
        made = self._export() if self.made is None else self._foreign()
        if isinstance(made, NotApplicable):
            raise CannotJudge(f"not applicable: {made.reason}", "not applicable")
        self.artifact = made
        for note in made.facts.notes:
            self.log.note(note)
        self.case = Case(
            plan=self.plan,
            eager=self.eager,
            legal=self.legal,
            artifact=made,
            log=self.log,
            deadline=self.deadline,
            observed=self.observed,
        )
        return self.case

    def _checks(self, name: str) -> bool:
        return self.plan.checks(name)

    def _begin_trip(self, case: Case) -> None:
        """On its way to another process, and through the example there, before it is called here."""
        if self.made is not None or not (
            self._checks("round_trip") or bool(self.plan.why_isolated)
        ):
            return
        if names.entry_point(self.plan.target) is None:
            name = self.plan.target
            self.log.note(
                f"round trip not checked: target {name!r} is registered only in this process"
            )
            return
        self.trip = RoundTrip(case, self._blocked())
        self.trip.begin()

    def _in_memory(self, case: Case) -> None:
        """The artifact beside eager, where it was made."""
        randomness.streams(case)
        key = parity.key_of(case, self.subject.source())
        branch_results = following.explore(case, key) if self._checks("parity") else None
        if self._checks("state"):
            state_rows.stay(case)
        randomness.settled(case)
        if self.trip is not None:
            self.trip.follow(self._on_the_trip(branch_results))
            serving.serve(case, self.trip)
        if self._checks("state") and self.made is None:
            state_rows.start(case)
        if self._checks("dims"):
            dims_audit.audit(case)
        if self._checks("parity"):
            parity.run(case, key, branch_results)
            parity.weigh(case)
            if branch_results is not None:
                following.weigh(branch_results)
        if self._checks("state"):
            state_rows.follow(case)
        unjudged = randomness.unjudged(case)
        if self.plan.settings.strict and (self.log.ineffective or unjudged):
            first, *more = [unjudged] if unjudged else self.log.ineffective
            raise Ineffective(first, details=tuple(more))
        if unjudged:
            raise CannotJudge(unjudged)

    def _export(self) -> Artifact | NotApplicable:
        assert self.spec is not None
        spec = self.spec
        target = targets.get(self.plan.target)
        example = self._export_example() if target.traits.specializes_0_1 else self.spec.example

        def go() -> Artifact | NotApplicable:
            return exported(self.eager, self.plan, spec, example)

        fatal = target.traits.crashes_on_caught_errors
        if fatal and self.observed is not None and self.observed.example_catches:
            # A copy of a process that has begun with CUDA cannot go on with it.
            begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            if begun or not survived(go, TRYING_SECONDS):
                raise ExportRefused(fatal)
        try:
            with self.log.timed("export"):
                return go()
        except TimeLimitExceeded:
            raise
        except Exception as error:
            self._refused(error)

    def _foreign(self) -> Artifact | NotApplicable:
        assert self.spec is not None
        outcome = self.eager.on_cpu(self.spec.example)
        assert isinstance(outcome, Returned)
        try:
            return foreign.artifact(
                self.made,
                self.plan,
                outcome,
                self._blocked(),
                lambda: self.deadline.for_a_call(self.plan.settings.call_limit),
                self.spec,
                fresh=self.eager.fresh_each_call,
            )
        except OSError as error:
            raise LoadFailed(f"check_artifact: {error}") from None
        except ValueError as error:
            raise SpecError(f"check_artifact: {error}") from None

    def _on_the_trip(self, branch_results: BranchResults | None) -> list[Recipe]:
        """The calls that are made on both sides: what is known to matter."""
        assert self.spec is not None
        explored = branch_results.recipes if branch_results is not None else []
        sizes = [
            example_recipe(self.spec, {dim.name: size})
            for dim in self.spec.dims.values()
            if len(dim.sizes) <= FEW_SIZES
            for size in dim.sizes
            if size not in dim.boundary()
        ]
        return [*boundary_recipes(self.spec, self.plan.seed), *explored, *sizes]

    # -- stages in detail --------------------------------------------------------------------------

    def _available(self) -> None:
        device = self.plan.device
        reason = missing_device(device) or targets.get(self.plan.target).unavailable(device)
        if reason and self.plan.settings.strict:
            raise Ineffective(f"unavailable: {reason}")
        if reason:
            raise CannotJudge(f"unavailable: {reason}", "unavailable")

    def _warm_up(self) -> None:
        """Have the clean process ready by the time there is something to load."""
        wanted = self.made is not None or self._checks("round_trip") or bool(self.plan.why_isolated)
        if wanted and names.entry_point(self.plan.target) is not None:
            preload = targets.get(self.plan.target).traits.preload
            warm_up(torch=loader_of(self.plan.target).torch, preload=preload)

    def _export_example(self) -> Call:
        """The example, at size 2 of each dim that varies and whose own size exporters would freeze."""
        assert self.spec is not None
        dims = specialized_dims(self.spec)
        recipe = example_recipe(self.spec, {dim.name: EXPORTED_AT for dim in dims})
        call = build(self.spec, recipe) if dims else None
        if call is None or not isinstance(self.eager.on_cpu(call), Returned):
            return self.spec.example
        names = ", ".join(f"{dim.name} (the example's is {dim.example})" for dim in dims)
        self.log.note(f"exported at size {EXPORTED_AT} of {names}: exporters freeze sizes 0 and 1")
        return call

    def _refused(self, error: Exception) -> NoReturn:
        assert self.spec is not None
        reason, where = condense(error)
        where = refused_at(error) or where
        details = [*remedy(error)]
        said = self.plan.options.shapes is not None or self.plan.options.dynamic_shapes is not None
        assumed = [dim for dim in self.spec.dims.values() if not dim.declared and not said]
        if assumed and is_about_dims(error):
            details.insert(0, self.spec.opt_out([dim.name for dim in assumed]))
        if not self.plan.named:
            hint = f" ({details[0]})" if details else ""
            text = f"{self.plan.target} refused the module: {reason}{hint}"
            raise CannotJudge(text, "refused") from None
        raise ExportRefused(reason, details=tuple(details), where=where) from None

    # -- bookkeeping -------------------------------------------------------------------------------

    def _blocked(self) -> list[str]:
        """The packages of the model's source, which the process that serves it does not have."""
        allowed = {name.partition(".")[0] for name in self.plan.settings.runtime_imports}
        own = {*self.subject.packages(), *local_packages(self.plan.root or Path.cwd())}
        return sorted(own - allowed)

    def _attempt(self) -> tuple[str, ...]:
        """The call that was being made, for what never came back from it."""
        return self.case.attempted() if self.case is not None else ()

    def _failed(self, failure: Failure) -> Verdict:
        shrunk = self.log.shrunk
        if isinstance(failure, KEPT_AFTER):
            self._keep()
        return self._verdict(
            "failed",
            failure=type(failure).__name__,
            reason=printable(str(failure)),
            details=tuple(map(printable, failure.details)),
            where=failure.where or self.heard.traced,
            differences=failure.differences,
            output=failure.output,
            recipe=shrunk.recipe.as_dict() if shrunk else None,
            call=shrunk.text if shrunk else "",
            shrunk=shrunk is not None and shrunk.searched,
            sizes=shrunk.sizes if shrunk else (),
        )

    def _printed(self) -> str:
        """The end of what the artifact printed in a process of its own."""
        talker = self.trip if self.trip is not None else self.artifact
        return talker.printed() if isinstance(talker, (RoundTrip, Isolated)) else ""

    def _keep(self) -> None:
        """The file itself, where the user can find it."""
        if self.made is not None:
            there = isinstance(self.made, (str, os.PathLike)) and Path(self.made).is_file()
            self.kept = short_path(str(self.made)) if there else ""
        elif self.trip is not None and self.plan.keep is not None:
            try:
                kept = self.trip.keep(self.plan.keep / self.subject.name)
            except OSError as error:
                self.log.note(f"the artifact could not be kept in {self.plan.keep}: {error}")
            else:
                self.kept = short_path(str(kept)) if kept is not None else ""

    def _verdict(self, status: Any, output: str = "", **fields: Any) -> Verdict:
        isolated = self.case is not None and isinstance(self.case.artifact, Isolated)
        return Verdict(
            subject=self.subject.name,
            target=self.plan.target,
            device=self.plan.device,
            status=status,
            calls=dict(self.log.calls),
            reached={name: tuple(sorted(sizes)) for name, sizes in self.log.reached.items()},
            assumed=self.spec.assumed if self.spec is not None else (),
            baked=self.artifact.baked if self.artifact is not None else (),
            notes=tuple(map(printable, self.log.notes)),
            warnings=tuple(self.heard.warnings),
            seed=self.plan.seed,
            seconds=dict(self.log.seconds),
            max_error=self.log.max_error,
            explained=tuple(self.log.explained.values()),
            ineffective=tuple(self.log.ineffective),
            branches=self.log.branches,
            self_test=tuple(self.log.self_test),
            isolated=isolated,
            output=output or self._printed(),
            kept=self.kept,
            **fields,
        )
