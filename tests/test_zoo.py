"""Every model of the zoo on every target: the verdict is the true one, and nothing of the user's has changed.

A miss (an artifact that differs and passes) and a false alarm (a faithful one that fails) both end here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import zoo
from untouched import changed, facts_of

import pytest_torchexport

# Few drawn calls: each model shows what it has on the boundary calls or on any draw.
MAX_EXAMPLES = 20
# What has been collected is not lost again: models that must pass, and models that must not, per target.
HEALTHY = {"trace": 290, "script": 335, "export": 290, "onnx": 275, "onnx_legacy": 265}
BROKEN = {"trace": 160, "script": 110, "export": 160, "onnx": 165, "onnx_legacy": 180}


@pytest.mark.parametrize("target", zoo.TARGETS)
@pytest.mark.parametrize("row", zoo.ZOO, ids=lambda row: row.name.replace(" ", "-"))
def test_verdict_is_the_truth(row: zoo.Row, target: str) -> None:
    args, kwargs = row.example()
    subject = row.build()
    before = facts_of(subject, (args, kwargs))
    verdict = pytest_torchexport.check_export(
        subject,
        args,
        kwargs,
        target=target,
        max_examples=MAX_EXAMPLES,
        **row.options,
    )
    print(_told(verdict))
    assert changed(before, facts_of(subject, (args, kwargs))) == []
    expected = row.expect[target]
    if expected == zoo.SKIPPED:
        assert verdict.status == "skipped", _told(verdict)
    else:
        assert verdict.failure == expected, _told(verdict)
        assert verdict.status == ("passed" if expected is None else "failed"), _told(verdict)
    if verdict.status == "passed":
        said = "; ".join(verdict.ineffective)
        assert row.weak in said, _told(verdict)
        assert bool(row.weak) == bool(said), _told(verdict)


@pytest.mark.parametrize("target", zoo.TARGETS)
def test_every_target_has_models_that_fail_and_models_that_pass(target: str) -> None:
    expected = Counter(row.expect[target] for row in zoo.ZOO)
    broken = expected.total() - expected[None] - expected[zoo.SKIPPED]
    assert expected[None] >= HEALTHY[target]
    assert broken >= BROKEN[target]


def test_the_zoo_is_large_and_its_names_are_unique() -> None:
    names = [row.name for row in zoo.ZOO]
    assert len(names) >= 400
    assert len(set(names)) == len(names)


def test_every_row_says_what_is_true_of_every_target() -> None:
    failures = {cls.__name__ for cls in pytest_torchexport.Failure.__subclasses__()}
    for row in zoo.ZOO:
        assert tuple(row.expect) == zoo.TARGETS, row.name
        assert set(row.expect.values()) - {None, zoo.SKIPPED} <= failures, row.name


def _told(verdict: Any) -> str:
    lines = [f"{verdict.status} {verdict.failure or ''}: {verdict.reason}"]
    lines += [f"detail  {line}" for line in verdict.details]
    lines += [f"where   {verdict.where}"] if verdict.where else []
    lines += [f"differs {item}" for item in verdict.differences]
    lines += [f"call    {verdict.call}"] if verdict.call else []
    lines += [f"note    {line}" for line in verdict.notes]
    lines += [f"weak    {line}" for line in verdict.ineffective]
    lines.append(f"calls   {verdict.calls}")
    return "\n".join(lines)
