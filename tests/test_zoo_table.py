"""The zoo as a table: its rows are complete, and CI checks enough of them."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from zoo.in_ci import gaps, round_trip_gaps

import pytest_torchexport
from pytest_torchexport.targets.upstream import rows as upstream

ROOT = Path(__file__).parents[1]
# How many models the zoo has at least that must pass, and that must fail, per target.
HEALTHY = {"trace": 290, "script": 335, "export": 290, "onnx": 275, "onnx_legacy": 265}
BROKEN = {"trace": 160, "script": 110, "export": 160, "onnx": 165, "onnx_legacy": 180}
# All tests take CI at most 12 minutes on two cores; this many items of the zoo take some two.
CI_ITEMS = 635


@pytest.mark.parametrize("target", zoo.TARGETS)
def test_every_target_has_models_that_fail_and_models_that_pass(target: str) -> None:
    expected = Counter(row.expect[target] for row in zoo.ZOO)
    broken = expected.total() - expected[None] - expected[zoo.SKIPPED]
    assert expected[None] >= HEALTHY[target]
    assert broken >= BROKEN[target]


def test_the_zoo_is_large_and_its_names_are_unique() -> None:
    names = [row.name for row in zoo.ZOO]
    assert len(names) >= 400
    assert len(set(names)) == len(names)


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
            assert row.line in inspect.getsource(inspect.getmodule(type(row.build()))), row.name


def test_every_row_names_the_targets_that_ci_checks_in_their_order() -> None:
    for row in zoo.ZOO:
        assert row.ci == tuple(target for target in zoo.TARGETS if target in row.ci), row.name


def test_a_known_defect_is_one_of_the_table_and_of_a_target_that_fails() -> None:
    names = {defect.name: defect for defect in upstream.rows("known_defects")}
    for row in zoo.ZOO:
        for target, name in row.known.items():
            assert target in names[name].targets, row.name
            assert row.expect[target] is not None, row.name


def test_ci_stays_fast() -> None:
    assert sum(len(row.ci) for row in zoo.ZOO) <= CI_ITEMS


def test_ci_covers_rows_mechanisms_and_failures() -> None:
    assert gaps(zoo.MECHANISMS) == []


def test_ci_round_trips_a_pass_of_each_mechanism_on_each_target() -> None:
    assert round_trip_gaps(zoo.MECHANISMS, zoo.ABOUT_FILES) == []


def test_a_verdict_that_ci_checks_on_no_row_of_a_mechanism_is_a_gap() -> None:
    for name, rows in zoo.MECHANISMS.items():
        truths = {(target, truth) for row in rows for target, truth in row.expect.items()}
        changed = {name: tuple(replace(row, ci=()) for row in rows)}
        lines = [line for line in gaps(changed) if line.startswith(f"{name} on ")]
        assert len(lines) == len(truths), name


@pytest.mark.parametrize(
    ("mechanism", "target"), [("outputs", "onnx"), ("state", "export"), ("branches_sizes", "onnx")]
)
def test_a_mechanism_that_loses_a_target_is_a_gap(mechanism: str, target: str) -> None:
    rows = tuple(
        replace(row, ci=tuple(one for one in row.ci if one != target))
        for row in zoo.MECHANISMS[mechanism]
    )
    changed = {**zoo.MECHANISMS, mechanism: rows}
    assert f"{mechanism} on {target}: pass" in gaps(changed)
    assert round_trip_gaps(changed, zoo.ABOUT_FILES) == [f"{mechanism} on {target}: no round trip"]


def test_a_failure_that_is_checked_once_of_many_is_a_gap() -> None:
    kept = [row for row in zoo.ZOO if row.expect["script"] == "LoadFailed" and "script" in row.ci]
    changed = {
        name: tuple(replace(row, ci=()) if row in kept[1:] else row for row in rows)
        for name, rows in zoo.MECHANISMS.items()
    }
    assert [line for line in gaps(changed) if line.startswith("LoadFailed on script: 1 of")]


def test_every_failure_that_reports_explain_says_what_they_have_to_name() -> None:
    silent = [
        f"{row.name} on {target}"
        for row in zoo.ZOO
        for target in row.blames()
        if row.blamed(target) is None
    ]
    assert silent == []
