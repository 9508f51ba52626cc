"""results/markdown.py: what it says, what it leaves out, and that no text of others is markup."""

from __future__ import annotations

import re

import pytest
from sample import HOSTILE, failed, item, run_of, verdict

from pytest_torchexport.results import markdown
from pytest_torchexport.results.source_line import SourceLine


def hostile(name):
    where = SourceLine("net.py", 3, HOSTILE)
    return item(
        f"t.py::{name}{HOSTILE}", failed(subject=HOSTILE, where=where, reason=HOSTILE, call=HOSTILE)
    )


def test_text_of_others_is_no_markup():
    markdown_it = pytest.importorskip("markdown_it")
    rows = [hostile("a"), item(f"t.py::{HOSTILE}", reason=HOSTILE, target="onnx")]
    for results in (run_of(*rows), run_of(*rows, before=run_of(item(HOSTILE, verdict())))):
        text = markdown.render(results)
        assert not re.search(r"[^\n\x20-\x7e]", text)
        html = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
        tags = {tag.split()[0].strip("</>") for tag in re.findall(r"<[^>]*>", html)}
        assert tags <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "h3", "ul", "li", "details", "summary"}  # fmt: skip
        assert html.count("<details>") == html.count("</details>") == 2


@pytest.mark.parametrize(
    ("render", "least", "most"),
    [(markdown.render, 300_000, 2**20), (markdown.render_comment, 3_000, 65_536)],
)
def test_a_long_report_is_cut_between_blocks_and_says_what_is_left_out(render, least, most):
    long = "x" * 200
    items = (
        item(f"test_{number}.py::test_{long}", failed(line=number, call=long * 50))
        for number in range(3000)
    )
    text = render(run_of(*items, before=run_of()))
    assert text.startswith("**torchexport: 3000 new failures**")
    assert least < len(text.encode()) <= most
    for noun in ("changes", "tests", "causes"):
        assert re.search(rf"^\+ \d+ more {noun}$", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>") > 5
    assert text.count("```") % 2 == 0
    assert "Run with" in text


# -- annotations -----------------------------------------------------------------------------------


def test_a_green_run_has_no_annotation():
    green = run_of(item("t.py::a", verdict()), item("t.py::b", failed(), outcome="xfailed"))
    assert markdown.render_annotations(green) == ""


def test_of_more_than_ten_causes_the_first_nine_are_shown_and_the_others_counted():
    items = [item(f"t.py::a{number}", failed(line=number)) for number in range(12)]
    lines = markdown.render_annotations(run_of(*items)).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "::error title=torchexport::+ 3 more causes, in the other reports"
    assert len(markdown.render_annotations(run_of(*items[:10])).splitlines()) == 10


def first_file(results):
    return re.match(r"::error file=([^,]*),", markdown.render_annotations(results))[1]


def test_new_failures_come_first_then_those_with_a_line_then_those_of_most_items():
    many = [item(f"t.py::{name}", failed(where=SourceLine("many.py", 1, "x"))) for name in "ab"]
    one = item("t.py::c", failed(where=SourceLine("one.py", 1, "x")))
    nowhere = [item(f"t.py::{name}", reason="boom") for name in "def"]
    now = [*nowhere, one, *many]
    assert first_file(run_of(*now)) == "many.py"
    assert first_file(run_of(*now, before=run_of(*many, *nowhere))) == "one.py"


def test_text_of_others_is_no_command():
    where = SourceLine("a,b%.py", 3, HOSTILE)
    hostile = item(f"t.py::{HOSTILE}", failed(where=where, reason=HOSTILE, call=HOSTILE))
    text = markdown.render_annotations(run_of(hostile, item(HOSTILE, reason=HOSTILE)))
    first, second = text.splitlines()
    assert first.startswith("::error file=a%2Cb%25.py,line=3,title=")
    assert second.startswith("::error title=")  # it has no file below this directory
    for line, properties in ((first, 3), (second, 1)):
        assert line.split("::")[1].count(",") == properties - 1
        assert re.fullmatch(r"(%(25|3A|2C|0A)|[^%\r\n\x1b])*", line[2:])
