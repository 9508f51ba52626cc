"""Write the files of a failure into a directory of their own.

``reproduce.py`` builds the model from the user's source, exports it and shows the failure again;
``reproduce_from_files.py`` does so with the files beside it alone: the artifact, the call, and what
eager returned; ``reduced.py`` with the guilty submodule, if that fails alone. ``issue.md`` and
``issue.anonymous.md`` are texts of an issue, ``graph.txt`` is the program,
``node_data.json`` the differences of an ONNX model's nodes, ``verdict.json`` the verdict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.reproducer.directory import made, size_of
from pytest_torchexport.diagnosis.reproducer.forms import Shown, saved_form, source_form
from pytest_torchexport.diagnosis.reproducer.issue import issue
from pytest_torchexport.diagnosis.reproducer.node_data import node_data
from pytest_torchexport.diagnosis.reproducer.private import anonymous, names_of
from pytest_torchexport.diagnosis.reproducer.reduced_form import reduced_form, shows
from pytest_torchexport.diagnosis.reproducer.rerun import BY_A_CALL, Rerun, rerun
from pytest_torchexport.diagnosis.reproducer.script_text import Script, commented, text_of_script
from pytest_torchexport.diagnosis.reproducer.values import Arrays, Inexpressible
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import raised
from pytest_torchexport.outcomes.subject import weight_of
from pytest_torchexport.outcomes.texts import text_of
from pytest_torchexport.outcomes.torch_state import without_warnings
from pytest_torchexport.results import json, reports
from pytest_torchexport.results.failures import ExportRefused, Failure, LoadFailed, ends_the_test
from pytest_torchexport.results.files import without_private_paths
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.verdict import ItemResult, RunResults, Verdict

SCRIPT, FROM_FILES, GRAPH = "reproduce.py", "reproduce_from_files.py", "graph.txt"
REDUCED = "reduced.py"
NODES = "node_data.json"
ISSUE, ANONYMOUS = "issue.md", "issue.anonymous.md"
MEGABYTE = 2**20
# The files of one failure take no more: those of 100 failures still fit on the disk of a runner.
MOST_MEGABYTES = 200
# All of it may take this many seconds; more if a diagnosis may.
SECONDS = 10.0
# Failures that a script can show.
SHOWN = (*BY_A_CALL, ExportRefused, LoadFailed)

INSTEAD = """\
# This script runs {script}, which needs only the files beside it:
{why}
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("{script}")), run_name="__main__")
"""

Result = TypeVar("Result")


class TooLarge(Exception):
    """Files are larger than a failure's may be."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """The files of a failure that a verdict has the paths of; empty if there is none."""

    script: str = ""
    artifact: str = ""


def write(plan: Plan, verdict: Verdict, failure: Failure, at: Prepared | None) -> Verdict:
    """Return the verdict with the paths of the files that were written.

    ``at``: how far the item came, a Case if there is an artifact. What could not be written is a
    note: it is no failure of its own.
    """
    if plan.keep is None:
        return verdict
    writer = _Writer(plan, verdict, failure, at)
    with without_warnings(), _as_before(at):
        place, names = writer.written(plan.keep)
    notes = (f"not kept of this failure: {text}" for text in writer.left_out)
    return dataclasses.replace(
        verdict,
        script=short_path(str(place / names.script)) if names.script else "",
        kept=short_path(str(place / names.artifact)) if names.artifact else "",
        notes=(*verdict.notes, *notes),
    )


@contextlib.contextmanager
def _as_before(at: Prepared | None) -> Iterator[None]:
    """Do not count the time of the block as the item's. Afterwards, the item's log is as before."""
    if at is None:
        yield
        return
    activity = at.log.activity
    with at.log.timed("reproducer"), at.deadline.paused():
        yield
    at.log.activity = activity


class _Writer:
    """Writes the files; ``left_out`` are sentences about what cannot be written."""

    def __init__(self, plan: Plan, verdict: Verdict, failure: Failure, at: Prepared | None) -> None:
        self.left_out: list[str] = []
        self._plan = plan
        self._verdict = verdict
        self._failure = failure
        self._at = at
        self._case = at if isinstance(at, Case) else None
        self._bytes = 0
        seconds = max(SECONDS, at.log.diagnosis_seconds(wanted=True)) if at is not None else SECONDS
        self._until = time.monotonic() + seconds

    def written(self, directory: Path) -> tuple[Path, Names]:
        """Return the directory, or one in it if there is something already, and its files."""
        what = f"any file in {directory}"
        found = self._tried(what, lambda: made(directory, self._fill), limited=False)
        return found or (directory, Names())

    def _fill(self, half: Path) -> Names:
        case, failure, verdict = self._case, self._failure, self._verdict
        artifact = script = graph = ""
        seen: Rerun | None = None
        if case is not None:
            # Before the artifact is taken away from the process that may have it loaded.
            seen = self._tried("the call", lambda: rerun(case, failure))
            artifact = self._tried("the artifact", lambda: self._artifact(case, half)) or ""
            graph = self._tried("the program as text", case.artifact.facts.text) or ""
            self._write(half / GRAPH, graph)
        if self._at is not None and isinstance(failure, SHOWN):
            if self._is_elsewhere():
                self._tried("the call", lambda: self._arrays(half, seen))
            else:
                script = self._scripts(half, self._at, seen, artifact)
        if script and case is not None and verdict.diagnosis.place is not None:
            self._reduced(half, case, Shown(seen, Arrays("reduced_call")))
        if artifact and case is not None and seen is not None and seen.calls:
            self._nodes(case, seen, half / artifact)
        texts = {name: _text_in(half / name) for name in (REDUCED, FROM_FILES, SCRIPT)}
        shown = next(filter(None, texts.values()), "")
        self._write(half / ISSUE, issue(verdict, self._at, shown, graph))
        short = issue(verdict, None, "", graph)
        self._write(half / ANONYMOUS, anonymous(short, self._names()))
        self._write(half / json.OF_A_FAILURE, self._as_json())
        return Names(script=script, artifact=artifact)

    def _is_elsewhere(self) -> bool:
        """Return True if the artifact is a file of somebody else's: no script of ours made it."""
        # An artifact that was made here is there before its file is loaded.
        return isinstance(self._failure, LoadFailed) if self._case is None else self._case.foreign

    def _arrays(self, half: Path, seen: Rerun | None) -> None:
        """Write the failing call, and what the two sides return."""
        if seen is None or self._case is None:
            return
        call = dict(self._case.spec.flatten(seen.calls[-1])) if seen.calls else {}
        sides = {"call": call, "eager": seen.eager, "artifact": seen.artifact}
        for arrays in [Arrays.of(name, leaves) for name, leaves in sides.items()]:
            arrays.write(half)

    def _scripts(self, half: Path, at: Prepared, seen: Rerun | None, artifact: str) -> str:
        """Write the two scripts, as far as they show the failure. Return the name of the first."""
        case, failure, verdict = self._case, self._failure, self._verdict
        why: list[str] = []
        inputs = Arrays("call")
        saved = None
        if case is not None:
            shown = Shown(seen, inputs, artifact)
            saved = self._form(
                why, half / FROM_FILES, lambda: saved_form(case, failure, verdict, shown)
            )
        source = self._form(why, half / SCRIPT, lambda: self._source_form(at, Shown(seen, inputs)))
        if source is None and saved is None:
            self.left_out.append(f"a script: {'; '.join(dict.fromkeys(why))}")
            return ""
        if source is None:
            self._write(
                half / SCRIPT, INSTEAD.format(script=FROM_FILES, why=commented(f"{why[-1]}."))
            )
        return SCRIPT

    def _source_form(self, at: Prepared, shown: Shown) -> Script:
        self._raise_if_too_large(weight_of(at.reference.pristine.module))
        return source_form(at, self._failure, self._verdict, shown)

    def _reduced(self, half: Path, case: Case, shown: Shown) -> None:
        """Write the script of the guilty submodule, if it fails alone."""
        script = half / REDUCED
        form = self._form([], script, lambda: reduced_form(case, self._verdict, shown))
        if form is None:
            return
        if not self._tried(REDUCED, lambda: shows(script, self._left()), limited=False):
            for path in (script, *(half / f"{arrays.name}.npz" for arrays in form.own)):
                path.unlink(missing_ok=True)

    def _nodes(self, case: Case, seen: Rerun, file: Path) -> None:
        """Write how far each node of an ONNX model is from torch. Without it, nothing is missed."""
        before = len(self.left_out)
        found = self._tried("", lambda: node_data(case, seen.calls[0], file))
        del self.left_out[before:]
        self._write(file.with_name(NODES), found or "")

    def _form(self, why: list[str], path: Path, make: Callable[[], Script]) -> Script | None:
        """Write a form of the script; if that cannot be, add the reason to ``why``, and no note."""
        before = len(self.left_out)
        found = self._tried("", lambda: self._written_form(path, make()))
        why += [text.removeprefix(": ") for text in self.left_out[before:]]
        del self.left_out[before:]
        return found

    def _written_form(self, path: Path, form: Script) -> Script:
        for arrays in form.files:
            arrays.write(path.parent)
        self._write(path, text_of_script(form))
        return form

    def _left(self) -> float:
        """Return the seconds that are left."""
        return max(self._until - time.monotonic(), 0.1)

    def _tried(
        self, what: str, action: Callable[[], Result], *, limited: bool = True
    ) -> Result | None:
        """Return what the action returns; None if it does not return in time, or raises."""
        try:
            with interrupted_after(self._left()) if limited else contextlib.nullcontext():
                return action()
        except Exception as error:
            if ends_the_test(error):
                raise
            known = isinstance(error, Inexpressible | TooLarge | OSError)
            self.left_out.append(f"{what}: {text_of(error) if known else raised(error)}")
            return None

    def _names(self) -> Iterable[str]:
        """Return the names of the user's that a text may have."""
        return names_of(self._at.reference.pristine) if self._at is not None else ()

    def _write(self, path: Path, text: str) -> None:
        if text:
            text = without_private_paths(text, self._plan.root)
            # A name or a path may hold bytes that are no UTF-8; Python keeps them as surrogates.
            path.write_text(text, encoding="utf-8", errors="backslashreplace")

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
        self._raise_if_too_large(weight_of(case.reference.pristine.module), counts=False)
        with tempfile.TemporaryDirectory(dir=half) as directory:
            with case.log.during(Activity.SAVING):
                path = case.artifact.save(Path(directory))
            self._raise_if_too_large(size_of(Path(directory)))
            for file in Path(directory).iterdir():
                file.rename(half / file.name)
        return path.name

    def _raise_if_too_large(self, size: int, *, counts: bool = True) -> None:
        """Raise TooLarge if so many more bytes are too many; ``counts``: they will be written."""
        if self._bytes + size > MOST_MEGABYTES * MEGABYTE:
            raise TooLarge(f"it takes {size // MEGABYTE} MB, more than {MOST_MEGABYTES}")
        self._bytes += size if counts else 0


def _text_in(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
