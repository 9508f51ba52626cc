"""eager/state_ref.py: how a piece of state is named in a report."""

from __future__ import annotations

import pytest

from pytest_torchexport.eager.state_ref import Change, StateRef


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        (StateRef("buffer", "bn.running_mean"), "buffer bn.running_mean"),
        (StateRef("class attribute", "Net.seen"), "class attribute Net.seen"),
        (StateRef("hooks"), "hooks"),
        (StateRef("hooks", "block"), "hooks of block"),
        (StateRef("training flag", "block"), "training flag of block"),
        (StateRef("argument").item(0), "argument[0]"),
        (StateRef("default", "[0] of forward"), "default[0] of forward"),
        (StateRef("attribute", "cache").item("'k'").attribute("x"), "attribute cache['k'].x"),
    ],
)
def test_a_place_is_shown_in_words(ref, text):
    assert str(ref) == text


def test_a_change_is_shown_with_what_happened():
    ref = StateRef("attribute", "cache")
    assert [str(Change(ref)), str(Change(ref, "new")), str(Change(ref, "gone"))] == [
        "attribute cache",
        "attribute cache (new)",
        "attribute cache (gone)",
    ]


@pytest.mark.parametrize(
    ("other", "inside"),
    [
        (StateRef("attribute", "cache[0]"), True),
        (StateRef("attribute", "cache.size"), True),
        (StateRef("attribute", "cached"), False),
        (StateRef("attribute", "cache"), False),
        (StateRef("buffer", "cache[0]"), False),
    ],
)
def test_a_place_contains_its_items_and_attributes(other, inside):
    assert StateRef("attribute", "cache").contains(other) is inside
