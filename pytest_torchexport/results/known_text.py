"""The texts about known failures: of one item, and of the summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_torchexport.results.escaped import in_shell
from pytest_torchexport.results.known_failure import (
    EXPECTED,
    KnownFailure,
    KnownMatch,
    MatchStatus,
    Stored,
)
from pytest_torchexport.results.text import Block, labelled
from pytest_torchexport.results.verdict import ItemResult

TIGHTEN = "--torchexport-known=tighten"
CREATE = "--torchexport-known=create"
REASON = "--torchexport-known-reason"
ONE_TEST = (
    'write test = "{}" into the entry that is of this test, or remove these entries and run '
    "--torchexport-known=create"
)
# Of one kind, the summary has so many lines.
MAX_LINES = 10


def why_expected(matches: Sequence[KnownMatch]) -> str:
    """Return the reason of an xfail: those of the known failures, and where they stand."""
    known = [match.known or match.now for match in matches]
    reasons = dict.fromkeys(
        f"{entry.reason} ({match.file})" if match.file else entry.reason
        for match, entry in zip(matches, known, strict=True)
    )
    return "; ".join(reasons)


def fixed_text(matches: Sequence[KnownMatch], nodeids: Sequence[str]) -> str:
    """Return the report of items whose known failures do not occur."""
    lines = (line for each in fixed_blocks(matches, nodeids) for line in _lines(each))
    return "\n".join([fixed_headline(matches), "", *lines])


def fixed_headline(matches: Sequence[KnownMatch]) -> str:
    """Return ``Fixed: OutputsDiffer of Net on onnx-cpu (output) does not occur any more``."""
    more = f" (and {len(matches) - 1} more)" if len(matches) > 1 else ""
    return f"Fixed: {matches[0].now} does not occur any more{more}"


def fixed_blocks(matches: Sequence[KnownMatch], nodeids: Sequence[str]) -> Iterator[Block]:
    """Yield the blocks below the headline: what was known, and what to do."""
    for match in matches[:MAX_LINES]:
        yield Block("known", [f"{match.file}: {_reasons(match.now)}"])
    if len(matches) > MAX_LINES:
        yield Block("known", [f"+ {len(matches) - MAX_LINES} more"])
    what = "the entry, or let it" if len(matches) == 1 else "the entries, or let them"
    tests = [in_shell(nodeid) for nodeid in dict.fromkeys(nodeids)]
    # A longer command is more than a line: all tests may run then.
    command = " ".join(["pytest", *(tests if len(tests) == 1 else ()), TIGHTEN])
    yield Block("remedy", [f"remove {what} be removed: {command}"])


def _lines(block: Block) -> Iterator[str]:
    return labelled(block.label, block.lines)


def _reasons(entry: KnownFailure) -> str:
    by = f", {entry.owner}" if entry.owner else ""
    since = f", since {entry.since}" if entry.since else ""
    return f"{entry.reason}{by}{since}"


def difference_lines(matches: Sequence[KnownMatch]) -> Iterator[str]:
    """Yield the lines below the report of a failure: what is known, and why this is not it."""
    for block in difference_blocks(matches):
        yield from _lines(block)


def difference_blocks(matches: Sequence[KnownMatch]) -> Iterator[Block]:
    """Yield what is known as data, a block for each failure."""
    for match in matches:
        match match.status:
            case "different":
                yield Block("known", [f"another failure ({match.file})", *match.changes])
            case "ambiguous":
                head = "ambiguous: of tests that are gone, but not of this test alone"
                yield Block("known", [head, *match.changes])
                yield Block("remedy", [ONE_TEST.format(match.now.test)])
            case "new" if match.known is not None:
                yield Block("known", [f"{match.file}", *match.changes])
            case "fixed":
                yield Block("fixed", [f"{match.now} ({match.file}): remove it: {TIGHTEN}"])
            case "known" | "worse" | "moved":
                entry = match.known or match.now
                yield Block("known", [f"{match.file}: {entry}", _reasons(entry)])


def known_lines(
    results: Sequence[ItemResult],
    *,
    directory: str,
    dropped: Sequence[Stored],
    left: Sequence[tuple[Stored, str]],
) -> Iterator[str]:
    """Yield the lines of the summary.

    ``dropped`` and ``left``: entries of tests that are not there, and that no test has claimed. The
    latter stay, for the reason behind each.
    """
    found = [(result.nodeid, match) for result in results for match in result.known]
    expected = sum(match.status in ("known", "worse") for _, match in found)
    if expected:
        yield f"known: {expected} failure{'s' if expected > 1 else ''} (see {directory})"
    yield from match_lines(results)
    yield from _limited(
        "gone", [f"{each.entry.test}: {each.entry} ({each.file})" for each in dropped]
    )
    yield from left_lines(left)
    created = sum(match.status == "created" for _, match in found)
    if created:
        yield f"known from now on: {created} failure{'s' if created > 1 else ''}"


def expected_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield why failures are expected: a line per reason, with the number of items."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for match in result.known:
            if match.status in EXPECTED:
                found.setdefault(_reasons(match.known or match.now), {})[result.nodeid] = None
    for reason, nodeids in found.items():
        more = f" (and {len(nodeids) - 1} more)" if len(nodeids) > 1 else ""
        yield f"xfail: {next(iter(nodeids))}{more}: {reason}"


def left_lines(left: Sequence[tuple[Stored, str]]) -> Iterator[str]:
    """Yield why entries of tests that are gone stay, a line for each reason."""
    for why in dict.fromkeys(why for _, why in left):
        places = [stored.at for stored, reason in left if reason == why]
        head = f"{len(places)} known failure{'s' if len(places) > 1 else ''} of tests that are gone"
        more = ", ..." if len(places) > 1 else ""
        yield f"left: {head} ({places[0]}{more}): they may have moved, and {why}"


def commit_lines(*, written: Sequence[str], patch: str, again: str) -> Iterator[str]:
    """Yield what is to be committed, if there is something.

    ``written``: the files that this run changed. ``patch``: the one that it proposes, or empty.
    ``again``: the options with which a run elsewhere writes the same.
    """
    if written:
        yield f"written, to be committed: {', '.join(written)}"
    elif patch:
        yield f"to be committed: git apply {patch}, or pytest {again}"


def match_lines(
    results: Sequence[ItemResult],
    statuses: Sequence[MatchStatus] = ("worse", "different", "ambiguous", "moved", "fixed"),
) -> Iterator[str]:
    """Yield the failures that are known and worse, moved or fixed, and those that are another."""
    found = [(result.nodeid, match) for result in results for match in result.known]
    for status in statuses:
        lines = [f"{nodeid}: {_about(match)}" for nodeid, match in found if match.status == status]
        if status == "worse":
            lines += [
                f"{nodeid}: {match.now}: {'; '.join(match.changes)}"
                for nodeid, match in found
                if match.status == "moved" and match.changes
            ]
        yield from _limited(status, lines)


def _about(match: KnownMatch) -> str:
    """Return what the summary says of a match behind the item's name."""
    if match.status == "moved" and match.known is not None:
        return f"known of {match.known.test} with {match.known.subject} ({match.file})"
    return f"{match.now}: {'; '.join(match.changes) or match.file}"


def _limited(label: str, lines: Sequence[str]) -> Iterator[str]:
    yield from (f"{label}: {line}" for line in lines[:MAX_LINES])
    if len(lines) > MAX_LINES:
        yield f"{label}: + {len(lines) - MAX_LINES} more"
