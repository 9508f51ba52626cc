"""Differentiate the distance of one condition of a call with respect to the call's float inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from pytest_torchexport.explore.choices import place_demands, rankings
from pytest_torchexport.explore.conditions import ConditionOutcome
from pytest_torchexport.explore.integers import Demand, Origin, Origins, demands_of
from pytest_torchexport.explore.provenance import Provenance, ProvenanceMode, demands, violation
from pytest_torchexport.explore.slopes import Lookup, SlopeMode
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.operators import tells_numbers, tensors_among
from pytest_torchexport.torch_private.dispatcher import is_operator

# How many conditions before the probed one are to keep their outcome.
MAX_EARLIER = 5
# How many of their distances.
MAX_KEPT = 12
# Integers that were read of which others are tried.
MOST_REREAD = 2
# Pairs of a token and a row of its table for which the change is computed, per table.
MOST_GAINS = 2**25


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

    @staticmethod
    def together(gaps: Iterable[Gap]) -> dict[int, Tensor]:
        """Return the slopes of the sum."""
        found: dict[int, Tensor] = {}
        for gap in gaps:
            for index, gradient in gap.gradients.items():
                found[index] = found[index] + gradient if index in found else gradient
        return found


@dataclass(frozen=True)
class Swaps:
    """The change of the distance, to first order, if another index is looked up.

    ``gains`` has a row for each of the first ``indices`` and a column for each row of the table.
    """

    indices: Tensor
    gains: Tensor


_Item = TypeVar("_Item")


class Lazily(Generic[_Item]):
    """Items, each of which is made when it is asked for: to differentiate takes long.

    They are made with grad mode on, whatever the mode is then.
    """

    def __init__(self, made: Iterable[_Item]) -> None:
        self._made = iter(made)
        self._known: list[_Item] = []

    def get(self, number: int) -> _Item | None:
        """Return an item by its number, or None if there are fewer."""
        with torch.enable_grad():
            self._known += itertools.islice(self._made, max(0, number + 1 - len(self._known)))
        return self._known[number] if number < len(self._known) else None

    def __iter__(self) -> Iterator[_Item]:
        """Yield the items in their order."""
        for number in itertools.count():
            item = self.get(number)
            if item is None:
                return
            yield item


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The state of a call on its way to a goal.

    ``missing`` is its distance, and ``gradients`` those of the distance per float leaf of the call,
    by position. ``inputs`` are the tensors that forward got. ``provenance`` is what is compared,
    and ``wanted`` the outcome of it. ``demands`` are what the goal needs, all of it, and
    ``earlier`` what keeps the last conditions before it at their outcomes. ``numbers`` are the same
    demands of what was computed from the inputs: one set of them or another. ``places`` are what it
    takes to choose other places, and ``swaps`` what other indices into tables would change.
    ``origins`` know what tensors of the call were computed from, if that was asked for. ``told``
    are the origins, None if unknown, of all tensors whose numbers decided a size or left torch
    before.
    """

    missing: float
    gradients: dict[int, Tensor]
    inputs: tuple[Tensor | None, ...]
    provenance: Provenance | None = None
    wanted: bool = True
    demands: tuple[Gap, ...] = ()
    earlier: Lazily[Gap] = field(default_factory=lambda: Lazily(()))
    numbers: Lazily[list[Demand]] = field(default_factory=lambda: Lazily(()))
    places: Lazily[tuple[Gap, ...]] = field(default_factory=lambda: Lazily(()))
    swaps: Lazily[Swaps] = field(default_factory=lambda: Lazily(()))
    origins: Origins = field(default_factory=lambda: Origins(()))
    told: Sequence[Origin | None] = ()

    def has_slope(self, leaf: int) -> bool:
        """Return True if the distance has a gradient with respect to a leaf."""
        gradient = self.gradients.get(leaf)
        return gradient is not None and bool(gradient.any())


class Differentiable:
    """A copy of a call whose float inputs can be differentiated with respect to."""

    def __init__(self, call: Call) -> None:
        self._sources: dict[int, Tensor] = {}
        self.given: list[Any] = []
        own = call.clone()
        for index, leaf in enumerate(own.leaves()):
            if (
                isinstance(leaf, Tensor)
                and leaf.is_floating_point()
                and leaf.layout == torch.strided
            ):
                source = self._sources[index] = leaf.detach().requires_grad_()
                # Forward gets a copy: autograd forbids writing to the source itself.
                self.given.append(source.clone())
            else:
                self.given.append(leaf)
        _, structure = own.flatten()
        args, kwargs = structure.unflatten(self.given)
        self.call = Call(args, kwargs)

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """The tensors that forward gets, None for other arguments."""
        return tuple(item if isinstance(item, Tensor) else None for item in self.given)

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

    def __init__(
        self,
        call: Call,
        position: int,
        wanted: ConditionOutcome,
        slopes: SlopeMode,
        mode: ProvenanceMode,
    ) -> None:
        self.slopes = slopes
        self._mode = mode
        self.found: Probe | None = None
        self._position = position
        self._wanted = wanted
        self._earlier: list[tuple[Provenance, ConditionOutcome]] = []
        self._inputs = Differentiable(call)
        self.call = self._inputs.call
        self.origins = Origins(self._inputs.inputs)
        self._told: list[Origin | None] = []

    def evaluated(
        self, position: int, provenance: Provenance | None, outcome: ConditionOutcome
    ) -> None:
        """Keep the last conditions before the probed one, and make the probe there.

        The call goes on afterwards: one that was cut might leave state that the next call sees.
        """
        if position == self._position:
            with self.slopes.paused(), torch.enable_grad():
                self._make(provenance)
        elif position < self._position and provenance is not None:
            self._earlier = [*self._earlier, (provenance, outcome)][-MAX_EARLIER:]

    def saw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, and remember it."""
        if not self._mode.is_disabled and tells_numbers(func, args):
            self._told += map(self.origins.of, tensors_among([*args, *kwargs.values()]))
        result = func(*args, **kwargs)
        if is_operator(func):
            self.origins.saw(func, args, kwargs, result)
        return result

    def _make(self, provenance: Provenance | None) -> None:
        wanted = bool(self._wanted)
        missing = violation(provenance, wanted) if provenance is not None else None
        gaps = tuple(self._gaps(demands(provenance, wanted) if missing is not None else []))
        kept = [
            gap
            for earlier, outcome in (reversed(self._earlier) if gaps or self.slopes.choices else ())
            for gap in place_demands(earlier, bool(outcome), self.slopes.choices)
            or demands(earlier, bool(outcome))
        ]
        self.found = Probe(
            missing=float(missing.detach()) if missing is not None else 0.0,
            gradients=self._gradients(missing),
            inputs=self._inputs.inputs,
            provenance=provenance,
            wanted=wanted,
            demands=gaps,
            earlier=Lazily(self._kept(kept[:MAX_KEPT])),
            numbers=Lazily(self._numbers(provenance, wanted, missing)),
            places=Lazily(
                tuple(self._gaps(far)) for far in rankings(provenance, wanted, self.slopes.choices)
            ),
            swaps=Lazily(_swaps(self._pulled(missing))),
            origins=self.origins,
            told=[*self._told, *map(self.origins.of, self.slopes.handed_out)],
        )

    def _numbers(
        self, provenance: Provenance | None, wanted: bool, missing: Tensor | None
    ) -> Iterator[list[Demand]]:
        """Yield the demands of what is compared, then others of the integers that were read last.

        Python may have computed anything from those.
        """
        if provenance is not None:
            yield from demands_of(provenance, wanted, self.origins)
        far = round(float(missing)) if missing is not None and missing.isfinite() else 0
        for value, tensor in self._mode.reads()[:MOST_REREAD]:
            origin = self.origins.of(tensor)
            if origin is not None and tensor.numel() == 1 and not tensor.is_floating_point():
                for change in dict.fromkeys((far, -far, 1, -1, 2, -2)):
                    if change:
                        yield [Demand(origin, 0, "==", value + change)]

    def _gaps(self, distances: Sequence[Tensor | None]) -> Iterator[Gap]:
        """Yield those distances that depend on the inputs."""
        for far in distances:
            gradients = self._gradients(far)
            if far is not None and gradients:
                yield Gap(float(far.detach()), gradients)

    def _kept(self, distances: Sequence[Tensor]) -> Iterator[Gap]:
        """Yield those that depend on the inputs; what is to keep its outcome has two sides."""
        with self.slopes.both_sides():
            found = tuple(self._gaps(distances))
        yield from found

    def _pulled(self, missing: Tensor | None) -> list[tuple[Lookup, Tensor]]:
        """Return the lookups that the distance depends on, and its gradients per row."""
        if missing is None or not missing.requires_grad:
            return []
        lookups = self.slopes.lookups
        found = gradients([missing], [lookup.rows for lookup in lookups])
        pairs = zip(lookups, found, strict=True)
        return [(lookup, slope) for lookup, slope in pairs if slope is not None]

    def _gradients(self, of: Tensor | None) -> dict[int, Tensor]:
        return self._inputs.gradients([of]) if of is not None and of.requires_grad else {}


def _swaps(pulled: Iterable[tuple[Lookup, Tensor]]) -> Iterator[Swaps]:
    for lookup, slope in pulled:
        table = lookup.table.detach()
        rows = slope.reshape(-1, slope.shape[-1])[: MOST_GAINS // max(len(table), 1)]
        known = lookup.rows.detach().reshape(-1, slope.shape[-1])[: len(rows)]
        yield Swaps(lookup.indices, rows @ table.T - (rows * known).sum(-1, keepdim=True))


@contextmanager
def frozen_parameters(module: torch.nn.Module | None) -> Iterator[None]:
    """Differentiate no parameter in the block: it would cost as much again as the inputs."""
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
