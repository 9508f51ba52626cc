"""Find the names that code looks up outside of itself: of globals, modules and their attributes."""

from __future__ import annotations

import dis
import functools
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.eager.fingerprint import is_users_module, names_in


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names that a function's code, and the functions inside it, look up.

    ``named``: names, and texts that may be names: of ``globals()["SCALE"]``. ``modules``: the names
    of modules of which any attribute may be looked up, as in ``getattr(sizes, name)``. ``any_own``:
    any global of the function's own module may be.
    """

    named: frozenset[str]
    modules: frozenset[str]
    any_own: bool


@functools.lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> Names:
    """Return the names that code looks up."""
    named = frozenset(names_in(code))
    return Names(
        named=named | frozenset(_texts(code)),
        modules=frozenset(_looked_into(code)),
        any_own="globals" in named or {"modules", "__name__"} <= named,
    )


def imported_by(names: Names, scope: Mapping[str, Any]) -> list[types.ModuleType]:
    """Return the user's loaded modules that a function of a scope may import while it runs."""
    package = str(scope.get("__package__") or "")
    parts = package.split(".") if package else []
    packages = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    named = sorted(names.named)
    full = [*named, *(f"{each}.{name}".rstrip(".") for each in packages for name in named)]
    found = (sys.modules.get(name) for name in dict.fromkeys(full))
    return [module for module in found if module is not None and is_users_module(module)]


def _texts(code: types.CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        for each in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(each, types.CodeType):
                yield from _texts(each)
            elif isinstance(each, str) and all(map(str.isidentifier, each.split("."))):
                yield each


def _looked_into(code: types.CodeType) -> Iterator[str]:
    loads = [each for each in dis.get_instructions(code) if each.opname.startswith("LOAD_")]
    for at, (one, after) in enumerate(itertools.pairwise(loads)):
        if after.argval == "__dict__":
            yield str(one.argval)
        elif one.argval in ("getattr", "vars"):
            # Of ``getattr(pack.sizes, name)``, all attributes of pack.sizes, and of pack.
            of = itertools.takewhile(lambda load: load.opname == "LOAD_ATTR", loads[at + 2 :])
            yield from (str(load.argval) for load in (after, *of))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_into(constant)
