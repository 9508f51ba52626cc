"""Choose numbers of the inputs that have no slope, by what is computed from them.

Separate from ``moves``, which follow slopes or write what is compared; ``numbers`` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pytest_torchexport.explore.moves import amounts, may_change, range_of
from pytest_torchexport.explore.numbers import Among, Demand, Effort, demands_of, met
from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.recipes import Recipe, with_leaves
from pytest_torchexport.inputs.spec import InputSpec


def assigned(spec: InputSpec, recipe: Recipe, probe: Probe, wanted: bool) -> Iterator[Recipe]:
    """Choose numbers of the inputs such that what is computed from them meets the comparisons.

    First such that one element that is compared does, then such that all do. An operand that is a
    part of an input is left to ``moves.written``, and numbers that have a slope are not changed.
    """
    if probe.provenance is not None:
        for demands in demands_of(probe.provenance, wanted, probe.tape):
            made = _meeting(spec, recipe, (probe,), demands, Effort())
            if made is not None:
                yield made


def assigned_to_all(
    spec: InputSpec, recipe: Recipe, probes: Sequence[Probe], most: Effort
) -> Recipe | None:
    """Choose numbers of the inputs such that an element of each of some thresholds is there.

    Return None if none are found, or if the elements have slopes. ``most`` is what it may take.
    """
    demands = [probe.demand for probe in probes if probe.demand is not None]
    return _meeting(spec, recipe, probes, demands, most) if len(demands) == len(probes) else None


def reread(
    spec: InputSpec, recipe: Recipe, probe: Probe, position: int, missing: float
) -> Iterator[Recipe]:
    """Choose numbers of the inputs for which an integer that was read is another one.

    ``position`` is its place among those that were read, the last one first.
    """
    whole = [
        (value, origin)
        for value, tensor in probe.reads
        if tensor.numel() == 1 and not tensor.is_floating_point()
        for origin in [probe.tape.of(tensor)]
        if origin is not None
    ]
    for value, origin in whole[position : position + 1]:
        changes = (round(amount) for amount in amounts(int(value), missing))
        for change in dict.fromkeys(filter(None, changes)):
            demand = Demand(origin, 0, "==", value + change)
            made = _meeting(spec, recipe, (probe,), [demand], Effort())
            if made is not None:
                yield made


def _meeting(
    spec: InputSpec,
    recipe: Recipe,
    probes: Sequence[Probe],
    demands: Sequence[Demand],
    most: Effort,
) -> Recipe | None:
    """Return a call that meets demands, if there are numbers without a slope that do."""
    built = build_leaves(spec, recipe)
    if built is None or not probes:
        return None
    inputs = probes[0].inputs
    among = {
        index: _among(leaf)
        for index, (leaf, given) in enumerate(zip(spec.leaves, inputs, strict=True))
        if may_change(leaf)
        and given is not None
        and given.shape == built[index].shape
        and not any(_has_slope(probe, index) for probe in probes)
    }
    given = {index: item for index, item in enumerate(inputs) if item is not None}
    given |= {index: built[index] for index in among}
    leaves = {index: item.detach() for index, item in given.items()}
    found = met(demands, leaves, among, most)
    if found is None:
        return None
    changed = {index: item for index, item in found.items() if not torch.equal(item, leaves[index])}
    return with_leaves(recipe, changed)


def _has_slope(probe: Probe, leaf: int) -> bool:
    gradient = probe.gradients.get(leaf)
    return gradient is not None and bool(gradient.any())


def _among(leaf: Any) -> Among:
    """Return the numbers that an element of a leaf may have."""
    domain = leaf.domain
    if domain.choices:
        return Among(0, 0, tuple(domain.choices))
    if domain.kind == "float":
        return Among(*range_of(leaf))
    return Among(int(domain.low or 0), 1 if domain.kind == "bool" else int(domain.high or 0))
