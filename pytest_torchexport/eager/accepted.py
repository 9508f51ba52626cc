"""Find the legal calls: those that fit the spec and that eager takes.

Assumed sizes and values are the plugin's guess: if eager refuses them, they are left out of the
domain, and the report says so. If eager refuses what the user declared, the declaration is wrong: a
SpecError. Integers that index an ``nn.Embedding`` may be any of its rows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.config.named_dims import Dim, written_sizes
from pytest_torchexport.eager.batch_axes import find_batch
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.pytrees import leaves_of
from pytest_torchexport.inputs.recipes import (
    GIVEN,
    LeafRecipe,
    Recipe,
    describe_recipe,
    example_recipe,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf, ValueLeaf
from pytest_torchexport.inputs.strategies import within_memory
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, TimedOut, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.verdict import Assumption

# If eager refuses the sizes next to the example's, it may take sizes at one of these distances.
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)
# Of the calls with generated values, eager may take this share by luck: a row of zeros and a one
# is drawn now and then, and its sum is one.
BY_LUCK = 0.01
# Bytes of a call and its outcome that may be kept, of about ten calls.
SMALL = 2**22


def narrow_assumed(
    spec: InputSpec, eager: Callable[[Call], Outcome], note: Callable[[str], None]
) -> InputSpec:
    """Return the spec with each assumed dim cut down to the sizes that eager takes.

    On the example's own values. Tries each end of a range; if eager refuses it, finds the limit by
    bisection. Sizes that are no range are those that recorded calls had: eager took them.
    """
    for dim in spec.dims.values():
        if not dim.declared and isinstance(dim.sizes, range):
            sizes = _taken(spec, dim, eager)
            if sizes != dim.sizes:
                note(f"eager accepts {_interval(dim, sizes)} (assumed was {dim.describe()})")
                spec = spec.narrow(dim.name, sizes)
    return spec


def _taken(
    spec: InputSpec,
    dim: Dim,
    eager: Callable[[Call], Outcome],
    others: Sequence[Mapping[str, int]] = ({},),
) -> range:
    """Return the sizes of one dim that eager takes on the example's values.

    With the other dims at each of ``others``, by default as in the example.
    """
    return _accepted(
        dim, lambda size: all(_takes(spec, {**at, dim.name: size}, eager) for at in others)
    )


def _takes(spec: InputSpec, sizes: Mapping[str, int], eager: Callable[[Call], Outcome]) -> bool:
    """Return True unless eager refuses the example's values at these sizes."""
    if not within_memory(spec, spec.all_sizes(sizes)):
        return True
    call = build(spec, example_recipe(spec, sizes))
    return call is None or isinstance(eager(call), Returned)


def _accepted(dim: Dim, takes: Callable[[int], bool]) -> range:
    """Return the sizes around the example's that eager takes: an interval, with a step."""
    for step in STEPS:
        near = [dim.example + way for way in (-step, step) if dim.example + way in dim.sizes]
        # A smaller size alone may be taken for another reason: size 1, because it broadcasts.
        if step > 1 and dim.example + step not in near:
            continue
        if any(map(takes, near)) if step == 1 else near and all(map(takes, near)):
            low = _limit(dim.example, dim.low, step, takes)
            high = _limit(dim.example, dim.high, step, takes)
            return range(low, high + 1, step)
    return range(dim.example, dim.example + 1)


def _limit(good: int, bound: int, step: int, takes: Callable[[int], bool]) -> int:
    """Return the size that is taken furthest from ``good`` towards ``bound``, in steps."""
    way = step if bound > good else -step
    taken, refused = 0, abs(bound - good) // step
    if takes(good + refused * way):
        return good + refused * way
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if takes(good + middle * way):
            taken = middle
        else:
            refused = middle
    return good + taken * way


def _interval(dim: Dim, sizes: range) -> str:
    low, high = sizes[0], sizes[-1]
    if low == high:
        return f"{dim.name} = {low} only"
    if sizes.step > 1:
        return f"{low} <= {dim.name} <= {high} in steps of {sizes.step}"
    if high == dim.high:
        return f"{dim.name} >= {low}"
    return f"{dim.name} <= {high}" if low == dim.low else f"{low} <= {dim.name} <= {high}"


def widen_embeddings(spec: InputSpec, subject: Subject) -> InputSpec:
    """Return the spec in which integers that index an ``nn.Embedding`` may be any of its rows."""
    parts = subject.module.modules() if subject.module is not None else ()
    if not any(isinstance(part, torch.nn.Embedding) for part in parts):
        return spec
    rows = _embedded(spec, subject.copy())

    def widened(leaf: TensorLeaf | ValueLeaf) -> TensorLeaf | ValueLeaf:
        if not isinstance(leaf, TensorLeaf) or leaf.path not in rows or leaf.domain.declared:
            return leaf
        domain = dataclasses.replace(
            leaf.domain, low=0, high=rows[leaf.path] - 1, rows_keep=None, triangle=None
        )
        return dataclasses.replace(leaf, domain=domain, index=None)

    def said(item: Assumption) -> Assumption:
        if item.kind != "values" or item.path not in rows:
            return item
        last = rows[item.path] - 1
        text = f"values of {item.path} are 0..{last}, the rows of the nn.Embedding they feed"
        return dataclasses.replace(item, text=text)

    leaves, assumed = tuple(map(widened, spec.leaves)), tuple(map(said, spec.assumed))
    return dataclasses.replace(spec, leaves=leaves, assumed=assumed)


def _embedded(spec: InputSpec, subject: Subject) -> dict[str, int]:
    """Return for each leaf that indexes embeddings on the example the rows of the smallest one."""
    integers = {leaf.path: leaf.example for leaf in spec.tensors if leaf.domain.kind == "int"}
    found: dict[str, int] = {}

    def look(module: Any, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        for path, example in integers.items():
            if (
                isinstance(given, Tensor)
                and given.shape == example.shape
                and torch.equal(given.to(example.dtype), example)
            ):
                found[path] = min(found.get(path, module.num_embeddings), module.num_embeddings)

    assert subject.module is not None
    for part in subject.module.modules():
        if isinstance(part, torch.nn.Embedding):
            part.register_forward_pre_hook(look)
    observe(subject.function, spec.example, seed=0, grad_mode=subject.grad_mode)
    return found


@dataclass(frozen=True)
class ReferenceCall:
    """A call that eager takes, the recipe that made it, and eager's outcome on the CPU."""

    recipe: Recipe
    call: Call
    outcome: Returned

    @property
    def nbytes(self) -> int:
        """The bytes of the tensors of the call and of its outcome."""
        values = (self.call, self.outcome.inputs)
        tensors = [tensor for call in values for tensor in call.tensors()]
        tensors += [leaf for leaf in leaves_of(self.outcome.value) if isinstance(leaf, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _ends(spec: InputSpec) -> tuple[Mapping[str, int], ...]:
    """Return the sizes of the example, all smallest ones, and all largest ones."""
    dims = spec.dims.values()
    return {}, {dim.name: dim.low for dim in dims}, {dim.name: dim.high for dim in dims}


class AcceptedCalls:
    """Makes calls from recipes, and keeps those that eager takes."""

    def __init__(self, spec: InputSpec, eager: Reference, note: Callable[[str], None]) -> None:
        found = find_batch(spec, eager.on_cpu, eager.pristine.module)
        spec = found.spec
        self._with_sequence = found.with_sequence
        self.tied = found.tied
        self.spec = narrow_assumed(widen_embeddings(spec, eager.pristine), eager.on_cpu, note)
        # Dims that were assumed to vary, of which eager takes one size alone.
        self.fixed = tuple(name for name in spec.dims if name not in self.spec.dims)
        self.fell_back = False
        # Calls with generated values, and not the example's own alone, and those that eager took.
        self._generated = self._generated_taken = 0
        # Eager's outcome on the first call that it refused, as text.
        self.refusal = ""
        self._eager = eager
        self._note = note
        self._contiguous_only = False
        self._refused_before = False
        self._rehearsed: list[ReferenceCall] = []

    def rehearse(self, recipe: Recipe) -> None:
        """Make a call, and keep what eager did with it: several checks make the same one.

        Only if it is small, so that the memory does not grow with the calls.
        """
        found = self.call(recipe)
        if found is not None and found.recipe == recipe and found.nbytes <= SMALL:
            self._rehearsed.append(found)

    def forget(self) -> None:
        """Forget the calls that were kept: eager has turned out to change between calls."""
        self._rehearsed.clear()

    def at_any_length(self) -> AcceptedCalls | None:
        """Return these calls where the length of a guessed sequence varies; None without one."""
        if self._with_sequence is None:
            return None
        other = copy.copy(self)
        other.spec, other._rehearsed = self._with_sequence, []
        return other

    @property
    def takes_other_values(self) -> bool:
        """True if eager takes calls with generated values, more than a few by luck."""
        return self._generated_taken > BY_LUCK * self._generated

    def call(self, recipe: Recipe) -> ReferenceCall | None:
        """Return the recipe's call, or None if it is not legal.

        If eager refuses a layout, or all generated values, and they were only assumed, the call is
        made without them. Raises SpecError if eager refuses what the user declared.
        """
        if not within_memory(self.spec, recipe.sizes):
            self._note("calls too large to make were left out")
            return None
        if self._contiguous_only:
            recipe = contiguous(recipe)
        for known in self._rehearsed:
            if known.recipe == recipe:
                return known
        call = build(self.spec, recipe)
        if call is None:
            return None
        outcome = self._eager.on_cpu(call)
        # Literals are values that the search computed so that eager takes them.
        kinds = {item.kind for item in recipe.leaves}
        generated = not kinds <= {*GIVEN, "value", "literal"}
        self._generated += generated
        if isinstance(outcome, Returned):
            self._generated_taken += generated
            return ReferenceCall(recipe, call, outcome)
        self.refusal = self.refusal or str(outcome)
        found = self._instead(recipe, contiguous(recipe))
        if found is not None:
            self._contiguous_only = True
            self._note("eager refuses non-contiguous inputs: only contiguous ones are legal")
        elif not self.takes_other_values:
            found = self._instead(recipe, self._keep_declared_values(recipe))
            self.fell_back = self.fell_back or found is not None
        if found is None:
            self._blame(recipe, outcome)
        return found

    def _instead(self, recipe: Recipe, other: Recipe) -> ReferenceCall | None:
        call = build(self.spec, other) if other != recipe else None
        outcome = self._eager.on_cpu(call) if call is not None else None
        if call is None or not isinstance(outcome, Returned):
            return None
        return ReferenceCall(other, call, outcome)

    def _keep_declared_values(self, recipe: Recipe) -> Recipe:
        leaves = tuple(
            item if _declared(leaf) else LeafRecipe(kind="example")
            for leaf, item in zip(self.spec.leaves, recipe.leaves, strict=True)
        )
        return dataclasses.replace(recipe, leaves=leaves)

    def _blame(self, recipe: Recipe, outcome: Outcome) -> None:
        """Raise SpecError if eager refuses the call with everything assumed as in the example."""
        declared = self._declared_part(recipe)
        call = build(self.spec, declared) if declared is not None else None
        refused = self._eager.on_cpu(call) if call is not None else None
        if declared is None or call is None or isinstance(refused, (Returned, type(None))):
            if not self._refused_before:
                self._refused_before = True
                what = str(outcome) if isinstance(outcome, Raised) else "no return"
                self._note(
                    "eager refuses some generated calls, which are left out; the first: "
                    f"{what:.200}"
                )
            return
        said = [f"{n}: {d.describe()}" for n, d in self.spec.dims.items() if d.declared]
        leaves = (leaf for leaf in self.spec.tensors if leaf.domain.declared)
        said += [f"{leaf.path}: {leaf.domain.describe()}" for leaf in leaves]
        hung = isinstance(refused, TimedOut)
        raise SpecError(
            f"eager {'does not return' if hung else 'raises'} inside the declared range"
            + ("" if hung else f": {refused}"),
            details=(
                f"call: {describe_recipe(self.spec, declared, call)}",
                f"declared: {'; '.join(said)}",
                self._narrower()
                or "narrow the range, or say what ties the inputs together with map= or filter=",
            ),
            where=refused.where if isinstance(refused, Raised) else None,
        )

    def _narrower(self) -> str:
        """Return the remedy that eager shows: the declared dims of which it takes fewer sizes."""
        eager, narrow = self._eager.on_cpu, self.spec
        dims = self.spec.dims.items()
        ranges = [name for name, dim in dims if dim.declared and isinstance(dim.sizes, range)]
        # First beside the example's sizes of the others, then beside the ends that this found, as
        # fewer may be taken there.
        for beside_ends in (False, True):
            for name in ranges:
                others = _ends(narrow) if beside_ends else ({},)
                sizes = _taken(narrow, narrow.dims[name], eager, others)
                if len(sizes) == 1:
                    return ""
                narrow = narrow.narrow(name, sizes)
        if not all(_takes(narrow, at, eager) for at in _ends(narrow)):
            return ""
        found = ((name, narrow.dims[name].sizes) for name in ranges)
        fewer = {name: sizes for name, sizes in found if sizes != self.spec.dims[name].sizes}
        written = ", ".join(f'"{name}": {written_sizes(sizes)}' for name, sizes in fewer.items())
        return f"remedy: eager takes dims={{{written}}}" if fewer else ""

    def _declared_part(self, recipe: Recipe) -> Recipe | None:
        """Return the recipe with all assumed as in the example; None if nothing was declared."""
        sizes = {
            name: recipe.sizes.get(name, dim.example) if dim.declared else dim.example
            for name, dim in self.spec.dims.items()
        }
        said = any(dim.declared and sizes[n] != dim.example for n, dim in self.spec.dims.items())
        said = said or any(
            _declared(leaf) and item.kind != "example"
            for leaf, item in zip(self.spec.leaves, recipe.leaves, strict=True)
        )
        kept = self._keep_declared_values(recipe)
        return dataclasses.replace(kept, sizes=sizes) if said else None


def _declared(leaf: TensorLeaf | ValueLeaf) -> bool:
    """Return True if the user declared the values of the leaf."""
    return leaf.domain.declared if isinstance(leaf, TensorLeaf) else leaf.values is not None


def contiguous(recipe: Recipe) -> Recipe:
    """Return the recipe with every tensor contiguous."""
    leaves = tuple(dataclasses.replace(leaf, layout="contiguous") for leaf in recipe.leaves)
    return dataclasses.replace(recipe, leaves=leaves)
