"""A survey: a suite without markers, checked class by class; interrupts, and limits of time."""

from __future__ import annotations

import pytest

from pytest_torchexport.plugin import survey

SUITE = """
import unittest

class Halved(nn.Module):
    def forward(self, x):
        return x / 2

def test_net(x): Net()(x)
@pytest.mark.parametrize("n", [1, 2])
def test_both(x, n): Halved()(Net()(x))
def test_red(x):
    Halved()(x)
    assert False
class TestCase(unittest.TestCase):
    def test_scripted(self): torch.jit.script(Halved())(torch.ones(2, 3))
@pytest.mark.torchexport("trace")
def test_marked(): pass
"""
SURVEY = (
    "--torchexport-survey",
    "-p",
    "no:cacheprovider",
    "--torchexport-targets=mirror,liar,picky",
)


def lines_of(result):
    lines = list(map(str, result.outlines))
    return lines[next(n for n, line in enumerate(lines) if "torchexport survey" in line) + 1 :]


def test_a_suite_without_markers_is_surveyed_and_no_check_fails_it(suite, run, text_of):
    suite(SUITE)
    result = run(*SURVEY)
    result.assert_outcomes(passed=5, failed=1)  # as without the survey
    assert (
        "survey: module 2 of 3: test_it.Halved ... mirror ok, liar OutputsDiffer, picky skip"
        in text_of(result)
    )
    lines = lines_of(result)
    assert lines[:2] == [
        "3 module classes, 3 checked",
        "                       mirror  liar           picky",
    ]
    start = lines.index("markers to try, a test for each class, of which one instance was checked:")
    assert lines[start + 1 : start + 4] == [
        '  test_it.py::test_net: @pytest.mark.torchexport("mirror", "liar")  # red now: liar: OutputsDiffer',
        '  test_it.py::test_both: @pytest.mark.torchexport("mirror", "liar")  # red now: liar: OutputsDiffer',
        '  test_it.py::TestCase::test_scripted: @pytest.mark.torchexport("mirror", "liar")  # red now: liar: OutputsDiffer',
    ]


def test_a_survey_shows_the_warning_of_a_pass(suite, run, text_of):
    suite(
        "def test_it(x): Dropped()(x)\nclass Dropped(nn.Module):\n    def forward(self, x): return nn.functional.dropout(x)\n"
    )
    lines = lines_of(run(*SURVEY[:3], "--torchexport-targets=mirror"))
    assert "test_it.Dropped  ok (warn)" in lines
    assert any(
        line.startswith("test_it.Dropped on mirror: warn: dropout is active") for line in lines
    )
    assert '  test_it.py::test_it: @pytest.mark.torchexport("mirror")' in lines


def test_an_interrupt_ends_the_checks_and_not_the_report(suite, run, monkeypatch):
    suite(SUITE)
    real = survey.verdict_on

    def interrupted(recording, plan):
        if type(recording.module).__name__ == "Halved":
            raise KeyboardInterrupt
        return real(recording, plan)

    monkeypatch.setattr(survey, "verdict_on", interrupted)
    result = run(*SURVEY, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    lines = lines_of(result)
    assert lines[:2] == [
        "ended early: interrupted after 1 of 3 classes",
        "3 module classes, 1 checked",
    ]
    assert "test_it.Halved" in lines


def test_an_interrupt_while_tests_run_names_what_was_called(suite, run):
    suite(SUITE + "def test_interrupted(): raise KeyboardInterrupt\n")
    result = run(*SURVEY, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert lines_of(result)[:2] == [
        "ended early: interrupted while tests ran: no class was checked",
        "3 module classes, 0 checked",
    ]


def test_what_has_no_time_left_is_said(suite, run, monkeypatch):
    monkeypatch.setattr(survey, "SECONDS", 0.0)
    suite(SUITE)
    assert "conftest.Net           time    time    time" in lines_of(run(*SURVEY))


@pytest.mark.parametrize("flag", ["-n2", "--torchexport-replay=x"])
def test_what_a_survey_cannot_be_combined_with_is_a_usage_error(suite, run, text_of, flag):
    suite("def test_plain(): pass\n", fakes=False)
    result = run("--torchexport-survey", flag)
    assert result.ret == 4
    assert "--torchexport-survey" in text_of(result)
    assert "Traceback" not in text_of(result)


WAYS = """
class Wordy(nn.Module):
    def forward(self, x, words=False):
        return (x * 2, "two") if words else x * 2

def test_ways(x):
    net = Wordy()
    net(x, words=False)
    net(x, words=True)
"""


def test_each_way_in_which_a_test_calls_the_instance_is_checked(suite, run):
    suite(WAYS)
    lines = lines_of(run(*SURVEY[:-1], "--torchexport-targets=trace"))
    assert lines[2].split() == ["test_it.Wordy", "ExportRefused"]
    assert not any("markers to try" in line for line in lines)
