"""plugin/crash_marker.py: the mark of a running item, and what it means for the next session."""

from __future__ import annotations

import contextlib
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
DIED = "an earlier run did not survive this item"
CRASHED = "its artifact crashed in the last run"


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
            yield
        finally:
            other.kill()


def leave(cache, text):
    """A mark as somebody else left it."""
    cache.mkdir("torchexport-running")
    with begun_elsewhere(cache):
        pass
    (mark,) = marks(cache)
    mark.write_text(text)


def test_an_item_that_was_never_run_has_not_died(cache):
    assert not CrashMarker(cache, NODE).why_isolated


def test_an_item_that_ended_leaves_nothing(cache):
    running = CrashMarker(cache, NODE)
    running.begin()
    assert len(marks(cache)) == 1
    running.end(crashed=False)
    assert marks(cache) == []
    assert not CrashMarker(cache, NODE).why_isolated


def test_an_item_whose_session_is_gone_died(cache):
    with begun_elsewhere(cache):
        pass
    assert CrashMarker(cache, NODE).why_isolated == DIED
    assert not CrashMarker(cache, NODE + "x").why_isolated


@pytest.mark.skipif(sys.platform == "win32", reason="marks are not locked there")
def test_an_item_that_another_session_runs_now_has_not_died(cache):
    with begun_elsewhere(cache):
        assert not CrashMarker(cache, NODE).why_isolated
    assert CrashMarker(cache, NODE).why_isolated == DIED


def test_what_a_session_did_not_survive_is_not_forgotten_when_it_passes_elsewhere(cache):
    with begun_elsewhere(cache):
        pass
    for _ in range(2):
        again = CrashMarker(cache, NODE)
        assert again.why_isolated == DIED
        again.begin()
        again.end(crashed=False)


def test_an_item_whose_artifact_crashed_elsewhere_is_remembered_until_it_does_not(cache):
    CrashMarker(cache, NODE).end(crashed=True)
    again = CrashMarker(cache, NODE)
    assert again.why_isolated == CRASHED
    again.begin()
    again.end(crashed=False)
    assert not CrashMarker(cache, NODE).why_isolated


@pytest.mark.parametrize("text", ["nonsense", "", "-1", "12 34"])
def test_a_mark_that_nobody_can_read_is_one_of_the_dead(cache, text):
    leave(cache, text)
    assert CrashMarker(cache, NODE).why_isolated == DIED


def test_without_a_cache_nothing_is_remembered():
    running = CrashMarker(None, NODE)
    running.begin()
    assert not running.why_isolated
    running.end(crashed=True)
    assert not CrashMarker(None, NODE).why_isolated


def test_a_cache_that_cannot_be_written_to_is_none(cache, monkeypatch):
    def mkdir(name):
        raise PermissionError(name)

    monkeypatch.setattr(cache, "mkdir", mkdir)
    running = CrashMarker(cache, NODE)
    running.begin()
    running.end(crashed=True)
    assert not running.why_isolated


def test_a_cache_that_is_full_or_cleared_meanwhile_is_no_error(cache):
    running = CrashMarker(cache, NODE)
    running.begin()
    (mark,) = marks(cache)
    mark.unlink()
    mark.parent.rmdir()
    running.begin()
    running.end(crashed=True)
    running.end(crashed=False)
    assert marks(cache) == []
