"""results/reports.py: what each format says of one run, that others add formats, and that files are written whole.

``python tests/unit/results/test_reports.py`` writes tests/golden again: read the difference before you commit it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

import pytest
from sample import ITEMS, RUN

from pytest_torchexport.config.validate import report_specs
from pytest_torchexport.results import json, markdown, reports
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.reports import write
from pytest_torchexport.results.summary import detail_lines, summary_lines
from pytest_torchexport.results.text import failure_texts

GOLDEN = Path(__file__).parents[2] / "golden"
BEFORE = dataclasses.replace(RUN, items=RUN.items[3:])


def terminal() -> str:
    """What pytest prints: the report of each failure, and the summary with the details."""
    items = ITEMS
    lines = [
        text
        for item in items
        for text in failure_texts((v for v in item.verdicts if v.status == "failed"), item.nodeid)
    ]
    return visible(
        "\n".join([*lines, "", *summary_lines(items, whole=True), "", *detail_lines(items), ""])
    )


def page() -> str:
    """The page without what is the same for each run."""
    text = reports.rendered("html", RUN)
    return re.sub(r"<(style|script)>.*?</\1>|<meta [^>]*>\n", "", text, flags=re.DOTALL)


SHOWN = {
    "terminal.txt": terminal,
    "report.html": page,
    "summary.md": lambda: reports.rendered("markdown", RUN),
    "changed.md": lambda: reports.rendered("markdown", dataclasses.replace(RUN, before=BEFORE)),
    "github.txt": lambda: reports.rendered("github", RUN),
    "sarif.json": lambda: reports.rendered("sarif", RUN),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_report_says_what_the_golden_file_says(name):
    assert SHOWN[name]() == (GOLDEN / name).read_text(encoding="utf-8"), (
        f"if this is meant, run 'python {Path(__file__).relative_to(Path.cwd())}' and read the diff"
    )


@pytest.mark.parametrize("name", reports.FORMATS)
def test_every_report_can_be_made_from_the_json_report_alone(name):
    again = json.read(reports.rendered("json", RUN))
    assert reports.rendered(name, again) == reports.rendered(name, RUN)


THEIRS = """
def render(results): return f"{len(results.items)} items"
def nothing(results): return None
def broken(results): return 1 / 0
def needy(results): import absent_module
"""


def test_another_package_adds_formats_and_is_named_if_one_does_not_work(tmp_path, monkeypatch):
    (tmp_path / "their_formats.py").write_text(THEIRS)
    info = tmp_path / "their_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-formats\nVersion: 1.0\n")
    names = ("render", "nothing", "broken", "needy")
    points = "\n".join(f"{name} = their_formats:{name}" for name in names)
    (info / "entry_points.txt").write_text(f"[{reports.ENTRY_POINT_GROUP}]\n{points}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reports, "_entry_points", reports._entry_points.__wrapped__)
    assert set(reports.formats()) == {*reports.FORMATS, *names}
    assert report_specs(["render:x"]) == (("render", "x"),)
    assert reports.rendered("render", RUN) == "14 items"
    for name, why in {
        "broken": "'broken' of their_formats:broken raised ZeroDivisionError: division by zero",
        "nothing": "'nothing' of their_formats:nothing returned no text",
        "needy": "'needy' needs absent_module: pip install absent_module",
    }.items():
        with pytest.raises(reports.CannotRender, match=why):
            reports.rendered(name, RUN)


def test_a_bug_of_our_own_is_not_blamed_on_others(monkeypatch):
    monkeypatch.setattr(markdown, "_sections", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reports.rendered("markdown", RUN)


def test_a_format_that_lacks_a_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(reports.CannotRender, match=r"'html' needs jinja2: pip install jinja2$"):
        reports.rendered("html", RUN)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_replaced_through_links_and_nothing_half_written_stays(tmp_path):
    real, link = tmp_path / "deep" / "report.json", tmp_path / "link.json"
    link.symlink_to(real)
    for text in ("first", "\udc80"):
        write(link, text)
    assert real.read_bytes() == b"\\udc80"
    assert link.is_symlink()
    assert list(real.parent.iterdir()) == [real]


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        Path.mkdir,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to(path.parent),
    ],
    ids=["pipe", "directory", "link to itself", "link to a device", "link to a directory"],
)
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, make):
    path = tmp_path / "report.json"
    make(path)
    before = path.lstat()
    with pytest.raises(OSError, match="it is not a regular file"):
        write(path, "text")
    assert path.lstat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [path]


if __name__ == "__main__":
    for name, shown in SHOWN.items():
        (GOLDEN / name).write_text(shown(), encoding="utf-8")
