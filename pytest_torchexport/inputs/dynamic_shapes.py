"""Write an input spec as ``dynamic_shapes`` for torch.export and for the ONNX exporter.

Separate from ``spec``, because this holds the quirks of torch's exporters.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr
from pytest_torchexport.inputs.pytrees import Structure, flatten
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf

# torch.export and the ONNX exporter specialize a dim whose example is 0 or 1:
# https://docs.pytorch.org/docs/stable/export/programming_model.html#the-0-1-specialization-problem
SPECIALIZED = (0, 1)
EXPORTED_AT = 2


def specialized_dims(spec: InputSpec) -> tuple[Dim, ...]:
    """Return the dims that an exporter would freeze at the example's size, and that may be 2."""
    return tuple(
        dim
        for dim in spec.dims.values()
        if dim.example in SPECIALIZED and EXPORTED_AT in dim.sizes and len(dim.sizes) > 1
    )


def dynamic_shapes(
    spec: InputSpec, example: Call, signature: inspect.Signature | None
) -> Iterator[Any]:
    """Yield objects to try in turn.

    These are the user's own, or else named ``Dim(min, max)`` and, for relations between dims that
    torch refuses, ``Dim.DYNAMIC``. Never ``Dim.AUTO``. None if nothing varies, or if torch cannot
    describe the shapes of an argument: it calls the class of each container with them.
    """
    if spec.dynamic_shapes is not None:
        yield spec.dynamic_shapes
    elif not spec.dims or spec.holders:
        yield None
    else:
        named = _named_dims(spec)
        yield _shaped(spec, example, signature, lambda axis: _named(axis, named))
        yield _shaped(spec, example, signature, _dynamic)


def spelled(given: Any) -> str:
    """Return ``dynamic_shapes`` as code: ``{'x': {0: Dim.DYNAMIC}}``."""
    if isinstance(given, Mapping):
        return f"{{{', '.join(f'{key!r}: {spelled(item)}' for key, item in given.items())}}}"
    if isinstance(given, (list, tuple)):
        inside = ", ".join(map(spelled, given))
        brackets = "[{}]" if isinstance(given, list) else "({},)" if len(given) == 1 else "({})"
        return brackets.format(inside)
    if given is torch.export.Dim.DYNAMIC:
        return "Dim.DYNAMIC"
    # A multiple or a sum of a Dim has a name like ``2*batch``.
    name = getattr(given, "__name__", None)
    return repr(given) if name is None else f"Dim({name!r})" if name.isidentifier() else name


def without_names(given: Any) -> Any:
    """Replace strings, which only the ONNX exporter takes, by ``Dim.DYNAMIC``."""
    if isinstance(given, str):
        return torch.export.Dim.DYNAMIC
    if isinstance(given, Mapping):
        return {key: without_names(item) for key, item in given.items()}
    if isinstance(given, (list, tuple)):
        items = [without_names(item) for item in given]
        return tuple.__new__(type(given), items) if isinstance(given, tuple) else items
    return given


def _named_dims(spec: InputSpec) -> dict[str, Any]:
    return {
        dim.name: torch.export.Dim(
            dim.name, min=min(dim.low, dim.example), max=max(dim.high, dim.example)
        )
        if dim.declared
        else torch.export.Dim(dim.name)
        for dim in spec.dims.values()
    }


def _named(axis: Expr, named: Mapping[str, Any]) -> Any:
    linear = axis.linear()
    if linear is None:
        return torch.export.Dim.DYNAMIC
    name, factor, offset = linear
    dim = named[name]
    if factor != 1:
        dim = factor * dim
    return dim + offset if offset > 0 else dim - -offset if offset else dim


def _dynamic(axis: Expr) -> Any:
    return torch.export.Dim.DYNAMIC


def _shaped(
    spec: InputSpec, example: Call, signature: inspect.Signature | None, entry: Any
) -> dict[str, Any] | tuple[Any, ...]:
    by_path = {leaf.path: leaf for leaf in spec.tensors}

    def one(path: str, value: Any) -> Any:
        leaves, structure = flatten(value, path)
        return _like(structure, [_axes(by_path.get(leaf), entry) for leaf, _ in leaves])

    if signature is None:
        args = tuple(
            one(name, value) for name, value in zip(spec.parameters, example.args, strict=True)
        )
        return {"args": args}
    names = spec.parameters[: len(example.args)]
    shaped = {name: one(name, value) for name, value in zip(names, example.args, strict=False)}
    extra = example.args[len(names) :]
    if extra:
        shaped[spec.variadic] = tuple(
            one(f"{spec.variadic}[{i}]", value) for i, value in enumerate(extra)
        )
    return shaped | _keywords(example, signature, one)


def _like(structure: Structure, entries: Sequence[Any]) -> Any:
    """Put the entries in containers of the structure; for a registered class torch takes a list."""
    if structure.kind == "leaf":
        return entries[0]
    parts, start = [], 0
    for child in structure.children:
        parts.append(_like(child, entries[start : start + child.count]))
        start += child.count
    builtin = issubclass(structure.type, (dict, list, tuple))
    if structure.type is torch.Size:
        return tuple(parts)  # a Size takes nothing but numbers
    assert structure.rebuild is not None
    return structure.rebuild(parts) if builtin else parts


def _keywords(example: Call, signature: inspect.Signature | None, one: Any) -> dict[str, Any]:
    named = {name: one(name, value) for name, value in example.kwargs.items()}
    if signature is None:
        return named
    known = {n: named.pop(n) for n in list(named) if n in signature.parameters}
    if named:
        rest = next(
            name
            for name, item in signature.parameters.items()
            if item.kind is inspect.Parameter.VAR_KEYWORD
        )
        known[rest] = named
    # torch matches keyword arguments in the order of the call, not of the signature.
    return known


def _axes(leaf: TensorLeaf | None, entry: Any) -> Any:
    if leaf is None:
        return None
    return {axis: entry(expr) for axis, expr in enumerate(leaf.shape) if expr.names} or None
