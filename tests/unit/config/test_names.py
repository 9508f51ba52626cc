"""config/names.py: names without imports, and targets of other packages."""

from __future__ import annotations

import pytest

from pytest_torchexport.config import names
from pytest_torchexport.config.names import entry_point, targets
from pytest_torchexport.targets import TargetTraits, get, register_target


class Fake:
    traits = TargetTraits()


@pytest.fixture(autouse=True)
def _only_for_this_test(monkeypatch):
    monkeypatch.setattr(names, "_registered", {})


def test_a_registered_target_is_known_and_lives_only_here():
    target = Fake()
    register_target("mine", target)
    assert targets()[-1] == "mine"
    assert get("mine") is target
    assert entry_point("mine") is None


@pytest.mark.parametrize("name", ["trace", "onnx", "mine"])
def test_a_taken_name_is_refused(name):
    register_target("mine", Fake())
    with pytest.raises(ValueError, match=f"already a target named '{name}'"):
        register_target(name, Fake())


@pytest.mark.parametrize("name", ["my-target", "", "a,b"])
def test_a_name_that_would_break_an_id_is_refused(name):
    with pytest.raises(ValueError, match="a target's name is an identifier"):
        register_target(name, Fake())


def test_an_entry_point_of_another_package_is_a_target(monkeypatch):
    import importlib.metadata

    point = importlib.metadata.EntryPoint(
        "theirs", "pytest_torchexport.targets.trace:TARGET", names.ENTRY_POINT_GROUP
    )
    monkeypatch.setattr(names, "entry_points", lambda: {"theirs": point})
    assert "theirs" in targets()
    assert get("theirs") is get("trace")
    assert entry_point("theirs") == "pytest_torchexport.targets.trace:TARGET"
