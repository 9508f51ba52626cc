"""plugin/active_item.py: the directories of items, what is removed from among them, and the mark of a running item."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_torchexport.plugin.active_item import kept_in, marked, retained, tidy
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


@pytest.mark.parametrize(
    ("ini", "flags", "count"),
    [
        ("tmp_path_retention_count = 5", (), 5),
        ("tmp_path_retention_policy = none", (), 0),
        ("", ("-p", "no:tmpdir"), 3),
    ],
)
def test_as_many_runs_are_kept_as_pytest_keeps_of_tmp_path(pytester, ini, flags, count):
    pytester.makeini(f"[pytest]\n{ini}\n")
    assert retained(pytester.parseconfig(*flags)) == count


# -- the mark of an item that runs -----------------------------------------------------------------

NODE = "test_it.py::test_net[trace-cpu]"
ELSEWHERE = """
import pathlib, sys, types
from pytest_torchexport.plugin.active_item import marked

with marked(types.SimpleNamespace(mkdir=lambda name: pathlib.Path(sys.argv[1])), sys.argv[2]):
    print("begun", flush=True)
    sys.stdin.read()
"""


def cache_in(directory):
    """As much of pytest's cache as is asked for."""
    return SimpleNamespace(mkdir=lambda _: directory)


def why_isolated(directory, nodeid=NODE):
    """Run the item in this session; return why it was isolated."""
    with marked(cache_in(directory), nodeid) as why:
        assert any(Path(directory).iterdir())
    return why


def test_an_item_that_ended_leaves_nothing(tmp_path):
    assert not why_isolated(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="marks are not locked there")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_an_item_whose_session_is_gone_is_isolated_unless_somebody_cancelled_it(tmp_path, sent):
    command = [sys.executable, "-c", ELSEWHERE, tmp_path, NODE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"begun"
        (mark,) = tmp_path.iterdir()
        before = mark.read_bytes()
        assert not why_isolated(tmp_path, f"{NODE}x")  # another item
        with marked(cache_in(tmp_path), NODE) as why:  # it runs, and has not died
            assert not why
        mark.write_bytes(before)
        other.send_signal(sent)
        assert other.wait() == -sent
    expected = rf"a run ended while the item ran \(20\d\d-\d\d-\d\d .*, process {other.pid}\)"
    for _ in range(2):  # a pass in another process proves nothing
        assert re.fullmatch(expected if sent == signal.SIGKILL else "", why_isolated(tmp_path))


def test_a_cache_that_cannot_be_written_to_is_none():
    def mkdir(name):
        raise PermissionError(name)

    with marked(SimpleNamespace(mkdir=mkdir), NODE) as why:
        assert not why
