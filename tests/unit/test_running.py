"""The mark of an item that runs: who left it, and what that means for the next session."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_torchexport.running import Running

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


def leave(cache, text):
    """A mark as somebody else left it."""
    Running(cache, NODE).begin()
    (mark,) = marks(cache)
    mark.write_text(text)


def gone():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_an_item_that_was_never_run_has_not_died(cache):
    assert not Running(cache, NODE).why_isolated


def test_an_item_that_ended_leaves_nothing(cache):
    running = Running(cache, NODE)
    running.begin()
    assert len(marks(cache)) == 1
    running.end(crashed=False)
    assert marks(cache) == []
    assert not Running(cache, NODE).why_isolated


def test_an_item_whose_session_is_gone_died(cache):
    leave(cache, str(gone()))
    assert Running(cache, NODE).why_isolated
    assert not Running(cache, NODE + "x").why_isolated


def test_an_item_that_another_session_runs_now_has_not_died(cache):
    leave(cache, str(os.getppid()))
    assert not Running(cache, NODE).why_isolated


def test_a_session_with_the_same_process_id_as_the_dead_one_knows_it(cache):
    leave(cache, str(os.getpid()))  # as the first process of a container has again
    assert Running(cache, NODE).why_isolated


def test_an_item_whose_artifact_crashed_elsewhere_is_remembered_until_it_does_not(cache):
    Running(cache, NODE).end(crashed=True)
    again = Running(cache, NODE)
    assert again.why_isolated
    again.begin()
    again.end(crashed=False)
    assert not Running(cache, NODE).why_isolated


@pytest.mark.parametrize("text", ["nonsense", "", "-1", "12 34"])
def test_a_mark_that_nobody_can_read_is_one_of_the_dead(cache, text):
    leave(cache, text)
    assert Running(cache, NODE).why_isolated


def test_without_a_cache_nothing_is_remembered():
    running = Running(None, NODE)
    running.begin()
    assert not running.why_isolated
    running.end(crashed=True)
    assert not Running(None, NODE).why_isolated


def test_a_cache_that_cannot_be_written_to_is_none(cache, monkeypatch):
    def mkdir(name):
        raise PermissionError(name)

    monkeypatch.setattr(cache, "mkdir", mkdir)
    running = Running(cache, NODE)
    running.begin()
    running.end(crashed=True)
    assert not running.why_isolated


def test_a_cache_that_is_full_or_cleared_meanwhile_is_no_error(cache):
    running = Running(cache, NODE)
    running.begin()
    (mark,) = marks(cache)
    mark.unlink()
    mark.parent.rmdir()
    running.begin()
    running.end(crashed=True)
    running.end(crashed=False)
    assert marks(cache) == []
