"""The Case that each step of an item gets, complete and immutable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls, ReferenceCall
from pytest_torchexport.eager.fingerprint import reach
from pytest_torchexport.eager.queries import Query, queries, survives
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.eager.shared import put_back
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT, specialized_dims
from pytest_torchexport.inputs.recipes import Recipe, describe_recipe, example_recipe
from pytest_torchexport.inputs.shrink import shrink
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.branch_table import BranchResults
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import UNTIL_SHRUNK, Activity, ItemLog, Shrunk
from pytest_torchexport.judge.modes import OtherModes
from pytest_torchexport.judge.runner import (
    BY_REFERENCE,
    InProcess,
    InSandbox,
    Runnable,
    Runner,
    SavedArtifact,
    source_of,
)
from pytest_torchexport.outcomes.limits import Deadline, TimeLimitExceeded
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.outcomes.torch_state import GradMode, suppress_output
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    CannotJudge,
    ExportRefused,
    Failure,
    Ineffective,
    ends_the_test,
)
from pytest_torchexport.targets.base import Artifact, NotApplicable, TargetTraits

Made = TypeVar("Made")

NOT_IN_INFERENCE_MODE = (
    "exported under torch.no_grad(): the exporter refuses the module under torch.inference_mode()"
)
LIMITS = (
    "next step: take the limit (or --torchexport-strict) away where it cannot be applied, or keep "
    "this as a known failure"
)
# The precisions that a file may state.
PRECISIONS = {"": None, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
# The members of an Artifact that are not methods: what somebody else's target may have forgotten.
# Of the calls that are repeated where a file is served.
SERVED = 6
_MEMBERS = ("program", "module", "baked", "native_loops", "facts", "save")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Eager, examined: the reference, the calls it takes, and how its conditions are observed.

    ``observed`` is None if control flow is not checked. ``blocked`` are the packages that the clean
    process does not have. ``resources`` is closed when the item ends.
    """

    plan: Plan
    reference: Reference
    accepted: AcceptedCalls
    observed: Observed | None
    log: ItemLog
    deadline: Deadline
    blocked: tuple[str, ...]
    resources: ExitStack

    @property
    def spec(self) -> InputSpec:
        return self.accepted.spec

    @property
    def traits(self) -> TargetTraits:
        return targets.get(self.plan.target).traits

    @property
    def precision(self) -> torch.dtype | None:
        """The float type that the artifact computes in; None: eager's, or there is no artifact."""
        return None

    @property
    def frozen_sizes(self) -> tuple[Dim, ...]:
        freezes = self.traits.specializes_0_1
        return tuple(specialized_dims(self.spec)) if freezes else ()

    def call_limit(self) -> float:
        return self.deadline.for_a_call(self.plan.call_limit)

    def refused(self, reason: str, error: Exception | None = None) -> None:
        """Raise CannotJudge if nobody named the target, which makes no artifact that can be used.

        That is so if the exporter raises (``error``), if the artifact cannot be saved, or if it
        raises on the example. If the user named the target, it is a failure, which the caller
        raises; under strict too, if there is an artifact. What runs out on the machine
        (``outcomes/errors.py``) is neither: Ineffective.
        """
        if not self.plan.named and (error is not None or not self.plan.settings.strict):
            raise CannotJudge(f"{self.plan.target} {reason}", "refused") from error

    def exported(
        self,
        call: Call,
        *,
        device: str | None = None,
        target: str | None = None,
        grad_mode: GradMode | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> Artifact | NotApplicable:
        """Export a fresh copy of the subject at a call, and put back what that does elsewhere.

        Eager is to be what it is where nothing was exported: forward may note that it was.
        On the item's device, to its target and in the grad mode of the test's call, or others;
        without gradients if the exporter does not take inference mode. ``options`` replace the
        user's.
        Raises whatever the exporter raises.
        """
        grad_mode = grad_mode or self.reference.exported_in
        try:
            return self._exported(call, device, target, grad_mode, options)
        except (TimeLimitExceeded, torch.OutOfMemoryError):
            raise
        except Exception:
            if grad_mode is not GradMode.INFERENCE:
                raise
        artifact = self._exported(call, device, target, GradMode.NO_GRAD, options)
        self.log.note(NOT_IN_INFERENCE_MODE)
        return artifact

    def _exported(
        self,
        call: Call,
        device: str | None,
        target: str | None,
        grad_mode: GradMode,
        replaced: Mapping[str, Any],
    ) -> Artifact | NotApplicable:
        device, target = device or self.plan.device, target or self.plan.target
        options = {**(self.plan.options.export_options or {}).get(target, {}), **replaced}
        pristine = self.reference.pristine
        subject = pristine.copy().to(device)
        call = call.clone().to(device)
        # As eager's calls have left it: they may have made the places that an export writes to.
        reached = reach(pristine.root, numbers=False)
        with (
            self.log.during(Activity.EXPORTER),
            grad_mode.entered(),
            suppress_output(),
            put_back(reached) as taken,
        ):
            # The artifact may call operators of a torch.library.Library among it.
            self.resources.callback(taken.clear)
            return targets.get(target).export(subject.function, call, self.spec, **options)

    def call_to_export(self) -> Call:
        """Return the example, at size 2 of each varying dim whose own size exporters would freeze.

        The example as it is if eager does not take that size.
        """
        dims = self.frozen_sizes
        recipe = example_recipe(self.spec, {dim.name: EXPORTED_AT for dim in dims})
        call = build(self.spec, recipe) if dims else None
        if call is None or not isinstance(self.reference.on_cpu(call), Returned):
            return self.spec.example
        return call

    def exported_or_refused(
        self,
        call: Call,
        *,
        device: str | None = None,
        target: str | None = None,
        grad_mode: GradMode | None = None,
    ) -> Artifact | str:
        """Return an artifact made at a call like ``exported``, or why there is none.

        Raises what ``made_or_refused`` does.
        """
        return made_or_refused(
            lambda: self.exported(call, device=device, target=target, grad_mode=grad_mode)
        )

    def not_applied(self, text: str) -> None:
        """Log why a limit that is set was not applied. Raises Ineffective under strict."""
        if self.plan.settings.strict:
            raise Ineffective(text, details=(LIMITS,))
        self.log.caution(text)

    def runner_of(self, artifact: Runnable) -> InProcess:
        return InProcess(
            artifact,
            device=self.plan.device,
            stateful=self.reference.stateful,
            fresh_each_call=self.reference.fresh_each_call,
            left=self.deadline.for_a_call,
            grad_mode=self.reference.served,
        )

    def judge_of(
        self, runner: Runner, log: ItemLog, random_paths: frozenset[str] = frozenset()
    ) -> Judge:
        return Judge(
            runner=runner,
            plan=self.plan,
            reference=self.reference,
            accepted=self.accepted,
            log=log,
            deadline=self.deadline,
            random_paths=random_paths,
            precision=self.precision,
        )


def made_or_refused(make: Callable[[], Made | NotApplicable]) -> Made | str:
    """Return the artifact that an exporter makes, or why there is none.

    Raises what is no refusal: the time limit, memory that ran out, and what ends the test.
    """
    try:
        made = make()
    except (TimeLimitExceeded, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if ends_the_test(error):
            raise
        return condense(error)[0]
    return made.reason if isinstance(made, NotApplicable) else made


@dataclass(frozen=True, kw_only=True, eq=False)
class Case(Prepared):
    """One artifact beside eager.

    ``foreign``: somebody else made the artifact. ``random_paths``: outputs that the artifact draws
    from a random stream of its own, so that their values are not compared. ``branches``: the calls
    that the branch search found; None without it. ``saved``: the artifact's files, in a directory
    with nothing else, also those of a foreign one; None if it was not to be saved, or could not be.
    """

    artifact: Artifact
    runner: Runner
    foreign: bool = False
    random_paths: frozenset[str] = frozenset()
    branches: BranchResults | None = None
    saved: SavedArtifact | None = None

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        artifact: Artifact | NotApplicable,
        runner: Runner | None = None,
        saved: SavedArtifact | None = None,
    ) -> Case:
        """Return the case of an artifact. ``runner`` calls it if it is foreign.

        Raises CannotJudge if the target has no meaning for the subject.
        """
        if isinstance(artifact, NotApplicable):
            raise CannotJudge(f"not applicable: {artifact.reason}", "not applicable")
        missing = [name for name in _MEMBERS if not hasattr(artifact, name)]
        if missing:
            raise ExportRefused(
                f"target {prepared.plan.target!r} breaks the contract of targets: its "
                f"{type(artifact).__name__} has no {', '.join(missing)}",
                details=("remedy: return an Artifact, see docs/howto/own-target.md",),
            )
        for note in artifact.facts.notes:
            prepared.log.note(note)
        for caution in artifact.facts.cautions:
            prepared.log.caution(caution)
        prepared.log.ineffective += artifact.facts.doubts
        precision = artifact.facts.precision
        if precision not in PRECISIONS:
            legal = ", ".join(filter(None, PRECISIONS))
            raise ExportRefused(
                f"target {prepared.plan.target!r} breaks the contract of targets: {precision!r} is "
                f"no precision; legal: {legal}"
            )
        if precision and prepared.plan.options.rtol is None:
            over = ", over all calls," if PRECISIONS[precision] is torch.int8 else ""
            told = f"as far off{over} as eager is in it is no failure"
            prepared.log.note(f"the file computes in {precision}: {told}")
        return cls(
            **vars(prepared),
            artifact=artifact,
            runner=runner or prepared.runner_of(artifact),
            foreign=runner is not None,
            saved=saved,
        )

    @property
    def precision(self) -> torch.dtype | None:
        return PRECISIONS[self.artifact.facts.precision]

    def by_reference(self) -> InSandbox | None:
        """Return a runner of an ONNX file by onnx.reference; None of another or without a file."""
        if self.saved is None or self.saved.path.suffix != ".onnx":
            return None
        path, trusted = self.saved.path, not self.foreign
        source = replace(
            source_of(self.plan, path, self.blocked, self.reference, trusted=trusted),
            **vars(BY_REFERENCE),
        )
        saved = SavedArtifact(source=source, plan=self.plan)
        runner = InSandbox(artifact=self.artifact, open=saved.open, left=self.call_limit)
        self.resources.callback(runner.close)
        return runner

    @property
    def explored(self) -> Sequence[Recipe]:
        return self.branches.recipes if self.branches is not None else ()

    @cached_property
    def judge(self) -> Judge:
        return self.judge_of(self.runner, self.log, self.random_paths)

    @cached_property
    def modes(self) -> OtherModes:
        return OtherModes(self.judge_of(self.runner, ItemLog(), self.random_paths), self.log)

    @cached_property
    def questions(self) -> tuple[Query, ...]:
        """The places outside torch that ask on the example what the export answers otherwise.

        Empty if eager with the answers of the export does not survive the example.
        """
        answers = self.traits.answers
        of_example = self.reference.pristine, self.spec.example, self.plan.seed, answers
        with self.log.during(Activity.EAGER):
            found = tuple(query for query in queries(*of_example) if not query.of_torch)
            return found if found and survives(*of_example, found) else ()

    @cached_property
    def key(self) -> str:
        """The key of stored calls: a hash of the subject's source, input shapes and dims."""
        shapes = [(leaf.path, str(getattr(leaf, "shape", ""))) for leaf in self.spec.leaves]
        source = self.reference.pristine.source()
        text = json.dumps([source, shapes, sorted(self.spec.dims)], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def boundary(self) -> list[Recipe]:
        return list(boundary_recipes(self.spec, self.plan.seed))

    def largest_first(self) -> list[Recipe]:
        def elements(recipe: Recipe) -> int:
            return self.spec.numel(self.spec.all_sizes(recipe.sizes))

        return sorted(self.boundary(), key=elements, reverse=True)

    def to_serve(self) -> list[Recipe]:
        """Return the recipes of the example, and of the boundary calls of most elements."""
        return [example_recipe(self.spec), *self.largest_first()][:SERVED]

    def calls(self, recipes: Iterable[Recipe]) -> Iterator[ReferenceCall]:
        """Yield the calls of these recipes that eager takes."""
        yield from filter(None, map(self.accepted.call, recipes))

    def hold(self, failure: Failure, calls: Sequence[Call] | None = None) -> None:
        """Keep a failure of the round trip for later, unless the item is only isolated."""
        if self.plan.checks("round_trip"):
            self.log.hold(failure, calls)

    def anew(self) -> Case:
        """Return the case with a fresh judge, after eager turned out to change between calls."""
        runner = self.runner if self.runner.isolated else self.runner_of(self.artifact)
        return dataclasses.replace(self, runner=runner)

    def failure_of(self, artifact: Artifact, recipe: Recipe) -> Failure | None:
        return self.judge_of(self.runner_of(artifact), ItemLog()).quietly(recipe)


def attempt(prepared: Prepared) -> Shrunk | None:
    """Return the call that is being made, for a report; None if there is none."""
    recipe, spec = prepared.log.trying, prepared.spec
    call = build(spec, recipe) if recipe is not None else None
    if recipe is None or call is None:
        return None
    return Shrunk.as_made(spec, recipe, call)


def attempted(prepared: Prepared) -> tuple[str, ...]:
    """Return the call that is being made as a line of a failure's details."""
    found = attempt(prepared)
    return (f"call: {found.text}",) if found is not None else ()


# After these the artifact is loaded again, which is slow: shrinking gets this further share only.
DEADLY = (ArtifactCrashed, ArtifactHung)
DEADLY_SHARE = 0.1


def explained(
    case: Case, recipe: Recipe, failure: Failure, as_well: Callable[[Recipe], bool] | None = None
) -> Failure:
    """Log the smallest call found that fails with the same class, and return its failure.

    ``as_well`` is a further condition on that call.
    """
    case.plan.progress("shrinking")
    share = UNTIL_SHRUNK
    if isinstance(failure, DEADLY):
        share = case.deadline.elapsed / case.deadline.seconds + DEADLY_SHARE
    judge = case.judge

    def still_fails(candidate: Recipe) -> bool:
        return (
            not case.deadline.is_past(share)
            and type(judge.quietly(candidate)) is type(failure)
            and (as_well is None or as_well(candidate))
        )

    with case.log.timed("shrinking"):
        recipe = shrink(case.spec, recipe, still_fails)
        final = judge.quietly(recipe)
        call = build(case.spec, recipe)
        text = describe_recipe(case.spec, recipe, call) if call is not None else ""
        case.log.shrunk = Shrunk(recipe, text)
    return final if final is not None and type(final) is type(failure) else failure
