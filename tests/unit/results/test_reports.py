"""results/reports.py: a report is written whole, and to where its path leads."""

from __future__ import annotations

import os

from pytest_torchexport.results import reports


def test_a_file_is_replaced_and_nothing_half_written_stays(tmp_path):
    path = tmp_path / "deep" / "report.json"
    reports.write(path, "first")
    reports.write(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_and_a_pipe_stay_what_they_are(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(real)
    reports.write(link, "text")
    assert link.is_symlink()
    assert real.read_text() == "text"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    reports.write(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
