"""judge/loading.py: what the clean process imports ahead of time for a target."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_torchexport import targets
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.loading import Loader
from pytest_torchexport.sandbox import session
from pytest_torchexport.targets.base import TargetTraits


@pytest.fixture
def preloaded(monkeypatch):
    """What ``warm_up`` asks for, by library; no process is started."""
    asked = {}
    monkeypatch.setattr(
        session, "warm_up", lambda library, modules: asked.update({library: modules})
    )
    return asked


@pytest.mark.parametrize(
    ("target", "library", "loads", "reads"),
    [
        ("trace", "torch", "targets.trace", "targets.trace"),
        ("onnx", "onnxruntime", "targets.formats.onnx_runtime", "targets.formats.onnx_runtime"),
    ],
)
def test_the_server_imports_our_loader_once(preloaded, target, library, loads, reads):
    loading.warm_up(target)
    assert set(preloaded[library]) == {f"pytest_torchexport.{loads}", f"pytest_torchexport.{reads}"}


def test_the_server_imports_what_a_target_names_as_slow(preloaded):
    loading.warm_up("export")
    assert set(targets.get("export").traits.preload) < set(preloaded["torch"])


def test_a_loader_of_another_package_is_imported_by_each_child(preloaded, monkeypatch):
    loader = Loader("theirs.files:load", "theirs.files:read", "torch")
    monkeypatch.setattr(loading, "loader_of", lambda _: loader)
    monkeypatch.setattr(targets, "get", lambda _: SimpleNamespace(traits=TargetTraits()))
    loading.warm_up("theirs")
    assert preloaded == {"torch": ()}
