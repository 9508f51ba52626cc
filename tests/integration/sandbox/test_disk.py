"""sandbox/disk.py: many files together fill the disk too."""

from __future__ import annotations

import os

import pytest
from in_sandbox import run, where_it_forks

from pytest_torchexport.outcomes.observe import Crashed
from pytest_torchexport.sandbox import disk


@where_it_forks
@pytest.mark.parametrize("what", ["kept", "removed"])
def test_files_without_end_are_told_with_the_limit(load, tmp_path, what):
    before = disk._written(os.getpid())
    (tmp_path / "probe").write_bytes(bytes(2**20))
    if what == "removed" and disk._written(os.getpid()) == before:
        pytest.skip("what is written here is not counted: the directory lies in memory")
    outcome = run(load("MANY_FILES", what))
    assert isinstance(outcome, Crashed)
    assert "SIGXFSZ" in outcome.reason
    assert "more than 256 MB in all" in outcome.reason
