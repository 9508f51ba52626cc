"""Known defects of other packages: each is reproduced, and the report names it and its owner.

A reproduction that passes is red: the defect is gone, and its row says so (``fixed_in``) or goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo.upstream
from slow import EVERYTHING
from versions import INSTALLED

import pytest_torchexport
from pytest_torchexport.diagnosis.known_defects import DEFECTS, NEWEST

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
BY_NAME = {row.name: row for row in DEFECTS}
IN_CI = 6


def _cases() -> Iterator[Any]:
    for reproduction in zoo.upstream.UPSTREAM:
        targets = BY_NAME[reproduction.defect].targets
        for target in targets if EVERYTHING else targets[:1]:
            if EVERYTHING or reproduction.ci:
                name = reproduction.defect.replace(" ", "-")
                yield pytest.param(reproduction, target, id=f"{name}-{target}")


def _installed(version: str) -> bool:
    """Return True if ``torch 2.13.0`` is installed."""
    name, at = version.split()
    return INSTALLED.get(name, "").partition("+")[0] == at


@pytest.mark.parametrize(("reproduction", "target"), [*_cases()])
def test_a_known_defect_is_reproduced_and_named(reproduction, target):
    row = BY_NAME[reproduction.defect]
    newest = all(_installed(at) for at in NEWEST.values())
    if not newest and not all(_installed(at) for at in row.seen):
        pytest.skip(f"tried on {', '.join((*row.seen, *NEWEST.values()))} only")
    verdict = pytest_torchexport.check_export(
        reproduction.build(),
        reproduction.call,
        target=target,
        **{"checks": ["parity"], "max_examples": 1, **reproduction.options},
    )
    if row.is_fixed(INSTALLED):
        assert verdict.status == "passed", verdict
        return
    assert verdict.status == "failed", f"{row.name} is mended: say so in its row, or remove it"
    if not all(_installed(at) for at in row.seen):
        return  # it is open there; how its operators show it may be another way
    assert [known.text for known in verdict.diagnosis.known] == [row.text], verdict.diagnosis
    assert verdict.diagnosis.owner == row.owner
    assert verdict.diagnosis.not_examined == ()


def test_every_defect_has_one_reproduction():
    assert [each.defect for each in zoo.upstream.UPSTREAM] == [row.name for row in DEFECTS]


def test_defects_are_seen_on_the_versions_of_ci():
    pins = dict(
        re.findall(r"^([\w-]+)==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    )
    for row in DEFECTS:
        for name, version in map(str.split, row.seen):
            assert pins[name] == version, row.name


def test_ci_reproduces_a_few():
    assert sum(each.ci for each in zoo.upstream.UPSTREAM) <= IN_CI
