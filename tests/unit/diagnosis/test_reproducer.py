"""diagnosis/reproducer.py: a directory appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_torchexport.diagnosis.reproducer import made, without_private_paths


def fill(half):
    (half / "a").write_text("whole")
    return 3


def test_a_directory_is_there_when_it_is_whole_and_what_is_there_stays(tmp_path):
    assert made(tmp_path / "deep" / "x", fill) == (tmp_path / "deep" / "x", 3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]
    for name in ("x/2", "x/3"):
        assert made(tmp_path / "deep" / "x", fill)[0] == tmp_path / "deep" / name


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    def fails(half):
        fill(half)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made(tmp_path / "x", fails)
    (tmp_path / "x").write_text("a person's")
    with pytest.raises(OSError):
        made(tmp_path / "x", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_paths_of_the_machine_are_taken_out(tmp_path):
    home = Path.home()
    text = f'File "{tmp_path}/net.py", {home}/.venv/lib/python3.11/site-packages/torch/nn.py, {home}/secret'
    assert without_private_paths(text, tmp_path) == 'File "net.py", torch/nn.py, ~/secret'
    long = "ab/cd" * 2**18  # it would take hours if each character of it began a search
    assert without_private_paths(long, tmp_path) == long
