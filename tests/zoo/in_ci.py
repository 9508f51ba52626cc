"""The items of the zoo that CI checks: each verdict of a mechanism, and each of a target.

These are some 160, which take half a minute on two cores; every row on every target, an hour (`tox -e zoo`).
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo.row import TARGETS, UNLOADABLE, Row

ABOUT_FILES = (UNLOADABLE, "RoundTripDiffers", "ArtifactCrashed", "ArtifactHung")


def in_ci(rows: Sequence[Row]) -> dict[tuple[str, str], bool]:
    """Return the items, a row's name and a target, each with True if CI runs round_trip there.

    The check saves, loads in a clean process, and calls there, which takes long: CI runs it for what
    is about files, and for passes.
    """
    checked: set[tuple[str | None, ...]] = set()
    found: dict[tuple[str, str], bool] = {}

    def check(row: Row, target: str) -> bool:
        mechanism, verdict = row.tags[0], row.expect[target]
        parts = {("mechanism", mechanism, verdict), ("target", target, verdict)}
        if new := not parts <= checked:
            about_files = mechanism == "files" or row.truth()[target] in ABOUT_FILES
            found[row.name, target] = about_files or verdict is None
            checked.update(parts)
        return new

    # What takes ten times as long as other rows is checked only if no other row has the verdict.
    rows = sorted(rows, key=lambda row: "slow" in row.tags)
    # One target of each row first, so that many rows are checked.
    for row in rows:
        any(check(row, target) for target in TARGETS)
    for row in rows:
        for target in TARGETS:
            check(row, target)
    return found
