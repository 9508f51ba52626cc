"""The zoo as a table: its rows are complete, and CI checks enough of them."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
import zoo

import pytest_torchexport
from pytest_torchexport.targets import upstream

ROOT = Path(__file__).parents[1]
# How many models of the zoo must pass, and must fail, at least on each target.
HEALTHY, BROKEN = 340, 170
# All tests take CI at most seven minutes on two cores; these items of the zoo take one.
CI_ITEMS = 158


@pytest.mark.parametrize("target", zoo.TARGETS)
def test_every_target_has_models_that_fail_and_models_that_pass(target: str) -> None:
    expected = Counter(row.expect[target] for row in zoo.ZOO)
    broken = expected.total() - expected[None] - expected[zoo.SKIPPED]
    assert expected[None] >= HEALTHY
    assert broken >= BROKEN


def test_names_are_unique() -> None:
    assert max(Counter(row.name for row in zoo.ZOO).values()) == 1


def test_every_row_says_what_is_true_of_every_target() -> None:
    failures = {cls.__name__ for cls in pytest_torchexport.Failure.__subclasses__()}
    for row in zoo.ZOO:
        assert tuple(row.expect) == zoo.TARGETS, row.name
        assert set(row.expect.values()) - {None, zoo.SKIPPED} <= failures, row.name


def test_a_change_is_explained_by_a_link_and_is_not_about_the_versions_of_ci() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", constraints, re.MULTILINE))
    for change in {change for row in zoo.ZOO for change in row.elsewhere}:
        assert re.fullmatch(r"https://\S+", change.link), change
        assert change.words, change
        assert not change.applies(pinned), change


def test_a_truth_elsewhere_is_another_one_of_a_known_target() -> None:
    for row in zoo.ZOO:
        for differing in row.elsewhere.values():
            assert {*differing} <= {*zoo.TARGETS}, row.name
            assert all(row.expect[target] != truth for target, truth in differing.items()), row.name


def test_a_line_is_of_the_models_own_source() -> None:
    for row in zoo.ZOO:
        if row.line:
            model = row.build()
            code = model if inspect.isfunction(model) else type(model)
            assert row.line in inspect.getsource(inspect.getmodule(code)), row.name


def test_a_known_defect_is_one_of_the_table_and_of_a_target_that_fails() -> None:
    names = {defect.name: defect for defect in upstream.rows("known_defects")}
    for row in zoo.ZOO:
        for target, name in row.known.items():
            assert target in names[name].targets, row.name
            assert row.expect[target] is not None, row.name


def test_ci_stays_fast() -> None:
    assert len(zoo.IN_CI) <= CI_ITEMS


def test_ci_checks_each_verdict_of_a_mechanism_and_saves_one_that_passes() -> None:
    for mechanism, rows in zoo.MECHANISMS.items():
        cases = [(row, target) for row in rows for target in zoo.TARGETS]
        checked = [(row, target) for row, target in cases if (row.name, target) in zoo.IN_CI]
        verdicts = {row.expect[target] for row, target in cases}
        assert {row.expect[target] for row, target in checked} == verdicts, mechanism
        saved = {row.expect[at] for row, at in checked if zoo.IN_CI[row.name, at]}
        assert None not in verdicts - saved, mechanism


@pytest.mark.parametrize("target", zoo.TARGETS)
def test_ci_checks_each_verdict_of_a_target(target: str) -> None:
    checked = {row.expect[target] for row in zoo.ZOO if (row.name, target) in zoo.IN_CI}
    assert checked == {row.expect[target] for row in zoo.ZOO}


def test_every_failure_that_reports_explain_says_what_they_have_to_name() -> None:
    silent = [
        f"{row.name} on {target}"
        for row in zoo.ZOO
        for target in row.blames()
        if row.blamed(target) is None
    ]
    assert silent == []
