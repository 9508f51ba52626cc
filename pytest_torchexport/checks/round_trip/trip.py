"""The round trip: load where the model's source does not exist, and do there what is done here.

It goes first and looks ahead: the example, the boundary calls and some of those a search found are made in the clean
process before they are made here, so that an artifact that kills its interpreter kills that one. What merely
differs is told last, when parity had nothing to say.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.checks import state
from pytest_torchexport.checks.round_trip import raising, saving
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.runners import Isolated, elsewhere, is_scripted
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Returned,
    Tensors,
    TimedOut,
)
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, Failure, LoadFailed
from pytest_torchexport.sandbox.session import Session

# Calls beyond the example stop at this share of the time limit.
SHARE = 0.25
# Of what was found on the way, so many calls are made there.
CALLS = 24


class RoundTrip:
    """One artifact's way to another process. ``failure`` is what came of it and is not to be told at once."""

    def __init__(self, case: Case, blocked: Sequence[str]) -> None:
        self.failure: Failure | None = None
        self.files: Path | None = None
        self._bench = case
        self._blocked = blocked
        self._session: Session | None = None
        self._first: list[tuple[Outcome, Tensors]] = []
        self._printed = ""

    # -- the way there -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Save, move and load it, and make the example's calls there. Raises ArtifactHung; and where isolation was
        asked for and cannot be had, what keeps it from that.
        """
        case = self._bench
        case.plan.progress("round trip")
        refused: Failure | None = None
        with case.log.timed("round trip"), case.deadline.paused():
            try:
                self.files = saving.moved(case, self._described)
                self._load()
            except Failure as failure:
                refused = failure.with_traceback(None)
                self.hold(refused)
        if case.plan.why_isolated:
            self._isolate_as_told(case.plan.why_isolated, refused)
        elif self._session is not None:
            with case.log.timed("round trip"):
                self._try_the_example()

    def follow(self, recipes: Sequence[Recipe]) -> None:
        """The example's calls here too, then other calls on both sides, as long as time allows. From then on what
        may never end stays where it can be ended: here, a native loop would go on in its thread.
        """
        if self._session is None or self._isolated():
            return
        made = self._first
        self._on_both_sides(recipes)
        crossed = bool(made) and all(isinstance(outcome, Returned) for outcome, _ in made)
        loops = self._bench.artifact.native_loops
        if loops and crossed and self.failure is None and not self._isolated():
            self._isolate("it has loops, and one that does not end is ended with its process")

    def _on_both_sides(self, recipes: Sequence[Recipe]) -> None:
        case = self._bench
        with case.log.timed("round trip"):
            self._compare_the_example()
            chosen = recipes[:CALLS]
            for number, recipe in enumerate(chosen):
                if self._isolated() or self.failure is not None:
                    return
                if case.deadline.elapsed > SHARE * case.plan.settings.time_limit:
                    case.log.note(
                        f"the round trip made {number} of {len(chosen)} other calls in its time"
                    )
                    return
                self._both(recipe)

    def _isolate_as_told(self, why: str, refused: Failure | None) -> None:
        if self._session is None:
            assert refused is not None
            if self.failure is not None or not isinstance(refused, LoadFailed):
                raise refused  # a call here might be the last
            self._bench.log.note(f"not isolated: {refused}")
            return
        self._bench.log.trying = example_recipe(self._bench.spec)
        outcome, _ = self._there(self._bench.spec.example)
        if isinstance(outcome, NotTransferable):
            self._bench.log.note(f"not isolated: {outcome}")
            return
        self._isolate(why)

    def _isolate(self, why: str) -> None:
        """Make every further call of the artifact in the clean process."""
        case = self._bench
        case.log.note(
            f"isolated: every call of the artifact is made in a process of its own ({why})"
        )
        case.isolate(
            Isolated(
                inner=case.artifact,
                open=self._open,
                device=case.plan.device,
                seed=case.plan.seed,
                left=self._bench.call_limit,
                session=None if self._session is None or self._session.over else self._session,
            )
        )

    def on(self, device: str, call: Call) -> Outcome | None:
        """What the artifact does with a call when loaded on another device; None where there is no file."""
        if self.files is None:
            return None
        with self._bench.log.timed("round trip"), self._open(device) as session:
            if session.problem is not None:
                return session.problem
            outcome, _ = elsewhere(
                session,
                self._bench.artifact,
                call,
                device=self._bench.plan.device,
                seed=self._bench.plan.seed,
                limit=self._bench.call_limit(),
            )
            return outcome

    def keep(self, directory: Path) -> Path | None:
        """Move the artifact's files to where a person may look at them; None where there are none."""
        if self.files is None:
            return None
        self._end()
        kept, self.files = saving.kept(self.files, directory), None
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

    # -- loading -----------------------------------------------------------------------------------

    def _described(self, path: Path) -> Mapping[str, str]:
        """What the program in a file says of itself."""
        with self._open(path=path) as session:
            if session.problem is not None:
                raising.not_loaded(session.problem, session.printed(), self._blocked)
            said: Mapping[str, str] = session.found.get("contents", {})
            return said

    def _load(self) -> None:
        session = self._open()
        if session.problem is not None:
            raising.not_loaded(session.problem, session.printed(), self._blocked)
        self._session = session
        self._judge_file(session.found)

    def _judge_file(self, found: Mapping[str, Any]) -> None:
        own = self._bench.artifact.facts.contents()
        pickled = found.get("pickled", ())
        if pickled:
            self._bench.log.note(
                f"the file holds pickles that name {', '.join(pickled)}: whoever loads it runs code of these"
            )
        raising.sound(found.get("problems", ()))
        raising.same_names(own, found.get("contents", own))

    def _isolated(self) -> bool:
        return isinstance(self._bench.artifact, Isolated)

    def _open(self, device: str | None = None, path: Path | None = None) -> Session:
        path = path or self.files
        assert path is not None
        case = self._bench
        source = loading.source_of(
            case.plan,
            path,
            self._blocked,
            device=device or case.plan.device,
            thorough=case.eager.stateful,
            fresh=case.eager.fresh_each_call and is_scripted(case.artifact.module),
        )
        return loading.opened(source, case.plan)

    # -- calls -------------------------------------------------------------------------------------

    def _there(
        self, call: Call, *, anew: bool = True, state: bool = False
    ) -> tuple[Outcome, Tensors]:
        """What the loaded artifact does with a call. Raises ArtifactHung."""
        assert self._session is not None
        case = self._bench
        case.log.waiting_for = "the artifact"
        outcome, tensors = elsewhere(
            self._session,
            case.artifact,
            call,
            device=case.plan.device,
            seed=case.plan.seed,
            limit=self._bench.call_limit(),
            anew=anew,
            state=state,
        )
        if isinstance(outcome, TimedOut):
            case.log.shrunk = case.attempt()
            raise ArtifactHung(f"the loaded artifact: {outcome}", output=self._session.printed())
        return outcome, tensors

    def _try_the_example(self) -> None:
        case = self._bench
        calls = [case.spec.example] * state.LENGTH
        case.log.trying = example_recipe(case.spec)
        case.log.waiting_for = "eager"
        with interrupted_after(case.deadline.left):
            eager = [outcome for outcome, _ in case.eager.in_a_row(calls)]
        # Some forwards do not survive being called again.
        lived = next((n for n, o in enumerate(eager) if not isinstance(o, Returned)), len(eager))
        for number, call in enumerate(calls[:lived]):
            found = self._there(call, anew=not number, state=True)
            if isinstance(found[0], Crashed):
                self._crashed(calls[: number + 1], found[0], "the example")
                return
            self._first.append(found)

    def _compare_the_example(self) -> None:
        case = self._bench
        calls = [case.spec.example] * len(self._first)
        for number, (here, there) in enumerate(
            zip(case.judge.in_a_row(calls), self._first, strict=True), start=1
        ):
            self._compare(calls[:number], here, there, f"run {number} after loading")
        self._first = []

    def _both(self, recipe: Recipe) -> None:
        case = self._bench
        case.log.trying = recipe
        found = case.legal.call(recipe)
        if found is None:
            return
        there, _ = self._there(found.call)
        if isinstance(there, Crashed):
            self._crashed([found.call], there, "another call")
            return
        here = case.judge.run(found.call)
        sizes = ", ".join(f"{name} = {size}" for name, size in found.recipe.sizes.items())
        self._compare(
            [found.call],
            (here, {}),
            (there, {}),
            f"a call at {sizes or 'the example'} after loading",
        )

    def _crashed(self, calls: Sequence[Call], died: Crashed, where: str) -> None:
        """From here on every call is made elsewhere. Parity tells of it, with the smallest call that does it; where
        there is no parity, or it does not happen again, what is held does. Of a process that somebody else may
        have killed, only if it does happen again.
        """
        self._isolate(f"it killed its process on {where}")
        if died.from_outside:
            again, _ = self._bench.judge.in_a_row(calls)[-1]
            if not isinstance(again, Crashed):
                return
        row = (f"call {len(calls)} of {len(calls)} in a row",) if len(calls) > 1 else ()
        details = (*self._bench.attempted(), *row)
        self.hold(ArtifactCrashed(died.reason, details=details, output=died.output))

    def _compare(
        self,
        calls: Sequence[Call],
        here: tuple[Outcome, Tensors],
        there: tuple[Outcome, Tensors],
        what: str,
    ) -> None:
        (wanted, left), (found, right) = here, there
        case = self._bench
        try:
            note = raising.callable_there(wanted, found, what)
            if isinstance(wanted, Returned) and isinstance(found, Returned):
                more = state.carried_differences(left, right, case.judge.tolerance)
                raising.same(
                    case.judge.differences(calls, wanted, found, (left, right), more), what
                )
        except Failure as failure:
            self.hold(failure)
            return
        if note:
            case.log.note(note)

    def hold(self, failure: Failure) -> None:
        """Keep a failure for later: the first that is found. Where an item is only isolated, nobody asked for any."""
        if self.failure is None and self._bench.plan.checks("round_trip"):
            self.failure = failure.with_traceback(None)
