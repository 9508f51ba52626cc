"""Decide whether a failing call fails only because rounding decides one of its branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from pytest_torchexport.explore.paths import Event
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.branch_results import BranchResults
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.observe import Returned

# A sum of floats this near to a threshold, in units in the last place, may fall on either side.
# Measured: branches flip up to a relative margin of 1e-7 in float32, and none from 1e-6 on. In half
# precision that margin is only a few units.
UNITS = 100
FINE = 1e-4
COARSE = 4
# How many calls near one on a threshold are tried.
BESIDE = 8


def rounding_decides(case: Case, recipe: Recipe) -> bool:
    """Return True if rounding alone decides which branch a failing call takes.

    That is so if the artifact has the branch too, and does what eager does on a call that differs
    by a few units in the last place.

    An operand that is an element of the input does not count: it was not rounded.
    """
    branches = case.branches
    if not isinstance(branches, BranchResults) or branches.artifact is None:
        return False
    with case.log.during(Activity.EAGER):
        path = branches.path(recipe)
    call = build(case.spec, recipe)
    if path is None or call is None:
        return False
    eps = _precision(call)
    near = [
        event.relative
        for event in path.events
        if event.rounded
        and event.relative <= max(min(UNITS * eps, FINE), COARSE * eps)
        and branches.has_branch(event.key[0]) is not False
        and not _is_of_the_input(call, event)
    ]
    return bool(near) and _agrees_beside(case, call, max(COARSE * max(near), COARSE * eps))


def _agrees_beside(case: Case, call: Call, distance: float) -> bool:
    own = case.reference.on_cpu(call)
    done = case.judge.run(call)
    for other in _beside(call, distance):
        outcome = case.reference.on_cpu(other)
        if not isinstance(own, Returned) or not isinstance(outcome, Returned):
            continue
        wanted = case.reference.on_device(other, outcome)
        if not isinstance(wanted, Returned):
            continue
        wanted = dataclasses.replace(wanted, inputs=own.inputs)  # they were moved on purpose
        if not case.judge.differences([other], wanted, done):
            return True
    return False


def _beside(call: Call, distance: float) -> Iterator[Call]:
    """Yield the call with its floats moved by a relative ``distance``: up, down, at random."""
    generator = torch.Generator().manual_seed(0)

    def moved(leaf: Any, way: int) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.rand(leaf.shape, generator=generator) * 2 - 1 if way > 1 else 1 - 2 * way
        return (leaf * (1 + distance * signs)).to(leaf.dtype)

    for way in range(BESIDE):
        args, kwargs = tree_map(partial(moved, way=way), (call.args, dict(call.kwargs)))
        yield Call(args, kwargs)


def _is_of_the_input(call: Call, event: Event) -> bool:
    """Return True if a condition compared only constants and unchanged elements of the inputs."""
    compared = [item for item in event.operands if isinstance(item, float)]
    floats = [item for item in call.tensors() if item.is_floating_point()]
    computed = [
        number
        for number in compared[: 1 if len(compared) > 1 else None]
        if not any(bool((item.double() == number).any()) for item in floats)
    ]
    return bool(compared) and not computed


def _precision(call: Call) -> float:
    """Return the largest epsilon among a call's float dtypes."""
    floats = [item.dtype for item in call.tensors() if item.is_floating_point()]
    return max([torch.finfo(dtype).eps for dtype in floats or [torch.float32]])
