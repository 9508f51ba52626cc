"""commands/render.py: shards in, reports and an exit status out; and what changed between two runs."""

from __future__ import annotations

import pytest
from sample import ENVIRONMENT, failed, item, run_of, verdict

from pytest_torchexport.commands import render
from pytest_torchexport.results import json, reports

GREEN = run_of(item("t.py::a", verdict()), item("t.py::b", failed(), outcome="xfailed"))
RED = run_of(item("t.py::c", failed()))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command in a folder with the reports, and return its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **runs):
        for name, results in runs.items():
            text = results if isinstance(results, str) else json.render(results)
            (tmp_path / f"{name}.json").write_text(text)
        try:
            status = render.main("render", arguments)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_shards_are_merged_and_rendered(call, tmp_path):
    status, out, err = call(
        "a.json",
        "b.json",
        "--report",
        "json:x/all.json",
        "--report",
        "markdown:all.md",
        a=GREEN,
        b=RED,
    )
    assert (status, err) == (1, "1 failed\n")
    assert "t.py::c  FAILED" in out
    assert json.read((tmp_path / "x/all.json").read_text()).items == (*GREEN.items, *RED.items)
    assert "**torchexport: 1 failed, 1 xfailed, 1 passed**" in (tmp_path / "all.md").read_text()


@pytest.mark.parametrize(
    ("results", "why"),
    [(run_of(), "no item was checked"), (run_of(*GREEN.items, complete=False), "not complete"), (run_of(item("a", outcome="running")), "1 did not end")],
)  # fmt: skip
def test_what_says_nothing_is_not_green(call, results, why):
    status, _, err = call("a.json", a=results)
    assert status == 1
    assert why in err


def test_a_report_on_standard_output_is_the_only_text_there(call):
    status, out, _ = call("a.json", "--report=json:-", a=RED)
    assert status == 1
    assert json.read(out) == RED


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


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["none.json"], "none.json: No such file or directory"),
        (["cut.json"], "cut.json: it is not JSON, or was cut off"),
        (["other.json"], "other.json: it is not a report of pytest-torchexport"),
        (["new.json"], "new.json: a newer pytest-torchexport has written it"),
        (["good.json", "again.json"], "render them apart"),
        (["good.json", "--report", "pdf:x"], "'pdf:x' is not FORMAT:PATH; legal formats: "),
        (["good.json", "--report", "json"], "'json' is not FORMAT:PATH"),
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
    again = run_of(item("t.py::a", verdict()))
    object.__setattr__(again, "environment", ENVIRONMENT | {"torch": "1"})
    reported = (
        [*arguments, "--report=markdown:out.md"] if "--report" not in arguments else arguments
    )
    status, out, err = call(
        *reported, good=GREEN, again=again, cut=json.render(RED)[:90], other="{}",
        new=json.render(RED).replace('"version": 2', '"version": 9'),
    )  # fmt: skip
    assert (status, out) == (2, "")
    assert why in err
    assert not (tmp_path / "out.md").exists()


def test_if_one_report_cannot_be_made_none_is_written(call, tmp_path, monkeypatch):
    class Point:
        value = "elsewhere:broken"

        @staticmethod
        def load():
            return lambda results: 1 / (results is None)

    monkeypatch.setattr(reports, "_entry_points", lambda: {"broken": Point})
    status, _, err = call("a.json", "--report=json:x.json", "--report=broken:y", a=GREEN)
    assert status == 2
    assert (
        "the report format 'broken' of elsewhere:broken raised ZeroDivisionError: division by zero"
        in err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_bug_of_this_package_is_no_wrong_argument(call, monkeypatch):
    def broken(results):
        raise ValueError("a bug")

    text = json.render(GREEN)
    broken.__module__ = json.__name__
    monkeypatch.setitem(reports.FORMATS, "json", broken)
    with pytest.raises(ValueError, match="a bug"):
        call("a.json", "--report", "json:x.json", a=text)


# -- diff ------------------------------------------------------------------------------------------

OLD = run_of(item("t.py::a", verdict()), item("t.py::b", failed()))
WORSE = run_of(item("t.py::a", failed()), item("t.py::b", verdict()))


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(old, new, *arguments):
        for name, results in {"old": old, "new": new}.items():
            (tmp_path / f"{name}.json").write_text(
                results if isinstance(results, str) else json.render(results)
            )
        status = render.diff("diff", ["old.json", "new.json", *arguments])
        return status, *capsys.readouterr()

    return run


def test_the_changes_are_printed_the_worst_first(compare):
    status, out, err = compare(OLD, WORSE)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "1 new failure, 1 fixed",
        "new failure: t.py::a[trace-cpu]: BranchFrozen: if x.sum() > 0 (net.py:12)",
        "fixed: t.py::b[trace-cpu]",
    ]


def test_the_report_begins_with_what_changed(compare, tmp_path):
    assert compare(OLD, WORSE, "--report=markdown:diff.md")[0] == 1
    text = (tmp_path / "diff.md").read_text()
    assert text.startswith(
        "**torchexport: 1 new failure, 1 fixed**\n\n1 failed, 1 passed.\n\n### What changed\n\n"
        "- new failure: `t.py::a[trace-cpu]`: `BranchFrozen: if x.sum() > 0 (net.py:12)`\n"
        "- fixed: `t.py::b[trace-cpu]`\n\n| test |"
    )
