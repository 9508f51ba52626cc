"""Known failures as a user meets them: xfail, fixed, another; what is written, and what never is."""

from __future__ import annotations

import json
import re

import pytest
from slow import slow

SUITE = """
@pytest.mark.torchexport('mirror', 'liar', max_examples=1, checks=['parity'])
def test_net(torchexport, x):
    torchexport.check(Net(), x)
"""
CREATE = ("--torchexport-known=create", "--torchexport-known-reason=the team knows")
TIGHTEN = "--torchexport-known=tighten"
FILE = "torchexport-known/test_it/test_net.toml"


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def known(pytester):
    """The files of known failures: path to text."""

    def texts():
        root = pytester.path / "torchexport-known"
        paths = sorted(root.rglob("*.toml"))
        return {str(path.relative_to(root)): path.read_text() for path in paths}

    return texts


def replaced_target(pytester, text):
    """Let the target ``liar`` make another artifact."""
    conftest = pytester.path / "conftest.py"
    body = re.sub(
        r"(def liar.*?    return )[^\n]*", rf"\1{text}", conftest.read_text(), flags=re.DOTALL
    )
    conftest.write_text(body)


def test_what_is_created_is_an_xfail_until_it_is_fixed(suite, run, text_of, known, pytester):
    suite(SUITE)
    created = run(*CREATE)
    created.assert_outcomes(passed=1, xfailed=1)
    assert "xfail: test_it.py::test_net[liar-cpu]: the team knows, since 20" in text_of(created)
    assert f"written, to be committed: {FILE}" in text_of(created)
    (text,) = known().values()
    for line in (
        'test = "test_it.py::test_net"',
        'target = "liar"',
        'failure = "OutputsDiffer"',
        'at = "output"',
        'reason = "the team knows"',
    ):
        assert line in text.splitlines()

    again = run(*CREATE, "-rx", "--torchexport-report=json:report.json")
    again.assert_outcomes(passed=1, xfailed=1)
    assert f"the team knows ({FILE})" in text_of(again)
    assert "to be committed" not in text_of(again)
    items = json.loads((pytester.path / "report.json").read_text())["items"]
    (match,) = next(item["known"] for item in items if "liar" in item["nodeid"])
    assert (match["status"], match["known"]["reason"]) == ("known", "the team knows")

    replaced_target(pytester, "module")
    fixed = run("--torchexport-report=json:report.json")
    fixed.assert_outcomes(passed=1, failed=1)
    items = json.loads((pytester.path / "report.json").read_text())["items"]
    assert {(item["reason"], item["traceback"]) for item in items} == {("", "")}
    shown = text_of(fixed)
    assert "Fixed: OutputsDiffer of Net on liar-cpu (output) does not occur any more" in shown
    assert f"known    {FILE}: the team knows, since 20" in shown
    assert TIGHTEN in shown
    assert list(known().values()) == [text]

    tightened = run(TIGHTEN, "-q")
    tightened.assert_outcomes(passed=2)
    assert f"written, to be committed: {FILE}" in text_of(tightened)
    assert known() == {}


MANY = SUITE.replace(
    "def test_net(torchexport, x)",
    "@pytest.mark.parametrize('n', [1, 2, 3])\ndef test_net(torchexport, x, n)",
)


def test_items_that_one_change_fixes_have_one_block(suite, run, text_of, pytester):
    suite(MANY)
    run(*CREATE).assert_outcomes(passed=3, xfailed=3)
    replaced_target(pytester, "module")
    fixed = run("-q")
    fixed.assert_outcomes(passed=3, failed=3)
    text = text_of(fixed)
    assert text.count("does not occur any more (and 2 more)\n  known ") == 1
    assert (
        text.count(f"  remedy   remove the entries, or let them be removed: pytest {TIGHTEN}\n")
        == 1
    )
    assert text.count("\n  same     as on test_it.py::test_net[liar-cpu-1], above\n") == 2
    assert text_of(run("-v")).count("  remedy   remove the entry, ") == 3


def test_a_failure_that_was_accepted_until_a_day_that_is_over_is_expired(
    suite, run, text_of, pytester
):
    suite(SUITE)
    run(*CREATE)
    file = pytester.path / FILE
    file.write_text(file.read_text().rstrip() + "\nuntil = 2026-01-01\n")
    result = run("--torchexport-report=markdown:report.md")
    result.assert_outcomes(passed=1, failed=1)
    text = text_of(result)
    assert "\nExpired: OutputsDiffer: output: 2 of 2 elements" in text
    assert "\nFAILED test_it.py::test_net[liar-cpu] - Expired: OutputsDiffer: " in text
    assert f"\n  known    {FILE}: it was accepted until 2026-01-01" in text
    assert "Expired&#58; OutputsDiffer" in (pytester.path / "report.md").read_text()
    run(*CREATE).assert_outcomes(passed=1, xfailed=1)  # accepted again


def test_in_ci_the_files_are_written_for_somebody_to_commit_and_the_items_stay_red(
    suite, run, text_of, known, monkeypatch, pytester
):
    suite(SUITE)
    monkeypatch.setenv("CI", "true")
    created = run(*CREATE)
    created.assert_outcomes(passed=1, failed=1)
    assert f"written, to be committed: {FILE}" in text_of(created)
    replaced_target(pytester, "module")
    run(TIGHTEN).assert_outcomes(passed=1, failed=1)
    assert known() == {}


def test_an_entry_of_a_test_that_is_gone_is_named_and_kept(suite, run, text_of, known):
    suite(SUITE)
    run(*CREATE)
    before = known()
    suite("def test_other(): pass\n" + SUITE.replace("test_net", "test_renamed"))
    said = f"unused: {FILE}: there is no test_it.py::test_net: rename or remove"
    assert said in text_of(run(TIGHTEN))
    assert known() == before


@slow
def test_with_xdist_the_controller_alone_writes(suite, run_apart, known):
    suite(SUITE)
    run_apart("-n", "2", *CREATE).assert_outcomes(passed=1, xfailed=1)
    assert list(known()) == ["test_it/test_net.toml"]
    run_apart("-n", "2").assert_outcomes(passed=1, xfailed=1)
