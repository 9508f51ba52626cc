"""Examine whether a failure is a defect that is known upstream.

The evidence is an experiment: eager runs the failing call once more with one operator replaced by
an imitation of the defect. If it then returns what the artifact does, the defect explains it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pytest_torchexport.diagnosis.defect import Defect
from pytest_torchexport.diagnosis.known_defects import DEFECTS
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, observe
from pytest_torchexport.outcomes.operators import (
    dispatched,
    name_of,
    outs_of,
    writing_nothing,
    written_to,
)
from pytest_torchexport.results.diagnosis import Diagnosis, Known
from pytest_torchexport.results.reports import environment
from pytest_torchexport.torch_private.dispatcher import Handle, is_operator


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the known defect that explains the failure, and its owner, if exactly one does."""
    call, expected = scene.call, scene.expected
    rows = possible(DEFECTS, scene.case.plan.target, known, environment())
    if call is None or expected is None or scene.case.foreign or not rows:
        return known
    used = _operators(scene, call)
    rows = [row for row in rows if used.intersection(row.operators)]
    if not rows:
        return known
    actual = scene.judge().run(call)
    found = [row for row in rows if _explains(row, scene, call, expected, actual)]
    if len(found) != 1:
        return known
    row = found[0]
    defect = Known(issue=row.issue, text=row.text, fixed_in=row.fixed_in, remedy=row.remedy)
    owner = known.owner or row.owner
    return dataclasses.replace(known, owner=owner, known=(*known.known, defect))


def possible(
    rows: Sequence[Defect], target: str, known: Diagnosis, installed: Mapping[str, str]
) -> list[Defect]:
    """Return the defects that what is known of a failure does not rule out."""
    return [
        row
        for row in rows
        if target in row.targets and row.fits(known) and not row.is_fixed(installed)
    ]


def _operators(scene: Scene, call: Call) -> frozenset[str]:
    """Return the names of the operators that eager runs on the call."""
    names = set[str]()

    def handle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_operator(func):
            names.add(name_of(func))
        return func(*args, **kwargs)

    _eager(scene, call, handle)
    return frozenset(names)


def _explains(row: Defect, scene: Scene, call: Call, expected: Returned, actual: Outcome) -> bool:
    """Return True if eager with the defect does what the artifact does, and not what eager does."""

    def handle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_operator(func) or name_of(func) not in row.operators:
            return func(*args, **kwargs)
        given = {name: value for name, value in kwargs.items() if name not in outs_of(func)}
        made = row.imitate(writing_nothing(func), *args, **given)
        if "self" in written_to(func) and isinstance(made, torch.Tensor):
            return args[0].copy_(made)
        return _put_into([kwargs[name] for name in outs_of(func)], made)

    with_defect = _eager(scene, call, handle)
    if isinstance(with_defect, Raised):
        # An empty text is no evidence: all others contain it.
        message = with_defect.message
        return isinstance(actual, Raised) and bool(message) and message in actual.message
    return (
        isinstance(with_defect, Returned)
        and bool(scene.differences(call, expected, with_defect))
        and not scene.differences(call, with_defect, actual)
    )


def _put_into(outs: Sequence[torch.Tensor], made: Any) -> Any:
    """Return what an operator made, written to the tensors of its ``out=`` if it has them."""
    if not outs:
        return made
    for out, tensor in zip(outs, made if isinstance(made, (list, tuple)) else [made], strict=True):
        out.resize_(tensor.shape).copy_(tensor)
    return outs[0] if len(outs) == 1 else tuple(outs)


def _eager(scene: Scene, call: Call, handle: Handle) -> Outcome:
    """Return eager's outcome, each operator replaced by ``handle(operator, args, kwargs)``."""
    plan = scene.case.plan
    subject = scene.case.reference.pristine.copy().to(plan.device)

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(handle):
            return subject.function(*args, **kwargs)

    return observe(run, call.to(plan.device), seed=plan.seed, grad_mode=subject.grad_mode)
