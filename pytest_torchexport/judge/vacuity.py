"""Do eager's outputs say anything at all? What always agrees is checked by nobody.

Separate from ``compare`` because this looks at eager alone, over all calls: outputs that do not depend on
the input, that are all nan or zero, or that are smaller than what the tolerance forgives; and whether there
were calls worth the name.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import Ineffective

# An item whose eager takes a smaller share of the generated calls, and fewer different ones than this, checked
# hardly anything; and so did one that ran no more than these few, because eager refused the others.
ACCEPTED_SHARE = 0.1
HARDLY_ANY = 10
TOO_FEW = 3
_HOW_TO_DECLARE = (
    "say which calls are legal: values= for what an input may hold, map= for what ties inputs",
    "together, dims= for sizes; filter= only for what these cannot say",
)
# Elements of a tensor by which a call is told from another.
DIGESTED = 4096
# Fewer calls with other values of the same sizes prove nothing about what an output depends on.
ENOUGH = 3


@dataclass
class _Leaf:
    """One output over all calls: its first value, and in numbers how it moved."""

    first: torch.Tensor
    dtype: torch.dtype
    compared: int = 0
    elements: int = 0
    moved: float = 0.0
    largest: float = 0.0
    numbers: bool = False

    def saw(self, tensor: torch.Tensor) -> None:
        if tensor.numel() and not self.first.numel():
            self.first, self.compared = tensor, 0  # an empty one says nothing of the others
        if tensor.shape == self.first.shape:
            self.compared += 1
            self.moved = max(self.moved, _gap(tensor, self.first))
        self.elements += tensor.numel()
        finite = tensor[torch.isfinite(tensor)]
        self.numbers = self.numbers or bool(finite.numel())
        if finite.numel():
            self.largest = max(self.largest, float(finite.abs().max()))


class OutputActivity:
    """Watches eager's outputs over the calls of one item."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self._leaves: dict[str, _Leaf] = {}
        self._calls: set[tuple[Any, ...]] = set()

    @property
    def calls(self) -> int:
        """How many different calls there were."""
        return len(self._calls)

    def saw(self, call: Call, outcome: Returned) -> None:
        """Take note of one outcome."""
        key = tuple(_digest(leaf) for leaf in call.leaves())
        if key in self._calls:
            return
        self._calls.add(key)
        for path, leaf in flatten(outcome.value, "output")[0]:
            if not is_plain(leaf) or leaf.is_complex():
                continue
            tensor = leaf.detach().to(torch.float64)
            if path not in self._leaves:
                self._leaves[path] = _Leaf(tensor, leaf.dtype)
            self._leaves[path].saw(tensor)

    def complaints(self) -> list[str]:
        """Why parity says little, in sentences; nothing where at least one output says something."""
        said = {path: next(self._about(path, leaf), "") for path, leaf in self._leaves.items()}
        return [text for text in said.values() if text] if said and all(said.values()) else []

    def partial(self) -> list[str]:
        """The same of single outputs, where others do say something."""
        said = [text for path, leaf in self._leaves.items() for text in self._about(path, leaf)]
        return [] if self.complaints() else said

    def _about(self, path: str, leaf: _Leaf) -> Iterator[str]:
        if not leaf.numbers:
            yield f"{path} is {'nan or infinite' if leaf.elements else 'empty'} on every call"
            return
        rtol, atol = self.tolerance.of(leaf.dtype)
        if leaf.compared <= ENOUGH:
            return
        if leaf.largest == 0.0:
            yield f"{path} is zero on every call"
        elif leaf.moved == 0.0:
            yield f"{path} does not depend on the input"
        elif max(leaf.largest, leaf.moved) <= atol:
            yield (
                f"{path} is never larger than {leaf.largest:.2g}, and {atol:g} is forgiven: give rtol and "
                "atol of your own"
            )
        elif leaf.moved <= atol + rtol * leaf.largest:
            yield (
                f"{path} hardly depends on the input: it moves by {leaf.moved:.2g} at most, and "
                f"{atol + rtol * leaf.largest:.2g} is forgiven"
            )


def weighed(
    effects: OutputActivity,
    *,
    refused: int,
    refusal: str,
    only_the_examples_values: bool,
    fixed: Collection[str],
) -> list[str]:
    """Why these calls say little, in sentences. ``refused`` counts the generated calls that eager or ``filter``
    did not take, ``refusal`` is what eager said to the first that it refused, ``fixed`` are the dims that were to vary and
    of which eager takes one size alone.

    Raises Ineffective where they are hardly any.
    """
    said = (f"the first that it refused: {refusal:.200}",) if refusal else ()
    share = effects.calls / (effects.calls + refused)
    few = share < ACCEPTED_SHARE and effects.calls < HARDLY_ANY
    if few or ((refused or only_the_examples_values) and effects.calls <= TOO_FEW):
        text = f"eager takes {effects.calls} different calls of all that were generated"
        raise Ineffective(text, details=(*said, *_HOW_TO_DECLARE))
    weak = [f"eager takes only one size of {name}" for name in fixed]
    if share < ACCEPTED_SHARE:
        weak.append(f"eager takes {effects.calls} of {effects.calls + refused} generated calls")
    if only_the_examples_values:
        weak = ["eager takes no other values than the example's: only sizes varied"]
    return [*weak, *effects.complaints()]


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    gap = (left - right).abs()
    gap = gap[torch.isfinite(gap)]
    # An element that is a number on one side alone has moved as well.
    parted = bool((torch.isfinite(left) != torch.isfinite(right)).any())
    return max(float(gap.max()) if gap.numel() else 0.0, float("inf") if parted else 0.0)


def _digest(leaf: Any) -> Any:
    """What tells one argument from another: the shape and the first bytes of a tensor."""
    if not isinstance(leaf, torch.Tensor):
        return repr(leaf)
    if not is_plain(leaf):
        return "as in the example"  # nothing else is generated for it
    return tuple(leaf.shape), zlib.crc32(bits_of(leaf, DIGESTED))
