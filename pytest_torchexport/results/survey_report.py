"""The report of a survey: which module classes of a suite pass on which targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.summary import table_lines
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

    def cell(self, target: str) -> str:
        """Return ``ok``, ``skip``, ``time``, the name of a failure, or nothing."""
        outcome = self.on(target)[0]
        return {"passed": "ok", "skipped": "skip"}.get(outcome, outcome)

    def on(self, target: str) -> tuple[str, str]:
        """Return the outcome on a target, and why it is no pass."""
        if target in self.late:
            return "time", LATE
        for verdict in self.verdicts:
            if verdict.target == target:
                if verdict.status == "failed":
                    return verdict.failure or "failed", headline(verdict)
                return verdict.status, f"skip: {verdict.reason}" if verdict.reason else ""
        return "", ""


def survey_lines(
    classes: Sequence[Surveyed], targets: Sequence[str], *, ended: str = ""
) -> Iterator[str]:
    """Yield the table, the reasons, and the markers. ``ended``: why it ended early, or nothing."""
    if ended:
        yield f"ended early: {ended}"
    if not classes:
        yield "no test called a module"
        return
    checked = sum(bool(each.verdicts or each.late) for each in classes)
    yield f"{len(classes)} module class{'es' * (len(classes) > 1)}, {checked} checked"
    rows = {each.name: {target: each.cell(target) for target in targets} for each in classes}
    yield from table_lines(rows, targets)
    yield from _reasons(classes, targets)
    yield from _markers(classes, targets)


def _reasons(classes: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield what keeps the others, once for all classes and targets of which it is the same."""
    names: dict[tuple[str, ...], list[str]] = {}
    for each in classes:
        on_targets: dict[str, list[str]] = {each.problem: []} if each.problem else {}
        for target in targets:
            if reason := " ".join(each.on(target)[1].split())[:SHOWN]:
                on_targets.setdefault(reason, []).append(target)
        for reason, those in on_targets.items():
            names.setdefault((reason, *those), []).append(each.name)
    for (reason, *those), alike in names.items():
        more = f" and {len(alike) - SHOWN_NAMES} more" if len(alike) > SHOWN_NAMES else ""
        on = f" on {', '.join(those)}" if those else ""
        yield f"{', '.join(alike[:SHOWN_NAMES])}{more}{on}: {reason}"


def _markers(classes: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield markers to try: for each class the first test whose modules have a target in common.

    A marker is for all parametrizations of a test, so it says how many of them have an instance
    that was checked.
    """
    of_test: dict[str, dict[str, Surveyed]] = {}
    for each in classes:
        for item in each.items:
            of_test.setdefault(_test_of(item), {})[each.name] = each
    covered: set[str] = set()
    lines = []
    for each in classes:
        for test in dict.fromkeys(map(_test_of, each.items)):
            together = of_test[test]
            common = [
                target
                for target in targets
                if all(one.on(target)[0] == "passed" for one in together.values())
            ]
            if each.name in covered or not common:
                continue
            covered.update(together)
            items = {i for one in together.values() for i in one.items if _test_of(i) == test}
            checked = items & {one.checked_in for one in together.values()}
            of = f" (items checked: {len(checked)} of {len(items)})" if checked != items else ""
            names = ", ".join(f'"{name}"' for name in common)
            lines.append(f"  {test}: @pytest.mark.torchexport({names}){of}")
    if lines:
        yield "markers to try, a test for each class, of which one instance was checked:"
    yield from lines


def _test_of(item: str) -> str:
    return item.partition("[")[0]
