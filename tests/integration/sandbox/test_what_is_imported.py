"""Imports of the clean process: nothing of the test session, and of this package no more than answering needs.

What else lies in ``sys.modules`` there would hide that an artifact needs it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_torchexport
from pytest_torchexport.config import names
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import SandboxSession, Source

ROOT = Path(pytest_torchexport.__file__).parent
# Neither the libraries of tests, nor what loading an artifact has no use for.
NEVER = {"pytest", "_pytest", "pluggy", "hypothesis", "xdist", "sympy"}

# By library the rooms of a child. Where torch is not, nothing handles tensors.
ROOMS = {
    "torch": {"inputs", "outcomes", "results", "sandbox", "torch_private"},
    "onnxruntime": {"outcomes", "results", "sandbox"},
}
# The files of these rooms that a child has no use for: what makes, draws, compares and asks.
UNUSED = {
    *("inputs.spec", "outcomes.compare", "outcomes.tape", "results.verdict", "results.text"),
    *("sandbox.process", "sandbox.session", "sandbox.answers"),
}


def of_ours(modules):
    """The files of this package among modules; its rooms are packages and hold nothing."""
    own = {name.partition(".")[2] for name in modules if name.startswith("pytest_torchexport.")}
    return {name for name in own if "." in name or (ROOT / f"{name}.py").is_file()}


@pytest.mark.parametrize("library", ROOMS)
def test_a_child_has_imported_what_it_answers_with_and_nothing_else(tmp_path, library):
    Server.close_all()  # one that other tests warmed up has imported the loaders of their targets
    path = tmp_path / "artifact.txt"
    path.write_text("")
    source = Source(
        load="modules_probe:load",
        read="modules_probe:read",
        library=library,
        path=path,
        home=tmp_path,
        device="cpu",
        memory=4096,
    )
    with SandboxSession(source, 60.0) as session:
        assert session.problem is None
        modules = session.found["modules"]
    assert not NEVER & {name.partition(".")[0] for name in modules}
    own = of_ours(modules)
    assert {name.partition(".")[0] for name in own} == ROOMS[library]
    assert not own & UNUSED
    assert ("torch" in modules) == (library == "torch")


def imported(*modules):
    """Return the modules that a fresh interpreter has imported after these."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_no_loader_brings_a_library_of_tests():
    loaders = [*names.BUILT_IN.values(), "pytest_torchexport.targets.formats.onnx_runtime:LOADER"]
    modules = imported(*(loader.partition(":")[0] for loader in loaders))
    assert not NEVER & {name.partition(".")[0] for name in modules}
