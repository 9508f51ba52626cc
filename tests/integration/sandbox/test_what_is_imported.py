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

# results.failures, because the package's own __init__ lists its public names from there.
EVERY_CHILD = {
    "outcomes.errors",
    "results.escaped",
    "results.failures",
    "sandbox.child",
    "sandbox.guard",
    "sandbox.kernel",
    "sandbox.libraries",
    "sandbox.wire",
}
CHILDREN = {
    "torch": EVERY_CHILD
    | {
        "inputs.pytrees",
        "outcomes.cuda",
        "outcomes.limits",
        "outcomes.messages",
        "outcomes.observe",
        "outcomes.torch_state",
        "results.source_line",
        "sandbox.tensors",
        "sandbox.with_torch",
        "torch_private.circumstances",
        "torch_private.memory",
        "torch_private.modules",
        "torch_private.structures",
    },
    "onnxruntime": EVERY_CHILD,
}


def of_ours(modules):
    """The files of this package among modules; its rooms are packages and hold nothing."""
    own = {name.partition(".")[2] for name in modules if name.startswith("pytest_torchexport.")}
    return {name for name in own if "." in name or (ROOT / f"{name}.py").is_file()}


@pytest.mark.parametrize("library", CHILDREN)
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
    assert of_ours(modules) == CHILDREN[library]
    assert ("torch" in modules) == (library == "torch")


def imported(module):
    """Return what a fresh interpreter has imported after a module."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "loader", [*names.BUILT_IN.values(), "pytest_torchexport.targets.formats.onnx_runtime:LOADER"]
)
def test_a_loader_brings_no_room_that_judges(loader):
    modules = imported(loader.partition(":")[0])
    assert not NEVER & {name.partition(".")[0] for name in modules}
    rooms = {name.partition(".")[0] for name in of_ours(modules)}
    assert not rooms & {"plugin", "engine", "checks", "judge", "explore"}


def test_an_onnx_file_is_read_without_torch():
    assert "torch" not in imported("pytest_torchexport.targets.formats.onnx_model")
