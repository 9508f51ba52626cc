"""Write an input spec as ``dynamic_shapes`` for torch.export and for the ONNX exporter.

Separate from ``spec``, because this holds the quirks of torch's exporters.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr
from pytest_torchexport.inputs.pytrees import Structure, flatten
from pytest_torchexport.inputs.spec import Call, InputSpec

# torch.export and the ONNX exporter specialize a dim whose example is 0 or 1:
# https://docs.pytorch.org/docs/stable/export/programming_model.html#the-0-1-specialization-problem
SPECIALIZED = (0, 1)
EXPORTED_AT = 2
# The containers of which torch takes entries in the same container.
_BUILTIN = (dict, list, tuple, OrderedDict, defaultdict, deque)


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
        return
    # torch has no Dim of one size.
    varying = [dim for dim in spec.dims.values() if {*dim.sizes} != {dim.example}]
    if not varying or spec.holders:
        yield None
    else:
        dims = {
            dim.name: torch.export.Dim(
                dim.name, min=min(dim.low, dim.example), max=max(dim.high, dim.example)
            )
            if dim.declared
            else torch.export.Dim(dim.name)
            for dim in varying
        }

        def dynamic(axis: Expr) -> Any:
            return None if dims.keys().isdisjoint(axis.names) else torch.export.Dim.DYNAMIC

        def named(axis: Expr) -> Any:
            linear = axis.linear() if dynamic(axis) else None
            if linear is None:
                return dynamic(axis)
            name, factor, offset = linear
            dim = dims[name] if factor == 1 else factor * dims[name]
            return dim + offset if offset > 0 else dim - -offset if offset else dim

        yield _shaped(spec, example, signature, named)
        yield _shaped(spec, example, signature, dynamic)


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


def _shaped(
    spec: InputSpec, example: Call, signature: inspect.Signature | None, entry: Any
) -> dict[str, Any]:
    """Return ``dynamic_shapes`` with ``entry`` called on each axis that varies."""
    by_path = {leaf.path: leaf for leaf in spec.tensors}

    def of_leaf(path: str) -> dict[int, Any] | None:
        shape = by_path[path].shape if path in by_path else ()
        return {axis: entry(expr) for axis, expr in enumerate(shape) if expr.names} or None

    def one(path: str, value: Any) -> Any:
        leaves, structure = flatten(value, path)
        return structure.unflatten((of_leaf(leaf) for leaf, _ in leaves), _container)

    names = spec.parameters[: len(example.args)]
    shaped = {name: one(name, value) for name, value in zip(names, example.args, strict=False)}
    if signature is None:
        return {"args": tuple(shaped.values())}
    extra = example.args[len(names) :]
    if extra:
        shaped[spec.variadic] = tuple(
            one(f"{spec.variadic}[{i}]", value) for i, value in enumerate(extra)
        )
    # torch matches keyword arguments in the order of the call, not of the signature.
    named = {name: one(name, value) for name, value in example.kwargs.items()}
    known = {name: named.pop(name) for name in list(named) if name in signature.parameters}
    kinds = {item.kind: name for name, item in signature.parameters.items()}
    return shaped | known | ({kinds[inspect.Parameter.VAR_KEYWORD]: named} if named else {})


def _container(structure: Structure, parts: list[Any]) -> Any:
    """Return a container of entries; for a registered class torch takes a list."""
    if structure.type is torch.Size:
        return tuple(parts)  # a Size takes nothing but numbers
    # Of a subclass too: transformers registers its outputs, which are dicts.
    builtin = structure.type in _BUILTIN or hasattr(structure.type, "_fields")
    return structure.rebuild(parts) if builtin else parts
