"""results/html.py in a real Chromium: it can be used by keys, loads nothing, and runs no text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import sample_run
from slow import slow

from pytest_torchexport.results import html

pytestmark = slow
# The screenshots of these tests go there, to be looked at.
PICTURES = os.environ.get("TORCHEXPORT_PICTURES")
ITEMS = len(sample_run.ITEMS) + 2  # the unittest method has an item in each of three columns

LINKS = "[...document.querySelectorAll('#matrix td a')]"
SHOWN = f"{LINKS}.filter(link => link.offsetParent && !link.classList.contains('dim')).length"
OPENED = "document.querySelector('article:target')?.querySelector('h2').textContent"
FOCUSED = "document.activeElement.id"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    program = chromium.found()
    if program is None:
        pytest.skip("no Chromium is found: apt-get install chromium")
    with chromium.page(program, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser: chromium.Page, tmp_path: Path) -> Iterator[chromium.Page]:
    """Yield the tab with the sample's report; afterwards it must have loaded nothing else."""
    path = tmp_path / "report.html"
    path.write_text(html.render(sample_run.RUN), encoding="utf-8")
    browser.requests.clear()
    browser.errors.clear()
    browser.look()
    browser.open(path.as_uri())
    browser.run("localStorage.clear()")
    yield browser
    assert browser.errors == []
    assert browser.requests == [path.as_uri()]
    assert browser.run("window.hurt") is None


def picture(page: chromium.Page, name: str) -> None:
    if PICTURES:
        page.picture(Path(PICTURES, f"{name}.png"))


def click(page: chromium.Page, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).click()")


def test_a_search_shows_the_items_that_say_all_its_words(page):
    assert page.run(SHOWN) == ITEMS
    page.press("/")
    for key in "atan2 Known":
        page.press(key)
    assert page.run("document.querySelector('#shown').value") == f"3 of {ITEMS} items"
    assert page.run(SHOWN) == 3
    page.press("Escape")
    assert page.run(SHOWN) == ITEMS


def test_outcome_target_and_device_narrow_what_is_shown(page):
    click(page, "input[value=xfailed]")
    assert page.run(SHOWN) == 1
    click(page, "input[value=xpassed]")
    assert page.run(SHOWN) == 2
    page.run("target.value = 'onnx'; target.dispatchEvent(new Event('input', {bubbles: true}))")
    assert page.run(SHOWN) == 1
    page.run("device.value = 'cpu'; device.dispatchEvent(new Event('input', {bubbles: true}))")
    assert page.run(SHOWN) == 0
    assert page.run("document.querySelector('#none').offsetParent !== null")


def test_items_are_opened_followed_and_closed_by_keys(page):
    picture(page, "light")
    page.press("j")
    page.press("j")
    page.press("k")
    assert page.run(FOCUSED) == "c1"
    page.press("Enter")
    assert page.run(OPENED) == sample_run.ITEMS[0].nodeid
    picture(page, "opened")
    page.press("j")
    assert page.run(OPENED) == sample_run.ITEMS[1].nodeid
    page.press("Escape")
    assert page.run(OPENED) is None
    assert page.run(FOCUSED) == "c2"


def test_keys_follow_only_what_the_filter_shows(page):
    click(page, "input[value=xpassed]")
    page.press("j")
    page.press("j")
    page.press("Enter")
    assert "test_angle[export-cpu]" in str(page.run(OPENED))


def test_a_hostile_item_is_inert_when_it_is_opened_and_searched(page):
    click(page, "td a[href]")
    link = next(n for n, item in enumerate(sample_run.ITEMS, 1) if "test_evil" in item.nodeid)
    page.run(f"location.hash = 'i{link}'")
    page.run("document.querySelectorAll('article:target details').forEach(d => d.open = true)")
    assert sample_run.SHOWN in str(page.run(OPENED))
    picture(page, "hostile")
    page.press("Escape")
    page.run("search.value = '</script>'; filter()")
    assert page.run(SHOWN) == 1


def test_hostile_code_that_came_through_would_be_refused(page):
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hurt=1\">')")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert page.run("window.hurt") is None
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()
    page.requests[1:] = []  # the refused one


def test_the_theme_follows_the_system_and_can_be_set(page):
    def background() -> object:
        return page.run("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.look(dark=True)
    dark = background()
    assert light != dark
    picture(page, "dark")
    click(page, "#theme")
    click(page, "#theme")
    assert (page.run("document.querySelector('#theme').textContent"), background()) == (
        "Theme: light",
        light,
    )


@pytest.mark.parametrize("width", [360, 800, 1100, 1400])
def test_nothing_is_wider_than_the_window(page, width):
    page.look(width=width)
    for hash_ in ("", "i1", "i6"):
        page.run(f"location.hash = {hash_!r}")
        page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        picture(page, f"width-{width}-{hash_ or 'matrix'}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run(
            "[...document.querySelectorAll('article:target')].every(a => a.scrollWidth <= a.clientWidth)"
        )


def test_it_can_be_read_without_its_script(page):
    page.order("Emulation.setScriptExecutionDisabled", value=True)
    try:
        url = page.requests[0]
        page.requests.clear()
        page.open(f"{url}?plain#i1")
        picture(page, "no-script")
        tree = str(page.order("Accessibility.getFullAXTree"))
        assert "BranchFrozen: if x.sum() > 10" in tree
        assert "Theme: auto" not in tree
        assert "test_angle" in tree
        assert page.requests == [f"{url}?plain"]
        page.requests[:] = [url]
    finally:
        page.order("Emulation.setScriptExecutionDisabled", value=False)


def test_two_thousand_items_are_filtered_at_once(browser, tmp_path):
    path = tmp_path / "many.html"
    path.write_text(html.render(sample_run.many(2000)), encoding="utf-8")
    browser.look()
    browser.open(path.as_uri())
    assert browser.run(SHOWN) == 2000
    browser.run("search.value = 'atan2'; filter()")
    assert browser.run(SHOWN) == 200
    picture(browser, "many")
    usable = browser.run("performance.getEntriesByName('usable')[0].startTime")
    loaded = browser.run("performance.getEntriesByType('navigation')[0].loadEventStart")
    print(f"usable after {usable:.0f} ms, loaded after {loaded:.0f} ms")
