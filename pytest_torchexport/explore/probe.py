"""Differentiate the distance of one condition of a call with respect to the call's float inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pytest_torchexport.explore.aims import aims
from pytest_torchexport.explore.conditions import ConditionOutcome
from pytest_torchexport.explore.distance import demands, violation
from pytest_torchexport.explore.provenance import Provenance
from pytest_torchexport.explore.slopes import SlopeMode
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded

# How many conditions before the probed one are to keep their outcome.
MAX_EARLIER = 5
# How many of their distances.
MAX_KEPT = 12


@dataclass(frozen=True)
class Gap:
    """How far a condition, or an element that it compares, is from an outcome."""

    missing: float
    gradients: dict[int, Tensor]


class Aims:
    """The aims of a probe, each of which is differentiated when it is asked for."""

    def __init__(self, found: Iterator[tuple[Gap, ...]]) -> None:
        self._found = found
        self._known: list[tuple[Gap, ...]] = []

    def get(self, number: int) -> tuple[Gap, ...] | None:
        """Return an aim by its number; None if there are fewer, or if it was reached."""
        missing = number + 1 - len(self._known)
        self._known += itertools.islice(self._found, max(0, missing))
        reached = len(self._known) <= number or all(g.missing <= 0 for g in self._known[number])
        return None if reached else self._known[number]


@dataclass(frozen=True)
class Probe:
    """The state of a call at a condition that is to have the other outcome.

    ``missing`` is its distance to that outcome, and ``gradients`` those of the distance per float
    leaf of the call, by position. ``demands`` are what the outcome needs, all of it. ``earlier`` are
    what keeps the last conditions before this one at their outcomes. ``aims`` are other things
    that the condition may depend on: another place that is chosen, or another number that is read.
    ``inputs`` are the tensors that forward got.
    """

    missing: float
    gradients: dict[int, Tensor]
    demands: tuple[Gap, ...]
    earlier: tuple[Gap, ...]
    saturated: bool
    aims: Aims
    provenance: Provenance | None
    inputs: tuple[Tensor | None, ...]

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
        if not outputs or not self._sources:
            return {}
        try:
            found = torch.autograd.grad(
                outputs,
                list(self._sources.values()),
                pulls,
                retain_graph=True,
                allow_unused=True,
            )
        except TimeLimitExceeded:
            raise
        except Exception:  # an operator without a backward, or one whose backward is broken
            return {}
        pairs = zip(self._sources, cast(Sequence[Tensor | None], found), strict=True)
        return {
            index: gradient.nan_to_num(0.0, 0.0, 0.0)
            for index, gradient in pairs
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
        reads: Callable[[], Sequence[tuple[float, Tensor]]],
    ) -> None:
        self.slopes = slopes
        self._reads = reads
        self.found: Probe | None = None
        self._position = position
        self._wanted = wanted
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
            with self.slopes.paused():
                self._make(provenance)
        elif position < self._position and provenance is not None:
            self._earlier = [*self._earlier, (provenance, outcome)][-MAX_EARLIER:]

    def _make(self, provenance: Provenance | None) -> None:
        missing = violation(provenance, bool(self._wanted)) if provenance is not None else None
        wanted = demands(provenance, bool(self._wanted)) if missing is not None else []
        found = tuple(self._gaps(wanted))
        before = reversed(self._earlier) if found else ()
        kept = [gap for earlier, outcome in before for gap in demands(earlier, bool(outcome))]
        self.found = Probe(
            missing=float(missing.detach()) if missing is not None else 0.0,
            gradients=self._gradients(missing),
            demands=found,
            earlier=tuple(self._gaps(kept[:MAX_KEPT])),
            saturated=self.slopes.changed,
            aims=Aims(self._aims(provenance, missing)),
            provenance=provenance,
            inputs=self._inputs.inputs,
        )

    def _gaps(self, distances: Sequence[Tensor | None]) -> Iterator[Gap]:
        """Yield those distances that depend on the inputs."""
        for far in distances:
            gradients = self._gradients(far)
            if far is not None and gradients:
                yield Gap(float(far.detach()), gradients)

    def _aims(self, provenance: Provenance | None, missing: Tensor | None) -> Iterator[tuple[Gap, ...]]:
        far = float(missing.detach()) if missing is not None else None
        for aim in aims(provenance, far, self.slopes.choices, self._reads()):
            yield tuple(self._gaps(aim))

    def _gradients(self, of: Tensor | None) -> dict[int, Tensor]:
        return self._inputs.gradients([of]) if of is not None and of.requires_grad else {}


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
