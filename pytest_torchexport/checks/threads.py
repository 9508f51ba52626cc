"""Repeat calls with the threads and the settings that serve the artifact in production.

Of the check ``round_trip``. Raises the failures of ``parity``.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing

import torch

from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import failure_of
from pytest_torchexport.judge.log import UNTIL_SHRUNK, Shrunk
from pytest_torchexport.judge.runner import InSandbox
from pytest_torchexport.outcomes.compare import largest_error
from pytest_torchexport.outcomes.observe import NotTransferable, Outcome, Returned
from pytest_torchexport.outcomes.torch_state import users_precision

# Calls are repeated so often. Two results of which one is rare may look like one.
REPEATS = 10


def repeat(case: Case) -> None:
    """Repeat calls with the threads that serve the artifact; raise what differs from eager."""
    threads = case.plan.settings.threads
    runner = _served(case, threads)
    if runner is None:
        case.log.note(f"not repeated with {threads} threads: there is no file to load")
        return
    calls, changed, largest = 0, 0, 0.0
    with case.log.timed("served"), closing(runner):
        for found in case.calls(case.to_serve()):
            recipe, call = found.recipe, found.call
            expected = case.reference.on_device(call, found.outcome)
            if not isinstance(expected, Returned):
                continue
            if calls and case.deadline.is_past(UNTIL_SHRUNK):
                case.log.note(f"only {calls} calls were repeated with {threads} threads")
                break
            case.log.trying = recipe
            outcomes = _repeated(case, runner, call)
            if isinstance(outcomes[-1], NotTransferable):
                case.log.note(f"not repeated with {threads} threads: {outcomes[-1]}")
                break
            for outcome in outcomes:
                _raise_if_other(case, recipe, call, expected, outcome)
            values = [outcome.value for outcome in outcomes if isinstance(outcome, Returned)]
            calls, changed = calls + 1, changed + (len(values) > 1)
            largest = max([largest, *(largest_error(values[0], it) or 0.0 for it in values[1:])])
    if changed:
        case.log.caution(
            f"with {threads} threads, {REPEATS} repeats of one call gave different results (on "
            f"{changed} of {calls} calls); the largest difference is {largest:.2g}"
        )


def _served(case: Case, threads: int) -> InSandbox | None:
    """Return a runner of the file in a process that may use the threads; None without a file."""
    if isinstance(case.runner, InSandbox):
        return dataclasses.replace(case.runner, session=None, threads=threads)
    if case.saved is None:
        return None
    return InSandbox(
        artifact=case.artifact, open=case.saved.open, left=case.call_limit, threads=threads
    )


def _repeated(case: Case, runner: InSandbox, call: Call) -> list[Outcome]:
    """Return the outcomes that differ in a bit, of all repeats."""
    found: dict[bytes, Outcome] = {}
    for _ in range(REPEATS):
        outcome = runner.run(call, case.plan.seed, again=True)
        found.setdefault(_bits(outcome, case.random_paths), outcome)
        if not isinstance(outcome, Returned):
            break
    return list(found.values())


def _raise_if_other(
    case: Case, recipe: Recipe, call: Call, expected: Returned, outcome: Outcome
) -> None:
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
