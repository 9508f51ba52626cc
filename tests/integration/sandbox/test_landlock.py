"""sandbox/landlock.py: the kernel keeps native code from writing."""

from __future__ import annotations

import pytest
from in_sandbox import run

from pytest_torchexport.sandbox import landlock


def test_that_the_kernel_helps_is_known(load):
    assert load("ADD").confined == (landlock.version() > 0)


@pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no Landlock")
def test_native_code_of_own_files_writes_nowhere_else(load, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert run(load("NATIVE_WRITE", str(elsewhere / "new"))).value == -1
    assert not list(elsewhere.iterdir())
