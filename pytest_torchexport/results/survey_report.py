"""The report of a survey: which module classes of a suite pass on which targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.text import headline
from pytest_torchexport.results.verdict import Verdict

# Of the reason of one cell, so many characters.
SHOWN = 200
SHOWN_NAMES = 3
LATE = "not judged in its time (100 s for a class, 1800 s for all)"


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """A module class that a suite calls, the items that call it, and the verdicts on one instance.

    ``checked_in``: the item that made this instance. ``late``: the targets for which the time was
    not enough. ``problem``: why the class was not checked at all; empty if it was.
    """

    name: str
    items: tuple[str, ...]
    checked_in: str = ""
    verdicts: tuple[Verdict, ...] = ()
    late: tuple[str, ...] = ()
    problem: str = ""

    @property
    def tests(self) -> tuple[str, ...]:
        """Return the functions of the items: a marker is for all parametrizations of one."""
        return tuple(dict.fromkeys(map(_test_of, self.items)))

    def verdict_on(self, target: str) -> Verdict | None:
        """Return the verdict on a target; None if there is none, or none in time."""
        if target in self.late:
            return None
        return next((each for each in self.verdicts if each.target == target), None)

    def cell(self, target: str) -> str:
        """Return ``ok``, the name of a failure, ``skip``, ``time``, or nothing."""
        found = self.verdict_on(target)
        if found is None:
            return "time" if target in self.late else ""
        return {"passed": "ok", "skipped": "skip"}.get(found.status, found.failure or "failed")

    def passes(self, target: str) -> bool:
        """Return True if it passes on the target."""
        found = self.verdict_on(target)
        return found is not None and found.status == "passed"


def survey_lines(
    found: Sequence[Surveyed], targets: Sequence[str], *, ended: str = ""
) -> Iterator[str]:
    """Yield the table, the reasons, and the markers. ``ended``: why it ended early, or nothing."""
    if ended:
        yield f"ended early: {ended}"
    if not found:
        yield "no test called a module"
        return
    checked = sum(bool(each.verdicts or each.late) for each in found)
    yield f"{len(found)} module class{'es' * (len(found) > 1)}, {checked} checked"
    yield from _table(found, targets)
    yield from _reasons(found, targets)
    yield from _markers(found, targets)


def _table(found: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    rows = [["", *targets], *([each.name, *map(each.cell, targets)] for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _reasons(found: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield what keeps the others, once for all classes and targets of which it is the same."""
    classes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for each in found:
        of_class: dict[str, list[str]] = {each.problem: []} if each.problem else {}
        for target in targets:
            if reason := _reason(each, target):
                of_class.setdefault(reason, []).append(target)
        for reason, those in of_class.items():
            classes.setdefault((reason, tuple(those)), []).append(each.name)
    for (reason, on_targets), names in classes.items():
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        on = f" on {', '.join(on_targets)}" if on_targets else ""
        yield f"{', '.join(names[:SHOWN_NAMES])}{more}{on}: {reason}"


def _reason(surveyed: Surveyed, target: str) -> str:
    """Return why a class does not pass on a target; nothing if it does or was not checked."""
    if target in surveyed.late:
        return LATE
    found = surveyed.verdict_on(target)
    if found is None or found.status == "passed":
        return ""
    text = headline(found) if found.status == "failed" else f"skip: {found.reason}"
    return " ".join(text.split())[:SHOWN]


def _markers(found: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield markers to try: for each class the first test whose modules have a target."""
    of_test: dict[str, list[Surveyed]] = {}
    for each in found:
        for test in each.tests:
            of_test.setdefault(test, []).append(each)
    chosen: dict[str, list[str]] = {}
    covered: set[str] = set()
    for each in found:
        for test in each.tests if each.name not in covered else ():
            common = [
                target for target in targets if all(one.passes(target) for one in of_test[test])
            ]
            if common:
                chosen[test] = common
                covered.update(one.name for one in of_test[test])
                break
    if chosen:
        yield "markers to try, a test for each class, of which one instance was checked:"
    for test, common in chosen.items():
        names = ", ".join(f'"{name}"' for name in common)
        yield f"  {test}: @pytest.mark.torchexport({names}){_of_how_many(test, of_test[test])}"


def _of_how_many(test: str, classes: Sequence[Surveyed]) -> str:
    """Return how many items of a test have an instance that was checked; nothing if all have."""
    items = {item for each in classes for item in each.items if _test_of(item) == test}
    checked = items & {each.checked_in for each in classes}
    return f" (items checked: {len(checked)} of {len(items)})" if checked != items else ""


def _test_of(item: str) -> str:
    return item.partition("[")[0]
