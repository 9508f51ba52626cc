"""Tell in which ways eager can be called and an artifact cannot: by position, by name, with less.

Nothing is run: a program states which arguments it takes. A call in another way is refused loudly,
so that this is a note; inputs in another order than forward's are taken for each other silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from inspect import Parameter

from pytest_torchexport.inputs.call import Call

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ANY = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def unlike(eager: inspect.Signature, program: inspect.Signature) -> Iterator[str]:
    """Yield a sentence for each way in which eager can be called and the program cannot."""
    wanted, found = dict(eager.parameters), dict(program.parameters)
    if any(item.kind in _ANY for item in wanted.values()):
        return  # the program has a name for what has none in eager
    if not found.keys() <= wanted.keys():
        yield f"the program's arguments are {_listed(found)}; forward's are {_listed(wanted)}"
        return
    both = {name: (wanted[name].kind, item.kind) for name, item in found.items()}
    positional = [n for n, (w, f) in both.items() if w in _BY_NAME and f not in _BY_NAME]
    if positional:
        yield f"the program takes {_listed(positional)} by position only, forward also by name"
    named = [n for n, (w, f) in both.items() if w in _BY_POSITION and f not in _BY_POSITION]
    if named:
        yield f"the program takes {_listed(named)} by name only, forward also by position"
    needed = [n for n, item in found.items() if _is_needed(item) and not _is_needed(wanted[n])]
    if needed:
        yield f"the program needs {_listed(needed)}, for which forward has a default"
    gone = [name for name in wanted if name not in found]
    if gone:
        yield f"the program does not take {_listed(gone)}: constant since the export"


def refused(eager: inspect.Signature | None, program: inspect.Signature, call: Call) -> str:
    """Return a sentence if a program cannot be called as eager is, else nothing."""
    try:
        program.bind(*call.args, **call.kwargs)
    except TypeError:
        given = [*_positions(eager, len(call.args)), *(f"{name}=" for name in call.kwargs)]
        return f"it takes {program}, and eager is called with ({', '.join(given)})"
    return ""


def _positions(eager: inspect.Signature | None, count: int) -> list[str]:
    """Return forward's names of the first arguments; a number for each that has none."""
    parameters = eager.parameters.items() if eager is not None else ()
    names = [name for name, item in parameters if item.kind in _BY_POSITION]
    return [*names, *(f"argument {n + 1}" for n in range(len(names), count))][:count]


def reordered(eager: inspect.Signature, inputs: Sequence[str]) -> str:
    """Return a sentence if a file's inputs are not in forward's order, else nothing."""
    positions = [n for n, item in eager.parameters.items() if item.kind in _BY_POSITION]
    own = [name for name in inputs if name in positions]
    wanted = [name for name in positions if name in own]
    if own == wanted:
        return ""
    return (
        f"the file's inputs are in the order {_listed(own)}, as the call named them, and not in "
        f"forward's ({_listed(wanted)}): whoever runs the file must feed them by name"
    )


def _is_needed(item: Parameter) -> bool:
    return item.default is Parameter.empty


def _listed(names: Sequence[str] | dict[str, Parameter]) -> str:
    return ", ".join(names) or "none"
