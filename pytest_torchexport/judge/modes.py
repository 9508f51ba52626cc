"""Compare eager with itself in other grad modes and with more threads.

The artifact is compared with eager without gradients, or as the test calls it, and with one thread.
What eager returns otherwise is a warning; with gradients, which nothing that is served has, a note.
Separate from the judge, which compares eager with an artifact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.eager.queries import GRAD_MODE, INFERENCE_MODE, THREADS, Query, queries
from pytest_torchexport.explore.twins import mentions
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import Activity, ItemLog
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.outcomes.torch_state import GradMode

# The numbers of threads of a small machine, of a laptop and of a server.
NUMBERS_OF_THREADS = (2, 8, 64)
NAMES = (GRAD_MODE, INFERENCE_MODE, THREADS)
# What code asks for, and two modes that are compared, by the modes of the export and of eager.
_INFERENCE = INFERENCE_MODE, GradMode.NO_GRAD, GradMode.INFERENCE
MODES = {
    (GradMode.GRAD, GradMode.GRAD): ((GRAD_MODE, GradMode.GRAD, GradMode.NO_GRAD), _INFERENCE),
    (GradMode.GRAD, GradMode.NO_GRAD): ((GRAD_MODE, GradMode.NO_GRAD, GradMode.GRAD), _INFERENCE),
    (GradMode.NO_GRAD, GradMode.NO_GRAD): (_INFERENCE,),
    (GradMode.INFERENCE, GradMode.INFERENCE): (
        (INFERENCE_MODE, GradMode.INFERENCE, GradMode.NO_GRAD),
    ),
}
# Calls that are tried in a way for which only torch's own code asks, as its fast paths do.
FOR_TORCH = 20
# What code may ask of a tensor instead.
OF_TENSORS = {"torch.is_inference": INFERENCE_MODE}


@dataclass(frozen=True)
class _Way:
    """A way to run eager: what code asks that depends on it, and what a report says of it.

    ``usual`` is the mode of the results that those in ``grad_mode`` are compared with.
    """

    name: str
    text: str
    usual: GradMode
    grad_mode: GradMode
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass
class OtherModes:
    """The ways to run eager in which no call has returned anything else yet.

    ``judge`` compares what they return, ``log`` gets the warnings.
    """

    judge: Judge
    log: ItemLog
    compared: int = 0

    @cached_property
    def left(self) -> list[_Way]:
        """The ways in which the next call is to be tried.

        The first call is always tried without gradients, later ones if the code asks, and only some
        of them if it is torch's own code.
        """
        reference = self.judge.reference
        usual = reference.pristine.grad_mode
        grads = reference.served is GradMode.GRAD
        modes = () if grads else MODES[reference.exported_in, usual]
        ways = [_in(*each) for each in modes]
        ways += (
            _Way(
                THREADS,
                f"eager returns something else if torch.get_num_threads() is {number} than with "
                "the one thread of this check: the artifact has what eager returned during the "
                "export",
                usual,
                usual,
                {THREADS: number},
            )
            for number in NUMBERS_OF_THREADS
        )
        return [way for way in ways if way.name in (GRAD_MODE, *self._asked)]

    def compare(self, found: ReferenceCall) -> None:
        """Run a call of eager in each way that is left, and warn of the first other result."""
        for way in tuple(self.left):
            if way in self.left and self._differs(found, way):
                # The place that asks on the call, or else one that may ask.
                places = self._asked | _places(self._queries(found.call))
                tell = self.log.note if way.grad_mode is GradMode.GRAD else self.log.caution
                tell("; ".join(filter(None, (way.text, places.get(way.name)))))
                self.left[:] = [other for other in self.left if other.name != way.name]
        self.compared += 1
        if self.compared == 1:
            self.left[:] = [way for way in self.left if way.name in self._asked]
        if self.compared == FOR_TORCH:  # for the rest nothing but torch's own code asks
            others = {query.name for query in self._of_example if not query.of_torch}
            self.left[:] = [way for way in self.left if way.name in {*self._mentioned, *others}]

    def _differs(self, found: ReferenceCall, way: _Way) -> bool:
        run, call = self.judge.reference.on_cpu, found.call
        expected: Outcome = found.outcome
        if way.usual is not self.judge.reference.pristine.grad_mode:
            expected = run(call, grad_mode=way.usual)
        other = run(call, grad_mode=way.grad_mode, answers=way.answers)
        if not isinstance(expected, Returned):
            return False
        if way.answers and not isinstance(other, Returned):
            return False  # torch.compile within forward refuses other answers
        differences = self.judge.differences([call], expected, other)
        return any(item.expected != "nan" for item in differences)

    @cached_property
    def _asked(self) -> dict[str, str]:
        """The names that code asks on the example or mentions, each with a place in words."""
        return _places(self._of_example) | self._mentioned

    @cached_property
    def _mentioned(self) -> dict[str, str]:
        names = (*NAMES, *OF_TENSORS)
        found = list(
            mentions(self.judge.reference.pristine, names, self.judge.plan.settings.follow)
        )
        return {OF_TENSORS.get(name, name): f"asked at {line}" for name, line in found[::-1]}

    @cached_property
    def _of_example(self) -> Sequence[Query]:
        return self._queries(self.judge.accepted.spec.example)

    def _queries(self, call: Call) -> Sequence[Query]:
        with self.log.during(Activity.EAGER):
            return queries(self.judge.reference.pristine, call, self.judge.plan.seed, NAMES)


def _places(found: Iterable[Query]) -> dict[str, str]:
    """Return the names that code asks, each with the first place in words, torch's last."""
    ordered = sorted(found, key=lambda query: query.of_torch)
    return {query.name: query.asked_at for query in reversed(ordered)}


def _in(name: str, usual: GradMode, other: GradMode) -> _Way:
    served = f"if it is served or exported {other.value}, make the test's call so too"
    if other is GradMode.GRAD:
        served = "the artifact is compared with what it returns without"
    return _Way(
        name,
        f"eager returns something else {other.value} than {usual.value}: {served}",
        usual,
        other,
    )
