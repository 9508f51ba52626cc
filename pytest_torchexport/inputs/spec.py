"""The input spec of one subject: the shape, dtype and values of each leaf, and the call they make.

One spec feeds both the exporters (dynamic dims, dynamic axes) and the generator of calls; it must
therefore be neither a Hypothesis strategy nor a ``dynamic_shapes`` dict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr, Shape
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs import domains
from pytest_torchexport.inputs.axes import Axes, Group, axes_of, find_axes
from pytest_torchexport.inputs.domains import Domain, Index, index_of
from pytest_torchexport.inputs.pytrees import (
    Call,
    Leaf,
    Structure,
    copy_tensor,
    describe,
    flatten,
    holders,
    in_arrays,
    is_plain,
    tiled,
)
from pytest_torchexport.results.failures import SpecError, ends_the_test
from pytest_torchexport.results.verdict import Assumption

__all__ = ["Call", "InputSpec", "TensorLeaf", "ValueLeaf", "build_spec"]


@dataclass(frozen=True, kw_only=True)
class TensorLeaf:
    """A tensor argument: its axes as expressions of dims, and the values it may take.

    ``recorded`` are its tensors in further recorded calls. ``index``: its integers index another
    input, if they do. ``holder`` is the class of the container that ties it to other leaves: all of
    them have sizes, and integers their values, of one recorded call. ``same_as``: the path of the
    leaf whose tensor it is in every call; empty if there is none.
    """

    path: str
    shape: Shape
    dtype: torch.dtype
    domain: Domain
    example: torch.Tensor
    recorded: tuple[torch.Tensor, ...] = ()
    index: Index | None = None
    holder: type | None = None
    same_as: str = ""

    @property
    def kept(self) -> bool:
        """True if its values are always those of a recorded call."""
        return self.holder is not None and not self.domain.declared and self.domain.kind != "float"

    @property
    def given(self) -> tuple[torch.Tensor, ...]:
        return (self.example, *self.recorded)

    @property
    def layout(self) -> str:
        """The memory layout of the example's tensor: contiguous, channels_last or strided."""
        tensor = self.example
        if not is_plain(tensor) or tensor.is_contiguous():
            return "contiguous"
        last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        return "channels_last" if last else "strided"

    def at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return its shape at these sizes of the dims. Raises ValueError if it has none."""
        return tuple(axis.evaluate(sizes) for axis in self.shape)


@dataclass(frozen=True, kw_only=True)
class ValueLeaf:
    """A Python argument: the example's value, and what ``values`` lists for it (None: nothing)."""

    path: str
    example: Any
    values: Any = None
    recorded: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The legal calls, and in ``assumed`` what the user did not say about them.

    ``parameters`` are the names of forward's positional parameters, ``variadic`` that of ``*args``.
    ``guessed``: which axes are the batch is a guess from the shapes of the calls; ``recorded``: the
    dims whose size differed between them. ``origins``: for each further recorded call, the name of
    the real input that it is, or nothing. ``aliases``: groups of leaves, by number, that are one
    and the same tensor in the example.
    """

    leaves: tuple[TensorLeaf | ValueLeaf, ...]
    structure: Structure
    parameters: tuple[str, ...]
    variadic: str
    dims: Mapping[str, Dim]
    example: Call
    assumed: tuple[Assumption, ...] = ()
    map: Callable[..., Any] | None = None
    filter: Callable[..., Any] | None = None
    dynamic_shapes: Any = None
    guessed: bool = False
    recorded: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    aliases: tuple[tuple[int, ...], ...] = ()

    @property
    def tensors(self) -> tuple[TensorLeaf, ...]:
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorLeaf))

    @property
    def arrays(self) -> tuple[str, ...]:
        """The paths of the leaves that the calls hold as arrays of numpy."""
        pairs = zip(self.leaves, in_arrays(self.structure), strict=True)
        return tuple(leaf.path for leaf, is_array in pairs if is_array)

    @property
    def holders(self) -> tuple[type, ...]:
        held = [leaf.holder for leaf in self.tensors if leaf.holder is not None]
        return tuple(dict.fromkeys(held))

    @property
    def free(self) -> Mapping[str, torch.Tensor]:
        """The example's tensors whose sizes may be guessed to vary, by path."""
        free = (leaf for leaf in self.tensors if leaf.holder is None and not leaf.same_as)
        return {leaf.path: leaf.example for leaf in free}

    @property
    def recorded_shapes(self) -> Mapping[str, Shape]:
        """The shapes of the example's tensors, in which only the dims of ``recorded`` vary."""
        return {
            leaf.path: tuple(
                axis if axis.names and axis.names <= {*self.recorded} else Expr(str(size))
                for axis, size in zip(leaf.shape, leaf.example.shape, strict=True)
            )
            for leaf in self.tensors
        }

    @property
    def example_sizes(self) -> dict[str, int]:
        return {name: dim.example for name, dim in self.dims.items()}

    def all_sizes(self, given: Mapping[str, int]) -> dict[str, int]:
        """Return the size of each dim: the given ones, and the example's of the others."""
        return self.example_sizes | dict(given)

    def bounds(self, leaf: TensorLeaf) -> list[tuple[int, int | None]]:
        """Return the least and the largest size of each axis of a tensor.

        The largest is None if the dim is only assumed, or if several dims decide the size.
        """
        found: list[tuple[int, int | None]] = []
        for axis, size in zip(leaf.shape, leaf.example.shape, strict=True):
            linear = axis.linear()
            if not axis.names:
                found.append((size, size))
            elif linear is None or not self.dims[linear[0]].declared:
                found.append((0, None))
            else:
                name, factor, offset = linear
                dim = self.dims[name]
                low, high = sorted(factor * end + offset for end in (dim.low, dim.high))
                found.append((low, high))
        return found

    def flatten(self, call: Call) -> list[Leaf]:
        """Return the leaves of a call with paths like ``x``, ``state[0]``, ``batch['mask']``."""
        return flatten_call(call, self.parameters, self.variadic)[0]

    def call(self, leaves: Sequence[Any]) -> Call | None:
        """Return the call with these leaves after ``map``, or None if ``filter`` refuses it."""
        args, kwargs = self.structure.unflatten(leaves)
        arguments = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        if self.map is not None:
            changed = _answer("map", self.map, arguments)
            if not isinstance(changed, Mapping) or not changed.keys() <= arguments.keys():
                raise SpecError(
                    f"map: must return a dict of changed arguments ({', '.join(arguments)}), "
                    f"not {changed!r:.80}"
                )
            named = zip_longest(self.parameters[: len(args)], args, fillvalue="")
            args = tuple(changed.get(name, arg) for name, arg in named)
            kwargs = {key: changed.get(key, value) for key, value in kwargs.items()}
            arguments |= changed
        answer = True if self.filter is None else _answer("filter", self.filter, arguments)
        try:
            return Call(args, kwargs) if answer else None
        except RuntimeError as error:  # a tensor of several bools
            raise SpecError(f"filter: must return one bool, not {describe(answer)}") from error

    def with_dims(self, groups: Mapping[str, Group], *assumed: Assumption) -> InputSpec:
        """Return the spec with these groups of axes as its dims, in place of those guessed."""
        tensors = {leaf.path: leaf.example for leaf in self.tensors}
        declared = {name: dim.sizes for name, dim in self.dims.items() if dim.declared}
        kept = {name: dim for name, dim in self.dims.items() if name in self.recorded}
        axes = axes_of(tensors, groups, declared, self.recorded_shapes, kept)
        others = tuple(item for item in self.assumed if item.kind != "dim")
        return dataclasses.replace(
            self,
            leaves=self._shaped(axes.shapes),
            dims=axes.dims,
            assumed=(*axes.assumed, *assumed, *others),
        )

    def with_domains(self, domains: Mapping[str, Domain]) -> InputSpec:
        """Return the spec with other values for some tensors, which then index no other input."""
        leaves = tuple(
            dataclasses.replace(leaf, domain=domains[leaf.path], index=None)
            if isinstance(leaf, TensorLeaf) and leaf.path in domains
            else leaf
            for leaf in self.leaves
        )
        others = (item for item in self.assumed if item.kind not in ("argument", "values"))
        assumed = (*others, *_assumed_values(leaves))
        return dataclasses.replace(self, leaves=leaves, assumed=assumed)

    def narrow(self, name: str, sizes: range | tuple[int, ...]) -> InputSpec:
        """Return the spec with fewer sizes for one dim; with a single size, without the dim."""
        if len(sizes) > 1:
            dim = dataclasses.replace(self.dims[name], sizes=sizes)
            return dataclasses.replace(self, dims={**self.dims, name: dim})
        shapes = {
            leaf.path: tuple(axis.fixed(name, sizes[0]) for axis in leaf.shape)
            for leaf in self.tensors
        }
        dims = {other: dim for other, dim in self.dims.items() if other != name}
        return dataclasses.replace(self, leaves=self._shaped(shapes), dims=dims)

    def _shaped(self, shapes: Mapping[str, Shape]) -> tuple[TensorLeaf | ValueLeaf, ...]:
        return tuple(
            dataclasses.replace(leaf, shape=shapes[leaf.same_as or leaf.path])
            if isinstance(leaf, TensorLeaf)
            else leaf
            for leaf in self.leaves
        )

    def opt_out(self, names: Sequence[str]) -> str:
        """Return the sentence on how to keep dims from varying that were assumed to vary."""
        listed = ", ".join(map(repr, names))
        return (
            f"that {listed} varies was only assumed; if it does not: "
            f'shapes={{{self.tensors[0].path!r}: "..."}}'
        )

    def resized(self, call: Call, sizes: Mapping[str, int]) -> Call:
        """Return the call at other sizes of its dims: its rows are repeated as often as needed."""
        leaves = dict(self.flatten(call))
        for leaf in self.tensors:
            axes = zip(leaf.shape, leaves[leaf.path].shape, strict=True)
            shape = [
                axis.evaluate(sizes) if axis.names and axis.names <= sizes.keys() else size
                for axis, size in axes
            ]
            leaves[leaf.path] = tiled(leaves[leaf.path], shape)
        return Call(*self.structure.unflatten(leaves.values()))

    def numel(self, sizes: Mapping[str, int]) -> int:
        # In Python's integers: torch's overflow, and a call too large to make would look small.
        return sum(math.prod(leaf.at(sizes)) for leaf in self.tensors)


def _answer(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the answer of a function of the user's, given the arguments that it names."""
    wanted = list(arguments)
    with contextlib.suppress(TypeError, ValueError):  # it says no signature
        items = inspect.signature(function).parameters.values()
        if all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in items):
            needed = inspect.Parameter.empty
            wanted = [i.name for i in items if i.default is needed or i.name in arguments]
    for key in wanted:
        if key not in arguments:
            raise SpecError(
                f"{name}: {key!r} is not an argument of this call; legal: "
                f"{', '.join(arguments)}.{nearest(key, arguments)}"
            )
    try:
        return function(**{key: arguments[key] for key in wanted})
    except Exception as error:
        if ends_the_test(error):
            raise
        raise SpecError(f"{name}: raised {type(error).__name__}: {error}") from error


def flatten_call(
    call: Call, parameters: Sequence[str], variadic: str
) -> tuple[list[Leaf], Structure]:
    """Return the leaves of ``(args, kwargs)`` by parameter, and the structure of the pair."""
    _, structure = call.flatten()
    extra = [f"{variadic}[{i}]" for i in range(len(call.args) - len(parameters))]
    names = [*parameters[: len(call.args)], *extra, *call.kwargs]
    leaves: list[Leaf] = []
    for name, value in zip(names, [*call.args, *call.kwargs.values()], strict=True):
        leaves += flatten(value, name)[0]
    return leaves, structure


def build_spec(
    signature: inspect.Signature | None,
    calls: Sequence[Call],
    options: Options,
    annotations: Mapping[str, Any],
) -> InputSpec:
    """Return the spec of the first call; the others show which sizes vary. Raises SpecError."""
    example = calls[0]
    parameters, variadic = parameters_of(signature, example)
    leaves, structure = flatten_call(example, parameters, variadic)
    paths, given = [path for path, _ in leaves], [value for _, value in leaves]
    held_by = holders(structure)
    for path, value in leaves:
        if isinstance(value, torch.Tensor) and value.is_meta:
            raise SpecError(
                f"{path} is on the meta device: it has no values to compare anything by"
            )
    _check_paths("shapes", options.shapes or {}, dict(leaves))
    _check_paths("values", options.values or {}, dict(leaves))
    arguments = {**dict(zip(parameters, example.args, strict=False)), **example.kwargs}
    if len(example.args) > len(parameters):  # ``*args`` are one argument, and come first
        arguments = {variadic: example.args[len(parameters) :], **arguments}
    others = [call.leaves() for call in calls[1:]]
    tied = [path for path, cls in zip(paths, held_by, strict=True) if cls is not None]
    try:
        axes = find_axes(leaves, others, options, annotations, arguments, tied)
    except ValueError as error:
        raise SpecError(str(error)) from None
    tensors = [
        {path: value for path, value in zip(paths, call, strict=True) if is_plain(value)}
        for call in (given, *others)
    ]
    numbers: dict[int, list[int]] = {}
    for number, value in enumerate(given):
        if is_plain(value):
            numbers.setdefault(id(value), []).append(number)
    aliases = tuple(tuple(group) for group in numbers.values() if len(group) > 1)
    # As long as nobody says that they are several: in no argument, and in no recorded call.
    annotated = any(item.kind == "annotations" for item in axes.assumed)
    silent = not (options.map or options.dynamic_shapes or annotated)
    said = {*(options.shapes or {}), *(options.values or {})}
    same_as = {
        paths[other]: paths[first]
        for first, *more in aliases
        for other in more
        if silent
        and said.isdisjoint(paths[number] for number in (first, *more))
        and all(call[first] is call[other] for call in others)
    }
    values = options.values or {}
    built = [
        _leaf(path, value, recorded, values.get(path), axes, holder, tensors)
        for path, value, holder, *recorded in zip(paths, given, held_by, *others, strict=True)
    ]
    built = [
        dataclasses.replace(leaf, same_as=first, shape=axes.shapes[first])
        if isinstance(leaf, TensorLeaf) and (first := same_as.get(leaf.path))
        else leaf
        for leaf in built
    ]
    return InputSpec(
        leaves=tuple(built),
        structure=structure,
        parameters=parameters,
        variadic=variadic,
        dims=axes.dims,
        example=example.clone(),
        assumed=(*axes.assumed, *_assumed_values(built)),
        map=options.map,
        filter=options.filter,
        dynamic_shapes=options.dynamic_shapes,
        guessed=axes.guessed,
        recorded=axes.recorded,
        origins=tuple(call.origin for call in calls[1:]),
        aliases=aliases,
    )


def _leaf(
    path: str,
    value: Any,
    recorded: Sequence[Any],
    said: Any,
    axes: Axes,
    holder: type | None,
    calls: Sequence[Mapping[str, torch.Tensor]],
) -> TensorLeaf | ValueLeaf:
    """Return a leaf; ``said``: what the user's ``values`` say of it; ``calls``: all tensors."""
    if not is_plain(value):
        legal = domains.of_argument(said, value, path)
        return ValueLeaf(path=path, example=value, values=legal, recorded=tuple(recorded))
    domain = (
        domains.infer(value, *recorded) if said is None else domains.declared(said, value, path)
    )
    if recorded:
        domain = dataclasses.replace(domain, reach=domains.reach_of((value, *recorded)))
    leaf = TensorLeaf(
        path=path,
        shape=axes.shapes[path],
        dtype=value.dtype,
        domain=domain,
        example=copy_tensor(value).cpu(),
        recorded=tuple(recorded),
        holder=holder,
    )
    if domain.kind != "int" or domain.declared or leaf.kept:
        return leaf
    # The input that its integers index in every call.
    indices = {index_of(path, tensors) for tensors in calls}
    return dataclasses.replace(leaf, index=indices.pop()) if len(indices) == 1 else leaf


def parameters_of(signature: inspect.Signature | None, call: Call) -> tuple[tuple[str, ...], str]:
    """Return the names of forward's positional parameters, and that of its ``*args``."""
    if signature is None:
        return tuple(f"arg{i}" for i in range(len(call.args))), "args"
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        raise SpecError(f"the call does not fit forward{signature}: {error}") from None
    kind = inspect.Parameter
    named = [(name, item.kind) for name, item in signature.parameters.items()]
    kinds = (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)
    variadic = [name for name, of_name in named if of_name is kind.VAR_POSITIONAL]
    return tuple(name for name, of_name in named if of_name in kinds), next(iter(variadic), "args")


def _check_paths(argument: str, given: Mapping[str, Any], leaves: Mapping[str, Any]) -> None:
    for path in given:
        below = [known for known in leaves if known.startswith((f"{path}[", f"{path}."))]
        if path in leaves:
            if argument == "shapes" and not isinstance(leaves[path], torch.Tensor):
                raise SpecError(f"shapes: {path!r} is {describe(leaves[path])}, not a tensor")
        elif below:
            raise SpecError(
                f"{argument}: {path!r} is a container; name its leaves: {', '.join(below)}"
            )
        else:
            raise SpecError(
                f"{argument}: {path!r} is not in this call; "
                f"legal: {', '.join(leaves) or 'nothing'}.{nearest(path, leaves)}"
            )


def _assumed_values(leaves: Sequence[TensorLeaf | ValueLeaf]) -> Iterator[Assumption]:
    for leaf in leaves:
        if isinstance(leaf, ValueLeaf):
            if leaf.values is None and leaf.example is not None:
                text = f"{leaf.path} stays {describe(leaf.example)}"
                yield Assumption("argument", text, leaf.path)
        elif leaf.same_as:
            text = f"{leaf.path} is {leaf.same_as}, one tensor, as in the example"
            yield Assumption("argument", text, leaf.path)
        elif leaf.kept:
            assert leaf.holder is not None
            text = f"{leaf.path} stays as recorded: it is part of a {leaf.holder.__name__}"
            yield Assumption("values", text, leaf.path)
        elif not leaf.domain.declared:
            domain = leaf.domain
            if domain.kind != "float" or domain.low is not None or domain.choices:
                text = f"values of {leaf.path} are {domain.describe()}, {domain.like}"
                if leaf.index is not None:
                    ordered = ", in order" if leaf.index.ordered else ""
                    text += f", and below the size of {leaf.index.into}{ordered}"
                yield Assumption("values", text, leaf.path)
