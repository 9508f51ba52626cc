"""plugin/crash_marker.py: the mark of a running item, and what it means for the next session."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys

import pytest

from pytest_torchexport.plugin.crash_marker import CrashMarker

NODE = "test_it.py::test_net[trace-cpu]"


class Cache:
    """As much of pytest's cache as is asked for."""

    def __init__(self, directory):
        self.directory = directory

    def mkdir(self, name):
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def marks(cache):
    return [path for path in cache.directory.rglob("*") if path.is_file()]


ELSEWHERE = """
import pathlib, sys
from pytest_torchexport.plugin.crash_marker import CrashMarker

class Cache:
    def mkdir(self, name):
        path = pathlib.Path(sys.argv[1], name)
        path.mkdir(parents=True, exist_ok=True)
        return path

running = CrashMarker(Cache(), sys.argv[2])
running.begin()
print("begun", flush=True)
sys.stdin.read()
"""
DIED = "a run ended while the item ran"


@contextlib.contextmanager
def begun_elsewhere(cache):
    """While another process runs the item; then it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, cache.directory, NODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        try:
            assert other.stdout.readline().strip() == b"begun"
            yield other.pid
        finally:
            other.kill()


def run(cache):
    """Run the item in this session; return why it was isolated."""
    running = CrashMarker(cache, NODE)
    running.begin()
    why = running.why_isolated
    running.end()
    return why


def test_an_item_that_ended_leaves_nothing(cache):
    running = CrashMarker(cache, NODE)
    running.begin()
    assert len(marks(cache)) == 1
    running.end()
    assert marks(cache) == []
    assert not CrashMarker(cache, NODE).why_isolated


def test_an_item_whose_session_is_gone_is_isolated_and_its_mark_names_the_process(cache):
    with begun_elsewhere(cache) as process:
        pass
    why = CrashMarker(cache, NODE).why_isolated
    assert re.fullmatch(rf"{DIED} \(20\d\d-\d\d-\d\d .*, process {process}\)", why)
    assert not CrashMarker(cache, NODE + "x").why_isolated


@pytest.mark.skipif(sys.platform == "win32", reason="marks are not locked there")
def test_an_item_that_another_session_runs_now_has_not_died(cache):
    with begun_elsewhere(cache):
        assert not CrashMarker(cache, NODE).why_isolated
    assert DIED in CrashMarker(cache, NODE).why_isolated


def test_a_cache_that_cannot_be_written_to_is_none(cache, monkeypatch):
    def mkdir(name):
        raise PermissionError(name)

    monkeypatch.setattr(cache, "mkdir", mkdir)
    assert not run(cache)
    assert not run(cache)
