"""Put back what a module shares with its copies: class attributes, globals, closures, defaults.

Also what objects of the user's hold in these places, but not in ``__slots__``.

Separate from ``fingerprint``, which finds these places and compares them: this file undoes what
calls did there. Containers are put back in place, because other code holds the same objects.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from pytest_torchexport.eager.fingerprint import Reached
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.observe import differ, kept_copy

# Larger tensors, in bytes, are not copied before each item; of a parameter, a copy takes no memory.
LARGEST = 2**24
_OF_NAMES = (dict, OrderedDict, defaultdict, Counter)
_CONTAINERS = (*_OF_NAMES, list, set, deque)

# Puts a place back, and returns what was there if it may hold other objects.
Restore = Callable[[], Any]


@contextlib.contextmanager
def put_back(reached: Reached) -> Iterator[list[Any]]:
    """Undo after the block what it did to the places that a walk has reached.

    Yields a list, which has after the block what was taken away there. As long as that is kept, so
    are the operators that a torch.library.Library registered.
    """
    taken: list[Any] = []

    def run(restore: Restore) -> None:
        taken.append(restore())

    restores = [
        *map(_class, reached.classes),
        *itertools.starmap(_scope, reached.scopes),
        *map(_cell, reached.cells),
        *map(_content, reached.containers),
        *map(_numbers, reached.shared),
    ]
    with contextlib.ExitStack() as stack:  # runs all of them, also if one raises
        for restore in restores:
            stack.callback(run, restore)
        yield taken


def _names(
    read: Callable[[], Mapping[str, Any]],
    write: Callable[[str, Any], None],
    delete: Callable[[str], None],
) -> Restore:
    """Remember the objects that names stand for. A name that an import adds is kept."""
    kept = read()

    def restore() -> Any:
        now = read()
        for name, value in now.items():
            if name not in kept and not isinstance(value, types.ModuleType):
                delete(name)
        for name, value in kept.items():
            if name not in now or now[name] is not value:
                write(name, value)
        return now

    return restore


def _class(cls: type) -> Restore:
    def read() -> dict[str, Any]:
        return {name: v for name, v in vars(cls).items() if not name.startswith(("__", "_abc"))}

    return _names(read, partial(type.__setattr__, cls), partial(type.__delattr__, cls))


def _scope(scope: dict[str, Any], names: tuple[str, ...]) -> Restore:
    def read() -> dict[str, Any]:
        return {name: scope[name] for name in names if name in scope}

    return _names(read, scope.__setitem__, scope.__delitem__)


def _cell(cell: types.CellType) -> Restore:
    def read() -> dict[str, Any]:
        with contextlib.suppress(ValueError):  # not filled
            return {"cell_contents": cell.cell_contents}
        return {}

    return _names(read, partial(setattr, cell), partial(delattr, cell))


def _content(container: Any) -> Restore:
    if type(container) not in _CONTAINERS:  # to fill another might run the user's code
        return lambda: None
    kept, before = copy.copy(container), _identities(container)

    def restore() -> Any:
        now = copy.copy(container)
        if _identities(container) != before:
            container.clear()
            fill = container.extend if isinstance(container, (list, deque)) else container.update
            fill(kept)
        return now

    return restore


def _identities(container: Any) -> list[int]:
    """Return the ``id`` of all in it: nobody's ``__eq__`` is called. Those of a set are sorted."""
    is_dict = isinstance(container, dict)
    items = itertools.chain.from_iterable(container.items()) if is_dict else container
    return sorted(map(id, items)) if isinstance(container, set) else list(map(id, items))


def _numbers(tensor: torch.Tensor) -> Restore:
    if not is_plain(tensor) or tensor.is_inference():
        return lambda: None
    if tensor.nbytes > LARGEST and not isinstance(tensor, torch.nn.Parameter):
        return lambda: None
    kept = kept_copy(tensor)

    def restore() -> None:
        # torch refuses to write to an expanded view, or to resize memory that is not its own. If
        # that is not put back with the tensor's base, the verdict has a note.
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            if differ(tensor, kept):
                if tensor.shape != kept.shape:
                    tensor.resize_(kept.shape)
                tensor.copy_(kept)

    return restore
