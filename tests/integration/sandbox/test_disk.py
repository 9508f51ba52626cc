"""sandbox/disk.py: many files together fill the disk too."""

from __future__ import annotations

import pytest
from in_sandbox import run, where_it_forks

from pytest_torchexport.outcomes.observe import Crashed


@where_it_forks
@pytest.mark.parametrize("what", ["kept", "removed"])
def test_files_without_end_are_told_with_the_limit(load, what):
    outcome = run(load("MANY_FILES", what))
    assert isinstance(outcome, Crashed)
    assert "SIGXFSZ" in outcome.reason
    assert "more than 256 MB in all" in outcome.reason
