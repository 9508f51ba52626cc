"""The text of a verdict: the report of a failure, and the details of any verdict for ``-v``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pytest_torchexport.results.failures import NotRepeatable, by_name
from pytest_torchexport.results.verdict import Branch, Difference, Recorded, Sizes, Verdict

LABEL = 9
MAX_DIFFERENCES = 5
MAX_LINES = 10
EAGER_AGAIN = "eager again"


def failure_text(verdict: Verdict, nodeid: str = "") -> str:
    """Return the report of a failed verdict. ``nodeid`` is what runs its test again.

    Its first line does not name the test: pytest prints it behind the test's name.
    """
    return "\n".join(_failure_lines([verdict], nodeid))


def failure_texts(verdicts: Iterable[Verdict], nodeid: str = "") -> list[str]:
    """Return the reports of failed verdicts: one for recorded modules that fail alike."""
    groups: dict[Any, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(_said(verdict), []).append(verdict)
    return ["\n".join(_failure_lines(alike, nodeid)) for alike in groups.values()]


def _said(verdict: Verdict) -> tuple[Any, ...]:
    """Return what a report says of a failure, beside which module failed."""
    return (
        *(verdict.failure, verdict.subject, verdict.target, verdict.device),
        *(verdict.reason, verdict.details, verdict.where, verdict.differences, verdict.call),
    )


def _failure_lines(alike: Sequence[Verdict], nodeid: str) -> Iterator[str]:
    """Yield the report of verdicts of which it says the same."""
    verdict = alike[0]
    name = verdict.failure or "Failure"
    recorded = [each.recorded for each in alike if each.recorded and each.recorded.count > 1]
    subject = verdict.name
    if len(recorded) > 1:
        some, every = len(recorded), recorded[0].count
        subject = f"{verdict.subject} ({f'all {every}' if some == every else f'{some} of {every}'})"
    yield f"{name}: {subject} on {verdict.target}-{verdict.device}: {by_name(name).title}"
    yield ""
    yield from _block("subject", (_recorded_line(each, verdict.subject) for each in recorded))
    if verdict.reason:
        yield from _block("reason", verdict.reason.splitlines())
    other = EAGER_AGAIN if name == NotRepeatable.__name__ else verdict.target
    for difference in verdict.differences[:MAX_DIFFERENCES]:
        yield from _difference_lines(difference, other)
    if len(verdict.differences) > MAX_DIFFERENCES:
        yield f"  ... and {len(verdict.differences) - MAX_DIFFERENCES} more differences"
    yield from _block("", verdict.details)
    yield from _block("printed", verdict.output.splitlines()[-MAX_LINES:])
    if verdict.call:
        yield _labelled("call", f"{verdict.call}{_tally(verdict)}")
    for sizes in verdict.sizes:
        yield from _size_lines(sizes)
    if verdict.where:
        yield _labelled("where", str(verdict.where))
    wrong = [branch for branch in verdict.branches if "diverges" in branch.status.values()]
    yield from _block("branch", map(_branch_line, wrong))
    yield from _block("baked", [", ".join(verdict.baked)] if verdict.baked else [])
    yield from _block("assumed", map(str, verdict.assumed))
    yield from _block("note", (*verdict.cautions, *verdict.notes))
    yield from _block("warned", verdict.warnings[:3])
    if verdict.kept:
        yield _labelled("kept", verdict.kept)
    if nodeid and verdict.seed is not None:
        yield _labelled("rerun", f'pytest "{nodeid}" --hypothesis-seed={verdict.seed}')


def _recorded_line(recorded: Recorded, subject: str) -> str:
    """Return ``2nd of 3 recorded Net, called with float32[2, 3]: test_net.py:12  Net()(x)``."""
    where = f": {recorded.where}" if recorded.where is not None else ""
    return f"{recorded.which} recorded {subject}, called with {recorded.call}{where}"


HAS_BRANCH = {
    True: "the artifact has a branch there",
    False: "the artifact has no branch there",
    None: "it is not known if the artifact has a branch there",
}


def _branch_line(branch: Branch) -> str:
    counts = ", ".join(f"{outcome} {count}x" for outcome, count in branch.counts.items())
    artifact = HAS_BRANCH[branch.in_artifact]
    return f"{_condition(branch)}    eager took {counts} in the search; {artifact}"


def _outcomes_line(branch: Branch) -> str:
    """Return ``net.py:38  if x.sum() > 0:    True 61x verified, False unreached``."""
    outcomes = (
        f"{outcome} {branch.counts[outcome]}x {status}"
        if outcome in branch.counts
        else f"{outcome} {status}"
        for outcome, status in branch.status.items()
    )
    return f"{_condition(branch)}    {', '.join(outcomes)}"


def _condition(branch: Branch) -> str:
    """Return the line, with the condition if it is a part of it, and the path of a submodule."""
    whole = branch.statement.rstrip(":").partition(" ")[2] == branch.text
    part = "" if whole or branch.kind in ("for", "case", "except") else f"  [{branch.text}]"
    module = f"  in {branch.module}" if branch.module else ""
    return f"{branch.where}  {branch.statement}{part}{module}"


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}".rstrip()


def _block(label: str, lines: Iterable[str]) -> Iterator[str]:
    rows = [line for line in lines if line.strip()]
    for number, line in enumerate(rows[:MAX_LINES]):
        yield _labelled("" if number else label, line.strip())
    if len(rows) > MAX_LINES:
        yield _labelled("", f"... and {len(rows) - MAX_LINES} more lines")


def _tally(verdict: Verdict) -> str:
    run = sum(count for key, count in verdict.calls.items() if key not in ("failed", "rejected"))
    shrunk = "shrunk; " if verdict.shrunk else ""
    failed = verdict.calls.get("failed", 0)
    if not failed:
        return ""  # found before the calls began, or in a call that cannot be judged
    return f"   {shrunk}{failed} of {run} calls fail"


def _difference_lines(difference: Difference, other: str) -> Iterator[str]:
    if difference.kind == "raised":
        return
    if difference.total is None:
        what = f" ({difference.what})" if difference.what else ""
        sides = f"eager {difference.expected}, {other} {difference.actual}"
        yield f"  {difference.path}  {sides}{what}"
        return
    yield from _element_lines(difference, other)


def _element_lines(difference: Difference, other: str) -> Iterator[str]:
    total = difference.total or 0
    share = 100 * (difference.mismatched or 0) / max(total, 1)
    yield (
        f"  {difference.path}  {difference.what}   "
        f"{difference.mismatched} of {total} elements differ ({share:.1f}%)"
    )
    worst = "" if difference.max_abs is None else f"|{difference.max_abs:.4g}| "
    yield (
        f"    worst  {worst}at {list(difference.index or ())}: eager {difference.expected}, "
        f"{other} {difference.actual}   {_allowed(difference)}"
    )
    if difference.own_error is not None and difference.cause == "bug":
        times = difference.in_own_errors
        many = f", {times:.2g} times smaller" if times is not None else ""
        error = f"{difference.own_error:.2g}{many}"
        yield f"    eager's own rounding error here is {error}: this is not rounding"


def _allowed(difference: Difference) -> str:
    if not difference.rtol and not difference.atol:
        return "allowed: exactly equal"
    return f"allowed {difference.atol:g} + {difference.rtol:g}*|eager|"


def _size_lines(sizes: Sizes) -> Iterator[str]:
    if not sizes.failing or not sizes.ok:
        return
    ok = [f"{n} (the example's)" if n == sizes.example else str(n) for n in sizes.ok]
    failing = [f"{n} (the example's)" if n == sizes.example else str(n) for n in sizes.failing]
    yield _labelled("sizes", f"{sizes.dim}: ok at {', '.join(ok)}, fails at {', '.join(failing)}")


def detail_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the details of a verdict for ``-v``: calls, sizes, worst error, assumptions, time."""
    if verdict.recorded is not None and verdict.recorded.count > 1:
        yield _labelled("subject", _recorded_line(verdict.recorded, verdict.subject))
    counts = {key: value for key, value in verdict.calls.items() if value}
    calls = ", ".join(f"{value} {key}" for key, value in counts.items()) or "none"
    error = "" if verdict.max_error is None else f"; worst |difference| {verdict.max_error:.2g}"
    yield _labelled("calls", f"{calls}{error}")
    for name, sizes in verdict.reached.items():
        yield _labelled("sizes", f"{name}: {', '.join(map(str, sizes))}")
    if verdict.branch_coverage is not None:
        yield _labelled(
            "branches",
            f"{verdict.branch_coverage:.0f} % of the outcomes that inputs steer to were taken",
        )
        yield from (_labelled("", _outcomes_line(b)) for b in verdict.branches if b.steered)
    yield from _block("rounding", map(_explained_line, verdict.explained))
    yield from _block("baked", [", ".join(verdict.baked)] if verdict.baked else [])
    yield from _block("assumed", map(str, verdict.assumed))
    yield from _block("weak", verdict.ineffective)
    yield from _block("note", (*verdict.cautions, *verdict.notes))
    yield from _block("warned", verdict.warnings)
    spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in verdict.seconds.items())
    yield _labelled("time", spent)


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
