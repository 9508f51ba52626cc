"""scripts/switches.py: each switch finds its mechanism, and names items of the zoo."""

from __future__ import annotations

import sys

import pytest
import zoo


@pytest.fixture
def script(load_script):
    return load_script("switches.py")


def test_every_mechanism_is_where_its_switch_says(script):
    for switch in script.SWITCHES:
        owner, name = switch.place()
        assert switch.off(getattr(owner, name)) is not getattr(owner, name), switch.mechanism


def test_every_item_is_of_the_zoo(script):
    items = {f"zoo/{row.name}/{target}" for row in zoo.ZOO for target in zoo.TARGETS}
    items |= {f"search/{row.name}" for row in zoo.ZOO if row.witnesses}
    items |= {f"region/{row.name}/{target}" for row in zoo.rows("faulty") for target in row.targets}
    for switch in script.SWITCHES:
        assert switch.items, switch.mechanism
        assert set(switch.items) <= items, switch.mechanism


def test_a_mechanism_that_no_item_needs_earns_nothing(script, monkeypatch, capsys):
    idle = script.Switch("idle", "explore:__doc__", lambda text: f"{text} ", ("zoo/double/trace",))
    monkeypatch.setattr(script, "SWITCHES", (idle,))
    monkeypatch.setattr(script, "items", lambda: {"zoo/double/trace": lambda: 1 / 0})
    monkeypatch.setattr(sys, "argv", ["switches.py"])
    assert script.main() == 1
    assert "earns nothing: idle" in capsys.readouterr().out
