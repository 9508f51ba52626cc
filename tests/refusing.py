"""What the tests of the tables of refusals share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_torchexport.targets.refused.rule import Refusal, Rule


def refusal(make: Callable[[], object]) -> Refusal:
    """Return what a call of an exporter raises."""
    try:
        make()
    except Exception as error:  # torch has many classes
        return Refusal(error)
    raise AssertionError("it was exported")


def silent(rules: Iterable[Rule], refusals: Iterable[Refusal]) -> list[str]:
    """Return the causes of the rules that are the first to apply for none of the refusals."""
    rules = list(rules)
    heard = {next((rule for rule in rules if rule.applied(each)), None) for each in refusals}
    return [rule.cause for rule in rules if rule not in heard]
