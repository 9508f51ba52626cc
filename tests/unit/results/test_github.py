"""results/github.py: one annotation per cause, ranked, and no text of others is a command."""

from __future__ import annotations

import re

from sample import HOSTILE, failed, item, run_of, verdict

from pytest_torchexport.results import github
from pytest_torchexport.results.source_line import SourceLine

GOLDEN = [
    "::warning title=torchexport::The run did not come to its end.",
    "::error file=net.py,line=12,title=BranchFrozen%3A if x.sum() > 0 (net.py%3A12)::test_net.py::test_frozen[trace-cpu], test_net.py::test_frozen[onnx-cpu], test_net.py::test_two[trace-cpu] Net (2nd of 2)",
    "::error file=test_net.py,title=BranchFrozen%3A y (/usr/lib/x.py%3A3)::test_net.py::test_other[trace-cpu]",
    "::error file=test_net.py,title=no verdict%3A assert 2 == 3::test_net.py::test_body[trace-cpu]",
    "::error file=test_net.py,title=the process ended while the item ran::test_net.py::test_died[trace-cpu]",
]


def test_a_green_run_has_no_annotation():
    assert (
        github.render(
            run_of(item("t.py::a", verdict()), item("t.py::b", failed(), outcome="xfailed"))
        )
        == ""
    )


def test_of_more_than_ten_causes_the_first_nine_are_shown_and_the_others_counted():
    lines = github.render(
        run_of(*(item(f"t.py::a{number}", failed(line=number)) for number in range(12)))
    ).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "::error title=torchexport::+ 3 more causes, in the other reports"
    assert (
        len(
            github.render(
                run_of(*(item(f"t.py::a{n}", failed(line=n)) for n in range(10)))
            ).splitlines()
        )
        == 10
    )


def first_file(results):
    return re.match(r"::error file=([^,]*),", github.render(results))[1]


def test_new_failures_come_first_then_those_with_a_line_then_those_of_most_items():
    many = [item(f"t.py::{name}", failed(where=SourceLine("many.py", 1, "x"))) for name in "ab"]
    one = item("t.py::c", failed(where=SourceLine("one.py", 1, "x")))
    nowhere = [item(f"t.py::{name}", reason="boom") for name in "def"]
    now = [*nowhere, one, *many]
    assert first_file(run_of(*now)) == "many.py"
    assert first_file(run_of(*now, before=run_of(*many, *nowhere))) == "one.py"


def test_text_of_others_is_no_command():
    where = SourceLine("a,b%.py", 3, HOSTILE)
    text = github.render(
        run_of(
            item(f"t.py::{HOSTILE}", failed(where=where, reason=HOSTILE, call=HOSTILE)),
            item(HOSTILE, reason=HOSTILE),
        )
    )
    assert all(line.startswith("::error ") for line in text.splitlines())
    assert len(text.splitlines()) == 2
    properties = [line.split("::")[1].removeprefix("error ") for line in text.splitlines()]
    names = [[part.partition("=")[0] for part in each.split(",")] for each in properties]
    assert names == [
        ["file", "line", "title"],
        ["title"],
    ]  # the second has no file below this directory
    assert properties[0].startswith("file=a%2Cb%25.py,line=3,title=")
    assert all(
        re.fullmatch(r"(%(25|3A|2C|0A)|[^%\r\n\x1b])*", line[2:]) for line in text.splitlines()
    )
