"""Fixtures of the clean process: its servers know the loaders of ``sandbox_targets``."""

from __future__ import annotations

import contextlib
import pathlib

import pytest
from in_sandbox import TORCH, close, source

from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import SandboxSession


@pytest.fixture
def load(tmp_path):
    """A session on a file with a target of ``sandbox_targets``; ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda target, text="1", *, limit=60.0, **options: stack.enter_context(
            SandboxSession(source(tmp_path, target, text, **options), limit)
        )


def popen_that_finds_the_targets(original):
    """The clean process sees no path of ours, so that its server is started with one on purpose."""
    here = str(pathlib.Path(__file__).parent)

    def popen(command, **options):
        *before, code = command
        if "-I" in before and str(code).startswith("import "):
            code = code.replace("sys; ", f"sys; sys.path.append({here!r}); ", 1)
        return original([*before, code], **options)

    return popen


@pytest.fixture(scope="package", autouse=True)
def _servers_that_find_the_targets():
    close()
    with pytest.MonkeyPatch.context() as patched:
        popen = popen_that_finds_the_targets(process.subprocess.Popen)
        patched.setattr(process.subprocess, "Popen", popen)
        yield
    close()


@pytest.fixture(params=[True, False], ids=["fork", "no fork"])
def ways(request, monkeypatch):
    """Both ways to have a process: a child of the server's, and an interpreter of its own."""
    if request.param and not process.FORKS:
        pytest.skip("this system does not fork safely")
    if not request.param:
        monkeypatch.setattr(process, "FORKS", False)
        monkeypatch.setattr(Server, "_shared", {})
    yield
    if not request.param:
        close()


@pytest.fixture
def forks():
    """A server of its own, where there is one at all."""
    if not process.FORKS:
        pytest.skip("there is no server where there is no fork")
    server = Server(TORCH)
    yield server
    server.close()
