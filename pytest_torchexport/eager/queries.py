"""Find where forward asks whether it is exported, and run it with an exporter's answers.

``torch.jit.is_tracing()`` and its kin answer otherwise while an exporter runs forward, so that
forward may compute something else there. Separate from the search for branches, which varies the
inputs of a call: no input changes these answers.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.fork import survived
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import SourceLine, has_owner, is_users, source_line
from pytest_torchexport.torch_private.circumstances import export_queries

# The functions belong to the process: a second thread would take a stand-in for the original.
_ONE_AT_A_TIME = threading.RLock()

GRAD_MODE = "torch.is_grad_enabled"
INFERENCE_MODE = "torch.is_inference_mode_enabled"
THREADS = "torch.get_num_threads"
# A function that asks for another one by its name, as transformers' is_torchdynamo_compiling.
_ASKS_TOO = re.compile(r"is_\w*(tracing|compiling|exporting|scripting|export)")
# Eager with other answers is tried in a fork for so long.
TRYING_SECONDS = 10.0


@dataclass(frozen=True)
class Query:
    """A place at which forward asks: the function, and the lines from there to the user's.

    ``lines`` end with the user's nearest line, if there is one. ``path`` tells apart the ways on
    which forward gets there. ``where`` is the line that uses the answer, the user's or that of a
    library with models; None if there is none.
    """

    name: str
    lines: tuple[SourceLine, ...]
    path: tuple[tuple[str, int], ...]
    where: SourceLine | None = None

    @property
    def asked_at(self) -> str:
        """The line that asks, and those from which it was called, in words."""
        first, *callers = self.lines
        return f"asked at {first}" + "".join(f", called at {line}" for line in callers)

    @property
    def of_torch(self) -> bool:
        return is_torchs(self.path[0][0])


def queries(subject: Subject, call: Call, seed: int, names: Collection[str]) -> tuple[Query, ...]:
    """Run a copy of the subject, and return where it asks what ``names`` answer."""
    found: dict[Query, None] = {}
    copy = subject.copy()

    def asked(query: Query, real: Callable[[], Any]) -> Any:
        found[query] = None
        return real()

    def run(*args: Any, **kwargs: Any) -> Any:
        with _handled(names, asked):
            return copy.function(*args, **kwargs)

    if names:
        observe(run, call, seed=seed, grad_mode=subject.grad_mode)
    return tuple(found)


def answering(
    function: Callable[..., Any],
    answers: Mapping[str, Any],
    only: Collection[Query] | None = None,
) -> Callable[..., Any]:
    """Return a function that runs with these answers to what it asks; ``only``: at these places."""
    places = None if only is None else {(query.name, query.path) for query in only}

    def asked(query: Query, real: Callable[[], Any]) -> Any:
        place = query.name, query.path
        return answers[query.name] if places is None or place in places else real()

    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        with _handled(answers, asked):
            return function(*args, **kwargs)

    return run


def survives(
    subject: Subject, call: Call, seed: int, answers: Mapping[str, Any], asked: Collection[Query]
) -> bool:
    """Return True if eager with these answers at these places returns or raises on a call.

    Tried in a fork, on the CPU: eager never ran that code before, and it may end the process.
    """
    function = answering(subject.copy().function, answers, asked)
    return survived(
        lambda: observe(function, call, seed=seed, grad_mode=subject.grad_mode), TRYING_SECONDS
    )


def _query(name: str, frame: FrameType) -> Query | None:
    """Return the place at which a frame asks; None if torch asks for its own purposes."""
    while frame.f_back is not None and name.endswith(f".{frame.f_code.co_name}"):
        frame = frame.f_back  # another name of the same function: torch._dynamo.is_compiling
    file = frame.f_code.co_filename
    if is_torchs(file) and not is_of_layers(file):
        return None
    path: list[tuple[str, int]] = []
    where: SourceLine | None = None
    at: FrameType | None = frame
    while at is not None and at.f_code.co_filename != __file__:
        code = at.f_code
        path.append((code.co_filename, at.f_lineno))
        if where is None and _has_owner(code.co_filename) and not _ASKS_TOO.fullmatch(code.co_name):
            where = source_line(*path[-1])
        at = None if _is_users(code.co_filename) else at.f_back
    others = (place for place in path if place[0] != file and not is_torchs(place[0]))
    shown = dict.fromkeys((path[0], *itertools.islice(others, 1), path[-1]))
    lines = tuple(source_line(*place) for place in shown if not place[0].startswith(_CALLS))
    return Query(name, lines, tuple(path), where)


def is_torchs(file: str) -> bool:
    return file.startswith(_TORCH)


def is_of_layers(file: str) -> bool:
    """Return True for a file of ``torch.nn`` with layers or functions, which decide for a model."""
    return file.startswith(_LAYERS) and file != _CALLS


# torch, its layers, and the file in which it calls modules, where it asks too.
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_LAYERS = f"{Path(nn.__file__).parent}{os.sep}"
_CALLS = str(inspect.getfile(nn.Module))
_is_users = functools.lru_cache(maxsize=1024)(is_users)
_has_owner = functools.lru_cache(maxsize=1024)(has_owner)


# -- the functions that are asked ------------------------------------------------------------------


@contextmanager
def _handled(
    names: Container[str], asked: Callable[[Query, Callable[[], Any]], Any]
) -> Iterator[None]:
    """Have ``asked(where, real function)`` answer in the block what forward asks by these names.

    Of this thread only. The code of a Python function is exchanged, because other modules may have
    imported the function itself.
    """
    thread = threading.get_ident()

    def stand_in(name: str, real: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        frame = sys._getframe(2)
        is_other = args or kwargs or threading.get_ident() != thread
        query = None if is_other else _query(name, frame)
        return real(*args, **kwargs) if query is None else asked(query, real)

    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        for name, (owner, attribute) in export_queries().items():
            if name not in names:
                continue
            function = getattr(owner, attribute)
            if isinstance(function, FunctionType) and not function.__closure__:
                real = FunctionType(function.__code__, function.__globals__)
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = _code(functools.partial(stand_in, name, real))
            else:
                stack.callback(setattr, owner, attribute, function)
                new = FunctionType(_code(functools.partial(stand_in, name, function)), {})
                setattr(owner, attribute, new)
        yield


_HANDLER = "the handler of a query"


def _template(*args: Any, **kwargs: Any) -> Any:
    handler: Any = "the handler of a query"
    return handler(args, kwargs)


def _code(handler: Callable[..., Any]) -> CodeType:
    """Return the code of a function that hands its arguments to a handler."""
    code = _template.__code__
    constants = tuple(handler if item == _HANDLER else item for item in code.co_consts)
    return code.replace(co_consts=constants)
