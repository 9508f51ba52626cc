"""The details of a verdict for ``-v``, of passed ones too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_torchexport.results.text import condition, labelled, recorded_lines
from pytest_torchexport.results.verdict import Branch, Difference, Verdict


def detail_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the details of a verdict for ``-v``: calls, sizes, worst error, assumptions, time."""
    for label, lines in details(verdict):
        yield from labelled(label, lines)


def details(verdict: Verdict) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the details of a verdict as data: a label and the lines below it."""
    yield "subject", recorded_lines([verdict])
    if verdict.unchanged_since:
        yield "cache", [f"unchanged since {verdict.unchanged_since}: not checked again"]
    if verdict.not_kept:
        yield "cache", [f"not kept: {verdict.not_kept}"]
    counts = {key: value for key, value in verdict.calls.items() if value}
    calls = ", ".join(f"{value} {key}" for key, value in counts.items()) or "none"
    error = "" if verdict.max_error is None else f"; worst |difference| {verdict.max_error:.2g}"
    yield "calls", [f"{calls}{error}"]
    for name, sizes in verdict.reached.items():
        yield "sizes", [f"{name}: {', '.join(map(str, sizes))}"]
    if verdict.branch_coverage is not None:
        yield (
            "branches",
            [
                f"{verdict.branch_coverage:.0f} % of the outcomes that inputs steer to were taken",
                *(_outcomes_line(branch) for branch in verdict.branches if branch.steered),
            ],
        )
    yield "rounding", map(_explained_line, verdict.explained)
    yield "baked", [", ".join(verdict.baked)]
    yield "files", [str(verdict.size)] if verdict.size is not None else []
    yield "latency", map(str, verdict.latency)
    yield "assumed", map(str, verdict.assumed)
    yield "weak", verdict.ineffective
    yield "note", (*verdict.cautions, *verdict.notes)
    yield "warned", verdict.warnings
    spent = (f"{stage} {seconds:.2f} s" for stage, seconds in verdict.seconds.items())
    yield "time", [", ".join(spent)]


def _outcomes_line(branch: Branch) -> str:
    """Return ``net.py:38  if x.sum() > 0:    True 61x verified, False unreached``."""
    outcomes = (
        f"{outcome} {branch.counts[outcome]}x {status}"
        if outcome in branch.counts
        else f"{outcome} {status}"
        for outcome, status in branch.status.items()
    )
    return f"{condition(branch)}    {', '.join(outcomes)}"


CAUSES = {
    "rounding": "within a small multiple of eager's own rounding error",
    "tie": "eager's own rounding decides these either way",
    "ambiguous": "eager's own rounding error is as large as the output",
}


def _explained_line(difference: Difference) -> str:
    """Return the line of a difference beyond the dtype's tolerance that is no bug."""
    error = "" if difference.max_abs is None else f"|{difference.max_abs:.2g}|"
    times = difference.in_own_errors
    units = f" = {times:.2g} x eager's own" if times is not None else ""
    at = f" at {list(difference.index)}" if difference.index is not None else ""
    why = CAUSES.get(difference.cause, difference.cause)
    return f"{difference.path}: worst {error}{units}{at}: {difference.cause}, {why}"
