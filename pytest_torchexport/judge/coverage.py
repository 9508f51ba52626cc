"""Tell what a pass is worth: outputs that show something, and what the calls left uncovered."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.config.options import Options
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.inputs.domains import Domain, reach_of
from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.inputs.recipes import GIVEN, LeafRecipe, Recipe
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.inputs.strategies import has_varied_values
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import Ineffective
from pytest_torchexport.results.verdict import Uncovered
from pytest_torchexport.targets.formats.facts import ProgramFacts

# An item checked hardly anything if eager takes a smaller share of the generated calls than
# ACCEPTED_SHARE (or hardly any values but the example's, at one size), and fewer different calls
# than HARDLY_ANY; or if eager refused calls and took no more than TOO_FEW. As few calls of the same
# sizes do not show what an output depends on. Chosen, not measured.
ACCEPTED_SHARE = 0.1
HARDLY_ANY = 10
TOO_FEW = 3
_HOW_TO_DECLARE = (
    "say which calls are legal: values= for what an input may hold, map= for what ties inputs",
    "together, dims= for sizes; filter= only for what these cannot say",
)


@dataclass
class _Leaf:
    """One output over all calls: its first value, and how far it moved.

    ``level``: the largest number of the calls that were compared with the first one.
    """

    first: torch.Tensor
    dtype: torch.dtype
    compared: int = 0
    elements: int = 0
    moved: float = 0.0
    largest: float = 0.0
    level: float = 0.0
    numbers: bool = False

    def saw(self, tensor: torch.Tensor) -> None:
        if tensor.numel() and not self.first.numel():
            self.first, self.compared = tensor, 0  # an empty one cannot be compared with the others
        if tensor.shape == self.first.shape:
            self.compared += 1
            gap = _finite(tensor - self.first)
            # An element that is a number on one side only has moved as well.
            parted = gap.numel() < tensor.numel() and bool(
                (torch.isfinite(tensor) != torch.isfinite(self.first)).any()
            )
            far = float("inf") if parted else float(gap.abs().max()) if gap.numel() else 0.0
            self.moved = max(self.moved, far)
        self.elements += tensor.numel()
        finite = _finite(tensor)
        self.numbers = self.numbers or bool(finite.numel())
        most = float(finite.abs().max()) if finite.numel() else 0.0
        self.largest = max(self.largest, most)
        if tensor.shape == self.first.shape:
            self.level = max(self.level, most)

    def complaint(self, path: str, tolerance: Tolerance) -> str:
        """Return why this output says nothing, or nothing if it does."""
        if not self.numbers:
            return f"{path} is {'nan or infinite' if self.elements else 'empty'} on every call"
        rtol, atol = tolerance.of(self.dtype, self.level)
        if self.compared <= TOO_FEW:
            return ""
        if self.largest == 0.0:
            return f"{path} is zero on every call"
        if self.moved == 0.0:
            return f"{path} does not depend on the input"
        if max(self.largest, self.moved) <= atol:
            return (
                f"{path} is never larger than {self.largest:.2g}, and differences up to {atol:g} "
                "pass: give rtol and atol of your own"
            )
        allowed = atol + rtol * self.level
        if self.moved <= allowed:
            return (
                f"{path} hardly depends on the input: it changes by {self.moved:.2g} at most, and "
                f"differences up to {allowed:.2g} pass"
            )
        return ""


class OutputActivity:
    """Eager's outputs over the calls of one item."""

    def __init__(self) -> None:
        self._leaves: dict[str, _Leaf] = {}
        self._calls: set[tuple[Any, ...]] = set()

    @property
    def calls(self) -> int:
        return len(self._calls)

    def saw(self, call: Call, outcome: Returned) -> None:
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

    def complaints(self, tolerance: Tolerance, *, partial: bool = False) -> list[str]:
        """Return reasons why parity can hardly fail; none if at least one output varies.

        If ``partial``, those for the other outputs, only then.
        """
        texts = [leaf.complaint(path, tolerance) for path, leaf in self._leaves.items()]
        return [text for text in texts if text] if all(texts) != partial else []


def weighed(
    outputs: OutputActivity, tolerance: Tolerance, accepted: AcceptedCalls, rejected: int
) -> list[str]:
    """Return why these calls prove little, in sentences.

    ``rejected`` counts the generated calls that eager or ``filter`` did not take. Raises
    Ineffective if hardly any call was made.
    """
    # A call that was made with the example's values instead was refused as well.
    refused = max(rejected, accepted.fell_back)
    only_the_examples_values = accepted.fell_back and not accepted.takes_other_values
    share = outputs.calls / (outputs.calls + refused)
    # How many sizes there are is no matter of luck, and one call of each is all that can be made.
    by_value = not accepted.spec.dims if only_the_examples_values else share < ACCEPTED_SHARE
    if (by_value and outputs.calls < HARDLY_ANY) or (
        (refused or only_the_examples_values) and outputs.calls <= TOO_FEW
    ):
        text = f"eager takes {outputs.calls} different calls of all that were generated"
        refusal = accepted.refusal
        first = (f"the first that it refused: {refusal:.200}",) if refusal else ()
        raise Ineffective(text, details=(*first, *_HOW_TO_DECLARE))
    weak = [
        f"eager takes only one size of {name}; if that is meant, give the number in shapes="
        for name in accepted.fixed
    ]
    if share < ACCEPTED_SHARE:
        weak.append(f"eager takes {outputs.calls} of {outputs.calls + refused} generated calls")
    if only_the_examples_values:
        weak = ["eager takes hardly any values but the example's: only sizes varied"]
    return [*weak, *outputs.complaints(tolerance)]


def _finite(numbers: torch.Tensor) -> torch.Tensor:
    """Return the finite ones of numbers; mostly that are all, and no copy."""
    whole = math.isfinite(float(numbers.sum()))
    return numbers if whole else numbers[torch.isfinite(numbers)]


def _digest(leaf: Any) -> Any:
    """Return a key of an argument: of a tensor, its shape and a sum of its bytes."""
    if not isinstance(leaf, torch.Tensor):
        return repr(leaf)
    if not is_plain(leaf):
        return "as in the example"  # nothing else is generated for it
    return tuple(leaf.shape), zlib.crc32(bits_of(leaf))


# A number that is more than so many times the root mean square of the example's is of another
# scale.
FAR = 10.0
# Generated values that end so much earlier than real ones are told, in parts of their range.
FELL_SHORT = 0.01


@dataclass
class Covered:
    """The reach of an item's calls: the sizes by dim, and if a float left its scale.

    ``with_varied_values``: the sizes of calls whose tensors are not constant. ``layouts``: the
    memory layouts by leaf. ``values``: the least and the largest number that was generated for an
    input of which several are recorded.
    """

    sizes: dict[str, set[int]] = field(default_factory=dict)
    with_varied_values: dict[str, set[int]] = field(default_factory=dict)
    layouts: set[tuple[int, str]] = field(default_factory=set)
    left_scale: bool = False
    values: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.layouts) + sum(map(len, self.with_varied_values.values()))

    def saw(self, spec: InputSpec, recipe: Recipe) -> None:
        self.layouts.update((number, leaf.layout) for number, leaf in enumerate(recipe.leaves))
        varied = has_varied_values(spec, recipe)
        for name, dim in spec.dims.items():
            size = recipe.sizes.get(name, dim.example)
            self.sizes.setdefault(name, set()).add(size)
            if varied:
                self.with_varied_values.setdefault(name, set()).add(size)
        self.left_scale = self.left_scale or any(
            _is_free(leaf) and _is_far(item, leaf.domain)
            for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
            if isinstance(leaf, TensorLeaf)
        )

    def drew(self, spec: InputSpec, recipe: Recipe, call: Call) -> None:
        made = dict(spec.flatten(call))
        for leaf, item in zip(spec.leaves, recipe.leaves, strict=True):
            if leaf.recorded and item.kind not in GIVEN and is_plain(made[leaf.path]):
                low, high = reach_of([made[leaf.path]])
                least, most = self.values.get(leaf.path, (low, high))
                self.values[leaf.path] = min(low, least), max(high, most)

    def fell_short(self, spec: InputSpec) -> Iterator[str]:
        """Yield, in sentences, the values of recorded calls that no generated call has reached."""
        for leaf in spec.tensors:
            low, high = leaf.domain.reach
            least, most = self.values.get(leaf.path, (low, high))
            if min(low - least, most - high) < -FELL_SHORT * (high - low):
                yield (
                    f"{leaf.path}: real values from {low:.4g} to {high:.4g}, drawn from "
                    f"{least:.4g} to {most:.4g}"
                )


def uncovered(
    covered: Covered,
    spec: InputSpec,
    options: Options,
    facts: ProgramFacts,
    *,
    tied: tuple[str, ...],
) -> Uncovered:
    """Return the sizes and values that an item's calls left out because nobody declared them.

    ``tied``: the inputs that had the others' batch in every call, and eager takes one of their own.
    """
    said = options.shapes is not None or options.dynamic_shapes is not None
    said = said or any(item.kind == "annotations" for item in spec.assumed)
    fixed = any(not axis.names for leaf in spec.tensors for axis in leaf.shape)
    return Uncovered(
        fixed_sizes=fixed and not said,
        open_dims=_open_dims(spec, facts),
        same_scale=not covered.left_scale and any(map(_is_free, spec.tensors)),
        tied=tied,
    )


def _is_free(leaf: TensorLeaf) -> bool:
    """Return True for floats of any size whose values nobody declared."""
    domain = leaf.domain
    return domain.kind == "float" and domain.high is None and not domain.declared


def _is_far(item: LeafRecipe, domain: Domain) -> bool:
    far = FAR * domain.scale
    if item.kind == "literal":
        return bool((item.data.tensor.abs() > far).any())
    largest = 1.0 if item.kind == "ones" else item.scale * domain.scale
    return max(largest, *(abs(edit.value) for edit in item.edits), 0.0) > far


def _open_dims(spec: InputSpec, facts: ProgramFacts) -> tuple[str, ...]:
    if type(facts) is ProgramFacts:
        return ()  # it says nothing of itself
    # A file that takes sizes up to that of an index takes any.
    wide = {
        name: dataclasses.replace(dim, sizes=range(dim.low, 2**31))
        for name, dim in spec.dims.items()
        if not dim.declared
    }
    found = facts.suspicions(dataclasses.replace(spec, dims={**spec.dims, **wide}), spec.example)
    limited = {
        name
        for item in found
        if not item.is_torchs_minimum
        for sizes in item.sizes
        for name in sizes
    }
    return tuple(name for name in wide if name not in limited)
