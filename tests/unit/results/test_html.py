"""results/html.py: one page that loads nothing, runs nothing of others, and says what the report says."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
import sample_run
from hypothesis import given
from hypothesis import strategies as st

from pytest_torchexport.results import html, json, summary
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.known_failures import entry_of
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import ItemResult, KnownMatch, RunResults


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each article."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.code: list[str] = []
        self._place = ""
        self._tag = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._tag = tag
        if tag in ("main", "article"):
            self._place = dict(attrs).get("id") or tag
            self.texts[self._place] = ""
        if tag in ("dt", "dd", "br"):
            self.texts[self._place] += "\n"

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag in ("script", "style"):
            self.code.append(data)
        elif self._place:
            self.texts[self._place] += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


PAGE = html.render(sample_run.RUN)
PARSED = Parsed(PAGE)


def run_of(*items: ItemResult) -> RunResults:
    return RunResults(items=items, environment={}, complete=True)


# -- nothing is loaded, and nothing runs but the page's own script -----------------------------------


def test_nothing_is_loaded_from_elsewhere():
    tags = Counter(tag for tag, _ in PARSED.elements)
    loading = {"link", "img", "iframe", "object", "embed", "video", "audio", "base", "image", "use"}
    assert not loading & set(tags)
    for tag, attributes in PARSED.elements:
        assert not {"src", "srcset", "style", "action", "formaction", "xlink:href"} & set(
            attributes
        ), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for address in (attributes["href"] or "" for attributes in PARSED.all("a")):
        assert re.match(r"#[ci]\d+$|https://", address), address
    assert not re.search(r"url\(|@import|@font-face", "".join(PARSED.code))
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|innerHTML)\b", "".join(PARSED.code))


def test_a_policy_forbids_every_load_and_all_other_code():
    (policy,) = (
        meta["content"] or ""
        for meta in PARSED.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    style, script = PARSED.code
    for name, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_texts_of_others_stay_texts():
    assert len(PARSED.all("script")) == 1
    assert PARSED.all("img") == []
    (evil,) = (
        text for text in PARSED.texts.values() if text.lstrip().startswith("tests/test_evil")
    )
    # Each place of the verdict: name, reason, call, notes, cause, branch, stage, self-test, ...
    assert evil.count(sample_run.SHOWN) >= 20
    assert [a["href"] for a in PARSED.all("a") if "javascript" in (a["href"] or "")] == []


@given(st.text(alphabet="<>&'\"/=;:-![]{}%#`\\\n\r\t \0\x1b\u202e\ud800ab", max_size=12))
def test_no_text_changes_the_elements_of_a_page(text):
    verdict = dataclasses.replace(sample_run.FROZEN, call=f"x{text}", baked=(f"x{text}",))
    plain = dataclasses.replace(sample_run.FROZEN, call="x", baked=("x",))
    pages = [
        Parsed(html.render(run_of(sample_run.item(f"t.py::x{name}", one))))
        for name, one in ((text, verdict), ("", plain))
    ]
    changed, same = ([tag for tag, _ in page.elements] for page in pages)
    assert changed == same
    line = visible(text).splitlines()
    assert all(part.strip() in pages[0].texts["i1"] for part in line)


def test_what_the_test_of_hostile_texts_looks_for_is_found_without_escaping():
    parsed = Parsed(f"<main><p>{sample_run.HOSTILE}</p></main>")
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == [{"src": "x", "onerror": "window.hurt=2"}]


def test_a_text_that_utf_8_cannot_write_is_no_error():
    broken = dataclasses.replace(sample_run.FROZEN, reason="r\udce9sum\udce9 \x00")
    page = html.render(run_of(sample_run.item("t.py::a", broken)))
    assert "r&lt;U+DCE9&gt;sum&lt;U+DCE9&gt; &lt;U+0000&gt;" in page
    page.encode()


# -- what it says ------------------------------------------------------------------------------------


def article(nodeid: str, column: str) -> str:
    (found,) = (
        text
        for text in PARSED.texts.values()
        if text.lstrip().startswith(nodeid) and column in text[: len(nodeid) + 60]
    )
    return found


@pytest.mark.parametrize(
    ("nodeid", "column"),
    [
        ("tests/test_normalize.py::test_normalize[trace-cpu]", "trace-cpu"),
        ("tests/test_angle.py::TestAngle::test_angle[onnx-cpu]", "onnx-cpu"),
        ("tests/test_case.py::Case::test_all", "trace-cpu"),
        ("tests/test_case.py::Case::test_all", "onnx-cpu"),
    ],
)
def test_an_item_says_every_line_of_its_report_in_the_same_order(nodeid, column):
    (verdict,) = (
        verdict
        for item in sample_run.ITEMS
        for verdict in item.verdicts
        if item.nodeid == nodeid and f"{verdict.target}-{verdict.device}" == column
    )
    text, at = " ".join(article(nodeid, column).split()), 0
    for line in failure_text(verdict, nodeid).splitlines():
        words = " ".join(line[11:].split()) if line.startswith("  ") else line
        assert words in text[at:], words
        at = text.index(words, at) + len(words)


def test_an_item_has_its_pictures_stages_branches_and_times():
    page = html.render(run_of(sample_run.item("t.py::a", sample_run.FROZEN)))
    assert len(re.findall(r"<svg class=sizes", page)) == 1
    assert len(re.findall(r"<svg class=scale", page)) == 1
    assert "1,400,000 times eager's own error" in page
    assert re.search(r'class="?bad"?>True 13x diverges', page)
    page = html.render(run_of(sample_run.item("t.py::a", sample_run.RUNTIME)))
    assert re.search(r"<li class=good>ExportedProgram", page)
    assert re.search(r"<li class=bad>ONNX without the exporter&#39;s optimizer", page)
    assert 'href="https://github.com/microsoft/onnxscript/issues/1"' in page


def test_every_item_is_in_the_matrix_and_leads_to_its_article():
    links = {a["id"]: a for a in PARSED.all("a") if "id" in a}
    articles = {a["id"]: a for a in PARSED.all("article")}
    of_methods = 3  # columns of the unittest method
    assert len(links) == len(articles) == len(sample_run.ITEMS) - 1 + of_methods
    for name, link in links.items():
        assert link["href"] == f"#i{name[1:]}"
        assert articles[f"i{name[1:]}"]["class"] == link["class"]


def test_the_matrix_is_that_of_the_summary():
    rows, columns = summary.table(sample_run.ITEMS)
    cells = re.findall(r'data-c="([\w:-]+)">', PAGE)
    assert {*columns} <= {*cells}
    row = PAGE[PAGE.index("<th scope=row>TestAngle::test_angle") :].partition("<tr>")[0]
    shown = dict(re.findall(r'data-c="([\w:-]+)"><a id=c\d+ class=(\w+)', row))
    assert shown == rows["tests/test_angle.py::TestAngle::test_angle"]


def outcome_of(item: ItemResult) -> str:
    page = html.render(run_of(item))
    (shown,) = re.findall(r"<article id=i1 class=(\w+)>", page)
    return shown


def test_an_item_that_failed_without_a_failing_verdict_is_red_and_says_so():
    item = sample_run.item("t.py::a", sample_run.PASSED, outcome="failed")
    assert outcome_of(item) == "failed"
    assert html.render(run_of(item)).count("no verdict: the test failed beside its checks") == 2
    alone = ItemResult("t.py::b", "failed", (), reason="NameError: nett")
    assert html.render(run_of(alone)).count("NameError: nett") == 2


def test_a_pass_that_says_little_is_no_plain_ok():
    assert outcome_of(sample_run.item("t.py::a", sample_run.PASSED)) == "passed"
    assert outcome_of(sample_run.item("t.py::a", sample_run.WEAK)) == "warned"
    assert outcome_of(ItemResult("t.py::a[trace-cpu]", "passed", ())) == "unchecked"


def test_an_expected_failure_is_no_cause():
    item = sample_run.item("t.py::a", sample_run.FROZEN, outcome="xfailed")
    assert outcome_of(item) == "xfailed"
    assert "causes" not in html.render(run_of(item)).partition("<main>")[2].partition("<script>")[0]


def test_a_cause_of_many_items_names_some_and_counts_the_others():
    items = [sample_run.item(f"t.py::test_{n}[trace-cpu]", sample_run.FROZEN) for n in range(30)]
    causes = html.render(run_of(*items)).partition("class=causes")[2].partition("</details>")[0]
    assert "1 cause of failures" in causes
    assert causes.count("<a ") == html.MAX_LINKS
    assert f"and {30 - html.MAX_LINKS} more" in causes


def test_a_run_that_did_not_end_says_so():
    assert "did not come to its end" in PAGE
    assert "did not come to its end" not in html.render(run_of(*sample_run.ITEMS))


def test_the_page_of_a_json_report_is_that_of_its_run():
    assert html.render(json.read(json.render(sample_run.RUN))) == PAGE


def test_a_run_without_items_is_a_page():
    assert "no items" in html.render(run_of())


def known(status, verdict, **fields):
    now = dataclasses.replace(
        entry_of(verdict, "t.py::a"), reason="waits for torch 2.15", owner="ana"
    )
    entry = {"known": now, "now": now, "file": "torchexport-known/t/a.toml"}
    return KnownMatch(status=status, **(entry | fields))


def test_a_known_failure_says_its_reason_and_another_one_what_is_known():
    for status, why, said in (
        ("known", "", "BranchFrozen of Normalize on trace-cpu"),
        ("new", "another failure is known", "another failure is known"),
    ):
        match = known(status, sample_run.FROZEN, why=why)
        item = sample_run.item("t.py::a", sample_run.FROZEN, outcome="xfailed", known=(match,))
        text = Parsed(html.render(run_of(item))).texts["i1"]
        assert f"torchexport-known/t/a.toml: {said}" in text
        assert ("waits for torch 2.15, ana" in text) is (status == "known")


def test_a_known_failure_that_is_fixed_is_the_cause_that_its_item_is_red():
    match = known("fixed", sample_run.FROZEN, known=None)
    item = sample_run.item("t.py::a", sample_run.PASSED, outcome="failed", known=(match,))
    elsewhere = dataclasses.replace(match, now=dataclasses.replace(match.now, target="export"))
    page = html.render(run_of(dataclasses.replace(item, known=(elsewhere,))))
    assert page.count("Fixed: BranchFrozen of Normalize on export-cpu") == 2
    assert "no verdict" not in page
    assert "--torchexport-known=tighten" in page


def test_what_changed_since_an_earlier_run_comes_first_and_leads_to_its_items():
    old = run_of(
        sample_run.item("t.py::a[trace-cpu]", sample_run.FROZEN),
        sample_run.item("t.py::gone[trace-cpu]", sample_run.FROZEN),
    )
    fine = dataclasses.replace(sample_run.PASSED, target="trace", subject="Normalize")
    frozen = dataclasses.replace(sample_run.FROZEN, target="export")
    new = run_of(
        sample_run.item("t.py::a[trace-cpu]", fine),
        sample_run.item("t.py::b[export-cpu]", frozen),
    )
    page = html.render(dataclasses.replace(new, before=old))
    text = Parsed(page).texts["main"]
    assert "Since the earlier run: 1 new failure, 1 fixed, 1 gone" in text
    assert text.index("Since the earlier run") < text.index("1 cause of failures")
    assert re.search(r"<p>fixed</p><small><a href=\"#i1\">", page)
    assert re.search(r"<p>new failure: BranchFrozen: .*</p><small><a href=\"#i2\">", page)
    assert re.search(r"<p>gone: t.py::gone\[trace-cpu\]: failed before</p><small></small>", page)
    assert "Since the earlier run" not in html.render(new)


# -- size --------------------------------------------------------------------------------------------


def test_two_thousand_items_are_below_five_megabytes():
    page = html.render(sample_run.many(2000))
    assert page.count("<article ") == 2000
    assert page.count("<svg class=scale") > 400
    assert len(page.encode()) < 5_000_000


def test_jinja2_is_imported_only_to_render():
    code = "import sys, pytest_torchexport.results.reports; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
