"""Models of the zoo on targets: the verdict is the true one, and the check changes no argument.

A miss (an artifact that differs and passes) and a false alarm (a faithful one that fails) both fail
here. ``test_zoo_table.py`` tests the table itself.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from slow import EVERYTHING
from torch import Tensor, nn
from untouched import changed, facts_of

import pytest_torchexport
from pytest_torchexport.config import names
from pytest_torchexport.targets.upstream import rows

# Rows that also run with the artifact in its own process, and the targets on which CI checks them:
# dtypes, NaN, state, writes, random numbers and containers have to cross between the processes.
ISOLATED = {
    "bool sums": ("trace",),
    "bfloat16": ("export",),
    "relu of nan": ("onnx",),
    "buffer counter": ("trace", "export"),
    "ring buffer": ("script",),
    "writes input": ("script", "onnx"),
    "adds noise": ("trace", "export"),
    "mixed dict out": ("script", "export"),
    "int out": ("script",),
    "empty out": ("trace",),
    "namedtuple in": ("script", "onnx"),
    "bound method": ("export",),
}
ISOLATED_TARGETS = ("trace", "script", "export", "onnx")
ISOLATED_EXAMPLES = 3
# How the warning begins that eager depends on its mode or on the number of threads.
OTHERWISE = "eager returns something else"
# A doubt about the dims alone, of which tests/integration/targets/test_capturing.py is.
SPELLED = "the exporter silently makes"
# Models that come with calls that take the other outcomes of their branches.
WITNESSED = tuple(row for row in zoo.ZOO if row.witnesses)


def _cases() -> list[Any]:
    return [
        pytest.param(row, target, id=f"{row.name.replace(' ', '-')}-{target}")
        for row in zoo.ZOO
        for target in zoo.TARGETS
        if EVERYTHING
        or (row.name, target) in zoo.IN_CI
        or row.truth()[target] != row.expect[target]
    ]


def _explained() -> set[tuple[str, str]]:
    """Return the rows and targets whose diagnosis is checked: in CI one of each owner and cause.

    A diagnosis takes longer than the check. What is known of a library is checked for one row of
    each target.
    """
    first: dict[Any, tuple[str, str]] = {}
    for row, target in ((case.values[0], case.values[1]) for case in _cases()):
        blame = row.blamed(target) if target in row.blames() else None
        if blame is not None or target in row.known:
            kind = (target, blame and (blame.owner, blame.cause), target in row.known)
            first.setdefault((row.name, target) if EVERYTHING else kind, (row.name, target))
    return set(first.values())


EXPLAINED = _explained()


@pytest.mark.parametrize(("row", "target"), _cases())
def test_verdict_is_the_truth(row: zoo.Row, target: str) -> None:
    explained = EVERYTHING or (row.name, target) in EXPLAINED
    args, kwargs = row.example()
    subject = row.build()
    before = facts_of(subject, (args, kwargs))
    options = {"checks": _checks(row, target), **row.options}
    if not explained:
        options["diagnose"] = False
    with row.under():
        verdict = pytest_torchexport.check_export(subject, args, kwargs, target=target, **options)
    print(verdict)
    assert changed(before, facts_of(subject, (args, kwargs))) == []
    expected = row.truth()[target]
    if expected == zoo.SKIPPED:
        assert verdict.status == "skipped", verdict
    else:
        assert verdict.failure == expected, verdict
        assert verdict.status == ("passed" if expected is None else "failed"), verdict
    if verdict.failure == "BranchFrozen":
        assert row.line in str(verdict.where), verdict
    in_time = not any("no time left" in left for left in verdict.diagnosis.not_examined)
    if explained and in_time and row.truth() == row.expect:  # the versions of CI
        stated = [row.known[target]] if target in row.known else []
        assert _known(verdict) == stated, verdict
    blame = row.blamed(target) if target in row.blames() else None
    # A refusal is explained where it is raised, which takes no time.
    if (explained or expected == "ExportRefused") and blame is not None:
        named = blame.judge(verdict)
        assert set(named.values()) <= blame.legal, f"{named}\n{verdict}"
    if verdict.status == "passed":
        otherwise = [text for text in verdict.cautions if text.startswith(OTHERWISE)]
        weak = [text for text in verdict.ineffective if SPELLED not in text]
        for stated, warnings in ((row.weak, weak), (row.otherwise, otherwise)):
            words = stated if isinstance(stated, str) else stated.get(target, "")
            warning = "; ".join(warnings)
            assert words in warning, verdict
            assert bool(words) == bool(warning), verdict


def _known(verdict: Any) -> list[str]:
    """Return the names of the known defects that a failure looks like."""
    names_of = {defect.cause: defect.name for defect in rows("known_defects")}
    return [names_of[known.text] for known in verdict.diagnosis.known]


def _checks(row: zoo.Row, target: str) -> tuple[str, ...]:
    if EVERYTHING or zoo.IN_CI.get((row.name, target), False):
        return names.checks()
    return tuple(name for name in names.checks() if name != "round_trip")


def _isolated_cases() -> list[Any]:
    rows = {row.name: row for row in zoo.ZOO}
    return [
        pytest.param(rows[name], target, id=f"{name.replace(' ', '-')}-{target}")
        for name, in_ci in ISOLATED.items()
        for target in (ISOLATED_TARGETS if EVERYTHING else in_ci)
    ]


@pytest.mark.parametrize(("row", "target"), _isolated_cases())
def test_an_isolated_verdict_is_the_truth(row: zoo.Row, target: str) -> None:
    args, kwargs = row.example()
    options = {"max_examples": ISOLATED_EXAMPLES, "isolate": True, **row.options}
    subject = row.build()
    with row.under():
        verdict = pytest_torchexport.check_export(subject, args, kwargs, target=target, **options)
    expected = row.truth()[target]
    if expected == zoo.SKIPPED:
        assert verdict.status == "skipped", verdict
        return
    assert verdict.failure == expected, verdict
    assert verdict.isolated or expected in ("ExportRefused", "LoadFailed"), verdict


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", WITNESSED, ids=lambda row: row.name.replace(" ", "-"))
def test_witnesses_are_legal_and_show_what_a_trace_has_frozen(row: zoo.Row) -> None:
    outcomes = [(witness(), _eager(row, witness())) for witness in row.witnesses]
    if row.truth()["trace"] != zoo.BRANCH:
        return
    traced = _traced(row.build(), *row.example())
    assert any(_differs(traced, call, expected) for call, expected in outcomes)


class OfTensors(nn.Module):
    """Calls a model with a call's tensors; the arguments that are not tensors are constants."""

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
    assert not kwargs, "rows with witnesses pass arguments by position"
    return torch.jit.trace(OfTensors(model, args), _tensors(args), check_trace=False)


def _eager(row: zoo.Row, call: Any) -> Any:
    args, kwargs = call
    return row.build()(*args, **kwargs)


def _differs(traced: Any, call: Any, expected: Any) -> bool:
    """Return True if the trace raises or returns other numbers."""
    try:
        torch.testing.assert_close(traced(*_tensors(call[0])), expected, equal_nan=True)
    except (AssertionError, RuntimeError):
        return True
    return False


def _tensors(args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(arg for arg in args if isinstance(arg, Tensor))
