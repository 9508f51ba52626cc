"""cache/reads.py: what the user's code reads is noticed, in whatever thread it does."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from pytest_torchexport.cache.reads import noticed


def in_a_thread(read):
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()


READS = {
    "a file": lambda path: path.read_text(),
    "a descriptor": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "a directory": lambda path: list(path.parent.iterdir()),
    "a walk": lambda path: list(path.parent.rglob("*")),
    "a database": lambda path: sqlite3.connect(path).close(),
    "a command": lambda path: os.system(f"test -f {path}"),
    "in a thread": lambda path: in_a_thread(path.read_text),
}


@pytest.mark.parametrize("what", READS)
def test_what_the_users_code_reads_is_noticed(tmp_path, what):
    path = tmp_path / "table.txt"
    path.write_text("1")
    with noticed() as found:
        READS[what](path)
    assert found
    before = list(found)
    READS[what](path)
    assert found == before


def test_code_and_what_describes_the_machine_are_no_data(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("1")
    with noticed() as found:
        path.read_text()
        list(Path("/proc/self/task/").iterdir())
    assert found == []


def test_a_block_in_a_block_notices_the_same(tmp_path):
    with noticed() as outer:
        with noticed() as inner:
            list(tmp_path.iterdir())
        list(tmp_path.iterdir())
    assert len(inner) == 1
    assert len(outer) == 2
