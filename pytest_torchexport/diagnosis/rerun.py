"""Make the failing calls again, and save them with what eager and the artifact return."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pytest_torchexport.inputs.pytrees import flatten, is_plain
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import DEADLY, Case
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Outcome, Returned, Tensors, tensors_of
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    DimsNarrowed,
    Failure,
    OutputsDiffer,
    RoundTripDiffers,
    StateDiffers,
    StructureDiffers,
)

# Failures that a call of the artifact shows.
BY_A_CALL = (
    *DEADLY,
    ArtifactRaised,
    BranchFrozen,
    DimsNarrowed,
    OutputsDiffer,
    RoundTripDiffers,
    StateDiffers,
    StructureDiffers,
)
# TorchScript optimizes a program after its first calls, which may change what it does:
# https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
# Values that JSON has; Python's reads and writes nan and infinity too.
PLAIN = (bool, int, float, str, type(None))

Leaves = Mapping[str, Any]
# What a call returned, and the state after it. None for no call: the state at the start.
Result = tuple[Outcome | None, Tensors]


class Unreadable(TypeError):
    """A call holds what another process cannot read without the user's classes."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """Calls in a row, of which the last one fails, and its results by path.

    Without a call, the results are the state at the start. Calls are in the form that the
    artifact's file takes, and ``eager`` and ``artifact``, what the two sides return, in the form
    that the file returns; empty if they do not return. ``right`` is the side that the file is to
    agree with: eager, or the artifact as it is in memory.
    """

    calls: Sequence[Call]
    eager: Leaves
    artifact: Leaves
    right: Literal["eager", "artifact"]

    def save(self, path: Path) -> None:
        """Write one ``.npz`` file without pickles. Raises OSError, Unreadable."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        calls = [(call.args, call.kwargs) for call in self.calls]
        parts = {"calls": calls, "eager": self.eager, "artifact": self.artifact}
        for name, part in parts.items():
            form = json.dumps(_form(part, arrays, {}))
            arrays[name] = np.frombuffer(form.encode(), np.uint8)
        np.savez(path, allow_pickle=False, **arrays)


def _form(
    value: Any, arrays: dict[str, np.ndarray[Any, Any]], keys: dict[int, str]
) -> tuple[str, Any]:
    """Return the value as JSON, with containers of Python's own classes; put tensors into arrays.

    ``keys``: the array of each tensor by its id, so that a tensor given twice is stored once.
    """
    if isinstance(value, torch.Tensor):
        if id(value) not in keys:
            keys[id(value)] = f"tensor {len(arrays)}"
            arrays[keys[id(value)]] = _memory(value)
        dtype = str(value.dtype).removeprefix("torch.")
        held = [dtype, list(value.shape), list(value.stride()), value.requires_grad]
        return "tensor", [keys[id(value)], *held]
    if isinstance(value, Mapping):
        items = [(key, item) for key, item in value.items() if isinstance(key, PLAIN)]
        if len(items) < len(value):
            raise Unreadable("it holds a dict whose keys are objects")
        return "dict", [(key, _form(item, arrays, keys)) for key, item in items]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return kind, [_form(item, arrays, keys) for item in value]
    if isinstance(value, torch.dtype):
        return "dtype", str(value).removeprefix("torch.")
    if not isinstance(value, PLAIN):
        raise Unreadable(f"it holds a {type(value).__qualname__}, which no other process can read")
    return "plain", value


def _memory(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the bytes from a tensor's first element to its last, as they lie in memory."""
    if not is_plain(tensor):
        raise Unreadable(f"it holds a {tensor.layout} tensor of {tensor.dtype}")
    here = tensor.detach().resolve_conj().resolve_neg().cpu()
    if not here.numel():
        here = here.new_zeros(1)  # numpy has no memory to view as another dtype
    steps = zip(here.shape, here.stride(), strict=True)
    length = 1 + sum((size - 1) * step for size, step in steps)
    return here.as_strided((length,), (1,)).clone().view(torch.uint8).numpy()


def rerun(case: Case, failure: Failure) -> Rerun | None:
    """Make the failing calls again. Return None if these do not show the failure."""
    calls = _failing_calls(case, failure)
    if calls is None or cuda.lost():
        return None
    eager: Result = None, tensors_of(case.reference.pristine.copy().to(case.plan.device).module)
    if calls:
        eager = case.reference.in_a_row(calls)[-1]
    artifact: Result | None = None
    if not isinstance(failure, DEADLY):
        judge = case.judge_of(case.runner, ItemLog(), case.random_paths)
        artifact = judge.in_a_row(calls)[-1] if calls else (None, judge.tensors())
    state = isinstance(failure, StateDiffers)
    carried = artifact[1] if artifact is not None and state else {}
    repeats = REPEATS if len(calls) == 1 and not case.reference.stateful else 1
    seen = Rerun(
        calls=[case.artifact.pack_inputs(call) for call in calls] * repeats,
        eager=_leaves(case, eager, carried, state=state),
        artifact=_leaves(case, artifact, carried, state=state) if artifact is not None else {},
        right="artifact" if isinstance(failure, RoundTripDiffers) else "eager",
    )
    tolerance = case.judge.tolerance if calls else Tolerance(0.0, 0.0)
    if seen.right == "artifact":
        return seen if seen.artifact else None
    differs = compare_values(dict(seen.eager), dict(seen.artifact), tolerance)
    return seen if seen.eager and differs else None


def _failing_calls(case: Case, failure: Failure) -> Sequence[Call] | None:
    """Return the calls in a row of which the last one fails; None if no call shows the failure."""
    log = case.log
    if not isinstance(failure, BY_A_CALL):
        return None
    if log.row is not None or isinstance(failure, RoundTripDiffers):
        return log.row
    tried = log.shrunk.recipe if log.shrunk is not None else log.trying
    found = case.accepted.call(tried or example_recipe(case.spec))
    return (found.call,) if found is not None else None


def _leaves(case: Case, result: Result, carried: Tensors, *, state: bool) -> Leaves:
    """Return the outputs by path; with ``state``, inputs and state after the call as well.

    ``carried`` are the names of the state that the artifact has. Empty if it did not return.
    """
    outcome, tensors = result
    caches = case.reference.caches
    kept = {name: tensors[name] for name in carried if name in tensors and name not in caches}
    if not isinstance(outcome, Returned):
        return kept if outcome is None else {}
    pack = getattr(case.artifact, "pack_outputs", None)
    found = pack(outcome.value) if pack is not None else None
    if found is None:
        found = dict(flatten(outcome.value, "output")[0])
    found = {path: leaf for path, leaf in found.items() if path not in case.random_paths}
    if not state:
        return found
    inputs = case.artifact.pack_inputs(outcome.inputs).flatten("inputs")[0]
    return {**found, **dict(inputs), **kept}
