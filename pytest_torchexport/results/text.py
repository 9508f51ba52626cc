"""Blocks of lines below a label that say what a verdict says: all reports are made of these.

The report of a failure has at most ``MAX_REPORT`` lines. What matters most is kept; ``-v`` prints
all of it, and the details of what passed.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.results.diagnosis import SizePattern
from pytest_torchexport.results.escaped import in_shell
from pytest_torchexport.results.failures import (
    BranchFrozen,
    ExportRefused,
    NotRepeatable,
    by_name,
    title_of,
)
from pytest_torchexport.results.verdict import Branch, Difference, Verdict

MAX_REPORT = 12
# Puts a line of it on at most two lines of 120 columns, with a label.
WRAPPER = textwrap.TextWrapper(
    109, max_lines=2, placeholder=" ... (-v)", break_on_hyphens=False, break_long_words=False
)
# The labels of lines that people copy: they stay whole.
COPIED = ("known", "script", "kept", "rerun")
MAX_DIFFERENCES = 5
# Of one block, also with ``-v``.
MAX_LINES = 10
# The first line of a report: pytest prints it behind the test's name.
MAX_HEADLINE = 200
# The kinds of causes and of structural differences by which a dim keeps the example's size.
STATIC = ("frozen size", "guard", "constant")
# The titles of a refusal that is not the exporter's, by its owner.
_REFUSED_BY: dict[str | None, str] = {
    "runtime": "the runtime does not take the exported model",
    "after_export": "a function of after_export left no file to judge",
}
# How the details of a failure begin that say what to do.
REMEDY = "remedy: "


@dataclass(frozen=True)
class Block:
    """The lines below one label; without a label they continue the block above.

    ``first`` and ``rest``: how soon its first line and the others are left out of a report that is
    too long; those with the largest number go first.
    """

    label: str
    lines: Sequence[str]
    first: int = 0
    rest: int = 0


def failure_text(verdict: Verdict, nodeid: str = "", *, whole: bool = True) -> str:
    """Return the report of a failed verdict. ``nodeid`` is what runs its test again.

    Its first line does not name the test: pytest prints it behind the test's name. ``whole``:
    nothing is left out.
    """
    (text,) = failure_texts([verdict], nodeid, whole=whole)
    return text


def failure_texts(
    verdicts: Iterable[Verdict], nodeid: str = "", *, whole: bool = True
) -> list[str]:
    """Return the reports of failed verdicts: one for recorded modules that fail alike."""
    return [
        "\n".join([headline(first), *labelled(blocks if whole else _shortened(blocks))])
        for first, blocks in reports(verdicts, nodeid)
    ]


def reports(
    verdicts: Iterable[Verdict], nodeid: str = ""
) -> Iterator[tuple[Verdict, Sequence[Block]]]:
    """Yield the blocks of failed verdicts, with the first of recorded modules that fail alike."""
    groups: dict[Any, list[Verdict]] = {}
    for verdict in verdicts:
        # All that a report says of a failure, beside which module failed.
        said = (
            *(verdict.failure, verdict.subject, verdict.target, verdict.device),
            *(verdict.reason, verdict.details, verdict.where, verdict.differences, verdict.call),
        )
        groups.setdefault(said, []).append(verdict)
    for alike in groups.values():
        yield alike[0], [block for block in _blocks(alike, nodeid) if block.lines]


def raise_for_failure(verdict: Verdict) -> None:
    """Raise the failure of a verdict with its report; return if it is none."""
    if verdict.status == "failed" and verdict.failure is not None:
        raise by_name(verdict.failure)(failure_text(verdict), verdicts=(verdict,))


def labelled(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the lines of blocks below their labels, without the empty ones."""
    for block in blocks:
        for number, line in enumerate(filter(str.strip, "\n".join(block.lines).split("\n"))):
            yield f"  {'' if number else block.label:<9}{line}".rstrip()


def headline(verdict: Verdict) -> str:
    """Return the failure's class and its cause: ``BranchFrozen: if x.sum() > 0 (net.py:38)``."""
    text = " ".join(_cause(verdict).split()) or _title(verdict)
    short = text if len(text) <= MAX_HEADLINE else f"{text[:MAX_HEADLINE]}..."
    return f"{verdict.failure or 'Failure'}: {short}"


def _cause(verdict: Verdict) -> str:
    diagnosis, where, place = verdict.diagnosis, verdict.where, verdict.diagnosis.place
    if verdict.failure == BranchFrozen.__name__ and where is not None:
        return f"{where.text.rstrip(':')} ({where.place})"
    line = where if where is not None or place is None else place.where
    found = (*diagnosis.causes, diagnosis.structural)
    kind = next((each.kind for each in found if each is not None), "")
    for dim in diagnosis.sizes:
        own = SizePattern(kind="only", numbers=(dim.example,), fails=False)
        if dim.pattern == own and line is not None and kind in STATIC:
            return f"{dim.dim} is frozen at {dim.example}: {line.text} ({line.place})"
    why = next((each.text for each in diagnosis.causes or diagnosis.known), "")
    if place is not None and place.where is not None and not why:
        return f"{place.operator} at {place.where.place}"
    lines = [each.strip() for each in verdict.reason.splitlines() if each.strip()]
    # TorchScript's message begins in the line behind the exception's name.
    reason = " ".join(lines[: 2 if lines and lines[0].endswith("Error:") else 1])
    differs = next((_side_by_side(item, verdict) for item in verdict.differences), "")
    text = why or reason or differs
    return f"{text} ({line.place})" if text and line is not None else text


def _blocks(alike: Sequence[Verdict], nodeid: str) -> Iterator[Block]:
    """Yield the blocks of a report, in the order in which they are printed."""
    verdict = alike[0]
    yield Block("subject", [_subject_line(alike), *recorded_lines(alike)], 2, 6)
    steps = [line for line in verdict.details if line.startswith(REMEDY)]
    yield short_block("remedy", [line.removeprefix(REMEDY) for line in steps])
    yield from _diagnosis_blocks(verdict)
    # Behind a cause it says what the lines around it do too.
    behind = int(bool(verdict.diagnosis.causes))
    yield short_block("reason", verdict.reason.splitlines(), behind, 4)
    first, *others = [*_difference_lines(verdict)] or [[]]
    yield Block("differs", first, 1, 2)
    yield Block("", [line for other in others for line in other], 5, 6)
    yield short_block("", [line for line in verdict.details if line not in steps], 3, 6)
    yield short_block("printed", verdict.output.splitlines()[-MAX_LINES:], 3, 6)
    call, failed = verdict.call, verdict.calls.get("failed", 0)
    if call and failed:  # else found before the calls began, or in one that cannot be judged
        run = sum(n for key, n in verdict.calls.items() if key not in ("failed", "rejected"))
        call += f"   {'shrunk; ' if verdict.shrunk else ''}{failed} of {run} calls fail"
    yield Block("call", [call] if call else [])
    dims = verdict.diagnosis.sizes
    # Of two dims that have to be equal, the first has the line.
    told = [each for i, each in enumerate(dims) if each.equal_to not in {d.dim for d in dims[:i]}]
    yield short_block("sizes", map(str, told), 0, 4)
    wrong = (branch for branch in verdict.branches if "diverges" in branch.status.values())
    yield short_block("branch", map(_branch_line, wrong), 7, 7)
    yield short_block("baked", [", ".join(verdict.baked)], 4, 4)
    yield short_block("assumed", map(str, verdict.assumed), 3, 5)
    # The report has its line, and with a cause what a note says of it.
    at = verdict.where.place if verdict.where is not None else None
    notes, causes = (*verdict.cautions, *verdict.notes), verdict.diagnosis.causes
    yield short_block("note", [line for line in notes if not (causes and at and at in line)], 5, 6)
    warned = [line for line in verdict.warnings if not (at and at in line)]
    yield short_block("warned", warned[:3], 6, 7)
    yield short_block("untried", verdict.diagnosis.not_examined, 5, 7)
    yield short_block("script", [verdict.script])
    yield short_block("kept", [] if verdict.script else [verdict.kept])
    if nodeid and verdict.seed is not None:
        strict = " --torchexport-strict" if verdict.strict else ""
        again = f"pytest {in_shell(nodeid)} --hypothesis-seed={verdict.seed}{strict}"
        yield Block("rerun", [again])


def _diagnosis_blocks(verdict: Verdict) -> Iterator[Block]:
    """Yield why, what to do, where, and who is to blame: what is known of it."""
    diagnosis = verdict.diagnosis
    upstream = [known.remedy for known in diagnosis.known if known.remedy]
    own = [cause.remedy for cause in diagnosis.causes if cause.remedy]
    # What is known upstream may begin with the same words, and say more.
    left = [remedy for remedy in own if not any(more.startswith(remedy) for more in upstream)]
    for cause in diagnosis.causes:
        said = " ".join(cause.text.split()) in headline(verdict)
        yield short_block("cause", (*([] if said else [cause.text]), *cause.details), 0, 4)
        if cause.remedy in left:
            yield short_block("remedy", cause.remedy.splitlines())
    if left != own or not own:
        yield short_block("remedy", upstream, 0 if own else 1, 5)
    looks = (
        f"looks like: {known.text}: {known.issue or 'not reported yet'}, "
        + (f"fixed in {known.fixed_in}" if known.fixed_in else "no release without it is known")
        for known in diagnosis.known
    )
    yield short_block("known", looks, 2, 5)
    where = verdict.where or (diagnosis.place and diagnosis.place.where)
    yield short_block("where", [str(where or "")])
    owner: str = diagnosis.owner or ("unknown" if diagnosis.stages and not diagnosis.causes else "")
    if diagnosis.place is not None:
        owner = f"{owner or 'unknown'}, in {diagnosis.place}"
    yield short_block("owner", [owner], 1, 3)


def _shortened(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield the blocks with the lines that matter most, and a line that says what is left out."""
    blocks = [
        block
        if block.label in COPIED
        else dataclasses.replace(block, lines=[*map(WRAPPER.fill, block.lines)])
        for block in blocks
    ]
    room = MAX_REPORT - 1  # without the headline
    if sum("\n".join(block.lines).count("\n") + 1 for block in blocks) <= room:
        yield from blocks
        return
    ranked = sorted(
        (block.rest if line else block.first, number, line)
        for number, block in enumerate(blocks)
        for line in range(len(block.lines))
    )
    kept = set()
    for _, number, line in ranked:
        rows = blocks[number].lines[line].count("\n") + 1
        if rows < room:  # one is for what is left out
            kept.add((number, line))
            room -= rows
    *above, last = (
        dataclasses.replace(
            block, lines=[text for line, text in enumerate(block.lines) if (number, line) in kept]
        )
        for number, block in enumerate(blocks)
    )
    cut = [block for block, less in zip(blocks, (*above, last), strict=True) if less != block]
    names = ", ".join(dict.fromkeys(block.label or "details" for block in cut))
    more = len(ranked) - len(kept)
    yield from above
    yield Block("more", [f"{more} line{'s' if more > 1 else ''} with -v: {names}"])
    yield last


def _subject_line(alike: Sequence[Verdict]) -> str:
    """Return ``Net on trace-cpu: outputs differ from eager``."""
    verdict = alike[0]
    several = [each.recorded for each in alike if each.recorded and each.recorded.count > 1]
    name = verdict.name
    if len(several) > 1:
        some, every = len(several), several[0].count
        name = f"{verdict.subject} ({f'all {every}' if some == every else f'{some} of {every}'})"
    title = _title(verdict)
    if verdict.failure == ExportRefused.__name__:
        title = _REFUSED_BY.get(verdict.diagnosis.owner, title)
    return f"{name} on {verdict.target}-{verdict.device}: {title}"


def recorded_lines(alike: Iterable[Verdict]) -> Iterator[str]:
    """Yield for each of several recorded modules of a class which one it is, and its first call."""
    for each in alike:
        recorded = each.recorded
        if recorded is not None and recorded.count > 1:
            where = f": {recorded.where}" if recorded.where is not None else ""
            which = f"{recorded.which} recorded {each.subject}"
            yield f"{which}, called with {recorded.call}{where}"


def _title(verdict: Verdict) -> str:
    title = title_of(verdict.failure)
    return as_said_of(title, *verdict.sides) if verdict.sides else title


def as_said_of(text: str, reference: str, subject: str) -> str:
    """Return a sentence on eager and an artifact as one on a reference and its subject."""
    # Once: behind it may stand what the user's code says.
    text = re.sub(r"\b[Tt]he artifact\b", subject, text, count=1)
    return re.sub(r"\beager\b", reference, text, count=1)


def _branch_line(branch: Branch) -> str:
    counts = ", ".join(f"{outcome} {count}x" for outcome, count in branch.counts.items())
    has = {True: "has a", False: "has no", None: "may have a"}[branch.in_artifact]
    took = f"eager took {counts} in the search"
    return f"{_condition(branch)}    {took}; the artifact {has} branch there"


def _condition(branch: Branch) -> str:
    """Return the line, with the condition if it is a part of it, and the path of a submodule."""
    whole = branch.statement.rstrip(":").partition(" ")[2] == branch.text
    part = "" if whole or branch.kind in ("for", "case", "except") else f"  [{branch.text}]"
    module = f"  in {branch.module}" if branch.module else ""
    return f"{branch.where}  {branch.statement}{part}{module}"


def short_block(label: str, lines: Iterable[str], first: int = 0, rest: int = 0) -> Block:
    rows = [line.strip() for line in lines if line.strip()]
    more = [f"... and {len(rows) - MAX_LINES} more lines"] if len(rows) > MAX_LINES else []
    return Block(label, [*rows[:MAX_LINES], *more], first, rest)


def _difference_lines(verdict: Verdict) -> Iterator[list[str]]:
    """Yield the lines of each difference: both sides, and the worst element in numbers."""
    shown = [item for item in verdict.differences if item.kind != "raised"]
    for item in shown[:MAX_DIFFERENCES]:
        lines = [_side_by_side(item, verdict)]
        if item.total is not None:
            worst = "" if item.max_abs is None else f"|{item.max_abs:.4g}| "
            one, other = _sides(verdict)
            sides = f"{one} {item.expected}, {other} {item.actual}"
            allowed, own = "allowed: exactly equal", ""
            if item.rtol or item.atol:
                allowed = f"allowed {item.atol:g} + {item.rtol:g}*|{one}|"
            if item.own_error is not None and item.cause == "bug":
                own = f"; {one}'s own rounding error is {item.own_error:.2g}"
            lines.append(f"worst {worst}at {list(item.index or ())}: {sides} ({allowed}{own})")
        yield lines
    if len(shown) > MAX_DIFFERENCES:
        yield [f"... and {len(shown) - MAX_DIFFERENCES} more differences"]


def _sides(verdict: Verdict) -> Sequence[str]:
    """Return the names of the two sides of a difference."""
    one, other = verdict.sides or ("eager", verdict.target)
    return one, f"{one} again" if verdict.failure == NotRepeatable.__name__ else other


def _side_by_side(item: Difference, verdict: Verdict) -> str:
    """Return ``output: 2 of 6 elements of float32[2, 3] differ``, or both sides."""
    if item.total is not None:
        return f"{item.path}: {item.mismatched} of {item.total} elements of {item.what} differ"
    what = f" ({item.what})" if item.what else ""
    one, other = _sides(verdict)
    return f"{item.path}: {one} {item.expected}, {other} {item.actual}{what}"


# -- what passed, and what a failure has beside its report -----------------------------------------

_WHY_NO_MORE = {
    "nothing new": " (the last brought nothing new)",
    "none passes": " (none passes)",
    "deaths": " (the artifact does not survive more)",
    "time": " (the time was used)",
}


def details(verdict: Verdict) -> Iterator[Block]:
    """Yield the details of a verdict for ``-v``: calls, sizes, worst error, assumptions, time."""
    cached, kept = verdict.unchanged_since, verdict.not_kept
    why = {"drawn": _WHY_NO_MORE.get(verdict.drawn_until, "")}
    calls = ", ".join(f"{n} {key}{why.get(key, '')}" for key, n in verdict.calls.items() if n)
    error = "" if verdict.max_error is None else f"; worst |difference| {verdict.max_error:.2g}"
    branches: list[str] = []
    if verdict.branch_coverage is not None:
        taken = f"{verdict.branch_coverage:.0f} % of the outcomes that inputs steer to were taken"
        branches.append(taken)
        for branch in (each for each in verdict.branches if each.steered):
            # net.py:38  if x.sum() > 0:    True 61x verified, False unreached
            times = {outcome: f" {count}x" for outcome, count in branch.counts.items()}
            told = (f"{each}{times.get(each, '')} {how}" for each, how in branch.status.items())
            branches.append(f"{_condition(branch)}    {', '.join(told)}")
    agrees = {True: "agrees with eager", False: "differs from eager", None: "not run"}
    stages = (
        f"{stage.name}: {agrees[stage.agrees]}{f': {stage.why}' if stage.why else ''}"
        for stage in verdict.diagnosis.stages
    )
    rows: list[tuple[str, Iterable[str]]] = [
        ("subject", recorded_lines([verdict])),
        ("cache", [f"unchanged since {cached}: not checked again"] if cached else []),
        ("cache", [f"not kept: {kept}"] if kept else []),
        ("calls", [f"{calls or 'none'}{error}"]),
        ("sizes", [f"{dim}: {', '.join(map(str, run))}" for dim, run in verdict.reached.items()]),
        ("branches", branches),
        ("stages", stages),
        ("rounding", map(_explained_line, verdict.explained)),
        ("baked", [", ".join(verdict.baked)]),
        ("files", [str(verdict.size)] if verdict.size is not None else []),
        ("latency", map(str, verdict.latency)),
        ("loop", verdict.loop.lines() if verdict.loop is not None else ()),
        ("assumed", map(str, verdict.assumed)),
        ("weak", verdict.ineffective),
        ("seeded", (f"{bug.name}: {bug.result}, {bug.explanation}" for bug in verdict.self_test)),
        ("note", (*verdict.cautions, *verdict.notes)),
        ("warned", verdict.warnings),
        ("time", [", ".join(f"{stage} {n:.2f} s" for stage, n in verdict.seconds.items())]),
    ]
    for label, lines in rows:
        if filled := [line for line in lines if line.strip()]:
            yield Block(label, filled)


def _explained_line(difference: Difference) -> str:
    """Return the line of a difference beyond the dtype's tolerance that is no bug."""
    error = "" if difference.max_abs is None else f"|{difference.max_abs:.2g}|"
    times = difference.in_own_errors
    units = f" = {times:.2g} x eager's own" if times is not None else ""
    at = f" at {list(difference.index)}" if difference.index is not None else ""
    why = {
        "rounding": "within a small multiple of eager's own rounding error",
        "tie": "eager's own rounding decides these either way",
        "ambiguous": "eager's own rounding error is as large as the output",
    }.get(difference.cause, difference.cause)
    return f"{difference.path}: worst {error}{units}{at}: {difference.cause}, {why}"
