"""Part of the check ``round_trip``: does the artifact, run as it is served, repeat its results.

All other calls are made with one thread and without TF32. Here the file is loaded once more in a
clean process, with the threads of ``torchexport_threads`` and the runtime's own precision, and some
calls are repeated there.
Raises the failure of a call that differs from eager: OutputsDiffer, ArtifactRaised and the like. A
result that changes from repeat to repeat is a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.failure_of import failure_of
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.judge.runners import InSandbox
from pytest_torchexport.outcomes.compare import largest_error
from pytest_torchexport.outcomes.observe import NotTransferable, Outcome, Returned
from pytest_torchexport.outcomes.torch_state import users_precision

# Calls are repeated so often. Two results of which one is rare may look like one.
REPEATS = 10
# The example and the boundary calls of most elements, up to this number.
CALLS = 6
# The step stops at this share of the time limit.
SHARE = 0.75


@dataclass
class _Repeats:
    """The distance between the results of repeated calls."""

    calls: int = 0
    changed: int = 0
    most: int = 1
    largest: float = 0.0

    def saw(self, outcomes: Sequence[Outcome]) -> None:
        """Record the different outcomes of one call."""
        returned = [outcome.value for outcome in outcomes if isinstance(outcome, Returned)]
        self.calls += 1
        self.changed += len(returned) > 1
        self.most = max(self.most, len(returned))
        for other in returned[1:]:
            self.largest = max(self.largest, largest_error(returned[0], other) or 0.0)

    def warning(self, threads: int) -> str:
        """Return a sentence if a result changed, else nothing."""
        if not self.changed:
            return ""
        return (
            f"with {threads} threads, {REPEATS} repeats of one call gave up to {self.most} "
            f"different results (on {self.changed} of {self.calls} calls); the largest difference "
            f"is {self.largest:.2g}"
        )


def repeat(case: Case) -> None:
    """Repeat some calls as they are served."""
    threads = case.plan.settings.threads
    runner = _served(case, threads)
    if runner is None:
        case.log.note(f"not repeated with {threads} threads: there is no file to load")
        return
    seen = _Repeats()
    with case.log.timed("served"), closing(runner):
        for recipe, call, expected in _calls(case):
            if seen.calls and case.deadline.elapsed > SHARE * case.plan.settings.time_limit:
                case.log.note(f"only {seen.calls} calls were repeated with {threads} threads")
                break
            case.log.trying = recipe
            outcomes = _repeated(case, runner, call)
            if isinstance(outcomes[-1], NotTransferable):
                case.log.note(f"not repeated with {threads} threads: {outcomes[-1]}")
                break
            seen.saw(outcomes)
            for outcome in outcomes:
                _judge(case, recipe, call, expected, outcome)
    if warning := seen.warning(threads):
        case.log.caution(warning)


def _served(case: Case, threads: int) -> InSandbox | None:
    """Return a runner of the file in a process that may use the threads; None without a file."""
    if isinstance(case.runner, InSandbox):
        return dataclasses.replace(case.runner, session=None, threads=threads)
    if case.saved is None:
        return None
    return InSandbox(
        artifact=case.artifact, open=case.saved.open, left=case.call_limit, threads=threads
    )


def _calls(case: Case) -> Iterator[tuple[Recipe, Call, Returned]]:
    """Yield the example and large boundary calls, with eager's outcomes."""
    boundary = sorted(
        boundary_recipes(case.spec, case.plan.seed),
        key=lambda recipe: -case.spec.numel(case.spec.all_sizes(recipe.sizes)),
    )
    for recipe in (example_recipe(case.spec), *boundary[: CALLS - 1]):
        found = case.accepted.call(recipe)
        if found is not None:
            expected = case.reference.on_device(found.call, found.outcome)
            if isinstance(expected, Returned):
                yield found.recipe, found.call, expected


def _repeated(case: Case, runner: InSandbox, call: Call) -> list[Outcome]:
    """Return the outcomes that differ in a bit, of all repeats."""
    found: dict[bytes, Outcome] = {}
    for _ in range(REPEATS):
        outcome = runner.run(call, case.plan.seed)
        found.setdefault(_bits(outcome, case.random_paths), outcome)
        if not isinstance(outcome, Returned):
            break
    return list(found.values())


def _judge(case: Case, recipe: Recipe, call: Call, expected: Returned, outcome: Outcome) -> None:
    """Raise the failure of an outcome that differs from eager."""
    # On CUDA, eager's noise is then that of the user's own precision.
    with users_precision():
        differences = case.judge.differences([call], expected, outcome)
    failure = failure_of(differences, case.reference.written_at)
    if failure is not None:
        case.log.shrunk = Shrunk.as_made(case.spec, recipe, call)
        threads = f"{case.plan.settings.threads} threads (torchexport_threads)"
        failure.details += (f"in a clean process with {threads}; with one thread it agrees",)
        raise failure


def _bits(outcome: Outcome, random_paths: frozenset[str]) -> bytes:
    """Return the bits of what an outcome holds, but for outputs of a random stream of its own."""
    if not isinstance(outcome, Returned):
        return str(outcome).encode()
    leaves = [
        leaf for path, leaf in flatten(outcome.value, "output")[0] if path not in random_paths
    ]
    return b"".join(
        bits_of(leaf) if isinstance(leaf, torch.Tensor) and is_plain(leaf) else repr(leaf).encode()
        for leaf in leaves
    )
