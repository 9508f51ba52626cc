"""commands/diff.py: what changed, in words, as a report, and as an exit status."""

from __future__ import annotations

import pytest
from sample import failed, item, run_of, verdict

from pytest_torchexport.commands import diff
from pytest_torchexport.results import json

OLD = run_of(item("t.py::a", verdict()), item("t.py::b", failed()))
WORSE = run_of(item("t.py::a", failed()), item("t.py::b", verdict()))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(old, new, *arguments):
        for name, results in {"old": old, "new": new}.items():
            (tmp_path / f"{name}.json").write_text(
                results if isinstance(results, str) else json.render(results)
            )
        status = diff.main("diff", ["old.json", "new.json", *arguments])
        return status, *capsys.readouterr()

    return run


def test_the_changes_are_printed_the_worst_first(call):
    status, out, err = call(OLD, WORSE)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "1 new failure, 1 fixed",
        "new failure: t.py::a[trace-cpu]: BranchFrozen: if x.sum() > 0 (net.py:12)",
        "fixed: t.py::b[trace-cpu]",
    ]


def test_a_run_that_is_no_worse_is_status_0_even_if_it_is_red(call):
    assert call(OLD, OLD) == (0, "no change\n", "")
    assert call(OLD, run_of(item("t.py::b", failed())))[0] == 0


def test_the_report_begins_with_what_changed(call, tmp_path):
    assert call(OLD, WORSE, "--report=markdown:diff.md")[0] == 1
    text = (tmp_path / "diff.md").read_text()
    assert text.startswith(
        "**torchexport: 1 new failure, 1 fixed**\n\n1 failed, 1 passed.\n\n### What changed\n\n"
        "- new failure: `t.py::a[trace-cpu]`: `BranchFrozen: if x.sum() > 0 (net.py:12)`\n"
        "- fixed: `t.py::b[trace-cpu]`\n\n| test |"
    )


def test_a_file_that_cannot_be_read_is_status_2(call, tmp_path):
    status, out, err = call(OLD, "{", "--report=markdown:diff.md")
    assert (status, out) == (2, "")
    assert err.startswith("diff: new.json: it is not JSON")
    assert not (tmp_path / "diff.md").exists()
