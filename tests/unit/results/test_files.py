"""results/files.py: a file is written whole, to where its path leads, and without paths of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_torchexport.results.files import without_private_paths, write


def test_a_file_is_replaced_and_nothing_half_written_stays(tmp_path):
    path = tmp_path / "deep" / "report.json"
    write(path, "first")
    write(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_is_no_utf8_is_written_with_its_escape(tmp_path):
    write(tmp_path / "a", "\udc80")
    assert (tmp_path / "a").read_bytes() == b"\\udc80"


def test_a_link_is_kept_and_its_target_is_written(tmp_path):
    real, link, second = (tmp_path / name for name in ("real.json", "link.json", "second.json"))
    link.symlink_to("real.json")
    second.symlink_to(link)
    for text in ("first", "second"):
        write(second, text)
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
        write(path, "text")
    assert path.lstat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [path]


def test_paths_of_the_machine_are_taken_out(tmp_path):
    home = Path.home()
    text = f'File "{tmp_path}/net.py", {home}/.venv/lib/python3.11/site-packages/torch/nn.py, {home}/secret'
    assert without_private_paths(text, tmp_path) == 'File "net.py", torch/nn.py, ~/secret'


def test_a_long_word_does_not_take_long(tmp_path):
    """It would take hours if each character of it began a search."""
    long = "ab/cd" * 2**18
    assert without_private_paths(long, tmp_path) == long
