"""JSON, JUnit and pytest's own options, with and without xdist."""

from __future__ import annotations

import json
import os
from html import unescape
from xml.etree import ElementTree as ET

import pytest
from slow import slow

from pytest_torchexport.plugin import run as plugin_run

SUITE = """
@pytest.mark.torchexport('mirror', 'liar', 'picky')
def test_net(torchexport, x):
    torchexport.check(Net(), x)

@pytest.mark.torchexport('mirror')
def test_captured(x):
    Net()(x)
    nn.Flatten()(x)

def test_plain(): pass
"""


def check_document(document):
    assert document["schema"] == "pytest-torchexport"
    assert document["version"] == 2
    assert document["complete"] is True
    ran = document["environment"]
    assert {"python", "torch", "pytest", "pytest-torchexport", "os", "date", "duration"} <= set(ran)
    assert ran["seed"] == "1"
    items = {item["nodeid"]: item for item in document["items"]}
    assert {nodeid: item["outcome"] for nodeid, item in items.items()} == {
        "test_it.py::test_net[mirror-cpu]": "passed",
        "test_it.py::test_net[liar-cpu]": "failed",
        "test_it.py::test_net[picky-cpu]": "skipped",
        "test_it.py::test_captured[mirror-cpu]": "passed",
    }
    (liar,) = items["test_it.py::test_net[liar-cpu]"]["verdicts"]
    assert liar["failure"] == "OutputsDiffer"
    assert (liar["target"], liar["device"], liar["subject"]) == ("liar", "cpu", "Net")
    assert liar["seed"] == 1
    assert liar["recipe"]["sizes"] == {"batch": 1}
    assert liar["differences"][0]["max_abs"] == 1.0
    captured = items["test_it.py::test_captured[mirror-cpu]"]["verdicts"]
    assert [verdict["subject"] for verdict in captured] == ["Net", "Flatten"]
    (picky,) = items["test_it.py::test_net[picky-cpu]"]["verdicts"]
    assert picky["reason"] == "not applicable: only for functions"
    assert picky["skip"] == "not applicable"


def test_every_format_is_written_and_json_holds_every_verdict(suite, run, pytester):
    suite(SUITE)
    paths = ("json:sub/r.json", "markdown:r.md", "comment:c.md", "sarif:r.sarif", "html:r.html")
    flags = (f"--torchexport-report={path}" for path in (*paths, "github:-"))
    result = run(*flags, "--junitxml=junit.xml")
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    report = pytester.path / "sub" / "r.json"
    check_document(json.loads(report.read_text()))
    assert [path.name for path in report.parent.iterdir()] == ["r.json"]
    for name in ("r.md", "c.md"):
        text = (pytester.path / name).read_text()
        assert text.startswith("**torchexport: 1 failed, 1 skipped, 2 passed**")
        assert "| `test_it.py::test_net` | ok | **FAILED** | skip |" in text
    (found,) = json.loads((pytester.path / "r.sarif").read_text())["runs"][0]["results"]
    assert found["ruleId"] == "OutputsDiffer"
    assert "test_net[liar-cpu]" in (pytester.path / "r.html").read_text()
    assert not (pytester.path / "-").exists()
    (annotation,) = (line for line in result.outlines if line.startswith("::"))
    assert annotation.startswith("::error file=test_it.py,title=OutputsDiffer%3A output")
    above = result.outlines[: result.outlines.index(annotation)]
    assert any("= torchexport =" in line for line in above)
    found = properties(pytester)
    assert found["test_net[mirror-cpu]"] == {"torchexport": "mirror-cpu passed"}
    assert found["test_net[liar-cpu]"] == {"torchexport": "liar-cpu failed"}
    assert found["test_net[picky-cpu]"] == {"torchexport": "picky-cpu skipped"}
    assert found["test_plain"] == {}
    text = (pytester.path / "junit.xml").read_text()
    assert "OutputsDiffer: output: 2 of 2 elements of" in text
    assert "not applicable: only for functions" in text
    assert "run.py" not in text


@slow
def test_with_xdist_the_controller_writes_the_same_report_once(suite, run_apart, pytester):
    suite(SUITE)
    result = run_apart("-n", "2", "--torchexport-report=json:report.json", "--junitxml=junit.xml")
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    check_document(json.loads((pytester.path / "report.json").read_text()))
    result.stdout.fnmatch_lines(["*= torchexport =*"])
    assert sum("= torchexport =" in line for line in result.outlines) == 1
    assert "torchexport" in properties(pytester)["test_net[liar-cpu]"]


@pytest.mark.parametrize("path", ["test_it.py/report.json", "pipe"])
def test_a_report_that_cannot_be_written_is_a_usage_error_before_the_first_test(
    suite, run, text_of, pytester, path
):
    suite("def test_plain(): pass\n")
    os.mkfifo(pytester.path / "pipe")
    result = run(f"--torchexport-report=json:{path}")
    assert result.ret == 4
    text = text_of(result)
    assert f"--torchexport-report: cannot write {path}: " in text
    assert "Traceback" not in text
    assert "1 passed" not in text


def properties(pytester):
    root = ET.parse(pytester.path / "junit.xml").getroot()
    return {
        case.get("name"): {prop.get("name"): prop.get("value") for prop in case.iter("property")}
        for case in root.iter("testcase")
    }


def test_a_failing_call_is_stored_and_replayed_first_whatever_the_seed(
    suite, run, pytester, verdicts
):
    # The boundary does not meet it and one drawn call hardly does: found once, it must be replayed.
    suite(
        "@pytest.mark.torchexport('rare', dims={'batch': (1, 400)}, max_examples=100)\n"
        "def test_net(torchexport, x):\n"
        "    torchexport.check(Net(), x)\n"
    )
    conftest = pytester.path / "conftest.py"
    conftest.write_text(
        conftest.read_text() + "\nregister_target('rare', FakeTarget(lambda module:"
        " lambda x: module(x) + float(100 < len(x) < 200)))\n"
    )
    report = "--torchexport-report=json:out.json"
    run(report).assert_outcomes(failed=1)
    ((left,),) = verdicts().values()
    run(report, "--hypothesis-seed=77", "--torchexport-max-examples=1").assert_outcomes(failed=1)
    ((right,),) = verdicts().values()
    assert left.recipe["sizes"] == right.recipe["sizes"]
    assert right.calls["stored"] >= 1
    assert right.seed == 77


# -- runs that do not come to their end ------------------------------------------------------------

ENDS = """
import json, pathlib

@pytest.mark.torchexport('mirror')
def test_first(x): Net()(x)

def test_meanwhile():
    document = json.loads(pathlib.Path('report.json').read_text())
    assert not document['complete']
    assert [item['nodeid'] for item in document['items']] == ['test_it.py::test_first[mirror-cpu]']

def test_ends(): raise KeyboardInterrupt

@pytest.mark.torchexport('mirror')
def test_third(x): Net()(x)
"""


def test_a_report_is_written_while_items_run_and_is_not_complete_before_the_end(
    suite, run, pytester, monkeypatch
):
    """A run that is killed keeps its verdicts."""
    monkeypatch.setattr(plugin_run, "TIMES_A_WRITE", 0.0)
    suite(ENDS)
    report = pytester.path / "report.json"
    report.write_text("the report of an earlier run")
    run("--torchexport-report=json:report.json", no_reraise_ctrlc=True).assert_outcomes(passed=2)
    document = json.loads(report.read_text())
    assert not document["complete"]
    assert len(document["items"]) == 1


# -- items with subtests ---------------------------------------------------------------------------

SUBTESTS = """
import unittest

@pytest.mark.torchexport('mirror')
class TestMethods(unittest.TestCase):
    def test_sizes(self):
        for rows in (2, 3):
            with self.subTest(rows=rows):
                Net()(torch.zeros(rows, 3))

@pytest.mark.torchexport('mirror', 'raiser')
def test_fixture(torchexport, x, subtests):
    for rows in (1, 2):
        with subtests.test(rows=rows):
            torchexport.check(Net(), x[:rows])
"""


def test_an_item_with_subtests_is_one_item(suite, run, pytester):
    suite(SUBTESTS)
    result = run("--torchexport-report=json:report.json", "--junitxml=junit.xml")
    items = json.loads((pytester.path / "report.json").read_text())["items"]
    assert {item["nodeid"].partition("::")[2]: len(item["verdicts"]) for item in items} == {
        "TestMethods::test_sizes": 2,
        "test_fixture[mirror-cpu]": 2,
        "test_fixture[raiser-cpu]": 2,
    }
    assert len(items) == 3
    result.stdout.no_fnmatch_line("*checked nothing*")
    assert "no verdict" not in (pytester.path / "junit.xml").read_text()
    result.stdout.fnmatch_lines(["*subject  Net on raiser-cpu: *"])


# -- items without a verdict -----------------------------------------------------------------------

NO_VERDICT = """
import os, unittest

@pytest.mark.torchexport('mirror')
def test_body(x):
    Net()(x)
    assert len(x) == 3

@pytest.mark.torchexport('mirror')
def test_left_out(torchexport):
    pytest.skip('not today')

@pytest.mark.torchexport('mirror')
@pytest.mark.skip(reason='not here')
def test_not_run(x): Net()(x)

@pytest.mark.torchexport('mirror')
def test_setup(absent): pass

@pytest.mark.torchexport('mirror')
class TestMethods(unittest.TestCase):
    def test_method(self):
        self.fail('of the body')

@pytest.mark.torchexport('mirror')
def test_ends(x):
    Net()(x)
    END
"""
WITHOUT = {
    "test_body[mirror-cpu]": ("failed", "mirror", "cpu", "assert 2 == 3"),
    "test_left_out[mirror-cpu]": ("skipped", "mirror", "cpu", "not today"),
    "test_not_run[mirror-cpu]": ("skipped", "mirror", "cpu", "not here"),
    "TestMethods::test_method": ("failed", "", "", "AssertionError: of the body"),
}


def described(pytester):
    """The outcome, target, device and reason of each item of the report."""
    document = json.loads((pytester.path / "report.json").read_text())
    assert all(item["verdicts"] == [] for item in document["items"])
    return document["complete"], {
        item["nodeid"].partition("::")[2]: tuple(
            item[key] for key in ("outcome", "target", "device", "reason")
        )
        for item in document["items"]
    }


def test_items_without_a_verdict_are_in_the_report_with_their_reason(suite, run, pytester):
    suite(NO_VERDICT.replace("END", "pytest.fail('the end')"))
    run("--torchexport-report=json:report.json", "--junitxml=junit.xml")
    complete, found = described(pytester)
    assert complete
    outcome, _, _, reason = found.pop("test_setup[mirror-cpu]")
    assert (outcome, "fixture 'absent' not found" in reason) == ("failed", True)
    assert found == {
        **WITHOUT,
        "test_ends[mirror-cpu]": ("failed", "mirror", "cpu", "Failed: the end"),
    }
    junit = properties(pytester)
    assert junit["test_body[mirror-cpu]"] == {"torchexport": "mirror-cpu no verdict"}
    assert junit["test_method"] == {"torchexport": "no verdict"}


def test_what_pytest_prints_of_a_body_that_fails_is_in_the_reports(suite, run, pytester):
    suite("""
@pytest.mark.torchexport('mirror')
def test_body(x):
    assert len(Net()(x)) == 3

@pytest.mark.torchexport('mirror', 'liar')
def test_beside(torchexport, x):
    torchexport.check(Net(), x)
    assert len(x) == 3
""")
    run("--torchexport-report=json:r.json", "--torchexport-report=html:r.html")
    page = unescape((pytester.path / "r.html").read_text())
    body, beside, liar = json.loads((pytester.path / "r.json").read_text())["items"]
    for item, line in ((body, "assert len(Net()(x)) == 3"), (beside, "assert len(x) == 3")):
        assert item["reason"].startswith("assert")
        assert f">       {line}\nE       assert" in item["traceback"]
        assert item["traceback"] in page
    assert "\n<p><span class=failed>FAILED</span> the test failed beside its checks: assert" in page
    assert (liar["reason"], liar["traceback"]) == ("", "")  # the check's own report says it all


@slow
def test_an_item_whose_worker_died_is_in_the_report(suite, run_apart, pytester):
    suite(NO_VERDICT.replace("END", "os._exit(3)"))
    run_apart("-n", "1", "--torchexport-report=json:report.json")
    complete, found = described(pytester)
    assert complete
    outcome, target, device, reason = found["test_ends[mirror-cpu]"]
    assert (outcome, target, device) == ("failed", "mirror", "cpu")
    assert reason.startswith("worker 'gw0' crashed while running")
    assert WITHOUT.items() <= found.items()
