"""The file that functions of ``after_export`` left, and which of them made it wrong.

They are the user's own, and so is the file; but like a file from elsewhere it is called in the
clean process only, and judged by the numbers that it computes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.foreign import ForeignFile, opened_case
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.limits import Deadline
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Stage
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, LoadFailed
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line
from pytest_torchexport.targets.base import device_of

NOT_OPENED = (ArtifactCrashed, ArtifactHung, LoadFailed)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A file, and the function that made it of the one before; ``function`` is None of the first.

    ``name``: the function's, for a report.
    """

    name: str
    path: Path
    function: Callable[..., Any] | None = None

    @property
    def where(self) -> SourceLine | None:
        """The line at which the function is defined, if that is the user's."""
        code = getattr(inspect.unwrap(self.function), "__code__", None) if self.function else None
        if code is None or not is_users(code.co_filename):
            return None
        return source_line(code.co_filename, code.co_firstlineno)


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """The export, and the files that the functions made of it one after another."""

    prepared: Prepared
    exported: Case
    steps: Sequence[Step]

    def opened(self, step: Step, prepared: Prepared) -> Case:
        """Return the case of the file of a step. Raises what ``opened_case`` does."""
        example = prepared.reference.on_cpu(prepared.spec.example)
        assert isinstance(example, Returned)  # else nothing was exported
        file = ChangedFile(
            program=step.path,
            target=prepared.plan.target,
            returned=example.value,
            spec=prepared.spec,
            baked=self.exported.artifact.baked,
            changes=self,
        )
        return opened_case(prepared, file, example)

    def blamed(self, wrong: Callable[[Case], str] | None = None) -> Diagnosis:
        """Return the first step whose file is wrong: by its function, unless it is the export's.

        ``wrong`` returns how a file differs, or nothing. One that does not load is wrong anyway.
        """
        stages = [Stage(name="eager", agrees=True)]
        for step in self.steps:
            deadline = Deadline(self.prepared.plan.settings.time_limit)
            try:
                case = self.opened(step, replace(self.prepared, log=ItemLog(), deadline=deadline))
                how = wrong(case) if wrong is not None else ""
            except NOT_OPENED:
                how = "it does not load"
            if step is self.steps[-1]:
                how = how or "it differs"  # as was found
            stages.append(Stage(name=step.name, agrees=not how, why=how))
            if how:
                break
        if step.function is None:
            return Diagnosis(stages=tuple(stages))
        did = "agreed" if wrong is not None else "loaded"
        text = f"`{step.name}` changed it: {how}; before it, the file {did}"
        cause = Cause(kind="after_export", text=text, where=step.where)
        return Diagnosis(owner="after_export", stages=tuple(stages), causes=(cause,))

    @property
    def innocent(self) -> str:
        """The line of a report if the export itself is wrong."""
        names = ", ".join(step.name for step in self.steps[1:])
        return f"the export itself differs; what after_export does to it is not the cause: {names}"


@dataclass(frozen=True, kw_only=True)
class ChangedFile(ForeignFile):
    """The file that the functions left. It is called as the export is that it was made of."""

    changes: Changes

    def pack_inputs(self, call: Call) -> Call:
        return self.changes.exported.artifact.pack_inputs(call)

    def unpack_outputs(self, value: Any) -> Any:
        return self.changes.exported.artifact.unpack_outputs(value)

    @property
    def pack_outputs(self) -> Callable[[Any], Any]:
        """The export's own; an artifact need not have it."""
        own: Any = self.changes.exported.artifact
        return own.pack_outputs  # type: ignore[no-any-return]  # a method

    def served(self, call: Call) -> Callable[[], Any]:
        """Return a function that calls the file in this process as a server does, to be timed."""
        run: Any = targets.get(self.target).load(self.program, device_of(call))
        packed = self.pack_inputs(call)
        if hasattr(run, "prepared"):
            prepared: Callable[[], Any] = run.prepared(packed.kwargs)
            return prepared
        return lambda: run(*packed.args, **packed.kwargs)
