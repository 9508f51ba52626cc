"""The round trip: save, move, load where the model's source does not exist, and do there what is done here.

It goes first and looks ahead: each call is made in the clean process before it is made here, so that an artifact
that kills its interpreter kills that one. What merely differs is told last, when parity had nothing to say.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.checks import round_trip, state
from pytest_torchexport.failures import ArtifactCrashed, ArtifactHung, Failure, LoadFailed
from pytest_torchexport.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.observe import Died, Hung, Outcome, Raised, Returned, Tensors, raised
from pytest_torchexport.recipes import Recipe, example_recipe
from pytest_torchexport.runners import Isolated, elsewhere, is_scripted
from pytest_torchexport.sandbox import session as sandbox
from pytest_torchexport.sandbox.process import Gone
from pytest_torchexport.sandbox.session import Session, Source
from pytest_torchexport.sandbox.wire import NotCarried, OwnClass
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.stages.bench import Bench

# Calls beyond the example stop at this share of the time limit.
SHARE = 0.25
# Files of more megabytes are not saved twice.
SAVED_TWICE = 64
# What an outcome is called that is about our frames, not about the artifact.
CANNOT_CROSS = (NotCarried.__name__, OwnClass.__name__)
# Of what was found on the way, so many calls are made there.
CALLS = 24


class Trip:
    """One artifact's way to another process. ``failure`` is what came of it and is not to be told at once."""

    def __init__(self, bench: Bench, blocked: Sequence[str]) -> None:
        self.failure: Failure | None = None
        self.files: Path | None = None
        self._bench = bench
        self._blocked = blocked
        self._session: Session | None = None
        self._loader = loader_of(bench.plan.target)
        self._first: list[tuple[Outcome, Tensors]] = []
        self._printed = ""

    def __enter__(self) -> Trip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the way there -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Save, move and load it, and make the example's calls there. Raises ArtifactHung."""
        bench = self._bench
        bench.plan.progress("round trip")
        with bench.ledger.timed("round trip"), bench.deadline.paused():
            try:
                self.files = self._moved()
                self._load()
            except Failure as failure:
                self.hold(failure)
        if bench.plan.isolate:
            self._isolate_as_told(bench.plan.isolate)
        elif self._session is not None:
            with bench.ledger.timed("round trip"):
                self._try_the_example()

    def follow(self, recipes: Sequence[Recipe]) -> None:
        """The example's calls here too, then other calls on both sides, as long as time allows."""
        bench = self._bench
        if self._session is None or self._isolated():
            return
        with bench.ledger.timed("round trip"):
            self._compare_the_example()
            for number, recipe in enumerate(recipes[:CALLS]):
                if self._isolated() or self.failure is not None:
                    return
                if bench.deadline.elapsed > SHARE * bench.plan.time_limit:
                    bench.ledger.note(
                        f"the round trip made {number} of {len(recipes)} other calls in its time"
                    )
                    return
                self._both(recipe)

    def _isolate_as_told(self, why: str) -> None:
        if self._session is None:
            if self.failure is not None:
                raise self.failure  # a call here might be the last
            self._bench.ledger.note("not isolated: the artifact cannot be saved and loaded")
            return
        self._bench.ledger.trying = example_recipe(self._bench.spec)
        outcome, _ = self._there(self._bench.spec.example)
        if isinstance(outcome, Raised) and outcome.type in CANNOT_CROSS:
            self._bench.ledger.note(f"not isolated: {outcome.message}")
            return
        self._isolate(why)

    def _isolate(self, why: str) -> None:
        """Make every further call of the artifact in the clean process."""
        bench = self._bench
        bench.ledger.note(
            f"isolated: every call of the artifact is made in a process of its own ({why})"
        )
        bench.isolate(
            Isolated(
                inner=bench.artifact,
                open=self._open,
                device=bench.plan.device,
                seed=bench.plan.seed,
                left=self._call_limit,
                session=None if self._session is None or self._session.over else self._session,
            )
        )

    def on(self, device: str, call: Call) -> Outcome | None:
        """What the artifact does with a call when loaded on another device; None where there is no file."""
        if self.files is None:
            return None
        with self._bench.ledger.timed("round trip"), self._open(device) as session:
            if session.problem is not None:
                return session.problem
            outcome, _ = elsewhere(
                session,
                self._bench.artifact,
                call,
                device=self._bench.plan.device,
                seed=self._bench.plan.seed,
                limit=self._call_limit(),
            )
            return outcome

    def keep(self, directory: Path) -> Path | None:
        """Move the artifact's files to where a person may look at them; None where there are none."""
        if self.files is None:
            return None
        self._end()
        directory.parent.mkdir(parents=True, exist_ok=True)
        number, free = 1, directory
        while free.exists():
            number, free = number + 1, directory.with_name(f"{directory.name}-{number + 1}")
        shutil.move(self.files.parent, free)
        kept, self.files = free / self.files.name, None
        return kept

    def printed(self) -> str:
        """The end of what the artifact printed there."""
        artifact = self._bench.artifact
        if isinstance(artifact, Isolated):
            return artifact.printed()
        return self._session.printed() if self._session is not None else self._printed

    def raise_what_was_held(self) -> None:
        """Raise what came of the way, where something did."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """End the processes, and remove the files that were not kept."""
        self._end()
        if self.files is not None:
            shutil.rmtree(self.files.parent, ignore_errors=True)
            self.files = None

    def _end(self) -> None:
        if self._session is not None:
            self._printed = self._session.printed()
            self._session.close()
            self._session = None
        if isinstance(self._bench.artifact, Isolated):
            self._bench.artifact.close()

    # -- saving and loading ------------------------------------------------------------------------

    def _isolated(self) -> bool:
        return isinstance(self._bench.artifact, Isolated)

    def _moved(self) -> Path:
        """Where the file is after it was saved elsewhere and moved with all that belongs to it."""
        with ExitStack() as stack:
            there = self._room()
            stack.callback(shutil.rmtree, there, ignore_errors=True)
            saved = self._saved(there)
            files = _files(there)
            if sum(file.stat().st_size for file in files.values()) < SAVED_TWICE * 2**20:
                again = self._room()
                stack.callback(shutil.rmtree, again, ignore_errors=True)
                second = self._saved(again)
                round_trip.same_files(files, _files(again))
                if _digests(files) != _digests(_files(again)):
                    self._look_at_both(saved, second)
            moved = self._room()
            for file in there.iterdir():
                file.rename(moved / file.name)
            return moved / saved.name

    def _look_at_both(self, first: Path, second: Path) -> None:
        """Two files that are not the same bytes may be the same program: a format may write a time of day."""
        found = []
        for path in (first, second):
            with self._open(path=path) as session:
                found.append(session.found.get("described", {}))
        round_trip.same_names(found[0], found[1], "saving it again")

    def _room(self) -> Path:
        try:
            return sandbox.room(torch=self._loader.torch)
        except (OSError, Gone) as error:
            raise LoadFailed(
                f"the clean process could not be started: {error}",
                details=(
                    "next step: TMPDIR must name a directory that has space and can be written to",
                ),
            ) from None

    def _saved(self, directory: Path) -> Path:
        self._bench.ledger.waiting_for = "saving the artifact"
        with interrupted_after(self._bench.plan.time_limit):
            try:
                path: Any = self._bench.artifact.save(directory)
            except TimeLimitExceeded:
                raise
            except Exception as error:
                raise self._not_saved(error, directory) from None
        if isinstance(path, Path) and path.parent == directory and path.exists():
            return path
        wrote = ", ".join(_files(directory)) or "nothing"
        raise LoadFailed(
            f"cannot be saved: save is to return the path of a file in the directory that it is given, and returned "
            f"{path!r}; it wrote {wrote} there"
        )

    def _not_saved(self, error: Exception, directory: Path) -> LoadFailed:
        reason = raised(error)
        left = ", ".join(_files(directory))
        details = (f"and leaves {left} behind, half-written",) if left else ()
        return LoadFailed(f"cannot be saved: {reason}", details=details, where=reason.where)

    def _load(self) -> None:
        session = self._open()
        if session.problem is not None:
            round_trip.not_loaded(session.problem, session.printed(), self._blocked)
        self._session = session
        self._judge_file(session.found)

    def _judge_file(self, found: Mapping[str, Any]) -> None:
        describe = getattr(self._bench.artifact, "described", None)
        own = describe() if describe is not None else {}
        pickled = found.get("pickled", ())
        if pickled:
            self._bench.ledger.note(
                f"the file holds pickles that name {', '.join(pickled)}: whoever loads it runs code of these"
            )
        round_trip.sound(found.get("problems", ()))
        round_trip.same_names(own, found.get("described", own))

    def _open(self, device: str | None = None, path: Path | None = None) -> Session:
        path = path or self.files
        assert path is not None
        bench = self._bench
        session = Session(
            Source(
                loader=self._loader.path,
                torch=self._loader.torch,
                path=path,
                home=path.parent,
                device=device or bench.plan.device,
                memory=bench.plan.memory,
                blocked=self._blocked,
                imports=bench.plan.runtime_imports,
                thorough=bench.eager.stateful,
                fresh=bench.eager.fresh_each_call and is_scripted(bench.artifact.module),
            ),
            bench.plan.call_limit,
        )
        if not session.started:
            raise LoadFailed(str(session.problem))  # which is not the artifact's fault
        return session

    # -- calls -------------------------------------------------------------------------------------

    def _call_limit(self) -> float:
        return min(self._bench.plan.call_limit, self._bench.deadline.for_a_call())

    def _there(
        self, call: Call, *, anew: bool = True, state: bool = False
    ) -> tuple[Outcome, Tensors]:
        """What the loaded artifact does with a call. Raises ArtifactHung."""
        assert self._session is not None
        bench = self._bench
        bench.ledger.waiting_for = "the artifact"
        outcome, tensors = elsewhere(
            self._session,
            bench.artifact,
            call,
            device=bench.plan.device,
            seed=bench.plan.seed,
            limit=self._call_limit(),
            anew=anew,
            state=state,
        )
        if isinstance(outcome, Hung):
            bench.ledger.shrunk = bench.attempt()
            raise ArtifactHung(f"the loaded artifact: {outcome}", output=self._session.printed())
        return outcome, tensors

    def _try_the_example(self) -> None:
        bench = self._bench
        calls = [bench.spec.example] * state.LENGTH
        bench.ledger.trying = example_recipe(bench.spec)
        eager = [outcome for outcome, _ in bench.eager.in_a_row(calls)]
        # Some forwards do not survive being called again.
        lived = next((n for n, o in enumerate(eager) if not isinstance(o, Returned)), len(eager))
        for number, call in enumerate(calls[:lived]):
            found = self._there(call, anew=not number, state=True)
            if isinstance(found[0], Died):
                self._crashed(call, "the example")
                return
            self._first.append(found)

    def _compare_the_example(self) -> None:
        bench = self._bench
        calls = [bench.spec.example] * len(self._first)
        for number, (here, there) in enumerate(
            zip(bench.judge.in_a_row(calls), self._first, strict=True), start=1
        ):
            self._compare(here, there, f"run {number} after loading")
        self._first.clear()

    def _both(self, recipe: Recipe) -> None:
        bench = self._bench
        bench.ledger.trying = recipe
        found = bench.legal.call(recipe)
        if found is None:
            return
        there, _ = self._there(found.call)
        if isinstance(there, Died):
            self._crashed(found.call, "another call")
            return
        here = bench.judge.run(found.call)
        sizes = ", ".join(f"{name} = {size}" for name, size in found.recipe.sizes.items())
        self._compare((here, {}), (there, {}), f"a call at {sizes or 'the example'} after loading")

    def _crashed(self, call: Call, where: str) -> None:
        """From here on every call is made elsewhere. Parity tells of it, with the smallest call that does it; where
        there is no parity, what is held does. Where it does not happen again, somebody else killed the process.
        """
        self._isolate(f"it killed its process on {where}")
        again = self._bench.judge.run(call)
        if isinstance(again, Died):
            attempt = self._bench.attempt()
            details = (f"call: {attempt.text}",) if attempt is not None else ()
            self.hold(ArtifactCrashed(again.reason, details=details, output=again.output))

    def _compare(
        self, here: tuple[Outcome, Tensors], there: tuple[Outcome, Tensors], what: str
    ) -> None:
        try:
            note = round_trip.same(here, there, self._bench.judge.tolerance, self._ignored(), what)
        except Failure as failure:
            self.hold(failure)
            return
        if note:
            self._bench.ledger.note(note)

    def _ignored(self) -> frozenset[str]:
        return self._bench.judge.random_paths

    def hold(self, failure: Failure) -> None:
        """Keep a failure for later: the first that is found. Where an item is only isolated, nobody asked for any."""
        asked = self._bench.plan.options.checks
        if self.failure is None and (asked is None or "round_trip" in asked):
            self.failure = failure.with_traceback(None)


@dataclass(frozen=True)
class Loader:
    """What loads a target's files (``package.module:attribute``), and whether with torch."""

    path: str
    torch: bool


def loader_of(target: str) -> Loader:
    """The loader of a target's files."""
    torchless = getattr(targets.get(target), "torchless", None)
    if torchless is not None:
        return Loader(torchless, torch=False)
    return Loader(str(targets.entry_point(target)), torch=True)


def _digests(files: Mapping[str, Path]) -> list[str]:
    """The contents of files, told shortly."""
    found = []
    for path in files.values():
        with path.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "blake2b").hexdigest())
    return found


def _files(directory: Path) -> dict[str, Path]:
    """All files below a directory, by name."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in found}
