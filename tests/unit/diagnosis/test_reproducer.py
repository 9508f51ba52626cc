"""diagnosis/reproducer.py: a directory appears whole or not at all."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.reproducer import made


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
