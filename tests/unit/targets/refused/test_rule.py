"""targets/refused/rule.py: a rule applies only if all its evidence is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_torchexport.targets.refusal_rules import TABLES
from pytest_torchexport.targets.refused.rule import Refusal, Rule

UNDERLINED = """no such index:
  File "{path}", line {line}
    return x[self.index(i)]  # of the user
           ~~~~~~~~~~~~~~~ <--- HERE
"""
RULE = Rule(
    said=r"no such (?P<what>\w+)",
    raised=r"^RuntimeError$",
    line=r"\bx\[(?P<name>self)",
    kind="unsupported construct",
    cause="{what} of {name} in {here}",
    remedy="{{}}",
)


@pytest.fixture
def place(tmp_path: Path) -> str:
    file = tmp_path / "model.py"
    file.write_text("\n\n    return x[self.index(i)]  # of the user\n")
    return UNDERLINED.format(path=file, line=3)


def test_groups_and_the_expression_are_put_into_the_sentence(place):
    cause = RULE.applied(Refusal(RuntimeError(place)))
    assert cause is not None
    assert cause.text == "index of self in x[self.index(i)]"
    assert cause.remedy == "{}"
    assert cause.where is not None
    assert cause.where.line == 3


@pytest.mark.parametrize(
    "changed", ["no such", "return x[self", "class"], ids=["message", "line", "class"]
)
def test_without_one_of_its_facts_a_rule_does_not_apply(changed, place, tmp_path):
    error = RuntimeError(place)
    if changed == "no such":
        error = RuntimeError(place.replace(changed, "other"))
    elif changed == "class":
        error = ValueError(place)
    else:
        file = tmp_path / "model.py"
        file.write_text(file.read_text().replace(changed, "return y[self"))
    assert RULE.applied(Refusal(error)) is None


def test_without_a_line_a_rule_that_asks_for_one_does_not_apply():
    assert RULE.applied(Refusal(RuntimeError("no such index"))) is None


def test_what_an_exception_was_raised_from_counts_too(place):
    outer = ValueError("outer")
    outer.__cause__ = RuntimeError(place)
    assert RULE.applied(Refusal(outer)) is not None


def test_a_note_of_a_target_counts_as_text():
    error = RuntimeError("no kernel")
    error.add_note("the node takes float64")
    rule = Rule(said="takes (?P<x>.+)", kind="unsupported operator", cause="{x}", remedy="r")
    cause = rule.applied(Refusal(error))
    assert cause is not None
    assert cause.text == "float64"


def rules() -> list[Rule]:
    return [rule for table in TABLES.values() for rule in table]


def test_every_rule_is_a_sentence_and_a_remedy_that_can_be_filled_in():
    for rule in rules():
        names = {*re.compile(rule.said).groupindex, *re.compile(rule.line).groupindex, "here"}
        filled = dict.fromkeys(names, "")
        assert rule.cause.format_map(filled), rule
        assert rule.remedy.format_map(filled), rule
        assert not rule.cause.endswith("."), rule


def test_no_message_makes_a_rule_search_for_long():
    """A group that is repeated inside a repeated group would take exponential time."""
    long = "Tracer cannot infer type of " + "0.9981 [x, " * 500 + "\n" * 200
    for target in TABLES:
        for rule in TABLES[target]:
            rule.applied(Refusal(RuntimeError(long)))
