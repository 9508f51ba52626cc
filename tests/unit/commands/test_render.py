"""commands/render.py: shards in, reports and an exit status out; and what changed between two runs."""

from __future__ import annotations

import dataclasses

import pytest
from sample import ENVIRONMENT, failed, item, run_of, verdict

from pytest_torchexport.commands.render import merged
from pytest_torchexport.results import json, reports

GREEN = run_of(item("t.py::a", verdict()), item("t.py::b", failed(), outcome="xfailed"))
RED = run_of(item("t.py::c", failed()))


@pytest.fixture
def call(tmp_path, command):
    """Run a command in a folder with the reports, and return its status and what it printed."""

    def run(*arguments, name="render", **runs):
        for run, results in runs.items():
            text = results if isinstance(results, str) else json.render(results)
            (tmp_path / f"{run}.json").write_text(text)
        return command(name, *arguments)

    return run


def test_shards_are_merged_and_rendered(call, tmp_path):
    written = ("--report=json:x/all.json", "--report=markdown:all.md")
    status, out, err = call("a.json", "b.json", *written, a=GREEN, b=RED)
    assert (status, err) == (1, "1 failed\n")
    assert "t.py::c  FAILED" in out
    assert json.read((tmp_path / "x/all.json").read_text()).items == (*GREEN.items, *RED.items)
    assert "**torchexport: 1 failed, 1 xfailed, 1 passed**" in (tmp_path / "all.md").read_text()


def test_a_folder_stands_for_the_reports_below_it(call, tmp_path):
    (tmp_path / "in/kept").mkdir(parents=True)
    (tmp_path / "in/1.json").write_text(json.render(GREEN))
    (tmp_path / "in/kept/verdict.json").write_text(json.render(RED))
    (tmp_path / "in/coverage.json").write_text("{}")
    status, out, err = call("in", "--report=json:-")
    assert status == 0
    assert json.read(out) == GREEN
    assert err.startswith("in/coverage.json: left out: it is not a report of pytest-torchexport")
    (tmp_path / "in/2.json").write_text(json.render(RED)[:50])
    status, out, err = call("in")
    assert (status, out) == (2, "")
    assert "in/2.json: it is not JSON, or was cut off" in err


def test_runs_of_other_days_and_commands_are_merged_and_compared_without_a_change(call):
    ran = ENVIRONMENT | {"date": "2026-11-25", "command": "pytest"}
    later = dataclasses.replace(GREEN, environment=ran | {"date": "2026-11-26", "os": "Linux"})
    both = {"first": dataclasses.replace(GREEN, environment=ran), "later": later}
    status, out, _ = call("first.json", "later.json", "--report=json:-", **both)
    assert status == 0
    assert json.read(out).environment["date"] == "2026-11-25, 2026-11-26"
    status, out, _ = call("first.json", "--old=later.json", "--report=markdown:-", **both)
    assert status == 0
    assert "no change" in out
    assert "2026" not in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["none.json"], "none.json: No such file or directory"),
        (["cut.json"], "cut.json: it is not JSON, or was cut off"),
        (
            ["good.json", "again.json"],
            "were run with different versions (torch 2.13.0 and 1): render them apart",
        ),
        (["good.json", "--report", "pdf:x"], "'pdf:x' is not FORMAT:PATH; legal formats: "),
        (["good.json", "--report", "json:good.json/x"], "cannot write good.json/x"),
        (["good.json", "--expect", "2"], "1 of 2 reports are there: good.json"),
        (["good.json", "--old", "cut.json"], "cut.json: it is not JSON"),
        (["empty"], "empty: no *.json file is in this folder"),
        ([], "the following arguments are required: REPORT"),
    ],
)
def test_what_cannot_be_done_is_status_2_with_the_reason_and_writes_nothing(
    call, tmp_path, arguments, why
):
    (tmp_path / "empty").mkdir()
    again = dataclasses.replace(GREEN, environment=ENVIRONMENT | {"torch": "1"})
    reports = {"good": GREEN, "again": again, "cut": json.render(RED)[:90]}
    status, out, err = call(*arguments, "--report=markdown:out.md", **reports)
    assert (status, out) == (2, "")
    assert why in err
    assert not (tmp_path / "out.md").exists()


@pytest.mark.parametrize(
    ("results", "why"),
    [
        (run_of(), "no item was checked"),
        (run_of(*GREEN.items, complete=False), "not complete"),
        (run_of(item("a", outcome="running")), "1 did not end"),
    ],
)
def test_what_says_nothing_is_not_green(call, results, why):
    status, _, err = call("a.json", a=results)
    assert status == 1
    assert why in err


def test_if_one_report_cannot_be_made_none_is_written(call, tmp_path, monkeypatch):
    monkeypatch.setitem(reports.FORMATS, "html", lambda results: results.nothing)
    status, _, err = call("a.json", "--report=json:x.json", "--report=html:y", a=GREEN)
    assert status == 2
    assert "the report format 'html' of " in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# -- merging ---------------------------------------------------------------------------------------

PASSED, FAILED = item("a", verdict()), item("a", failed())
BODY, DIED = item("a", reason="assert False"), item("a", outcome="running")
NOT_TODAY = item("a", outcome="skipped", reason="not today")


def merge(*runs):
    return merged({f"{number}.json": run for number, run in enumerate(runs)})


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        (FAILED, PASSED, PASSED),  # run again
        (PASSED, FAILED, FAILED),
        (FAILED, NOT_TODAY, FAILED),  # a skip says less
        (PASSED, BODY, BODY),
        (PASSED, DIED, PASSED),
        (DIED, NOT_TODAY, NOT_TODAY),
    ],
)
def test_of_two_results_of_an_item_the_last_that_says_something_counts(first, second, counts):
    results, _ = merge(run_of(first), run_of(second))
    assert results.items == (counts,)


def test_items_in_several_reports_and_runs_that_did_not_end_are_named():
    run = run_of(*(item(f"t{number}", verdict()) for number in range(5)))
    results, notes = merge(run, dataclasses.replace(run, complete=False))
    assert not results.complete
    named = "t0[trace-cpu], t1[trace-cpu], t2[trace-cpu] and 2 more"
    assert notes == [
        f"5 items are in several reports, the last result counts: {named}",
        "1.json: the run did not come to its end",
    ]


# -- diff ------------------------------------------------------------------------------------------

RUNS = {
    "old": run_of(item("t.py::a", verdict()), item("t.py::b", failed())),
    "new": run_of(item("t.py::a", failed()), item("t.py::b", verdict())),
}


def test_the_changes_are_printed_the_worst_first(call):
    status, out, err = call("old.json", "new.json", name="diff", **RUNS)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "1 new failure, 1 fixed",
        "new failure: t.py::a[trace-cpu]: BranchFrozen: if x.sum() > 0 (net.py:12)",
        "fixed: t.py::b[trace-cpu]",
    ]
    assert call("new.json", "new.json", name="diff")[0] == 0
    _, out, _ = call("old.json", "new.json", "--report=markdown:-", name="diff")
    assert out.startswith("**torchexport: 1 new failure, 1 fixed**\n\n1 failed, 1 passed.\n\n")
