"""Find which axes are the batch, by eager: the shapes of one example do not tell.

A mask or position ids have none. A size may be another's by chance. A state of an RNN has its batch
second, and so have all inputs of a module that takes the sequence first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.axes import BATCH, Group, groups
from pytest_torchexport.inputs.building import build, build_leaves
from pytest_torchexport.inputs.pytrees import is_plain, leaves_of
from pytest_torchexport.inputs.recipes import example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.inputs.strategies import within_memory
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.verdict import Assumption

SEQUENCE = "sequence"
# The batch of an input that has its own.
OTHER = "other"
# So many groups of axes are tried.
MAX_GROUPS = 24
# Rows whose results differ by less, in parts of the largest, do not depend on each other.
NOISE = 1e-4
Eager = Callable[[Call], Outcome]
Outputs = list[torch.Tensor]


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
    if not spec.guessed or not spec.dims:
        return Found(spec)
    tries = _Tries(spec, eager)
    rows = tries.first(0)
    parts = module.modules() if module is not None else ()
    # As an nn.LSTM has by default.
    said = any(getattr(part, "batch_first", None) is False for part in parts)
    columns = _second(tries, spec, rows, said=said)
    if columns:
        return _sequence_first(spec, rows, columns)
    if rows:
        return Found(spec.with_dims({BATCH: rows}), tied=tuple(tries.apart(rows)))
    if spec.dims[BATCH].declared or len({leaf.shape[:1] for leaf in spec.tensors}) == 1:
        return Found(spec)  # ``accepted`` says that eager takes one size alone
    text = "no size varies: eager takes no other size of dimension 0; say which do with shapes="
    return Found(spec.with_dims({}, Assumption("no dim", text)))


def _second(tries: _Tries, spec: InputSpec, rows: Group, *, said: bool) -> Group:
    """Return the axes of a batch that comes second, after a sequence; none if it comes first.

    ``rows`` are the first axes, if eager takes another size of them. ``said``: a part of the module
    says that it takes the sequence first.
    """
    first = (leaf for leaf in spec.tensors if leaf.shape and (not rows or leaf.path in rows))
    leaf = next(first, None)
    if leaf is None:
        return {}  # sparse tensors alone, which are never generated
    dims = leaf.example.dim()
    tokens = dims == 2 and leaf.domain.kind == "int"
    if dims < 2 or not (said or dims == 3 or tokens):
        return {}
    if rows and not said and (tries.separates(rows) is not False or tries.takes_any_order(rows)):
        return {}
    columns = tries.first(1)
    return columns if columns and tries.separates(columns) else {}


def _sequence_first(spec: InputSpec, rows: Group, columns: Group) -> Found:
    path = next(path for path, axis in columns.items() if axis)
    text = f"dim 0 of {path} is a sequence: each row of dim 1 decides its own row of outputs alone"
    said = Assumption("dim", text, path)
    steps = {path: axis for path, axis in rows.items() if columns.get(path) != axis}
    both = spec.with_dims({BATCH: columns, SEQUENCE: steps}, said) if steps else None
    return Found(spec.with_dims({BATCH: columns}, said), both)


class _Tries:
    """Calls of eager with groups of axes at other sizes, and with other rows in them."""

    def __init__(self, spec: InputSpec, eager: Eager) -> None:
        self._spec = spec
        self._eager = eager
        self._tensors = spec.free
        self._example = self._outputs(spec.example)

    def _outputs(self, call: Call | None) -> Outputs | None:
        """Return eager's output tensors on a call, or None if it does not return."""
        outcome = self._eager(call) if call is not None else None
        if not isinstance(outcome, Returned):
            return None
        return [leaf.detach() for leaf in leaves_of(outcome.value) if is_plain(leaf)]

    def first(self, axis: int) -> Group:
        """Return the first group with this axis that eager takes at another size; or none.

        If the outputs follow the size of one of them, return the first of these.
        """
        unlike: Group = {}
        with_axes = [path for path, tensor in self._tensors.items() if tensor.dim()]
        for group in itertools.islice(groups(self._tensors, axis), MAX_GROUPS):
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
            sizes = {BATCH: other}
            if other > 0 and within_memory(spec, sizes):
                outputs = self._outputs(build(spec, example_recipe(spec, sizes)))
                if outputs is not None:
                    return outputs
        return None

    def apart(self, group: Group) -> Iterator[str]:
        """Yield the inputs after the first that eager takes at a size that the others do not have.

        None if the user's ``map`` or ``filter`` says what belongs together. At most MAX_GROUPS
        inputs are tried: a cache has two for each layer. No size is 1, which broadcasts.
        """
        ruled = self._spec.map is not None or self._spec.filter is not None
        for path in [] if ruled else list(group)[1 : 1 + MAX_GROUPS]:
            others = {name: axis for name, axis in group.items() if name != path}
            spec = self._spec.with_dims({BATCH: others, OTHER: {path: group[path]}})
            size = spec.dims[BATCH].example + 1
            sizes = {BATCH: size, OTHER: size + 1}
            if within_memory(spec, sizes) and self._outputs(
                build(spec, example_recipe(spec, sizes))
            ):
                yield path

    def separates(self, group: Group) -> bool | None:
        """Return True if each row decides the same row of the outputs, and no other.

        None if eager refuses generated values, or if the first row decides nothing.
        """
        one, other = self._generated(group, 0), self._generated(group, 1) or []

        def with_first_row(index: int, tensor: torch.Tensor, axis: int) -> torch.Tensor:
            rest = tensor.narrow(axis, 1, tensor.shape[axis] - 1)
            return torch.cat([other[index].narrow(axis, 0, 1), rest], dim=axis)

        outputs = self._before_and_after(group, one, with_first_row)
        changed = [_unlike(*pair) for pair in outputs or ()]
        if not any(bool(item.any()) for item in changed):
            return None
        return all(_in_first_row(item, self._rows(group)) for item in changed)

    def takes_any_order(self, group: Group) -> bool:
        """Return True if the outputs stay the same or turn with the rows, as for a mean of them."""
        leaves = self._generated(group, 0)
        outputs = self._before_and_after(group, leaves, lambda _, leaf, axis: leaf.roll(1, axis))
        return outputs is not None and all(
            any(
                not bool(_unlike(expected, new).any())
                for expected in (old, *(old.roll(1, axis) for axis in range(old.dim())))
            )
            for old, new in outputs
        )

    def _rows(self, group: Group) -> int:
        return max(2, self._spec.with_dims({BATCH: group}).dims[BATCH].example)

    def _generated(self, group: Group, seed: int) -> list[Any] | None:
        spec = self._spec.with_dims({BATCH: group})
        recipe = plain_recipe(spec, "normal", {BATCH: self._rows(group)}, seed)
        return build_leaves(spec, recipe)

    def _before_and_after(
        self,
        group: Group,
        leaves: list[Any] | None,
        change: Callable[[int, torch.Tensor, int], torch.Tensor],
    ) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Return eager's outputs on these leaves, and after a change of those of the group."""
        if leaves is None:
            return None
        axes = [group.get(leaf.path) for leaf in self._spec.leaves]
        changed = [
            leaf if axis is None else change(index, leaf, axis)
            for index, (leaf, axis) in enumerate(zip(leaves, axes, strict=True))
        ]
        before, after = (self._outputs(self._spec.call(each)) for each in (leaves, changed))
        if before is None or after is None or _shapes(before) != _shapes(after):
            return None
        return list(zip(before, after, strict=True))


def _unlike(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return which elements differ by more than noise."""
    if not (left.is_floating_point() or left.is_complex()):
        return left != right
    noise = NOISE * float(left.abs().nan_to_num(0.0, 0.0, 0.0).max()) if left.numel() else 0.0
    return ~torch.isclose(left, right, rtol=NOISE, atol=noise, equal_nan=True)


def _in_first_row(changed: torch.Tensor, rows: int) -> bool:
    """Return True if all that changed is in the first row of one axis of the outputs."""
    axes = [axis for axis, size in enumerate(changed.shape) if size == rows]
    return not bool(changed.any()) or any(
        not bool(changed.narrow(axis, 1, rows - 1).any()) for axis in axes
    )


def _shapes(outputs: Outputs | None) -> list[torch.Size]:
    return [output.shape for output in outputs or ()]
