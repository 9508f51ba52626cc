"""scripts/compatibility.py: what is recorded of a run is what the run's own report says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import zoo
from versions import INSTALLED, Change

from pytest_torchexport.config import tested

ROOT = Path(__file__).parents[1]
REPORT = """<testsuites><testsuite timestamp="2026-11-22T20:39:52">
<testcase classname="tests.test_zoo" name="test_verdict_is_the_truth[{row}-trace]"/>
<testcase classname="tests.test_zoo" name="test_verdict_is_the_truth[{row}-onnx]"><failure/></testcase>
<testcase classname="tests.test_zoo" name="test_an_isolated_verdict_is_the_truth[int-out-script]"/>
<testcase classname="tests.targets.test_contract.TestEveryTarget" name="test_it[trace]"/>
<testcase classname="tests.targets.test_contract" name="test_gpu"><skipped type="pytest.skip"/></testcase>
<testcase classname="examples.test_quickstart" name="test_bug"><skipped type="pytest.xfail"/></testcase>
<testcase classname="examples.test_quickstart" name="test_error"><error/></testcase>
</testsuite></testsuites>"""
ROW = zoo.ZOO[0]


@pytest.fixture
def script(load_script):
    return load_script("compatibility.py")


def report() -> ET.Element:
    return ET.fromstring(REPORT.format(row=ROW.name.replace(" ", "-")))


def test_a_run_is_recorded_with_its_versions_counts_and_what_it_left_out(script):
    run = script.run_of(report())
    assert run.date == "2026-11-22"
    assert run.versions == INSTALLED
    assert run.tests == {"failed": 2, "passed": 3, "skipped": 1, "xfailed": 1}
    assert run.verdicts == 1
    assert "tests/test_docs.py" in run.left_out
    ran = {"tests/test_zoo.py", "tests/targets/test_contract.py", "examples/test_quickstart.py"}
    assert not ran & {*run.left_out}
    assert not run.passed


def test_of_the_rows_whose_truth_depends_on_versions_only_what_passed_is_recorded(
    script, monkeypatch
):
    change = Change(versions="torch>=2", link="https://example.org/1", words="words")
    elsewhere = {change: {"trace": "ExportRefused", "onnx": "ExportRefused"}}
    monkeypatch.setattr(zoo, "ZOO", (replace(ROW, elsewhere=elsewhere), *zoo.ZOO[1:]))
    found = script.run_of(report()).zoo
    assert found[ROW.name] == {"trace": "ExportRefused"}


@pytest.mark.parametrize(
    ("name", "counts", "again"),
    [
        ("examples.test_quickstart::test_error", {"failed": 1, "passed": 4}, 1),
        ("tests.test_docs::test_newer_than_the_run", {"failed": 2, "passed": 4}, 0),
    ],
)
def test_tests_that_were_run_again_count_by_their_last_result(script, name, counts, again):
    file, _, test = name.partition("::")
    case = f'<testsuite><testcase classname="{file}" name="{test}"/></testsuite>'
    run = script.run_of(report(), ET.fromstring(case))
    assert run.tests == {**counts, "skipped": 1, "xfailed": 1}
    assert run.again == again


def test_a_report_without_tests_is_refused(script):
    with pytest.raises(ValueError, match="no tests"):
        script.run_of(ET.fromstring("<testsuites/>"))


def test_a_run_replaces_the_one_on_the_same_torch_and_python(tmp_path, script, monkeypatch):
    path, into = tmp_path / "run.xml", tmp_path / "runs.json"
    path.write_text(REPORT.format(row="any"), encoding="utf-8")
    into.write_text("[]", encoding="utf-8")
    given = [path, "--into", into, "--ship", tmp_path / "tested.json"]
    monkeypatch.setattr(sys, "argv", ["compatibility.py", *map(str, given)])
    for _ in range(2):
        assert script.main() == 0
    (run,) = script.runs(into)
    assert run.versions == INSTALLED
    assert json.loads(into.read_text(encoding="utf-8"))[0]["tests"] == run.tests
    assert json.loads((tmp_path / "tested.json").read_text()) == []  # it failed


@pytest.mark.parametrize(
    ("tests", "left_out", "passed", "on_gpu"),
    [
        ({"passed": 3000}, ["tests/gpu/test_zoo.py"], True, False),
        ({"passed": 3000}, ["examples/test_bert.py", "tests/real/test_real_models.py"], True, True),
        ({"passed": 3000}, ["tests/test_zoo.py"], False, True),
        ({"passed": 2999, "failed": 1}, [], False, True),
    ],
)
def test_a_run_passed_if_no_test_failed_and_none_was_left_out_that_can_run(
    script, tests, left_out, passed, on_gpu
):
    told = {"date": "2026-11-22", "versions": {"torch": "2.13.0", "python": "3.11.7"}, "zoo": {}}
    run = script.Run(**told, tests=tests, again=0, verdicts=800, left_out=left_out)
    assert (run.passed, run.on_gpu) == (passed, on_gpu)


def test_the_package_ships_the_versions_of_the_recorded_runs_that_passed(script, tmp_path):
    script.write(script.runs(), tmp_path / "runs.json", tmp_path / "tested.json")
    assert (tmp_path / "runs.json").read_text() == script.FILE.read_text()
    assert (tmp_path / "tested.json").read_text() == tested.FILE.read_text()
    keys = [run.key for run in script.runs()]
    assert keys == sorted(set(keys))
