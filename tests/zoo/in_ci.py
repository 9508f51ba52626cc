"""The items of the zoo that CI checks: each verdict of a mechanism on each target.

Checking every row on every target takes an hour (`tox -e zoo`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from zoo.row import TARGETS, UNLOADABLE, Row

# On so many rows of a mechanism CI checks a verdict of a target, if each is checked there but once:
# 490 items, which take a minute and a half on two cores.
OFTEN = 2
ABOUT_FILES = (UNLOADABLE, "RoundTripDiffers", "ArtifactCrashed", "ArtifactHung")


def in_ci(rows: Sequence[Row]) -> dict[tuple[str, str], bool]:
    """Return the items, a row's name and a target, each with True if CI runs round_trip there.

    The check saves, loads in a clean process, and calls there, which takes long: CI runs it for what
    is about files, and for one pass of each mechanism on each target.
    """
    checked: Counter[tuple[str, str, str | None]] = Counter()
    found: dict[tuple[str, str], bool] = {}

    def verdict(row: Row, target: str) -> tuple[str, str, str | None]:
        return row.tags[0], target, row.expect[target]

    def check(row: Row, target: str) -> None:
        first_pass = row.expect[target] is None and not checked[verdict(row, target)]
        about_files = row.tags[0] == "files" or row.truth()[target] in ABOUT_FILES
        found[row.name, target] = about_files or first_pass
        checked[verdict(row, target)] += 1

    # What takes ten times as long as other rows is checked only if no other row has the verdict.
    rows = sorted(rows, key=lambda row: "slow" in row.tags)
    for row in rows:
        seldom = min(TARGETS, key=lambda target: checked[verdict(row, target)])
        if checked[verdict(row, seldom)] < OFTEN:
            check(row, seldom)
    for row in rows:
        for target in TARGETS:
            if not checked[verdict(row, target)]:
                check(row, target)
    return found
