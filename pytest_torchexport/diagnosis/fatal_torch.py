"""Run an artifact of torch's operator by operator, up to the one that ends its process.

Separate from ``fatal``, which knows neither torch's operators nor ONNX's nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.helper_lines import with_innermost_line
from pytest_torchexport.diagnosis.introduced import introduced
from pytest_torchexport.diagnosis.last_step import LastStep
from pytest_torchexport.diagnosis.onnx_nodes import place_of
from pytest_torchexport.diagnosis.programs import program_of
from pytest_torchexport.eager.queries import Query, answering
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.operators import dispatched, name_of_packet
from pytest_torchexport.outcomes.tape import How, Tape, is_behind, record
from pytest_torchexport.results.diagnosis import Place, Structural
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.dispatcher import Handle

# The call may be fatal only after others, in a row with them.
ROW = 3
# What differs in an operand of the operator; other differences need a result of it.
OF_OPERANDS = ("constant", "stored")


class Reached(Exception):
    """Raised in place of an operator that would end the process."""


@dataclass(frozen=True, kw_only=True)
class TorchSteps:
    """An artifact of ``trace``, ``script`` or ``export``, and the call that ends it."""

    case: Case
    call: Call

    def run(self, last: LastStep) -> Raised | None:
        """Run the calls, and write down each operator. Return what one raised."""

        def step(operator: Any, args: Any, kwargs: Any) -> Any:
            with last.step(name_of_packet(operator)):
                return operator(*args, **kwargs)

        return self._through(_Nodes.of(self.case), step)

    def place(self, number: int) -> Place:
        """Run the calls up to an operator, and return its place."""
        function, stop = _Nodes.of(self.case), _StopAt(number)
        found = self._through(function, stop)
        if isinstance(function, _Nodes) and function.node is not None:
            place = with_innermost_line(
                place_of(function.node), function.node, self.case, self.call
            )
            return replace(place, operator=stop.name)
        return Place(operator=stop.name, where=found.where if found is not None else None)

    def operand(self, number: int, eager: Tape) -> Structural | None:
        """Run the calls up to an operator, and return its operand that is wrong and constant."""
        function, stop = _Nodes.of(self.case), _StopAt(number)
        for _ in range(ROW):
            found = record(
                function,
                self.call,
                seed=self.case.plan.seed,
                grad_mode=self.case.reference.served,
                module=self.case.artifact.module,
                how=How(run=lambda it: stop(it.func, it.args, it.kwargs)),
            )
            if found.raised is not None:
                break
        differs = introduced(eager, found, ("",)) if eager.complete and found.complete else None
        if differs is None or differs.structural.operator != stop.name:
            return None
        return differs.structural if differs.structural.kind in OF_OPERANDS else None

    def _through(self, function: Any, handle: Handle) -> Raised | None:
        """Run the calls, each operator by ``handle``. Return what was raised."""
        plan, mode = self.case.plan, self.case.reference.served
        return _in_a_row(function, self.call, handle, seed=plan.seed, grad_mode=mode)


def _in_a_row(
    function: Any, call: Call, handle: Handle, *, seed: int, grad_mode: GradMode
) -> Raised | None:
    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(handle):
            return function(*args, **kwargs)

    for _ in range(ROW):
        found = observe(run, call, seed=seed, grad_mode=grad_mode)
        if isinstance(found, Raised):
            return found
    return None


def gets_to(case: Case, call: Call, line: SourceLine, asked: Sequence[Query]) -> bool:
    """Return True if eager gets to an operator on a line, or in a function that is called there.

    With the export's answers at the places that ask. The operator is not run.
    """

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        if is_behind(line, sys._getframe(1)):
            raise Reached
        return operator(*args, **kwargs)

    subject = case.reference.pristine.copy()
    answers = targets.get(case.plan.target).traits.answers
    function = answering(subject.function, answers, asked)
    found = _in_a_row(function, call, step, seed=case.plan.seed, grad_mode=subject.grad_mode)
    return found is not None and found.type == Reached.__name__


@dataclass
class _StopAt:
    """Run operators, and raise in place of one; its ``name`` is known then."""

    number: int
    name: str = ""
    _seen: int = field(default=0, repr=False)

    def __call__(self, operator: Any, args: Any, kwargs: Any) -> Any:
        self._seen += 1
        if self._seen == self.number:
            self.name = name_of_packet(operator)
            raise Reached
        return operator(*args, **kwargs)


class _Nodes(fx.Interpreter):
    """An ExportedProgram that is run node by node. ``node``: the one that runs."""

    node: fx.Node | None = None

    @classmethod
    def of(cls, case: Case) -> Any:
        """Return the program of a case, or its artifact, if that is none of torch.export's."""
        program = program_of(case.artifact)
        return case.artifact if program is None else cls(program.module(check_guards=False))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*Call(args, kwargs).leaves())

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)
