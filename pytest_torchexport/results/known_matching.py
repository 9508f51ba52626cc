"""Compare failures with those that are known: the same, another, worse, moved, or fixed.

Separate from the files, and from pytest: it decides on plain data alone.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence

from pytest_torchexport.results.diagnosis import Owner
from pytest_torchexport.results.known_failure import (
    KnownFailure,
    KnownMatch,
    Stored,
    holds,
)
from pytest_torchexport.results.known_place import entry_of, place_of, severity_of, unformatted
from pytest_torchexport.results.size_pattern import SizePattern
from pytest_torchexport.results.verdict import Verdict

# An error that is so many times the known one is worth a warning.
MUCH_LARGER = 10.0
# The stages of an artifact's way, the earliest first.
STAGES: tuple[str, ...] = typing.get_args(Owner)
# What two ids of a test that was moved may have in common, the best first. The class is left out.
Parts = tuple[str, str, str]
ALIKE: tuple[Callable[[Parts], object], ...] = (
    lambda test: test,
    lambda test: (test[0].rpartition("/")[2], *test[1:]),  # another folder
    lambda test: test[1:],  # another file
    lambda test: (test[0], test[1], sorted(test[2].split("-"))),  # reordered parameters
    lambda test: (test[0], test[2]),  # another name
    lambda test: test[:2],  # other parameters
    lambda test: test[0],
    lambda test: sorted(test[2].split("-")),  # another file and another name
    lambda _: None,
)


class Known:
    """The known failures of a run, and which of them were claimed by tests that have moved.

    ``environment``: names of packages, and ``python``, to their versions. ``today``: an ISO date.
    """

    def __init__(
        self, stored: Sequence[Stored], environment: Mapping[str, str], today: str
    ) -> None:
        self.stored = tuple(stored)
        self._by_place: dict[tuple[str, ...], list[Stored]] = {}
        for each in stored:
            entry = each.entry
            key = (entry.test, entry.target, entry.device)
            self._by_place.setdefault(key, []).append(each)
        self._environment = environment
        self._today = today
        self._claims: dict[tuple[object, ...], tuple[str, str]] = {}

    def of(self, entry: KnownFailure) -> list[Stored]:
        """Return what is known of an entry's test on its target and device."""
        return self._by_place.get((entry.test, entry.target, entry.device), [])

    def matches(
        self,
        nodeid: str,
        verdicts: Sequence[Verdict],
        *,
        gone: Callable[[], Sequence[Stored]],
        whole: bool,
    ) -> list[KnownMatch]:
        """Return a match for each failed verdict of an item, and for each fixed known failure.

        ``gone``: returns the entries of tests that are no longer there. ``whole``: the verdicts are
        on all subjects of the test, so that one without a verdict is no longer there.
        """
        subjects = {(each.target, each.device, each.subject) for each in verdicts}
        found = [
            self._match(nodeid, verdict, subjects if whole else None, gone)
            for verdict in verdicts
            if verdict.status == "failed"
        ]
        for target, device, subject in sorted(subjects):
            own = [each for each in verdicts if _key(each) == (target, device, subject)]
            if all(each.status == "passed" for each in own):
                found += self._fixed(nodeid, own[0])
        return found

    def _fixed(self, nodeid: str, verdict: Verdict) -> Iterator[KnownMatch]:
        for each in self.of(entry_of(verdict, nodeid)):
            if each.entry.subject == verdict.subject and not self.lapsed(each.entry, dated=False):
                yield KnownMatch(status="fixed", now=each.entry, known=each.entry, file=each.at)

    def _match(
        self,
        nodeid: str,
        verdict: Verdict,
        subjects: set[tuple[str, str, str]] | None,
        gone: Callable[[], Sequence[Stored]],
    ) -> KnownMatch:
        now = entry_of(verdict, nodeid)
        there = self.of(now)
        own = [each for each in there if each.entry.subject == now.subject]
        same = [each for each in own if not differences(each.entry, verdict)]
        valid = [each for each in same if not self.lapsed(each.entry)]
        if valid or own:
            best = (valid or same or own)[0]
            match = KnownMatch(status="known", now=now, known=best.entry, file=best.at)
            return _compared(match, verdict, self.lapsed(best.entry))
        renamed = [
            each
            for each in there
            if subjects is not None and (now.target, now.device, each.entry.subject) not in subjects
        ]
        return self._moved(nodeid, verdict, renamed or list(gone()), is_renamed=bool(renamed))

    def _moved(
        self, nodeid: str, verdict: Verdict, gone: Sequence[Stored], *, is_renamed: bool
    ) -> KnownMatch:
        """Return the match with a known failure whose test, or whose subject, is gone."""
        now = entry_of(verdict, nodeid)
        fits = [
            each
            for each in gone
            if (each.entry.target, each.entry.device) == (now.target, now.device)
            and (is_renamed or each.entry.subject == now.subject)
            and not differences(each.entry, verdict)
            and not self.lapsed(each.entry)
        ]
        alike = _most_alike(now.test, fits)
        if not alike:
            return KnownMatch(status="new", now=now)
        if len(alike) > 1:
            others = tuple(f"{each.entry.test} ({each.at})" for each in alike)
            return KnownMatch(status="ambiguous", now=now, changes=others)
        (old,) = alike
        match = KnownMatch(
            status="moved",
            now=_carried(old.entry, now),
            known=old.entry,
            file=old.at,
            changes=tuple(worse(old.entry, verdict)),
        )
        return self.claimed(match, nodeid)

    def claimed(self, match: KnownMatch, nodeid: str) -> KnownMatch:
        """Return a match that moves a known failure; an ambiguous one if another has claimed it."""
        if match.status != "moved" or match.known is None:
            return match
        claim = (nodeid, match.now.subject)
        first = self._claims.setdefault(match.known.identity, claim)
        if first == claim:
            return match
        text = f"{first[0]} claims the known failure of {match.known.test} too"
        return KnownMatch(
            status="ambiguous",
            now=match.now,
            known=match.known,
            file=match.file,
            changes=(text,),
        )

    def lapsed(self, entry: KnownFailure, *, dated: bool = True) -> str:
        """Return why an entry is not valid here and now; empty if it is."""
        if dated and entry.until and entry.until < self._today:
            return f"it was accepted until {entry.until}"
        missing = [text for text in entry.when if not holds(text, self._environment)]
        return f"it is accepted only when {missing[0]}" if missing else ""


def _compared(match: KnownMatch, verdict: Verdict, lapsed: str) -> KnownMatch:
    """Return the match with the entry that is nearest, which may be of another failure."""
    known = match.known or match.now
    other = differences(known, verdict)
    if other:
        return dataclasses.replace(match, status="different", changes=tuple(other))
    if lapsed:
        return dataclasses.replace(match, status="new", changes=(lapsed,))
    changes = tuple(worse(known, verdict))
    return dataclasses.replace(match, status="worse" if changes else "known", changes=changes)


def _key(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.target, verdict.device, verdict.subject


def _carried(old: KnownFailure, now: KnownFailure) -> KnownFailure:
    """Return the entry of a moved test: the old one's, under the new name."""
    return dataclasses.replace(old, test=now.test, subject=now.subject)


def _most_alike(test: str, found: Sequence[Stored]) -> list[Stored]:
    own = _parts(test)
    for part in ALIKE:
        alike = [each for each in found if part(_parts(each.entry.test)) == part(own)]
        if alike:
            return alike
    return []


@functools.lru_cache(maxsize=1024)
def _parts(test: str) -> Parts:
    """Return the file of a test, its function's name, and its parameters."""
    names, _, parameters = test.partition("[")
    return names.partition("::")[0], names.rpartition("::")[2], parameters.removesuffix("]")


def differences(known: KnownFailure, verdict: Verdict) -> list[str]:
    """Return in what a failure is another one than that which is known; empty if it is the same.

    A name that one of them lacks is a difference too, unless its diagnosis ran out of time. Causes
    are left out there: a later version of this package knows more of them.
    """
    if known.failure != verdict.failure:
        return [f"{known.failure} is known, this is {verdict.failure}"]
    partial = known.partial or bool(verdict.diagnosis.not_examined)
    found, now = [], place_of(verdict)
    # Older versions of this package wrote f-strings as their Python did.
    place = dataclasses.replace(known.place, code=unformatted(known.place.code))
    for name, value in vars(place).items():
        before, after = _names(value), _names(getattr(now, name))
        if set(before) & set(after) or not (before or after):
            continue
        if (before and after) or not (partial or name == "causes"):
            old, new = (", ".join(names) or "none" for names in (before, after))
            found.append(f"{name}: {old} is known, now {new}")
    return found


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else tuple(filter(None, [value]))


def worse(known: KnownFailure, verdict: Verdict) -> Iterator[str]:
    """Yield in what a known failure is worse than when it became known."""
    now, place = severity_of(verdict), place_of(verdict)
    more = sorted(set(place.outputs) - set(known.place.outputs)) if known.place.outputs else []
    if more:
        yield f"{', '.join(more)} differs too"
    for sizes in verdict.diagnosis.sizes:
        text = known.severity.sizes.get(sizes.dim)
        if text is None:
            continue
        pattern = SizePattern.from_text(text)
        others = [size for size in sizes.failing if not pattern.fails_at(size)]
        if others:
            listed = ", ".join(map(str, others))
            yield f"{sizes.dim} fails at {listed} too; known: {text}"
    old, stage = known.severity.stage, now.stage
    if old in STAGES and stage in STAGES and STAGES.index(stage) < STAGES.index(old):
        yield f"an earlier stage: {stage}; known: {old}"
    before = known.severity.error
    if before and now.error and now.error > before and now.error >= MUCH_LARGER * before:
        yield f"an error of {now.error:.2g} times eager's own; known: {before:.2g}"
