"""Differentiate the distance of one condition of a call with respect to the call's float inputs.

In a probe alone, what ``detach`` and ``no_grad`` cut off keeps its gradient, what is rounded has
that of the number before, and so have the rows of a table that indices looked up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pytest_torchexport.explore.conditions import ConditionOutcome
from pytest_torchexport.explore.provenance import MOST_DEMANDS, Provenance, demands, violation
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.operator_table import functions_of, of_kind
from pytest_torchexport.torch_private.circumstances import ends_gradients

# Pairs of a token and a row of its table for which the change is computed, per table.
MOST_GAINS = 2**25

# Their results have no gradient; NumPy takes no other tensors.
_DATA: Any = Tensor.data  # a descriptor, although it is typed as a tensor
_CUT = frozenset({torch.detach, Tensor.detach, _DATA.__get__})
_TO_NUMPY = (Tensor.numpy, Tensor.__array__)


# -- while the call runs ---------------------------------------------------------------------------


def _sloped(value: Tensor, source: Tensor) -> Tensor:
    """Return a value with the gradient of a source of the same shape."""
    found = source.clone()
    found.detach().copy_(value.detach())
    return found


@contextmanager
def frozen_parameters(module: torch.nn.Module | None) -> Iterator[None]:
    """Differentiate no parameter in the block: forward may write to it, and it costs time."""
    learned = (
        [item for item in module.parameters() if item.requires_grad] if module is not None else []
    )
    for item in learned:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in learned:
            item.requires_grad_(True)


@dataclass(frozen=True)
class Lookup:
    """Rows that were looked up in a table: by these indices, and as a leaf to differentiate."""

    indices: Tensor
    table: Tensor
    rows: Tensor


class SlopeMode(TorchFunctionMode):
    """Keeps the gradients that functions of a block cut off, and remembers its last lookups."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[Lookup] = []
        self._rounding = functions_of(of_kind("rounding", "whole"))

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if ends_gradients(function, args):
            return None
        if function in _TO_NUMPY:
            args = (args[0].detach(), *args[1:])
        result = function(*args, **kwargs)
        if function in _CUT:
            return args[0].view_as(args[0])
        if function in self._rounding and isinstance(result, Tensor) and result.requires_grad:
            return _sloped(result, args[0])
        if function in (F.embedding, F.embedding_bag) and isinstance(result, Tensor):
            # The result with the gradient of the rows that it was computed from.
            bag = function is F.embedding_bag
            plain = args[1].grad_fn is None and kwargs.get("per_sample_weights") is None
            if plain and (not bag or (args[0].dim() == 2 and kwargs.get("mode", "mean") == "mean")):
                rows = F.embedding(*args[:2]).detach().requires_grad_()
                self.lookups = [*self.lookups, Lookup(args[0], args[1], rows)][-MOST_DEMANDS:]
                return _sloped(result, rows.mean(1) if bag else rows)
        return result


class Differentiable:
    """A copy of a call whose float inputs can be differentiated with respect to."""

    def __init__(self, call: Call) -> None:
        self._sources: dict[int, Tensor] = {}
        given: list[Any] = []
        own = call.clone()
        leaves = own.leaves()
        for index, leaf in enumerate(leaves):
            first = next(number for number, each in enumerate(leaves) if each is leaf)
            if first < index:
                given.append(given[first])
            elif (
                isinstance(leaf, Tensor)
                and leaf.is_floating_point()
                and leaf.layout == torch.strided
            ):
                source = self._sources[index] = leaf.detach().requires_grad_()
                # Forward gets a copy: autograd forbids writing to the source itself.
                given.append(source.clone())
            else:
                given.append(leaf)
        _, structure = own.flatten()
        args, kwargs = structure.unflatten(given)
        self.call = Call(args, kwargs)
        self.inputs = tuple(item if isinstance(item, Tensor) else None for item in given)

    def gradients(
        self, outputs: Sequence[Any], pulls: Sequence[Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Return the gradients of tensors, or of edges with ``pulls``, per float leaf."""
        found = gradients(outputs, list(self._sources.values()), pulls)
        return {
            index: gradient.nan_to_num(0.0, 0.0, 0.0)
            for index, gradient in zip(self._sources, found, strict=True)
            if gradient is not None  # else nothing depends on this input
        }


class ProbeListener:
    """Makes the probe when ``call``, a copy with inputs to differentiate, reaches ``position``."""

    def __init__(self, call: Call, position: int, wanted: ConditionOutcome) -> None:
        self.slopes = SlopeMode()
        self.found: Probe | None = None
        self._position = position
        self._wanted = bool(wanted)
        self._earlier: list[tuple[Provenance, ConditionOutcome]] = []
        self._inputs = Differentiable(call)
        self.call = self._inputs.call

    def evaluated(
        self, position: int, provenance: Provenance | None, outcome: ConditionOutcome
    ) -> None:
        """Keep the last conditions before the probed one, and make the probe there.

        The call goes on afterwards: one that was cut might leave state that the next call sees.
        """
        if position == self._position:
            with torch.enable_grad():
                missing, found = None, list[Tensor]()
                if provenance is not None:
                    missing = violation(provenance, self._wanted)
                    found = demands(provenance, self._wanted) if missing is not None else []
                gaps = tuple(self._gaps(found))
                kept = [
                    distance
                    for earlier, result in reversed(self._earlier if gaps else ())
                    for distance in demands(earlier, bool(result))
                ][:MOST_DEMANDS]
                self.found = Probe(
                    missing=float(missing) if missing is not None else 0.0,
                    inputs=self._inputs.inputs,
                    provenance=provenance,
                    wanted=self._wanted,
                    demands=gaps,
                    earlier=functools.cache(lambda: tuple(self._gaps(kept))),
                    swaps=functools.cache(lambda: tuple(self._swaps(missing))),
                )
        elif position < self._position and provenance is not None:
            self._earlier = [*self._earlier, (provenance, outcome)][-MOST_DEMANDS:]

    def _gaps(self, distances: Sequence[Tensor]) -> Iterator[Gap]:
        for far in distances:
            if far.requires_grad and (found := self._inputs.gradients([far])):
                yield Gap(float(far), found)

    def _swaps(self, missing: Tensor | None) -> Iterator[Swaps]:
        """Yield the changes by other indices in the lookups that the distance depends on."""
        lookups = self.slopes.lookups if missing is not None and missing.requires_grad else []
        slopes = gradients([missing], [lookup.rows for lookup in lookups])
        for lookup, slope in zip(lookups, slopes, strict=True):
            if slope is None:
                continue
            table = lookup.table.detach()
            rows = slope.reshape(-1, slope.shape[-1])[: MOST_GAINS // max(len(table), 1)]
            known = lookup.rows.detach().reshape(-1, slope.shape[-1])[: len(rows)]
            yield Swaps(lookup.indices, rows @ table.T - (rows * known).sum(-1, keepdim=True))


# -- what it finds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """The distance of a demand, and its slopes per float leaf.

    ``exact``: a step is to end there, and not just beyond.
    """

    missing: float
    gradients: dict[int, Tensor]
    exact: bool = False

    @classmethod
    def to_zero(cls, apart: float, gradients: dict[int, Tensor]) -> Gap:
        """Return the distance to zero of a quantity that may be on either side of it."""
        if apart >= 0:
            return cls(apart, gradients, exact=True)
        return cls(-apart, {index: -slope for index, slope in gradients.items()}, exact=True)


@dataclass(frozen=True)
class Swaps:
    """The change of the distance, to first order, if another index is looked up.

    ``gains`` has a row for each of the first ``indices`` and a column for each row of the table.
    """

    indices: Tensor
    gains: Tensor


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The state of a call on its way to a goal.

    ``missing`` is its distance. ``inputs`` are the tensors that forward got. ``provenance`` is what
    is compared, and ``wanted`` the outcome of it. ``demands`` are what the goal needs, all of it,
    and ``earlier`` what keeps the last conditions before it at their outcomes. ``swaps`` are what
    other indices into tables would change; both are functions, as to differentiate takes long.
    """

    missing: float
    inputs: tuple[Tensor | None, ...]
    provenance: Provenance | None = None
    wanted: bool = True
    demands: tuple[Gap, ...] = ()
    earlier: Callable[[], tuple[Gap, ...]] = tuple
    swaps: Callable[[], tuple[Swaps, ...]] = tuple


def gradients(
    outputs: Sequence[Any], sources: Sequence[Tensor], pulls: Sequence[Tensor] | None = None
) -> list[Tensor | None]:
    """Return the gradients of tensors, or of edges with ``pulls``, with respect to each source.

    None for one on which nothing depends; for all of them if autograd raises, as it does where
    forward has written to what the gradient needs.
    """
    if not outputs or not sources:
        return [None] * len(sources)
    try:
        found = torch.autograd.grad(outputs, sources, pulls, retain_graph=True, allow_unused=True)
    except TimeLimitExceeded:
        raise
    except Exception:  # whatever the backward of a user's function raises
        return [None] * len(sources)
    return list(cast(Sequence["Tensor | None"], found))
