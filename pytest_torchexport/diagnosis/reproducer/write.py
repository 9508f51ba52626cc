"""Write the files of a failure into a directory of their own.

``reproduce.py`` shows the failure again with the files beside it: the artifact, the call, and what
eager returned. ``issue.md`` is the text of an issue, ``graph.txt`` the program, ``verdict.json``
the verdict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.reproducer.directory import made, size_of
from pytest_torchexport.diagnosis.reproducer.issue import issue
from pytest_torchexport.diagnosis.reproducer.private import without_private_paths
from pytest_torchexport.diagnosis.reproducer.rerun import rerun
from pytest_torchexport.diagnosis.reproducer.saved_form import saved_form
from pytest_torchexport.diagnosis.reproducer.script_text import script
from pytest_torchexport.diagnosis.reproducer.values import Inexpressible
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.messages import text_of
from pytest_torchexport.outcomes.observe import raised
from pytest_torchexport.outcomes.subject import weight_of
from pytest_torchexport.outcomes.torch_state import without_warnings
from pytest_torchexport.results import json, reports
from pytest_torchexport.results.failures import Failure, LoadFailed, ends_the_test
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.verdict import ItemResult, RunResults, Verdict

SCRIPT, ISSUE, GRAPH, VERDICT = "reproduce.py", "issue.md", "graph.txt", "verdict.json"
MEGABYTE = 2**20
# Making the call again and saving the artifact may take this many seconds each, or so many times
# what the export took.
SECONDS, TIMES_EXPORT = 10.0, 3.0

Result = TypeVar("Result")


class TooLarge(Exception):
    """Files are larger than a failure's may be."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """The files of a failure that a verdict has the paths of; empty if there is none."""

    script: str = ""
    artifact: str = ""


def write(plan: Plan, verdict: Verdict, failure: Failure, case: Case | None) -> Verdict:
    """Return the verdict with the paths of the files that were written.

    ``case`` is None if there is no artifact. What could not be written is a note: it is no failure
    of its own.
    """
    if plan.keep is None or not plan.settings.reproducer_limit:
        return verdict
    writer = _Writer(plan, verdict, failure, case)
    with without_warnings(), _as_before(case):
        place, names = writer.written(plan.keep)
    notes = (f"not kept of this failure: {text}" for text in writer.left_out)
    return dataclasses.replace(
        verdict,
        script=short_path(str(place / names.script)) if names.script else "",
        kept=short_path(str(place / names.artifact)) if names.artifact else "",
        notes=(*verdict.notes, *notes),
    )


@contextlib.contextmanager
def _as_before(case: Case | None) -> Iterator[None]:
    """Do not count the time of the block as the item's. Afterwards, the item's log is as before."""
    if case is None:
        yield
        return
    activity = case.log.activity
    with case.log.timed("reproducer"), case.deadline.paused():
        yield
    case.log.activity = activity


class _Writer:
    """Writes the files; ``left_out`` are sentences about what cannot be written."""

    def __init__(self, plan: Plan, verdict: Verdict, failure: Failure, case: Case | None) -> None:
        self.left_out: list[str] = []
        self._plan = plan
        self._verdict = verdict
        self._failure = failure
        self._case = case

    def written(self, directory: Path) -> tuple[Path, Names]:
        """Return the directory, or one in it if there is something already, and its files."""
        found = self._tried(f"any file in {directory}", lambda: made(directory, self._fill))
        return found or (directory, Names())

    def _fill(self, half: Path) -> Names:
        case, failure, verdict = self._case, self._failure, self._verdict
        artifact = source = graph = ""
        if case is not None:
            # Before the artifact is taken away from the process that may have it loaded.
            seen = self._tried("the call", lambda: rerun(case, failure))
            artifact = self._tried("the artifact", lambda: self._artifact(case, half)) or ""
            graph = self._tried("the program as text", case.artifact.facts.text) or ""
            self._write(half / GRAPH, graph)
            form = self._tried(
                "a script", lambda: saved_form(case, failure, verdict, seen, artifact)
            )
            if form is not None:
                for arrays in (form.inputs, form.wanted, form.other):
                    arrays.write(half)
                source = script(form)
                self._write(half / SCRIPT, source)
        self._write(half / ISSUE, issue(verdict, case, source, graph))
        self._write(half / VERDICT, self._as_json())
        return Names(script=SCRIPT if source else "", artifact=artifact)

    def _tried(self, what: str, action: Callable[[], Result]) -> Result | None:
        """Return what the action returns; None if it does not return in time, or raises."""
        export = self._case.log.seconds.get("export", 0.0) if self._case is not None else 0.0
        try:
            with interrupted_after(max(SECONDS, TIMES_EXPORT * export)):
                return action()
        except Exception as error:
            if ends_the_test(error):
                raise
            known = isinstance(error, Inexpressible | TooLarge | OSError)
            self.left_out.append(f"{what}: {text_of(error) if known else raised(error)}")
            return None

    def _write(self, path: Path, text: str) -> None:
        if text:
            text = without_private_paths(text, self._plan.root)
            path.write_text(text, encoding="utf-8")

    def _as_json(self) -> str:
        verdict = self._verdict
        item = ItemResult(
            self._plan.nodeid,
            verdict.status,
            (verdict,),
            target=verdict.target,
            device=verdict.device,
        )
        return json.render(
            RunResults(items=(item,), environment=reports.environment(), complete=True)
        )

    def _artifact(self, case: Case, half: Path) -> str:
        """Put the artifact's files there; return the name of the one to load, or nothing."""
        if case.foreign:
            return ""  # its owner has it
        if case.saved is not None:
            files = case.saved.files()
            self._raise_if_too_large(sum(map(size_of, files)))
            for file in files:
                shutil.move(file, half)
            return case.saved.path.name
        if isinstance(self._failure, LoadFailed):
            return ""  # it cannot be saved
        self._raise_if_too_large(weight_of(case.reference.pristine.module))
        with tempfile.TemporaryDirectory(dir=half) as directory:
            with case.log.during(Activity.SAVING):
                path = case.artifact.save(Path(directory))
            self._raise_if_too_large(size_of(Path(directory)))
            for file in Path(directory).iterdir():
                file.rename(half / file.name)
        return path.name

    def _raise_if_too_large(self, size: int) -> None:
        limit = self._plan.settings.reproducer_limit
        if size > limit * MEGABYTE:
            raise TooLarge(
                f"it takes {size // MEGABYTE} MB, more than torchexport_reproducer_limit = {limit}"
            )
