"""Name the settings that would make a run more certain, or quicker.

Reports say what happened; these lines say what to set, so they need to know what is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from pytest_torchexport.results.summary import judged
from pytest_torchexport.results.verdict import ItemResult

NAME_TARGETS = (
    "name the targets you ship (marker or torchexport_targets): then a refusal is a failure"
)

# From so many seconds on, an item has a line with -v that says what would shorten it.
SLOW = 5.0
CACHE = "torchexport_cache for what has not changed"
# What shortens a stage of an item.
SHORTER = {
    "diagnosis": ("a smaller example",),
    "dims": ("fewer named dims",),
    "eager": ("narrower dims=", "a smaller example"),
    "explore": ("a lower max_examples", "checks= without control_flow"),
    "export": ("a smaller model", CACHE),
    "latency": ("a run without torchexport_max_slowdown",),
    "parity": ("a lower max_examples", "narrower dims=", "a smaller example"),
    "round trip": ("a smaller example", "checks= without round_trip"),
    "search": ("a smaller example",),
    "self-test": ("a run without torchexport_self_test",),
    "served": ("a run without torchexport_threads",),
    "state": ("a smaller example", "checks= without state"),
}


def setting_lines(
    results: Sequence[ItemResult],
    *,
    runtime_imports: Sequence[str] = (),
    toml: bool = False,
    cached: bool = False,
) -> Iterator[str]:
    """Yield the lines below a summary.

    ``runtime_imports``: the setting of that name. ``toml``: settings stand in a TOML file.
    ``cached``: the run had a cache of verdicts.
    """
    found = list(judged(results))
    if any(verdict.skip == "refused" for _, verdict in found):
        yield NAME_TARGETS
    yield from unchanged_lines(results, cached=cached)
    lacking: dict[str, set[str]] = {}  # of the items that fail; the report of one names its own
    for entry, verdict in found:
        if entry.item.outcome == "failed" and (lacks := {*verdict.imports} - {*runtime_imports}):
            lacking.setdefault(entry.item.nodeid, set()).update(lacks)
    if len(lacking) > 1:
        names = [*runtime_imports, *sorted(set().union(*lacking.values()))]
        setting = json.dumps(names) if toml else " ".join(names)
        yield (
            f"imports: the files of {len(lacking)} items need modules; if the process that serves "
            f"them imports these too, set torchexport_runtime_imports = {setting}"
        )


def unchanged_lines(results: Iterable[ItemResult], *, cached: bool) -> Iterator[str]:
    """Yield how many verdicts a cache gave, and the day of the oldest; nothing without one.

    If it gave none, yield why.
    """
    passes = [verdict for _, verdict in judged(results) if verdict.status == "passed"]
    days = [verdict.unchanged_since for verdict in passes if verdict.unchanged_since]
    if days:
        oldest = f"the oldest of {min(days)}"
        yield f"unchanged: {len(days)} of {len(passes)} passes, {oldest} (torchexport_cache)"
    elif cached and passes:
        reasons = [verdict.not_kept for verdict in passes if verdict.not_kept]
        why = []
        if len(reasons) < len(passes):
            why.append(
                f"{len(passes) - len(reasons)} new or changed since, the next run takes those of "
                "tests that seed torch: random weights are others each time"
            )
        if reasons:
            more = " (more reasons with -v)" if len(set(reasons)) > 1 else ""
            why.append(f"{len(reasons)} never kept: {reasons[0]}{more}")
        yield f"unchanged: 0 of {len(passes)} passes (torchexport_cache); {'; '.join(why)}"


def slowest_lines(
    results: Iterable[ItemResult], count: int, *, least: float = 0.0, cached: bool = False
) -> Iterator[str]:
    """Yield the longest stage of so many verdicts (0: all) that took ``least`` seconds or more."""
    made = (each for each in judged(results) if not each[1].unchanged_since)
    timed = [(sum(verdict.seconds.values()), entry, verdict.seconds) for entry, verdict in made]
    timed = [each for each in timed if each[0] >= least and each[2]]
    timed.sort(key=lambda each: -each[0])
    for whole, entry, seconds in timed[: count or None]:
        stage, most = max(seconds.items(), key=lambda item: item[1])
        ways = [way for way in SHORTER.get(stage, ()) if not (cached and way == CACHE)]
        more = f": shorter with {', '.join(ways)}" if ways else ""
        yield f"slowest: {entry} {whole:.1f} s, of which {most:.1f} s {stage}{more}"
