"""results/escaped.py: text of others stays text in a terminal, in HTML and in Markdown."""

from __future__ import annotations

import html
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_torchexport.results.escaped import (
    code,
    code_block,
    few,
    in_shell,
    visible,
)

MARKUP = st.lists(
    st.sampled_from(
        [*"`|\\<>*_[]()#~!&;-+=\n\t a1:/@.", "```", "<b>", "](", "\x1b[31m", "</code>", "é"]
    ),
    max_size=12,
).map("".join)


def parsed(text):
    """The text as a browser has it after a parser of Markdown: tags are left, entities are resolved."""
    markdown_it = pytest.importorskip("markdown_it")
    return markdown_it.MarkdownIt("commonmark").enable("table").render(text)


def shown(rendered):
    return html.unescape(re.sub(r"<[^>]*>", "", rendered))


def test_what_does_not_show_is_named():
    assert (
        visible("a\x1b[31mb\u202e\ud800\u2028\tc\n")
        == "a<U+001B>[31mb<U+202E><U+D800><U+2028>\tc\n"
    )
    assert visible("naïve ☃ 漢") == "naïve ☃ 漢"


@pytest.mark.parametrize("text", ["a.py::test[x-1]", "a b", "$(id) `id`", 'it\'s "q"', "a\\", "!1"])
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_an_argument_is_what_a_shell_reads(text):
    command = ["sh", "-c", f"printf %s {in_shell(text)}"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode() == text


@given(MARKUP)
@settings(max_examples=150, deadline=None)
def test_code_in_a_line_or_a_cell_shows_the_text_and_no_markup(text):
    words = visible(" ".join(text.split())).split()
    rendered = parsed(f"a {code(text)} b\n")
    assert shown(rendered).split() == ["a", *words, "b"]
    assert set(re.findall(r"<[^>]*>", rendered)) <= {"<p>", "</p>", "<code>", "</code>"}
    table = parsed(f"| a | b |\n| - | - |\n| {code(text)} | b |\n| c | d |\n")
    cells = re.findall(r"<td>(.*?)</td>", table, re.DOTALL)
    assert [shown(cell).split() for cell in cells] == [words, ["b"], ["c"], ["d"]]


@given(MARKUP)
@settings(max_examples=150, deadline=None)
def test_a_block_of_code_is_one_block(text):
    rendered = parsed(f"before\n\n{code_block(text)}\n\n<b>after</b>\n")
    assert rendered.count("<pre>") == 1
    body = rendered.partition("<pre>")[2].partition("</pre>")[0]
    assert shown(body).split("\n")[:-1] == [visible(line) for line in text.splitlines()]
    assert "<p>before</p>" in rendered
    assert rendered.endswith("<p><b>after</b></p>\n")


def test_a_sentence_names_the_first_things_of_a_list():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(range(5), "; ") == "0; 1; 2 and 2 more"
