"""Find the legal calls: those that fit the spec and that eager takes.

Assumed sizes and values are the plugin's guess: if eager refuses them, they are left out of the
domain, and the report says so. If eager refuses what the user declared, the declaration is wrong: a
SpecError. Integers that index an ``nn.Embedding`` may be any of its rows.

Also by eager: which axes are the batch, as the shapes of one example do not tell. A mask or
position ids have none. A size may be another's by chance. A state of an RNN has its batch second,
and so have all inputs of a module that takes the sequence first.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.config.named_dims import Dim, written_sizes
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.axes import BATCH, Group, groups, named
from pytest_torchexport.inputs.building import build, build_leaves
from pytest_torchexport.inputs.domains import Domain
from pytest_torchexport.inputs.pytrees import is_plain, leaves_of
from pytest_torchexport.inputs.recipes import (
    AS_EXAMPLE,
    AS_GIVEN,
    GIVEN,
    Recipe,
    describe_recipe,
    example_recipe,
    plain_recipe,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf, ValueLeaf
from pytest_torchexport.inputs.strategies import within_memory
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, TimedOut, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.verdict import Assumption

SEQUENCE = "sequence"
OF_EMBEDDING = "the rows of the nn.Embedding they feed"
# The batch of an input that has its own.
OTHER = "other"
# So many groups of axes are tried.
MAX_GROUPS = 24
# Rows whose results differ by less, in parts of the largest, do not depend on each other.
NOISE = 1e-4
# If eager refuses the sizes next to the example's, it may take sizes at one of these distances.
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)
# Of the calls with generated values, eager may take this share by luck: a row of zeros and a one
# is drawn now and then, and its sum is one.
BY_LUCK = 0.01

Eager = Callable[[Call], Outcome]
Outputs = list[Tensor]
Layouts = Callable[[InputSpec, Recipe], Recipe]

# -- sizes -----------------------------------------------------------------------------------------


def narrow_assumed(spec: InputSpec, eager: Eager, note: Callable[[str], None]) -> InputSpec:
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


def _taken(spec: InputSpec, dim: Dim, eager: Eager) -> range:
    """Return the sizes of one dim that eager takes, all else as in the example.

    An interval around the example's size, with a step.
    """

    def takes(size: int) -> bool:
        return _takes(spec, {dim.name: size}, eager)

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


def _takes(spec: InputSpec, sizes: Mapping[str, int], eager: Eager) -> bool:
    outcome = _at(spec, sizes, eager)
    return outcome is None or isinstance(outcome, Returned)


def _at(spec: InputSpec, sizes: Mapping[str, int], eager: Eager) -> Outcome | None:
    """Return eager's outcome on the example's values at these sizes; None if it is not called."""
    if not within_memory(spec, sizes):
        return None
    call = build(spec, example_recipe(spec, sizes))
    return eager(call) if call is not None else None


def _limit(good: int, bound: int, step: int, takes: Callable[[int], bool]) -> int:
    """Return the size that is taken furthest from ``good`` towards ``bound``, in steps."""
    way = step if bound > good else -step
    count = abs(bound - good) // step
    if not takes(good + count * way):
        near = range(1, count)
        count = bisect.bisect_left(near, True, key=lambda n: not takes(good + n * way))
    return good + count * way


def _interval(dim: Dim, sizes: range) -> str:
    low, high = sizes[0], sizes[-1]
    if low == high:
        return f"{dim.name} = {low} only"
    if sizes.step > 1:
        return f"{low} <= {dim.name} <= {high} in steps of {sizes.step}"
    if high == dim.high:
        return f"{dim.name} >= {low}"
    return f"{dim.name} <= {high}" if low == dim.low else f"{low} <= {dim.name} <= {high}"


# -- the batch -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The spec in which the batch varies; ``with_sequence`` the one in which a sequence does too.

    ``with_sequence`` is None if no input takes a sequence first. ``tied``: the inputs whose batch
    is that of the others only in the example: eager takes one of its own.
    """

    spec: InputSpec
    with_sequence: InputSpec | None = None
    tied: tuple[str, ...] = ()


def find_batch(spec: InputSpec, eager: Eager, module: torch.nn.Module | None) -> Found:
    """Return the spec in which the axes vary that eager takes for a batch.

    That is the first group of axes that eager takes at another size, and preferably one whose size
    its outputs follow. The spec is the same if the user said which axes vary.
    """
    if not spec.guessed or BATCH not in spec.dims:
        return Found(spec)
    tries = _Tries(spec, eager)
    told, told_second = tries.recorded(0), tries.recorded(1)
    rows = told or tries.first(0)
    parts = module.modules() if module is not None else ()
    # As an nn.LSTM has by default.
    declared = any(getattr(part, "batch_first", None) is False for part in parts)
    columns = _second(tries, spec, rows, told_second, declared=declared)
    if columns:
        path = next(path for path, axis in columns.items() if axis)
        decides = "each row of dim 1 decides its own row of outputs alone"
        said = Assumption("dim", f"dim 0 of {path} is a sequence: {decides}", path)
        # The calls have named what differed between them.
        batch = {} if told_second else {f"{BATCH}_1" if told else BATCH: columns}
        guessed = {} if told else rows
        steps = {path: axis for path, axis in guessed.items() if columns.get(path) != axis}
        both = spec.with_dims({**batch, SEQUENCE: steps}, said) if steps else None
        return Found(spec.with_dims(batch, said), both)
    if told:
        return Found(spec)
    if rows:
        return Found(spec.with_dims({BATCH: rows}), tied=tuple(tries.apart(rows)))
    if spec.dims[BATCH].declared or len({leaf.shape[:1] for leaf in spec.tensors}) == 1:
        return Found(spec)  # ``AcceptedCalls.fixed`` says that eager takes one size alone
    what = "no size varies" if not spec.recorded else "dimension 0 does not vary"
    text = f"{what}: eager takes no other size of dimension 0; say which do with shapes="
    return Found(spec.with_dims({}, Assumption("no dim", text)))


def _second(
    tries: _Tries, spec: InputSpec, rows: Group, recorded: Group, *, declared: bool
) -> Group:
    """Return the axes of a batch that comes second, after a sequence; none if it comes first.

    ``rows`` are the first axes, if eager takes another size of them, and ``recorded`` the second
    ones whose size differed between recorded calls. ``declared``: a part of the module says that it
    takes the sequence first.
    """
    first = (leaf for leaf in spec.tensors if leaf.shape and (not rows or leaf.path in rows))
    leaf = next(first, None)
    if leaf is None:
        return {}  # sparse tensors alone, which are never generated
    dims = leaf.example.dim()
    tokens = dims == 2 and leaf.domain.kind == "int"
    if dims < 2 or not (declared or dims == 3 or tokens):
        return {}
    unsure = bool(rows) and not declared
    if unsure and (tries.separates(rows) is not False or tries.takes_any_order(rows)):
        return {}
    columns = recorded or tries.first(1)
    return columns if columns and tries.separates(columns) else {}


class _Tries:
    """Calls of eager with groups of axes at other sizes, and with other rows in them."""

    def __init__(self, spec: InputSpec, eager: Eager) -> None:
        self._spec = spec
        self._eager = eager
        self._tensors = spec.free
        # The axes whose size differed between recorded calls.
        self._taken = named(spec.recorded_shapes)
        self._example = _tensors_of(eager(spec.example))

    def recorded(self, axis: int) -> Group:
        """Return this axis of the tensors whose size there differed between recorded calls."""
        taken = sorted(self._taken)
        return {path: at for path, at in taken if at == axis and path in self._tensors}

    def first(self, axis: int) -> Group:
        """Return the first group with this axis that eager takes at another size; or none.

        If the outputs follow the size of one of them, return the first of these.
        """
        unlike: Group = {}
        with_axes = [path for path, tensor in self._tensors.items() if tensor.dim()]
        for group in itertools.islice(groups(self._tensors, axis, self._taken), MAX_GROUPS):
            outputs = self._at_another_size(group)
            if outputs is None:
                continue
            all_have_it = all(group.get(path) == axis for path in with_axes)
            if all_have_it or _shapes(outputs) != _shapes(self._example):
                return group
            unlike = unlike or group
        return unlike

    def _at_another_size(self, group: Group) -> Outputs | None:
        spec = self._spec.with_dims({BATCH: group})
        size = spec.dims[BATCH].example
        for other in dict.fromkeys((2 * size, size + 1, size - 1)):
            outcome = _at(spec, {BATCH: other}, self._eager) if other > 0 else None
            if isinstance(outcome, Returned):
                return _tensors_of(outcome)
        return None

    def apart(self, group: Group) -> Iterator[str]:
        """Yield the inputs after the first that eager takes at a size that the others do not have.

        Nothing if the user's ``map`` or ``filter`` says what belongs together. At most MAX_GROUPS
        inputs are tried: a cache has two for each layer. No size is 1, which broadcasts.
        """
        ruled = self._spec.map is not None or self._spec.filter is not None
        for path in [] if ruled else list(group)[1 : 1 + MAX_GROUPS]:
            others = {name: axis for name, axis in group.items() if name != path}
            spec = self._spec.with_dims({BATCH: others, OTHER: {path: group[path]}})
            size = spec.dims[BATCH].example + 1
            if _tensors_of(_at(spec, {BATCH: size, OTHER: size + 1}, self._eager)):
                yield path

    def separates(self, group: Group) -> bool | None:
        """Return True if each row decides the same row of the outputs, and no other.

        None if eager refuses generated values, or if the first row decides nothing.
        """

        def with_first_row(leaf: Tensor, other: Tensor, axis: int) -> Tensor:
            rest = leaf.narrow(axis, 1, leaf.shape[axis] - 1)
            return torch.cat([other.narrow(axis, 0, 1), rest], dim=axis)

        outputs = self._before_and_after(group, with_first_row)
        every = (_unlike(*pair) for pair in outputs or ())
        changed = [item for item in every if bool(item.any())]
        rows = self._rows(group)

        def in_first_row(item: Tensor) -> bool:
            axes = (axis for axis, size in enumerate(item.shape) if size == rows)
            return any(not bool(item.narrow(axis, 1, rows - 1).any()) for axis in axes)

        return all(map(in_first_row, changed)) if changed else None

    def takes_any_order(self, group: Group) -> bool:
        """Return True if the outputs stay the same or turn with the rows, as for a mean of them."""
        outputs = self._before_and_after(group, lambda leaf, _, axis: leaf.roll(1, axis))
        return outputs is not None and all(
            any(
                not bool(_unlike(expected, new).any())
                for expected in (old, *(old.roll(1, axis) for axis in range(old.dim())))
            )
            for old, new in outputs
        )

    def _rows(self, group: Group) -> int:
        return max(2, self._spec.with_dims({BATCH: group}).dims[BATCH].example)

    def _before_and_after(
        self, group: Group, change: Callable[[Tensor, Tensor, int], Tensor]
    ) -> list[tuple[Tensor, Tensor]] | None:
        """Return eager's outputs on generated values, and after a change of those of the group.

        ``change`` is given a tensor, another like it, and the axis.
        """
        spec, rows = self._spec.with_dims({BATCH: group}), {BATCH: self._rows(group)}
        one, other = (
            build_leaves(spec, plain_recipe(spec, "normal", rows, seed)) for seed in (0, 1)
        )
        if one is None or other is None:
            return None
        axes = [group.get(leaf.path) for leaf in self._spec.leaves]
        changed = [
            leaf if axis is None else change(leaf, twin, axis)
            for leaf, twin, axis in zip(one, other, axes, strict=True)
        ]
        calls = (self._spec.call(one), self._spec.call(changed))
        before, after = (_tensors_of(self._eager(call)) if call else None for call in calls)
        if before is None or after is None or _shapes(before) != _shapes(after):
            return None
        return list(zip(before, after, strict=True))


def _tensors_of(outcome: Outcome | None) -> Outputs | None:
    if not isinstance(outcome, Returned):
        return None
    return [leaf.detach() for leaf in leaves_of(outcome.value) if is_plain(leaf)]


def _unlike(left: Tensor, right: Tensor) -> Tensor:
    """Return which elements differ by more than noise."""
    if not (left.is_floating_point() or left.is_complex()):
        return left != right
    noise = NOISE * float(left.abs().nan_to_num(0.0, 0.0, 0.0).max()) if left.numel() else 0.0
    return ~torch.isclose(left, right, rtol=NOISE, atol=noise, equal_nan=True)


def _shapes(outputs: Outputs | None) -> list[torch.Size]:
    return [output.shape for output in outputs or ()]


# -- values ----------------------------------------------------------------------------------------


def widen_embeddings(spec: InputSpec, subject: Subject) -> InputSpec:
    """Return the spec in which integers that index an ``nn.Embedding`` may be any of its rows."""
    rows = _embedded(spec, subject)
    assumed = {leaf.path: leaf.domain for leaf in spec.tensors if not leaf.domain.declared}
    domains = {
        path: Domain(kind="int", low=0, high=rows[path] - 1, like=OF_EMBEDDING)
        for path in assumed.keys() & rows.keys()
    }
    return spec.with_domains(domains)


def _embedded(spec: InputSpec, subject: Subject) -> dict[str, int]:
    """Return for each leaf that indexes embeddings on the example the rows of the smallest one."""
    parts = subject.module.modules() if subject.module is not None else ()
    if not any(isinstance(part, torch.nn.Embedding) for part in parts):
        return {}
    integers = {leaf.path: leaf.example for leaf in spec.tensors if leaf.domain.kind == "int"}
    rows: dict[str, int] = {}

    def look(module: Any, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        for path, example in integers.items():
            if (
                isinstance(given, Tensor)
                and given.shape == example.shape
                and torch.equal(given.to(example.dtype), example)
            ):
                rows[path] = min(rows.get(path, module.num_embeddings), module.num_embeddings)

    copied = subject.copy()
    for part in copied.root.modules():
        if isinstance(part, torch.nn.Embedding):
            part.register_forward_pre_hook(look)
    observe(copied.function, spec.example, seed=0, grad_mode=copied.grad_mode)
    return rows


# -- calls -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReferenceCall:
    """A call that eager takes, the recipe that made it, and eager's outcome on the CPU."""

    recipe: Recipe
    call: Call
    outcome: Returned

    @property
    def nbytes(self) -> int:
        calls = [self.call.leaves(), self.outcome.inputs.leaves()]
        leaves = leaves_of([*calls, self.outcome.value])
        return sum(leaf.nbytes for leaf in leaves if is_plain(leaf))


class AcceptedCalls:
    def __init__(
        self,
        spec: InputSpec,
        eager: Reference,
        note: Callable[[str], None],
        *,
        fixes_layouts: bool = False,
    ) -> None:
        """``fixes_layouts``: every tensor has the memory layout of the example's."""
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
        # The layouts that every call has: those of the example, or contiguous ones.
        self._layouts: Layouts | None = as_in_the_example if fixes_layouts else None
        self._refused_before = False

    def at_any_length(self) -> AcceptedCalls | None:
        """Return these calls where the length of a guessed sequence varies; None without one."""
        return self.with_spec(self._with_sequence) if self._with_sequence is not None else None

    def with_spec(self, spec: InputSpec) -> AcceptedCalls:
        """Return these calls with other sizes or values."""
        other = copy.copy(self)
        other.spec = spec
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
        if self._layouts is not None:
            recipe = self._layouts(self.spec, recipe)
        found, outcome = self._made(recipe)
        if outcome is None:
            return None
        # Literals are values that the search computed so that eager takes them.
        generated = not {item.kind for item in recipe.leaves} <= {*GIVEN, "value", "literal"}
        self._generated += generated
        if found is not None:
            self._generated_taken += generated
            return found
        self.refusal = self.refusal or str(outcome)
        straight, declared = contiguous(self.spec, recipe), self._keep_declared_values(recipe)
        if self._layouts is None and straight != recipe and (found := self._made(straight)[0]):
            self._layouts = contiguous
            self._note("eager refuses non-contiguous inputs: only contiguous ones are legal")
        elif not self.takes_other_values and declared != recipe:
            found = self._made(declared)[0]
            self.fell_back = self.fell_back or found is not None
        if found is None:
            self._blame(recipe, outcome)
        return found

    def _made(self, recipe: Recipe) -> tuple[ReferenceCall | None, Outcome | None]:
        """Return a recipe's call if eager takes it, and eager's outcome if there is a call."""
        call = build(self.spec, recipe)
        outcome = self._eager.on_cpu(call) if call is not None else None
        if call is None or not isinstance(outcome, Returned):
            return None, outcome
        return ReferenceCall(recipe, call, outcome), outcome

    def _keep_declared_values(self, recipe: Recipe) -> Recipe:
        leaves = tuple(
            item if _declared(leaf) else AS_GIVEN
            for leaf, item in zip(self.spec.leaves, recipe.leaves, strict=True)
        )
        return dataclasses.replace(recipe, leaves=leaves)

    def _blame(self, recipe: Recipe, outcome: Outcome) -> None:
        """Raise SpecError if eager refuses the call with everything assumed as in the example."""
        dims = self.spec.dims
        sizes = {
            name: recipe.sizes.get(name, dim.example) if dim.declared else dim.example
            for name, dim in dims.items()
        }
        declared = dataclasses.replace(self._keep_declared_values(recipe), sizes=sizes)
        example = example_recipe(self.spec)
        is_example = (declared.sizes, declared.leaves) == (example.sizes, example.leaves)
        call = None if is_example else build(self.spec, declared)
        refused = self._eager.on_cpu(call) if call is not None else None
        if call is None or isinstance(refused, Returned):
            if not self._refused_before:
                self._refused_before = True
                what = str(outcome) if isinstance(outcome, Raised) else "no return"
                self._note(
                    "eager refuses some generated calls, which are left out; the first: "
                    f"{what:.200}"
                )
            return
        said = [f"{name}: {dim.describe()}" for name, dim in dims.items() if dim.declared]
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
        for name in ranges:
            sizes = _taken(narrow, narrow.dims[name], eager)
            if len(sizes) == 1:
                return ""
            narrow = narrow.narrow(name, sizes)
        # Beside other sizes than the example's, fewer may be taken.
        low = {name: dim.low for name, dim in narrow.dims.items()}
        high = {name: dim.high for name, dim in narrow.dims.items()}
        if not (_takes(narrow, low, eager) and _takes(narrow, high, eager)):
            return ""
        found = ((name, narrow.dims[name].sizes) for name in ranges)
        fewer = {name: sizes for name, sizes in found if sizes != self.spec.dims[name].sizes}
        written = ", ".join(f'"{name}": {written_sizes(sizes)}' for name, sizes in fewer.items())
        return f"remedy: eager takes dims={{{written}}}" if fewer else ""


def _declared(leaf: TensorLeaf | ValueLeaf) -> bool:
    return leaf.domain.declared if isinstance(leaf, TensorLeaf) else leaf.values is not None


def contiguous(_: InputSpec, recipe: Recipe) -> Recipe:
    leaves = tuple(dataclasses.replace(leaf, layout="contiguous") for leaf in recipe.leaves)
    return dataclasses.replace(recipe, leaves=leaves)


def as_in_the_example(spec: InputSpec, recipe: Recipe) -> Recipe:
    """Return the recipe with every tensor in the memory layout of the example's."""
    recipe = contiguous(spec, recipe)
    leaves = [
        dataclasses.replace(item, layout=AS_EXAMPLE)
        if isinstance(leaf, TensorLeaf) and leaf.layout != "contiguous"
        else item
        for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
    ]
    return dataclasses.replace(recipe, leaves=tuple(leaves))
