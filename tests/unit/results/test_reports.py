"""results/reports.py: a report is written whole, and to where its path leads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import sample

from pytest_torchexport.results import html, reports


def test_a_file_is_replaced_and_nothing_half_written_stays(tmp_path):
    path = tmp_path / "deep" / "report.json"
    reports.write(path, "first")
    reports.write(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_kept_and_its_target_is_written(tmp_path):
    real, link, second = (tmp_path / name for name in ("real.json", "link.json", "second.json"))
    link.symlink_to("real.json")
    second.symlink_to(link)
    for text in ("first", "second"):
        reports.write(second, text)
        assert (link.is_symlink(), second.is_symlink()) == (True, True)
        assert real.read_text() == text


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
        reports.write(path, "text")
    assert path.lstat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [path]


def test_a_format_that_lacks_a_package_says_how_to_install_it(monkeypatch):
    html._template.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(reports.CannotRender, match=r"'html' needs jinja2: pip install jinja2$"):
        reports.rendered("html", sample.SAMPLE)
