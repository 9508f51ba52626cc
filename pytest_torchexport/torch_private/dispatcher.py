"""Operators of torch's dispatcher: what it knows of one, and a mode that sees each that runs.

Separate because only operators have schemas, overloads, kernels and decompositions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchexport.results.source_line import is_users


def is_operator(function: Any) -> bool:
    """Return True for an operator of the dispatcher (``aten.add.Tensor``), which has a schema."""
    return isinstance(function, torch._ops.OpOverload)


def schema_of(operator: Any) -> Any:
    """Return an operator's schema: its name, its arguments, which of them it writes to.

    None if it has no schema.
    """
    return getattr(operator, "_schema", None)


def registrations(namespace: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each overload of an operator that this process knows, and where it comes from.

    That is the function under ``torch.library.custom_op``, of which the dispatcher knows only
    torch's own line; else the file and line that registered it, also in C++; None if unknown.
    """
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return
    custom_ops = getattr(getattr(torch, "_library", None), "custom_ops", None)
    dump = getattr(torch._C, "_dispatch_dump", lambda _: "")
    for overload in packet.overloads():  # type: ignore[no-untyped-call]
        full = f"{namespace}::{name}" + (f".{overload}" if overload != "default" else "")
        definition = getattr(getattr(custom_ops, "OPDEFS", {}).get(full), "_init_fn", None)
        place = re.search(r"^debug: registered at (.+):(\d+)$", dump(full), re.MULTILINE)
        yield overload, definition or (place and (place[1], int(place[2])))


def kernels_of(operator: Any) -> list[FunctionType] | None:
    """Return the user's functions in a custom operator that a decorator of torch.library has made.

    None for any other object.
    """
    made = getattr(torch.library, "CustomOpDef", None)
    if made is None or not isinstance(operator, made):
        return None
    held = list(vars(operator).values())
    held += [each for kept in held if isinstance(kept, dict) for each in kept.values()]
    functions = [each for each in held if isinstance(each, FunctionType)]
    # torch wraps what it is given.
    cells = [cell for each in functions for cell in each.__closure__ or ()]
    inner = [cell.cell_contents for cell in cells if cell != CellType()]
    functions += [each for each in inner if isinstance(each, FunctionType)]
    own = {id(each): each for each in functions if is_users(each.__code__.co_filename)}
    return list(own.values())


def decomposition_of(operator: Any) -> Callable[..., Any] | None:
    """Return a function that computes an operator with simpler ones, as torch.compile needs it.

    The function may call itself by way of others, and may return NotImplemented. None if torch
    knows none.
    """
    table = getattr(getattr(torch, "_decomp", None), "decomposition_table", {})
    found: Callable[..., Any] | None = table.get(operator, getattr(operator, "decompose", None))
    return found


def aten_of_prim(operator: Any) -> Callable[..., Any] | None:
    """Return the function that computes one of torch's ``prims`` with an ATen operator.

    Decompositions are made of prims. To call one itself imports torch._dynamo: seconds. None for an
    operator that is no prim.
    """
    return getattr(operator, "impl_aten", None)


Handle = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def dispatch_mode(handle: Handle) -> Any:
    """Return a context manager that hands each ATen operator of its block to ``handle``.

    torch documents the mode, in a private module:
    https://docs.pytorch.org/docs/stable/notes/extending.html
    """

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        # torch.cond and its kin refuse a mode that does not say so.
        supports_higher_order_operators = True

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else the first operator imports torch._dynamo: more than a second

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            return handle(func, args, kwargs or {})

    return Mode()  # type: ignore[no-untyped-call]


@contextmanager
def only_in_batches() -> Iterator[None]:
    """Let ``torch.func.vmap`` raise RuntimeError for an operator that takes no batch.

    Else it would run the operator once for each element, and write a warning past Python's.
    """
    functorch = getattr(torch._C, "_functorch", None)
    allow = getattr(functorch, "_set_vmap_fallback_enabled", None)
    if allow is None:
        yield
        return
    before = functorch._is_vmap_fallback_enabled()  # type: ignore[union-attr]
    allow(False)
    try:
        yield
    finally:
        allow(before)
