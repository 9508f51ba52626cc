"""Find the cause of a failure by interventions on eager.

Eager runs the failing call with one thing changed: with the exporter's answers to what it asks,
with one tensor in the place of two, without attention's fast path, with the numbers that Python
read at the export. If it then returns what the artifact does, that is the cause. An intervention
that has parts, as the places that ask, is made with the fewest of them that are enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from pytest_torchexport import targets
from pytest_torchexport.checks.state import LENGTH
from pytest_torchexport.diagnosis.scene import SHOWN, Scene, places
from pytest_torchexport.eager.queries import GRAD_MODE, Query, answering, queries, survives
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import with_leaves
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import DEADLY
from pytest_torchexport.judge.judge import Judge, carried_differences
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Raised,
    Returned,
    Tensors,
    observe,
    tensors_of,
)
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Owner
from pytest_torchexport.results.failures import BranchFrozen, StateDiffers

SAME = (
    "write on both sides what eager runs there; the question is for what changes no result, as a "
    "check or a log"
)
# In eval mode and without gradients, their forward runs a fused kernel if the arguments allow it.
WITH_FAST_PATH = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
WITHOUT_FAST_PATH = "torch.backends.mha.set_fastpath_enabled(False)"
# What masks an element, and what does not. Models disagree on what True means.
BOOL_MASKS = ((False, True), (True, False))
FLOAT_MASKS = ((-torch.inf, 0.0),)

Part = TypeVar("Part")
# What eager returns in a row of calls, each with the state after it.
Row = Iterable[tuple[Outcome, Tensors]]
# No outcome of an artifact is the same.
NOT_RUN: tuple[Outcome, Tensors] = (Raised("", ""), {})


class Beside:
    """The failing call of an artifact, with which eager is compared.

    ``words``: what that artifact does, for a sentence.
    """

    def __init__(self, scene: Scene, call: Call, judge: Judge, words: str) -> None:
        self.scene, self.call, self.words = scene, call, words
        self.plan = scene.case.plan
        # A state shows in a row of calls.
        self.times = LENGTH if isinstance(scene.failure, StateDiffers) else 1
        self._row = judge.in_a_row([call] * self.times)

    def subject(self) -> Subject:
        """Return a copy of the subject on the item's device."""
        return self.scene.case.reference.pristine.copy().to(self.plan.device)

    def run(
        self,
        subject: Subject,
        call: Call | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Row:
        """Yield what a subject returns, call after call."""
        given = self.call.to(self.plan.device)
        on_device = given if call is None else call.to(self.plan.device)
        for _ in range(self.times):
            with context():
                outcome = observe(
                    subject.function, on_device, seed=self.plan.seed, grad_mode=subject.grad_mode
                )
            if call is not None and isinstance(outcome, Returned):
                outcome = replace(outcome, inputs=given)  # the other call is no difference
            yield outcome, tensors_of(subject.module) if self.times > 1 else {}

    def does(self, row: Row) -> bool:
        """Return True if the artifact does the same in each call of a row."""
        return all(
            self._is_same(outcome, tensors, *theirs)
            for (outcome, tensors), theirs in zip(row, self._row, strict=False)
        )

    def _is_same(
        self, outcome: Outcome, tensors: Tensors, theirs: Outcome, carried: Tensors
    ) -> bool:
        if isinstance(outcome, Raised) and isinstance(theirs, Raised):
            # TorchScript puts the class of an exception into its text.
            return bool(outcome.message) and outcome.message.strip("'\"") in theirs.message
        if not isinstance(outcome, Returned) or self.scene.differences(self.call, outcome, theirs):
            return False
        tolerance = self.scene.case.judge.tolerance
        return self.times == 1 or not carried_differences(tensors, carried, tolerance)


def beside_artifact(scene: Scene) -> Beside | None:
    """Return the artifact's failing call; None if eager as it is does the same.

    Then it takes more than this call to fail. None too if the call ends the process.
    """
    if scene.call is None or isinstance(scene.failure, DEADLY):
        return None
    beside = Beside(scene, scene.call, scene.judge(), "the artifact does")
    return None if beside.does(beside.run(beside.subject())) else beside


def beside_captured(scene: Scene) -> Beside | None:
    """Return the failing call of what torch captured for an ONNX file.

    The file may choose otherwise among equal numbers, or return other containers.
    """
    if scene.call is None or isinstance(scene.failure, DEADLY):
        return None
    captured, case = scene.captured, scene.case
    if captured is None or captured is case.artifact:
        return None
    judge = case.judge_of(case.runner_of(captured), ItemLog(), case.random_paths)
    beside = Beside(scene, scene.call, judge, "torch captured")
    return None if beside.does(beside.run(beside.subject())) else beside


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """A change of eager that has parts.

    ``run`` makes the failing call with some of the parts; ``cause`` says in words that these are
    the cause. ``owner``: whose code is to change, if the cause alone tells it.
    """

    parts: Sequence[Any]
    run: Callable[[Sequence[Any]], Row]
    cause: Callable[[Sequence[Any]], Cause]
    owner: Callable[[Sequence[Any]], Owner | None] = lambda _: None

    def tried(self, beside: Beside) -> tuple[Cause, Owner | None] | None:
        """Return the cause and its owner if eager then does what an artifact does."""
        parts = smallest(self.parts, lambda some: beside.does(self.run(some)))
        return (self.cause(parts), self.owner(parts)) if parts else None


def smallest(parts: Sequence[Part], is_enough: Callable[[Sequence[Part]], bool]) -> Sequence[Part]:
    """Return the fewest found of these parts that are enough; none if all together are not."""
    if not parts or not is_enough(parts):
        return ()
    while len(parts) > 1:
        middle = len(parts) // 2
        halves = parts[:middle], parts[middle:]
        half = next((half for half in halves if is_enough(half)), None)
        if half is None:
            break
        parts = half
    for part in tuple(parts) if len(parts) > 1 else ():
        fewer = [each for each in parts if each is not part]
        parts = fewer if is_enough(fewer) else parts
    return parts


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause that the first intervention shows which eager takes to do the same."""
    if not isinstance(scene.failure, BranchFrozen):
        known = replace(known, causes=(*known.causes, *_masked_rows(scene)))
    beside = beside_artifact(scene)
    if beside is None:
        return known
    for listed in INTERVENTIONS:
        for intervention in listed(beside):
            shown = intervention.tried(beside)
            if shown is not None:
                cause, owner = shown
                causes = (*known.causes, cause)
                return replace(known, owner=known.owner or owner, causes=causes)
    return _of_the_capture(scene, known, beside)


def _of_the_capture(scene: Scene, known: Diagnosis, beside: Beside) -> Diagnosis:
    """Add the answers with which eager does what torch captured before it became ONNX."""
    subject, plan = scene.case.reference.pristine, scene.case.plan
    answers = targets.get(plan.target).traits.answers
    if not queries(subject, beside.call, plan.seed, answers):
        return known
    captured = beside_captured(scene)
    for intervention in _answers_of_the_export(captured) if captured is not None else ():
        shown = intervention.tried(captured) if captured is not None else None
        if shown is not None:
            cause, owner = shown
            return replace(known, owner=known.owner or owner, causes=(*known.causes, cause))
    return known


# -- the failing call ------------------------------------------------------------------------------


def _equal_tensors_apart(beside: Beside) -> Iterator[Intervention]:
    """Give equal tensors where the call gives one twice: the artifact cannot tell."""
    call, apart = beside.call, beside.call.apart()
    if len({*map(id, call.tensors())}) == len({*map(id, apart.tensors())}):
        return
    names = [_listed(paths) for paths in _given_twice(beside.scene)]
    yield Intervention(
        parts=names,
        run=lambda _: beside.run(beside.subject(), apart),
        cause=lambda some: Cause(
            kind="one tensor twice",
            text=f"the call gives one tensor as {some[0]}, and the artifact cannot tell: with "
            "equal tensors in its place eager returns what the artifact does",
            remedy="call it with different tensors in the test, or compute the same for one "
            "tensor as for equal ones (without q is k)",
        ),
        owner=lambda _: "capture",
    )


def _one_tensor_for_several(beside: Beside) -> Iterator[Intervention]:
    """Give one tensor wherever the example does: the export may have taken them for one."""
    leaves, structure = beside.call.flatten()
    groups = beside.scene.case.spec.aliases

    def run(taken: int, groups: Sequence[Sequence[int]]) -> Row:
        one_of = {index: group[min(taken, len(group) - 1)] for group in groups for index in group}
        chosen = [leaves[one_of.get(index, index)][1] for index in range(len(leaves))]
        return beside.run(beside.subject(), Call(*structure.unflatten(chosen)))

    # Some exporters take the first of them, others the last.
    for taken in range(max(map(len, groups), default=0)):
        yield Intervention(
            parts=groups,
            run=partial(run, taken),
            cause=lambda some: _taken_for_one(next(iter(_given_twice(beside.scene, some)))),
            owner=lambda _: "capture",
        )


def _given_twice(
    scene: Scene, groups: Sequence[Sequence[int]] | None = None
) -> Iterator[Sequence[str]]:
    spec = scene.case.spec
    for group in spec.aliases if groups is None else groups:
        yield [spec.leaves[number].path for number in group]


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:-1])} and {paths[-1]}"


def _taken_for_one(paths: Sequence[str]) -> Cause:
    first, *others = paths
    made = ", ".join(f"{other!r}: {first}" for other in others)
    return Cause(
        kind="one tensor twice",
        text=f"the example gives one tensor as {_listed(paths)}, and the export takes them for "
        "one: given one tensor, eager returns what the artifact does",
        remedy="call it with different tensors in the test; if they always are one, say so: "
        f"map=lambda {first}: {{{made}}}",
    )


def _masked_rows(scene: Scene) -> Iterator[Cause]:
    """Yield the masks with rows that mask every element, without which the two sides agree."""
    values = build_leaves(scene.case.spec, scene.recipe)
    if values is None or not any(_masks(value) for value in values) or not scene.fails:
        return
    for index, (leaf, value) in enumerate(zip(scene.case.spec.leaves, values, strict=True)):
        for masked, kept in _masks(value):
            rows = (value == masked).all(-1)
            if not rows.any():
                continue
            opened = value.detach().clone()
            opened[..., 0].masked_fill_(rows, kept)
            if scene.agrees(with_leaves(scene.recipe, {index: opened})):
                text = f"{leaf.path} is all {masked} {places(rows)}: with one {kept} there, "
                yield Cause(kind="masked rows", text=f"{text}eager and artifact agree")


def _masks(value: Any) -> Sequence[tuple[Any, Any]]:
    """Return the values of a mask; none for a tensor that cannot be one."""
    if not is_plain(value) or value.dim() < 2 or not value.numel():
        return ()
    if value.dtype == torch.bool:
        return BOOL_MASKS
    return FLOAT_MASKS if value.is_floating_point() else ()


# -- how it runs -----------------------------------------------------------------------------------


def _without_fast_path(beside: Beside) -> Iterator[Intervention]:
    """Keep attention from the fused kernels of eval mode."""
    names: dict[str, str] = {}
    module = beside.subject().module
    for path, part in module.named_modules() if module is not None else ():
        inside = any(f"{path}.".startswith(f"{outer}." if outer else "") for outer in names)
        if isinstance(part, WITH_FAST_PATH) and not part.training and not inside:
            names[path] = f"{path} ({type(part).__name__})".strip()
    yield Intervention(
        parts=(tuple(names.values()),) if names else (),
        run=lambda _: beside.run(beside.subject(), context=plain_attention),
        cause=lambda some: Cause(
            kind="attention fast path",
            text=f"the fast path of {', '.join(some[0][:SHOWN])}: with {WITHOUT_FAST_PATH}, eager "
            f"returns what {beside.words}",
            remedy=WITHOUT_FAST_PATH,
        ),
    )


def _answers_of_the_export(beside: Beside) -> Iterator[Intervention]:
    """Answer what forward asks as the exporter does: is it traced, scripted, exported?"""
    plan = beside.plan
    answers = targets.get(plan.target).traits.answers
    asked = queries(beside.subject(), beside.call, plan.seed, answers)
    outside = [query for query in asked if not query.of_torch]

    def cause(asked: Sequence[Query]) -> Cause:
        said = dict.fromkeys(f"{query.name}() is {answers[query.name]}" for query in asked)
        return Cause(
            kind="export-only branch",
            text=f"{' and '.join(said)} on {plan.target}: with this answer eager returns what "
            f"{beside.words}",
            remedy=SAME,
            details=tuple(_asked_at(asked)),
            where=asked[0].where,
        )

    for places_that_ask in (asked, outside) if len(outside) < len(asked) else (asked,):
        yield Intervention(
            parts=places_that_ask,
            run=partial(_answered, beside, answers),
            cause=cause,
            owner=lambda some: None if all(query.of_torch for query in some) else "model",
        )


def _answered(beside: Beside, answers: Mapping[str, Any], asked: Sequence[Query]) -> Row:
    pristine = beside.scene.case.reference.pristine
    if not survives(pristine, beside.call.to("cpu"), beside.plan.seed, answers, asked):
        return [NOT_RUN]
    subject = beside.subject()
    function = answering(subject.function, answers, asked)
    return beside.run(dataclasses.replace(subject, function=function))


def _without_gradients(beside: Beside) -> Iterator[Intervention]:
    """Run without gradients, as the artifact is served."""
    served = GradMode.NO_GRAD
    modes = beside.subject().grad_mode, beside.scene.case.reference.served
    if modes != (GradMode.GRAD, served):
        return

    def cause(_: Sequence[Any]) -> Cause:
        answers = {GRAD_MODE: False}
        asked = queries(beside.subject(), beside.call, beside.plan.seed, answers)
        enough = smallest(asked, lambda some: beside.does(_answered(beside, answers, some)))
        return Cause(
            kind="mode-dependent operator",
            text=f"the test calls eager with gradients, and the artifact runs without: "
            f"{served.value} eager returns what {beside.words}",
            remedy=f"make the test's call {served.value} if the model is served so",
            details=tuple(_asked_at(enough)),
            where=enough[0].where if enough else None,
        )

    yield Intervention(
        parts=(served,),
        run=lambda _: beside.run(dataclasses.replace(beside.subject(), grad_mode=served)),
        cause=cause,
    )


def _asked_at(asked: Sequence[Query]) -> Iterator[str]:
    """Yield the places that ask, each with its callers."""
    for query in asked[:SHOWN]:
        yield query.asked_at
    if len(asked) > SHOWN:
        yield f"asked at {len(asked) - SHOWN} more places"


# In this order: the failing call, then how it is run.
INTERVENTIONS: tuple[Callable[[Beside], Iterator[Intervention]], ...] = (
    _equal_tensors_apart,
    _one_tensor_for_several,
    _without_fast_path,
    _answers_of_the_export,
    _without_gradients,
)
