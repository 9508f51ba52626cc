"""The order of an item's steps, as data: from the exported artifact to the verdict.

``docs/explanation/how-an-item-runs.md`` says the same in prose. Before the first step, eager is
examined and the subject is exported. A step is a function in ``checks``: it gets the item's Case,
raises a Failure, and may return another Case. Plain strings, so that the names of checks are known
without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    ``run`` is ``module:function`` below ``checks``. ``checks``: the step runs if one of these is
    asked for; empty: it always runs. ``or_isolated``: it also runs if the item is to be isolated.
    ``settings``: unless empty, it runs only if one of these is not its default. ``own_time``: the
    step keeps limits of its own, because it waits for other processes or because the item's verdict
    is already known; other steps share the item's time limit.
    """

    name: str
    run: str
    checks: tuple[str, ...] = ()
    or_isolated: bool = False
    settings: tuple[str, ...] = ()
    own_time: bool = False


CALLS = ("parity", "control_flow")

FLOW = (
    # First of all: an artifact that crashes is to crash the clean process, not pytest's.
    Step(
        name="save",
        run="artifact_files:save",
        checks=("round_trip",),
        or_isolated=True,
        own_time=True,
    ),
    Step(name="size", run="artifact_files:measure"),
    Step(
        name="load in the clean process",
        run="artifact_files:load",
        checks=("round_trip",),
        or_isolated=True,
        own_time=True,
    ),
    Step(
        name="first calls there",
        run="round_trip:run_example",
        checks=("round_trip",),
        or_isolated=True,
        own_time=True,
    ),
    Step(name="random streams", run="randomness:compare_streams"),
    Step(name="branch search", run="control_flow:explore", checks=("control_flow",)),
    # Before any call in this process: large weights are then in one process at a time.
    Step(name="other calls there", run="round_trip:run_others", checks=("round_trip",)),
    Step(name="state in single calls", run="state:check_stateless", checks=("state",)),
    Step(name="seeds", run="randomness:check_seeds"),
    Step(name="calls after loading", run="round_trip:compare", checks=("round_trip",)),
    Step(name="devices", run="serving:serve", checks=("round_trip",)),
    Step(name="state at the start", run="state:check_start", checks=("state",)),
    Step(name="sizes of the program", run="dims:audit", checks=("dims",)),
    # After the clean process has run the artifact: eager runs code that only an artifact runs.
    Step(
        name="branches of the artifact alone",
        run="control_flow:explore_artifact",
        checks=("control_flow",),
    ),
    Step(name="calls", run="parity:run", checks=CALLS),
    Step(name="frozen branches", run="control_flow:attribute", checks=("control_flow",)),
    Step(name="smallest failing call", run="parity:explain", checks=CALLS),
    Step(name="worth of a pass", run="worth:weigh", checks=("parity",)),
    Step(name="guessed sequence", run="worth:weigh_sequence", checks=("parity",)),
    Step(name="branches not taken", run="control_flow:weigh", checks=("control_flow",)),
    Step(name="state in rows of calls", run="state:check_rows", checks=("state",)),
    # Held back until now: parity explains the same bug better. No skip hides it.
    Step(
        name="result of the round trip",
        run="round_trip:raise_held",
        checks=("round_trip",),
        own_time=True,
    ),
    Step(
        name="production settings",
        run="serving:repeat",
        checks=("round_trip",),
        settings=("threads",),
        own_time=True,
    ),
    Step(name="limit of the size", run="artifact_files:require", settings=("max_size_ratio",)),
    Step(name="what cannot be judged", run="worth:require"),
    Step(name="latency", run="latency:measure", settings=("max_slowdown",), own_time=True),
    Step(name="seeded bugs", run="worth:seed_bugs", settings=("self_test",), own_time=True),
    Step(
        name="branch coverage", run="control_flow:require", checks=("control_flow",), own_time=True
    ),
    Step(name="files to ship", run="artifact_files:ship", settings=("ship",), own_time=True),
)


def checks() -> tuple[str, ...]:
    """Return the names of the checks: what a marker's ``checks=`` may name."""
    return tuple(sorted({name for step in FLOW for name in step.checks}))
