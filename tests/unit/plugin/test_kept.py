"""plugin/kept.py: the directories of items, and what is removed from among them."""

import os
import time

import pytest

from pytest_torchexport.diagnosis.reproducer.directory import HALF
from pytest_torchexport.plugin import kept
from pytest_torchexport.plugin.kept import kept_in, tidy

NAMES = [
    "a/b.py::test[trace-cpu]", "a-b.py::test[trace-cpu]", "a b.py::test[trace-cpu]", "a.py::test[trace-cpu-x/y]",
    "a.py::test[trace-cpu-x y]", "a.py::test[trace-cpu-ü]", "a.py::test[trace-cpu-../../..]",
    f"a.py::test[trace-cpu-{'x' * 500}]", f"a.py::test[trace-cpu-{'x' * 501}]", "a.py::T::test[trace-cpu]",
]  # fmt: skip


def test_each_item_has_a_directory_of_its_own(tmp_path):
    found = {kept_in(tmp_path, name) for name in NAMES}
    assert len(found) == len(NAMES)
    assert {path.parent for path in found} == {tmp_path / ".torchexport"}
    for path in found:
        path.mkdir(parents=True)


def whole(root, name, age=0.0):
    place = root / ".torchexport" / name
    place.mkdir(parents=True)
    mark = place / "verdict.json"
    mark.write_text("{}")
    then = time.time() - age
    os.utime(mark, (then, then))
    return place


def test_what_is_old_or_too_much_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    old = whole(tmp_path, "old", age=31 * 86400)
    third, second, first = (whole(tmp_path, f"n{age}", age=age) for age in (30, 20, 10))
    tidy(tmp_path, 30)
    assert [path.exists() for path in (old, third, second, first)] == [False, False, True, True]
    assert (tmp_path / ".torchexport" / ".gitignore").read_text() == "*\n"


def test_the_files_of_a_unittest_method_are_removed_when_all_its_targets_are_old(tmp_path):
    for name, ages in (("old", (31, 40)), ("partly", (31, 1))):
        for target, days in zip(("trace-cpu", "script-cpu"), ages, strict=True):
            whole(tmp_path, f"{name}/{target}", age=days * 86400)
    tidy(tmp_path, 30)
    left = {path.name for path in (tmp_path / ".torchexport").iterdir()}
    assert left == {".gitignore", "partly"}


def test_what_a_killed_process_left_half_written_is_removed_when_it_is_old(tmp_path):
    then = time.time() - 31 * 86400
    for name in ("old", "new"):
        half = tmp_path / ".torchexport" / f"{HALF}{name}"
        half.mkdir(parents=True)
        (half / "reproduce.py").write_text("")
        if name == "old":
            os.utime(half, (then, then))
    tidy(tmp_path, 30)
    assert {path.name for path in (tmp_path / ".torchexport").iterdir()} == {
        ".gitignore",
        f"{HALF}new",
    }


def test_what_is_not_ours_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 0)
    own = tmp_path / ".torchexport" / "of a person"
    own.mkdir(parents=True)
    elsewhere = whole(tmp_path / "elsewhere", "x")
    (tmp_path / ".torchexport" / "link").symlink_to(elsewhere)
    tidy(tmp_path, 30)
    assert own.is_dir()
    assert elsewhere.is_dir()


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_a_directory_that_cannot_be_tidied_is_no_error(tmp_path, there):
    if there == "a file":
        (tmp_path / ".torchexport").write_text("")
    tidy(tmp_path, 30)
