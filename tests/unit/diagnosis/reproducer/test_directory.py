"""diagnosis/reproducer/directory.py: a directory appears whole or not at all."""

import pytest

from pytest_torchexport.diagnosis.reproducer.directory import made


def fill(half):
    (half / "a").write_text("whole")
    return 3


def test_a_directory_is_there_when_it_is_whole(tmp_path):
    assert made(tmp_path / "deep" / "x", fill) == (tmp_path / "deep" / "x", 3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


def test_what_is_there_stays(tmp_path):
    for name in ("x", "x/2", "x/3"):
        assert made(tmp_path / "x", fill)[0] == tmp_path / name


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    def fails(half):
        fill(half)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made(tmp_path / "x", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "x").write_text("a person's")
    with pytest.raises(OSError):
        made(tmp_path / "x", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
