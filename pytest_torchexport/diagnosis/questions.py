"""Examine what forward asks about its run: is it being exported, does it run with gradients?

The artifact has other answers than eager: those of the export, and, if it asks itself, those of its
own run, which is without gradients. An answer is a cause only if eager with it returns what the
artifact does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.checks.state import LENGTH
from pytest_torchexport.diagnosis.scene import SHOWN, Scene
from pytest_torchexport.eager.queries import GRAD_MODE, Query, answering, queries, survives
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, observe
from pytest_torchexport.outcomes.operators import dispatched
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Owner
from pytest_torchexport.results.failures import StateDiffers

WITHOUT_GRADIENTS = {GRAD_MODE: False}
SAME = (
    "write on both sides what eager runs there; the question is for what changes no result, as a "
    "check or a log"
)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the questions without whose other answer eager and the artifact agree."""
    call = scene.call
    if call is None:
        return known
    eager = _Eager(scene, call)
    if eager.agrees(eager.subject.copy()):
        return known  # it takes more than this call to fail
    compared, asked = "the artifact does", eager.responsible(eager.answers)
    if not asked:
        compared, asked = "torch captured", _of_the_capture(scene, call, eager.asked)
    own = not all(query.of_torch for query in asked)
    # The fast path of torch.nn's attention asks too: it is named already.
    if asked and (own or not known.causes):
        return _with(known, _exported(eager, asked, compared), "model" if own else None)
    modes = eager.subject.grad_mode, scene.case.reference.served
    served = dataclasses.replace(eager.subject.copy(), grad_mode=GradMode.NO_GRAD)
    if modes == (GradMode.GRAD, GradMode.NO_GRAD) and eager.agrees(served):
        return _with(known, _without_gradients(eager), None)
    return known


def _with(known: Diagnosis, cause: Cause, owner: Owner | None) -> Diagnosis:
    return dataclasses.replace(known, owner=known.owner or owner, causes=(*known.causes, cause))


def _of_the_capture(scene: Scene, call: Call, asked: Sequence[Query]) -> Sequence[Query]:
    """Return the places with whose answers eager returns what torch captured for an ONNX file.

    The file may choose otherwise among equal numbers, or return other containers.
    """
    captured = scene.captured if asked else None
    if captured is None or captured is scene.case.artifact:
        return ()
    case = scene.case
    judge = case.judge_of(case.runner_of(captured), ItemLog(), case.random_paths)
    eager = _Eager(scene, call, judge)
    return () if eager.agrees(eager.subject.copy()) else eager.responsible(eager.answers)


class _Eager:
    """Eager on the failing call, with other answers or in another grad mode.

    ``judge``: of the artifact that it is compared with; by default, the one that failed.
    """

    def __init__(self, scene: Scene, call: Call, judge: Judge | None = None) -> None:
        plan = scene.case.plan
        self.target = plan.target
        self.answers = targets.get(plan.target).traits.answers
        self.call = call.to(plan.device)
        self.subject = scene.case.reference.pristine.copy().to(plan.device)
        self.seed = plan.seed
        self._scene = scene
        # A state shows in a row of calls.
        self._times = LENGTH if isinstance(scene.failure, StateDiffers) else 1
        row = (judge or scene.judge()).in_a_row([call] * self._times)
        self.outcomes = [found for found, _ in row]

    @cached_property
    def asked(self) -> Sequence[Query]:
        """The places that ask what an exporter answers otherwise."""
        return queries(self.subject, self.call, self.seed, self.answers)

    def agrees(self, subject: Subject) -> bool:
        """Return True if a subject returns what the artifact does."""
        return all(self._agrees(subject, found) for found in self.outcomes)

    def _agrees(self, subject: Subject, found: Outcome) -> bool:
        outcome = observe(subject.function, self.call, seed=self.seed, grad_mode=subject.grad_mode)
        if isinstance(outcome, Raised) and isinstance(found, Raised):
            # TorchScript puts the class of an exception into its text.
            return bool(outcome.message) and outcome.message.strip("'\"") in found.message
        return isinstance(outcome, Returned) and not self._scene.differences(
            self.call, outcome, found
        )

    def responsible(self, answers: Mapping[str, Any]) -> Sequence[Query]:
        """Return the fewest places found at which these answers make eager agree; none if none."""
        asked: Sequence[Query] = queries(self.subject, self.call, self.seed, answers)
        outside = [query for query in asked if not query.of_torch]
        asked = next((each for each in (asked, outside) if self._agrees_with(answers, each)), ())
        while len(asked) > 1:
            middle = len(asked) // 2
            halves = asked[:middle], asked[middle:]
            enough = next((half for half in halves if self._agrees_with(answers, half)), None)
            if enough is None:
                break
            asked = enough
        return asked

    def _agrees_with(self, answers: Mapping[str, Any], asked: Sequence[Query]) -> bool:
        pristine, call = self._scene.case.reference.pristine, self.call.to("cpu")
        if not asked or not survives(pristine, call, self.seed, answers, asked):
            return False
        subject = self.subject.copy()
        function = answering(subject.function, answers, asked)
        return self.agrees(dataclasses.replace(subject, function=function))

    def operators(self, grad_mode: GradMode) -> Sequence[str]:
        """Return the operators that run in a mode, in their order."""
        names: list[str] = []

        def note(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            names.append(str(operator))
            return operator(*args, **kwargs)

        subject = self.subject.copy()

        def run(*args: Any, **kwargs: Any) -> Any:
            with dispatched(note):
                return subject.function(*args, **kwargs)

        observe(run, self.call, seed=self.seed, grad_mode=grad_mode)
        return names


def _exported(eager: _Eager, asked: Sequence[Query], compared: str) -> Cause:
    answers = dict.fromkeys(f"{query.name}() is {eager.answers[query.name]}" for query in asked)
    return Cause(
        kind="export-only branch",
        text=f"{' and '.join(answers)} on {eager.target}: with this answer eager returns what "
        f"{compared}",
        remedy=SAME,
        details=tuple(_asked_at(asked)),
        where=asked[0].where,
    )


def _without_gradients(eager: _Eager) -> Cause:
    served = GradMode.NO_GRAD
    asked = eager.responsible(WITHOUT_GRADIENTS)
    return Cause(
        kind="mode-dependent operator",
        text=f"the test calls eager with gradients, and the artifact runs without: {served.value} "
        "eager returns what the artifact does",
        remedy=f"make the test's call {served.value} if the model is served so",
        details=(*_asked_at(asked), *_first_other_operator(eager)),
        where=asked[0].where if asked else None,
    )


def _first_other_operator(eager: _Eager) -> Iterator[str]:
    """Yield the first operator that eager runs in one mode and not in the other."""
    modes = GradMode.GRAD, GradMode.NO_GRAD
    for pair in zip_longest(*map(eager.operators, modes), fillvalue="no more"):
        if pair[0] != pair[1]:
            first, other = (f"{name} {mode.value}" for name, mode in zip(pair, modes, strict=True))
            yield f"eager alone: the first other operator is {first}, {other}"
            return


def _asked_at(asked: Sequence[Query]) -> Iterator[str]:
    """Yield the places that ask, each with its callers."""
    for query in asked[:SHOWN]:
        yield query.asked_at
    if len(asked) > SHOWN:
        yield f"asked at {len(asked) - SHOWN} more places"
