"""results/markdown.py: what it says, what it leaves out, and that no text of others is markup."""

from __future__ import annotations

import dataclasses
import re

import pytest
from sample import HOSTILE, failed, item, run_of, verdict

from pytest_torchexport.results import markdown
from pytest_torchexport.results.source_line import SourceLine

GOLDEN = """\
**torchexport: 1 failed, 1 passed**

| test | `trace-cpu` | `onnx-cpu` |
| --- | --- | --- |
| `t.py::b` |  | **FAILED** |
| `t.py::a` | ok |  |

### 1 failure

<details><summary><code>no verdict&#58; boom</code></summary>

- `t.py::b[onnx-cpu]`

</details>

Run with `python 3.11.9, torch 2.13.0`
"""


def test_an_item_that_checked_nothing_is_no_ok():
    text = markdown.render(run_of(item("t.py::a", verdict()), item("t.py::b", outcome="passed")))
    assert "| `t.py::a` | ok |" in text
    assert "| `t.py::b` | unchecked |" in text


def test_a_run_without_items_says_so():
    assert markdown.render(run_of()).startswith("**torchexport: no item was checked**")


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


def many(count, same=False):
    long = "x" * 200
    return run_of(
        *(
            item(
                f"tests/test_{number}.py::test_{long}",
                failed(line=1 if same else number, call=long * 50),
            )
            for number in range(count)
        )
    )


@pytest.mark.parametrize(
    ("render", "most"), [(markdown.render, 2**20), (markdown.render_comment, 65_536)]
)
def test_a_long_report_is_cut_between_blocks_and_says_what_is_left_out(render, most):
    text = render(dataclasses.replace(many(5000), before=run_of()))
    assert text.startswith("**torchexport: 5000 new failures**")
    assert most * (0.3 if most > 100_000 else 0.05) < len(text.encode()) <= most
    assert re.search(r"^\+ \d+ more changes$", text, re.MULTILINE)
    assert re.search(r"^\+ \d+ more tests$", text, re.MULTILINE)
    assert re.search(r"^\+ \d+ more causes$", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>") > 5
    assert text.count("```") % 2 == 0
    assert "Run with" in text


def test_a_name_of_a_megabyte_does_not_push_out_the_rest():
    text = markdown.render_comment(run_of(item("t.py::" + "y" * 2**20, failed(reason="z" * 2**20))))
    assert len(text) < 65_536
    assert "### 1 failure" in text
