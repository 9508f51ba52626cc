"""results/html.py: what a user sees in a browser, where a script at the end of the page acts as the user."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest
from sample import RUN

from pytest_torchexport.results import html

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("TORCHEXPORT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
MISSING = "no Chromium: 'apt install chromium', or set TORCHEXPORT_CHROMIUM to the path of one"
pytestmark = pytest.mark.skipif(not BROWSER, reason=MISSING)
USER = """<script nonce=user>(async () => {
const seen = [], $ = (selector) => [...document.querySelectorAll(selector)];
const texts = (selector) => $(selector).filter((each) => each.checkVisibility()).map((each) => each.textContent.trim().split("[<")[0]);
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input", { bubbles: true })); };
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const click = (selector) => $(selector)[0].click(), later = () => new Promise((done) => setTimeout(done, 50));
const rows = () => seen.push([...texts("#shown"), texts(".file").length, texts("li p").length, ...texts("[scope=row]")]);
ACTIONS
return seen; })().catch(String).then((seen) => document.body.append(new Comment(JSON.stringify(seen))));</script>"""
ONE, TWO, ANGLE, EVIL = "test_normalize", "test_two", "TestAngle::test_angle", "test_evil"
BODY, CASE = ["test_body", "test_crash", "test_late"], "Case::test_all"
ALL = ["8 of 8 tests", 5, 7, ONE, TWO, ANGLE, EVIL, *BODY, CASE]
# What the user does, step by step, and what is seen then: the count, how many files and causes, and the tests.
STEPS = {
    "type('atan2')": ["2 of 8 tests", 2, 2, ANGLE, CASE],
    "type('ATAN2 case')": ["1 of 8 tests", 1, 2, CASE],
    "type('close')": ["0 of 8 tests", 0, 0],
    "type(''), click('[value=passed]')": ["2 of 8 tests", 2, 0, TWO, CASE],
    "click('[value=warned]')": ["3 of 8 tests", 2, 0, ONE, TWO, CASE],
    "click(':checked'), click(':checked'), $('[value=passed]')[0].value = 'of no item'": ALL,
    "click('th:last-child button')": [*ALL[:3], TWO, ONE, CASE, ANGLE, *BODY, EVIL],
    "click('th:nth-child(4) button')": [*ALL[:3], *BODY, ANGLE, ONE, TWO, CASE, EVIL],
}


def after(actions, folder, *, policy="script-src 'nonce-user'", width=1280):
    page = html.render(RUN).replace("</body>", USER.replace("ACTIONS", actions))
    # The policy of this copy allows one more script than the page's own: the user's.
    (file := folder / "page.html").write_text(page.replace("script-src", policy, 1))
    options = f"--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --window-size={width},600 --dump-dom"
    command = [BROWSER, *options.split(), f"--user-data-dir={folder}/profile", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert " of 8 tests</output>" in done.stdout, done.stderr  # the page's own script has run
    return (seen := re.search("<!--(.*)-->", done.stdout)) and json.loads(seen[1])


def test_the_policy_runs_the_script_of_the_page_and_no_other(tmp_path):
    assert [after("", tmp_path), after("", tmp_path, policy="script-src")] == [[], None]


def test_searches_filters_and_heads_show_what_fits_count_and_sort_it(tmp_path):
    actions = "".join(f"{step}; rows();" for step in STEPS)
    assert after(actions, tmp_path) == [*STEPS.values()]


def test_an_item_that_is_closed_gives_place_and_focus_back(tmp_path):
    actions = """const link = $("#matrix .failed")[0]; link.scrollIntoView(); link.focus();
        const look = async () => { await later(); seen.push([scrollY > 99 && scrollY, document.activeElement === link, ...texts("h2")]); };
        await look(); for (const close of [() => press("Escape"), () => click(":target .close a")]) { link.click(); await look(); close(); await look(); }"""
    before, *then = after(actions, tmp_path)
    opened = [before[0], False, RUN.items[0].nodeid]
    assert [all(before), then] == [True, [opened, before] * 2]


def test_a_button_copies_the_text_beside_it_or_says_that_it_cannot(tmp_path):
    actions = """navigator.clipboard.writeText = (text) => seen.push(text) < 4 ? 0 : Promise.reject(); location.hash = "i1";
        $(":target button").forEach((each) => each.click()); await later(); seen.push(...texts(":target button"));"""
    report, _, _, rerun, *buttons = after(actions, tmp_path)
    assert {RUN.items[0].nodeid, f"  rerun     {rerun}"} < {*report.splitlines()}
    assert "  \n" not in report
    assert buttons == ["copied", "copied", "copied", "the browser forbids it"]


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_cut_off(tmp_path, width):
    actions = """const cut = (inside, edge) => seen.push(...$(inside).filter((each) => each.checkVisibility()
          && (each.clientWidth && each.scrollWidth > each.clientWidth || each.getBoundingClientRect().right > edge)));
        $("details").forEach((each) => each.open = true); cut("*", innerWidth);
        for (const item of $("article")) { location.hash = item.id; cut(":target, :target *", innerWidth); cut("main", item.offsetLeft); }
        return [innerWidth, ...seen.map((each) => each.outerHTML)];"""
    assert after(actions, tmp_path, width=width) == [width]
