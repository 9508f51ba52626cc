"""Every model of the zoo on every target: the verdict is the true one, and nothing of the user's has changed.

A miss (an artifact that differs and passes) and a false alarm (a faithful one that fails) both end here.
"""

from __future__ import annotations

import inspect
import os
import zlib
from collections import Counter
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from untouched import changed, facts_of

import pytest_torchexport
from pytest_torchexport.config import names

# Few drawn calls: each model shows what it has on the boundary calls or on any draw.
MAX_EXAMPLES = 20
# All of it takes half an hour on two cores: `tox -e zoo`, which sets TORCHEXPORT_ZOO=all. Otherwise each model runs once for
# each verdict that is true of it, on one of the targets that it is true of; every other one that passes on many, on two.
EVERYTHING = os.environ.get("TORCHEXPORT_ZOO") == "all"
MANY = 3
# The way to another process is the same for all models; of those whose matter is another, one in so many takes it.
TAKES_THE_TRIP = 1 if EVERYTHING else 3
# What has been collected is not lost again: models that must pass, and models that must not, per target.
HEALTHY = {"trace": 290, "script": 335, "export": 290, "onnx": 275, "onnx_legacy": 265}
BROKEN = {"trace": 160, "script": 110, "export": 160, "onnx": 165, "onnx_legacy": 180}
# Models that come with calls that take their branches' other sides.
WITNESSED = tuple(row for row in zoo.ZOO if row.witnesses)


def _cases() -> list[Any]:
    return [
        pytest.param(row, target, id=f"{row.name.replace(' ', '-')}-{target}")
        for row in zoo.ZOO
        for target in zoo.TARGETS
        if EVERYTHING or _is_drawn(row, target)
    ]


def _is_drawn(row: zoo.Row, target: str) -> bool:
    lot = zlib.crc32(row.name.encode())
    alike = [other for other in zoo.TARGETS if row.expect[other] == row.expect[target]]
    if len(alike) > 1 and "onnx" in alike and lot % 3:
        alike.remove(
            "onnx"
        )  # which takes three times as long as others, and tells what export tells
    drawn = {alike[lot % len(alike)]}
    if row.expect[target] is None and len(alike) >= MANY and lot % 2:
        drawn.add(alike[(lot + 2) % len(alike)])
    return target in drawn


@pytest.mark.parametrize(("row", "target"), _cases())
def test_verdict_is_the_truth(row: zoo.Row, target: str) -> None:
    args, kwargs = row.example()
    subject = row.build()
    before = facts_of(subject, (args, kwargs))
    options = {"max_examples": MAX_EXAMPLES, "checks": _checks(row, target), **row.options}
    verdict = pytest_torchexport.check_export(subject, args, kwargs, target=target, **options)
    print(_told(verdict))
    assert changed(before, facts_of(subject, (args, kwargs))) == []
    expected = row.expect[target]
    if expected == zoo.SKIPPED:
        assert verdict.status == "skipped", _told(verdict)
    else:
        assert verdict.failure == expected, _told(verdict)
        assert verdict.status == ("passed" if expected is None else "failed"), _told(verdict)
    if verdict.failure == "BranchFrozen":
        assert row.line in str(verdict.where), _told(verdict)
    if verdict.status == "passed":
        said = "; ".join(verdict.ineffective)
        weak = row.weak if isinstance(row.weak, str) else row.weak.get(target, "")
        assert weak in said, _told(verdict)
        assert bool(weak) == bool(said), _told(verdict)


def _checks(row: zoo.Row, target: str) -> tuple[str, ...]:
    about_files = row in zoo.ABOUT_FILES or row.expect[target] in ("LoadFailed", "RoundTripDiffers")
    takes_it = about_files or zlib.crc32(row.name.encode()) % TAKES_THE_TRIP == 0
    return (
        names.checks()
        if takes_it
        else tuple(name for name in names.checks() if name != "round_trip")
    )


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", WITNESSED, ids=lambda row: row.name.replace(" ", "-"))
def test_witnesses_are_legal_and_show_what_a_trace_has_frozen(row: zoo.Row) -> None:
    outcomes = [(witness(), _eager(row, witness())) for witness in row.witnesses]
    if row.expect["trace"] != zoo.BRANCH:
        return
    traced = _traced(row.build(), *row.example())
    assert any(_differs(traced, call, expected) for call, expected in outcomes)


def test_a_line_is_of_the_models_own_source() -> None:
    for row in zoo.ZOO:
        if row.line:
            assert row.line in inspect.getsource(inspect.getmodule(type(row.build()))), row.name


class OfTensors(nn.Module):
    """A model as a function of a call's tensors; the numbers among its arguments stay."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.model = model
        self.constants = args

    def forward(self, *tensors: Tensor) -> Any:
        waiting = iter(tensors)
        return self.model(
            *(next(waiting) if isinstance(arg, Tensor) else arg for arg in self.constants)
        )


def _traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    assert not kwargs, "rows with witnesses give what they give by position"
    return torch.jit.trace(OfTensors(model, args), _tensors(args), check_trace=False)


def _eager(row: zoo.Row, call: Any) -> Any:
    args, kwargs = call
    return row.build()(*args, **kwargs)


def _differs(traced: Any, call: Any, expected: Any) -> bool:
    """Whether the trace raises, or returns other numbers."""
    try:
        torch.testing.assert_close(traced(*_tensors(call[0])), expected, equal_nan=True)
    except (AssertionError, RuntimeError):
        return True
    return False


def _tensors(args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(arg for arg in args if isinstance(arg, Tensor))


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
