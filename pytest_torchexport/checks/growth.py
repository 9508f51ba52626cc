"""The memory that a process keeps per new size of the artifact's inputs, beside eager's.

A server that meets many sizes runs out of memory if each of them leaves something behind. Raises
ArtifactGrows, and Ineffective under strict if a limit could not be applied.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.fork import Death, can_fork
from pytest_torchexport.outcomes.resident_memory import EACH, GROUPS, growth
from pytest_torchexport.results.failures import ArtifactGrows
from pytest_torchexport.results.verdict import MemoryGrowth, bytes_text
from pytest_torchexport.targets.base import served

# Seconds for all calls of one side.
SECONDS = 20.0
# The largest, which is called before the others, and those of the groups.
SIZES = 1 + GROUPS * EACH
MEBIBYTE = 2**20
FEW = (
    "memory growth not measured: no dim has {} legal sizes that were not run yet; declare a wider "
    "range with dims="
)
ELSEWHERE = (
    "memory growth not measured: it is measured in a fork of this process, on Linux without CUDA, "
    "and not of an artifact that is called in a process of its own"
)
NEXT = (
    "next step: serve few sizes (pad to the next of them), or release what a runtime keeps per "
    "shape (ONNX Runtime: enable_mem_pattern, the arena; TorchScript: the profiling executor)"
)


def measure(case: Case) -> None:
    """Log the growth of memory. Raises ArtifactGrows if it exceeds the limit in every group."""
    limit = case.plan.settings.max_growth
    # Without a limit, most items have too few sizes, and nobody waits for the row.
    tell = case.not_applied if limit else case.log.note
    if case.runner.isolated or not can_fork():
        tell(ELSEWHERE)
        return
    dim, sizes = _chosen(case)
    if dim is None:
        tell(FEW.format(SIZES))
        return
    with case.log.timed("memory"), case.reference.served.entered():
        eager, artifact = (growth(_calls(case, dim, run), sizes, SECONDS) for run in _sides(case))
    if isinstance(eager, Death) or isinstance(artifact, Death):
        side, death = ("eager", eager) if isinstance(eager, Death) else ("the artifact", artifact)
        tell(f"memory growth not measured: {side} {death}")
        return
    row = MemoryGrowth(
        dim=dim.name,
        sizes=SIZES - 1,
        eager=statistics.median(eager),
        artifact=statistics.median(artifact),
    )
    case.log.growth = row
    # In each of so many groups: chance alone does it in one of a thousand items.
    more = [other - one for one, other in zip(eager, artifact, strict=True)]
    if limit and min(more) > limit * MEBIBYTE:
        raise ArtifactGrows(
            f"it keeps {bytes_text(row.artifact)} per new size of {dim.name}, eager "
            f"{bytes_text(row.eager)}; the limit is {bytes_text(limit * MEBIBYTE)} more "
            "(torchexport_max_growth)",
            details=(f"in each of {GROUPS} groups of {EACH} new sizes", NEXT),
        )


def _chosen(case: Case) -> tuple[Dim | None, list[int]]:
    """Return the dim with the most sizes that were not run, and of these the nearest, in order.

    The nearest to the example's: a range may go to where a call takes minutes.
    """
    best: tuple[Dim | None, list[int]] = None, []
    for dim in case.spec.dims.values():
        run = case.log.covered.sizes.get(dim.name, set())
        low = max(dim.low, dim.example - 4 * SIZES)
        high = min(dim.high, dim.example + 4 * SIZES)
        new = [size for size in dim.sizes if low <= size <= high and size and size not in run]
        if len(new) >= SIZES and len(new) > len(best[1]):
            best = dim, sorted(new, key=lambda size: abs(size - dim.example))
    return best[0], sorted(best[1][:SIZES], reverse=True)


def _sides(case: Case) -> tuple[Callable[[Call], Any], Callable[[Call], Any]]:
    """Return what makes a call of eager, and of the artifact."""
    subject = case.reference.pristine.copy()
    return (
        lambda call: subject.function(*call.args, **call.kwargs),
        lambda call: served(case.artifact, call)(),
    )


def _calls(case: Case, dim: Dim, run: Callable[[Call], Any]) -> Callable[[int], Any]:
    def call(size: int) -> None:
        made = build(case.spec, example_recipe(case.spec, {dim.name: size}))
        if made is None:
            raise ValueError(f"has no legal call at {dim.name} = {size}")
        run(made)

    return call
