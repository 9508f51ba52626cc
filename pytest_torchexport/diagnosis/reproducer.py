"""Write the files of a failure into a directory of their own, which appears whole or not at all.

The artifact's files; ``call.pt``, the failing calls with what the two sides return; and
``reproduce.py``, which shows the failure again with these alone. ``graph.txt`` is the program,
``verdict.json`` the verdict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.script_text import Unreadable, saved, script
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.errors import text_of
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import raised
from pytest_torchexport.outcomes.subject import weight_of
from pytest_torchexport.outcomes.torch_state import without_warnings
from pytest_torchexport.results import json, reports
from pytest_torchexport.results.failures import Failure, LoadFailed, ends_the_test
from pytest_torchexport.results.json import HALF
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.verdict import ItemResult, RunResults, Verdict

SCRIPT, GRAPH = "reproduce.py", "graph.txt"
# The files of one failure take no more: those of 100 failures still fit on the disk of a runner.
MOST_MEGABYTES = 200
# All of it may take this many seconds; more if a diagnosis may.
SECONDS = 10.0

Result = TypeVar("Result")


class TooLarge(Exception):
    """Files are larger than a failure's may be."""


# The script and the artifact's file, which a verdict has the paths of; empty if there is none.
Names = tuple[str, str]


def write(plan: Plan, verdict: Verdict, failure: Failure, at: Prepared | None) -> Verdict:
    """Return the verdict with the paths of the files that were written.

    ``at``: how far the item came, a Case if there is an artifact. What could not be written is a
    note: it is no failure of its own.
    """
    if plan.keep is None:
        return verdict
    writer = _Writer(plan, verdict, failure, at)
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_warnings())
        if at is not None:  # this is no part of the item's time, nor of what it did
            stack.enter_context(at.log.timed("reproducer"))
            stack.enter_context(at.deadline.paused())
            stack.callback(setattr, at.log, "activity", at.log.activity)
        place, (shown, artifact) = writer.written(plan.keep)
    notes = (f"not kept of this failure: {text}" for text in writer.left_out)
    return dataclasses.replace(
        verdict,
        script=short_path(str(place / shown)) if shown else "",
        kept=short_path(str(place / artifact)) if artifact else "",
        notes=(*verdict.notes, *notes),
    )


def made(path: Path, fill: Callable[[Path], Result]) -> tuple[Path, Result]:
    """Fill a new directory. Return its path when all its files are there, and what ``fill`` did.

    The path is ``path``, or the first of ``path/2``, ``path/3`` and so on that is free. Raises
    OSError, and what ``fill`` raises; there is nothing then.
    """
    half = path.parent / f"{HALF}{os.getpid()}-{secrets.token_hex(4)}"
    half.mkdir(parents=True)
    try:
        result = fill(half)
        for place in chain([path], (path / str(number) for number in count(2))):
            try:
                # Not asked beforehand: another process may take the name in between.
                return half.rename(place), result
            except OSError:
                if not place.is_dir():
                    raise
        raise AssertionError  # count has no end
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


class _Writer:
    """Writes the files; ``left_out`` are sentences about what cannot be written."""

    def __init__(self, plan: Plan, verdict: Verdict, failure: Failure, at: Prepared | None) -> None:
        self.left_out: list[str] = []
        self._plan = plan
        self._verdict = verdict
        self._failure = failure
        self._case = at if isinstance(at, Case) else None
        seconds = max(SECONDS, at.log.diagnosis_seconds(wanted=True)) if at is not None else SECONDS
        self._until = time.monotonic() + seconds

    def written(self, directory: Path) -> tuple[Path, Names]:
        """Return the directory, or one in it if there is something already, and its files."""
        what = f"any file in {directory}"
        found = self._tried(what, lambda: made(directory, self._fill), limited=False)
        return found or (directory, ("", ""))

    def _fill(self, half: Path) -> Names:
        case, verdict = self._case, self._verdict
        artifact = shown = graph = ""
        if case is not None:
            # Before the artifact is taken away from the process that may have it loaded.
            seen = self._tried("the call", lambda: saved(case, self._failure, half))
            artifact = self._tried("the artifact", lambda: self._artifact(case, half)) or ""
            graph = self._tried("the program as text", case.artifact.facts.text) or ""
            # The failure may be that the file does not load.
            unloaded = case.saved is not None and case.saved.session is None
            shows = seen is not None or (isinstance(self._failure, LoadFailed) and unloaded)
            if artifact and shows:
                shown = script(case, self._failure, verdict, artifact, seen)
            if not (shown or case.foreign or self.left_out):
                self.left_out.append("a script: the saved file alone does not show it")
        nodeid, status, target = self._plan.nodeid, verdict.status, verdict.target
        item = ItemResult(nodeid, status, (verdict,), target=target, device=verdict.device)
        run = RunResults(items=(item,), environment=reports.environment(), complete=True)
        for name, text in ((SCRIPT, shown), (GRAPH, graph), (json.OF_A_FAILURE, json.render(run))):
            if text:
                public = without_private_paths(text, self._plan.root)
                # A name or path may hold bytes that are no UTF-8; Python keeps them as surrogates.
                (half / name).write_text(public, encoding="utf-8", errors="backslashreplace")
        return SCRIPT if shown else "", artifact

    def _tried(
        self, what: str, action: Callable[[], Result], *, limited: bool = True
    ) -> Result | None:
        """Return the action's result; None if it does not return in time, or raises."""
        left = max(self._until - time.monotonic(), 0.1)
        try:
            with interrupted_after(left) if limited else contextlib.nullcontext():
                return action()
        except Exception as error:
            if ends_the_test(error):
                raise
            known = isinstance(error, Unreadable | TooLarge | OSError)
            self.left_out.append(f"{what}: {text_of(error) if known else raised(error)}")
            return None

    def _artifact(self, case: Case, half: Path) -> str:
        """Put the artifact's files there; return the name of the one to load, or nothing."""
        if case.foreign and not isinstance(case.artifact, ChangedFile):
            return ""  # its owner has it
        if case.saved is not None:
            _move(case.saved.files(), half)
            return case.saved.path.name
        if isinstance(self._failure, LoadFailed):
            return ""  # it cannot be saved
        _raise_if_too_large(weight_of(case.reference.pristine.module))
        with tempfile.TemporaryDirectory(dir=half) as directory:
            with case.log.during(Activity.SAVING):
                path = case.artifact.save(Path(directory))
            _move(Path(directory).iterdir(), half)
        return path.name


def _move(files: Iterable[Path], half: Path) -> None:
    every = list(files)
    _raise_if_too_large(sum(file.lstat().st_size for file in every))
    for file in every:
        shutil.move(file, half)


def _raise_if_too_large(size: int) -> None:
    megabytes = size / 2**20
    if megabytes > MOST_MEGABYTES:
        raise TooLarge(f"it takes {megabytes:.0f} MB, more than {MOST_MEGABYTES}")


# A path, among other things. Each search begins where a word does: a recipe in base64 is one word
# of a megabyte.
_WORD = re.compile(r"[^\s\"'(:,=]+")


def without_private_paths(text: str, root: Path | None) -> str:
    """Return the text with paths as they are below the project, and ``~`` for the home directory.

    ``root`` is the project's directory; the working directory counts as well.
    """
    text = _WORD.sub(lambda word: word[0].rpartition("/site-packages/")[2], text)
    own = {str(folder) for folder in (root, Path.cwd()) if folder is not None}
    for folder in sorted(own - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    home = str(Path.home())
    return text.replace(home, "~") if home != "/" else text
