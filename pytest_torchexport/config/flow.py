"""The order of an item's steps, as data: from the exported artifact to the verdict.

``docs/explanation/how-an-item-runs.md`` says the same in prose. Before the first step, eager is
examined and the subject is exported. A step is a function in ``checks``: it gets the item's Case,
raises a Failure, and may return another Case. Plain strings, so that the names of checks are known
without importing torch.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
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
    _: KW_ONLY
    or_isolated: bool = False
    settings: tuple[str, ...] = ()
    own_time: bool = False


CALLS = ("parity", "control_flow")
_SAVED = ("round_trip",)
_BRANCHES = ("control_flow",)

FLOW = (
    # First of all: an artifact that crashes is to crash the clean process, not pytest's.
    Step("save", "round_trip:save", _SAVED, or_isolated=True, own_time=True),
    Step("size", "artifact_files:measure"),
    Step("load in the clean process", "round_trip:load", _SAVED, or_isolated=True, own_time=True),
    Step(
        "example in the clean process",
        "round_trip:run_example",
        _SAVED,
        or_isolated=True,
        own_time=True,
    ),
    Step("random streams", "parity:compare_streams"),
    Step("branch search", "control_flow:explore", _BRANCHES),
    # Before any call in this process: large weights are then in one process at a time.
    Step("other calls in the clean process", "round_trip:run_others", _SAVED),
    Step("state in single calls", "state:check_stateless", ("state",)),
    Step("seeds", "parity:check_seeds"),
    Step("calls after loading", "round_trip:compare", _SAVED),
    Step("places to serve", "serving:serve", _SAVED, own_time=True),
    Step("state at the start", "state:check_start", ("state",)),
    Step("sizes of the program", "dims:audit", ("dims",)),
    # After the clean process has run the artifact: eager runs code that only an artifact runs.
    Step("branches of the artifact alone", "control_flow:explore_artifact", _BRANCHES),
    Step("calls", "parity:run", CALLS),
    Step("frozen branches", "control_flow:attribute", _BRANCHES),
    Step("smallest failing call", "parity:explain", CALLS),
    Step("worth of a pass", "worth:weigh", ("parity",)),
    Step("guessed sequence", "worth:weigh_sequence", ("parity",)),
    Step("branches not taken", "control_flow:weigh", _BRANCHES),
    Step("state in rows of calls", "state:check_rows", ("state",)),
    # Held back until now: parity explains the same bug better. No skip hides it.
    Step("result of the round trip", "round_trip:raise_held", _SAVED, own_time=True),
    Step("production settings", "threads:repeat", _SAVED, settings=("threads",), own_time=True),
    Step("limit of the size", "artifact_files:require", settings=("max_size_ratio",)),
    # Only if the user gives any.
    Step("relations", "relations:require"),
    Step("what cannot be judged", "worth:require"),
    Step("latency", "latency:measure", settings=("max_slowdown",), own_time=True),
    Step("seeded bugs", "worth:seed_bugs", settings=("self_test",), own_time=True),
    Step("branch coverage", "control_flow:require", _BRANCHES, own_time=True),
    Step("files to ship", "artifact_files:ship", settings=("ship",), own_time=True),
)
# Of a loop around the subject: its own calls instead of searched and drawn ones.
_BEFORE = (
    *("save", "size", "load in the clean process", "example in the clean process"),
    *("random streams", "calls after loading", "places to serve", "state at the start"),
)
_AFTER = (
    *("result of the round trip", "production settings", "limit of the size"),
    *("what cannot be judged", "latency", "files to ship"),
)
LOOP = (
    *(step for step in FLOW if step.name in _BEFORE),
    Step("loop", "loops:run"),
    *(step for step in FLOW if step.name in _AFTER),
)
