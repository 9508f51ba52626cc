"""plugin/active_item.py: the directories of items, and what is removed from among them."""

import os
import time

import pytest

from pytest_torchexport.plugin.active_item import kept_in, retained, tidy
from pytest_torchexport.results.json import HALF

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


def whole(root, name, *, run, age):
    """Write an item's directory, of one target or of several."""
    place = root / ".torchexport" / name
    for target in (".", "trace-cpu"):
        (place / target).mkdir(parents=True, exist_ok=True)
    (place / "trace-cpu" / "verdict.json").write_text("{}")
    tidy(place, run, 99)
    then = time.time() - age
    os.utime(place, (then, then))
    return place


def test_the_failures_of_the_last_runs_are_kept(tmp_path):
    ages = {"a": ("1", 40), "b": ("2", 30), "c": ("2", 29), "d": ("3", 20), "e": ("4", 10)}
    places = {name: whole(tmp_path, name, run=run, age=age) for name, (run, age) in ages.items()}
    halves = {
        age: tmp_path / ".torchexport" / f"{HALF}{age}" for age in (1, 60)
    }  # of a process that writes now, and of one that was killed
    for age, half in halves.items():
        half.mkdir()
        os.utime(half, (time.time() - age, time.time() - age))
    own = tmp_path / ".torchexport" / "of a person"
    own.mkdir()
    elsewhere = whole(tmp_path / "elsewhere", "x", run="0", age=99)
    (tmp_path / ".torchexport" / "link").symlink_to(elsewhere)
    tidy(places["e"], "4", 3)
    left = {path.name for path in (tmp_path / ".torchexport").iterdir()}
    assert left == {"b", "c", "d", "e", f"{HALF}1", "of a person", "link", ".gitignore"}
    assert elsewhere.is_dir()
    assert (tmp_path / ".torchexport" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("ini", "flags", "count"),
    [
        ("", (), 3),
        ("tmp_path_retention_count = 5", (), 5),
        ("tmp_path_retention_policy = none", (), 0),
        ("", ("-p", "no:tmpdir"), 3),
    ],
)
def test_as_many_runs_are_kept_as_pytest_keeps_of_tmp_path(pytester, ini, flags, count):
    pytester.makeini(f"[pytest]\n{ini}\n")
    assert retained(pytester.parseconfig(*flags)) == count
