"""results/html.py: one page that loads nothing, runs nothing of others, and says what the report says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from functools import lru_cache
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st
from sample import RUN, SHOWN, failed, item, run_of, verdict

from pytest_torchexport.results import html
from pytest_torchexport.results.escaped import visible


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


PARSED = Parsed(html.render(RUN))


# -- nothing is loaded, and nothing runs but the page's own script -----------------------------------


def test_nothing_is_loaded_from_elsewhere_and_a_policy_forbids_all_other_code():
    tags = Counter(tag for tag, _ in PARSED.elements)
    loading = {"link", "img", "iframe", "object", "embed", "video", "audio", "base", "image", "use"}
    assert not loading & set(tags)
    for tag, attributes in PARSED.elements:
        loaded = {"src", "srcset", "style", "action", "formaction", "xlink:href"}
        assert not loaded & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for address in (attributes["href"] or "" for attributes in PARSED.all("a")):
        assert re.match(r"#(i\d+|closed)$|https://", address), address
    assert "closed" not in {attributes.get("id") for _, attributes in PARSED.elements}
    assert not re.search(r"url\(|@import|@font-face", "".join(PARSED.code))
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|innerHTML)\b", "".join(PARSED.code))
    (policy,) = (
        meta["content"] or ""
        for meta in PARSED.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    for name, text in zip(("style", "script"), PARSED.code, strict=True):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_texts_of_others_stay_texts():
    assert len(PARSED.all("script")) == 1
    assert PARSED.all("img") == []
    evil = next(
        text for name, text in PARSED.texts.items() if "tests/test_evil" in text and name != "main"
    )
    # Each place of the verdict: name, reason, call, notes, cause, branch, stage, self-test, ...
    assert evil.count(SHOWN) >= 20


@lru_cache(maxsize=2)
def page_with(text):
    return Parsed(html.render(run_of(item(f"t.py::x{text}", failed(call=f"x{text}")))))


@given(st.text(alphabet="<>&'\"/=;:-![]{}%#`\\\n\r\t \0\x1b\u202e\ud800ab", max_size=12))
@settings(deadline=None)
def test_no_text_changes_the_elements_of_a_page(text):
    page = page_with(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in page_with("").elements]
    assert all(part.strip() in page.texts["i1"] for part in visible(text).splitlines())


# -- what it says ------------------------------------------------------------------------------------


def test_what_changed_since_an_earlier_run_comes_first_and_leads_to_its_items():
    old = run_of(item("t.py::a", failed()), item("t.py::gone", failed()))
    items = item("t.py::a", verdict()), item("t.py::b", failed("export"))
    page = html.render(run_of(*items, before=old))
    text = Parsed(page).texts["main"]
    assert "Since the earlier run: 1 new failure, 1 fixed, 1 gone" in text
    assert text.index("Since the earlier run") < text.index("1 cause of failures")
    assert re.search(r"<p>fixed</p><small><a class=passed href=\"#i1\">", page)
    assert re.search(
        r"<p>new failure: BranchFrozen: .*</p><small><a class=failed href=\"#i2\">", page
    )
    assert re.search(r"<p>gone: t.py::gone\[trace-cpu\]: failed before</p><small></small>", page)
