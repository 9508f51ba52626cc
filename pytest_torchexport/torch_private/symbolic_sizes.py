"""Symbolic sizes of a torch.export: the ShapeEnv with its guards, ranges and lines.

Its fields have comments in torch/fx/experimental/symbolic_shapes.py. If one is missing, the answer
is empty. Separate because it is the largest private object of torch that is read here.
"""

from __future__ import annotations

import glob
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch

from pytest_torchexport.results.source_line import SourceLine, is_models, is_users, source_line

Frames = list[tuple[str, int]]
# No frame from here on is the model's: the test that called is the user's too.
_OWN = f"{Path(__file__).parents[1]}/"

# Where an environment keeps the lines that made texts of its sizes.
_TEXTS = "_torchexport_texts"


def shape_environment(program: Any) -> Any:
    """Return the ShapeEnv of an ExportedProgram; None if no node of it has a tensor."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return getattr(mode, "shape_env", None)
    return None


def environment_of(errors: Iterable[BaseException]) -> Any:
    """Return the ShapeEnv of a refused export, from the frames of its exceptions, or None."""
    for error in errors:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            mode = frame.f_locals.get("fake_mode")
            if getattr(mode, "shape_env", None) is not None:
                return mode.shape_env  # type: ignore[union-attr]
    return None


def guards_of(environment: Any) -> list[tuple[Any, SourceLine | None]]:
    """Return the guards on sizes (sympy relations), each with the user's line.

    Includes the assertions that the ONNX exporter makes in their place, which know no line.
    """
    guards = getattr(environment, "guards", None) or ()
    deferred = getattr(environment, "deferred_runtime_asserts", None) or {}
    return [(guard.expr, _line_of(guard.sloc)) for guard in guards] + [
        (item.expr, None) for items in deferred.values() for item in items
    ]


def ranges_of(environment: Any) -> dict[Any, Any]:
    """Return the interval of each symbol, for an environment that has no program."""
    return dict(getattr(environment, "var_to_range", None) or {})


def sources_of(environment: Any) -> dict[Any, str]:
    """Return for each symbol the axis it was made for, in torch's words: ``L['x'].size()[0]``."""
    found = getattr(environment, "var_to_sources", None) or {}
    names = {symbol: sources[0].name for symbol, sources in found.items() if sources}
    # A method in some versions of torch, an attribute in others.
    return {symbol: name() if callable(name) else name for symbol, name in names.items()}


def range_lines(environment: Any, symbol: Any) -> tuple[SourceLine | None, SourceLine | None]:
    """Return the user's lines that gave a symbol its lower and its upper bound."""
    lines = (getattr(environment, "var_to_range_sloc", None) or {}).get(symbol)
    return (_line_of(lines.lower), _line_of(lines.upper)) if lines is not None else (None, None)


def frozen_lines(environment: Any) -> dict[str, SourceLine]:
    """Return the user's line at which each axis (``L['x'].size()[0]``) became a number."""
    replaced = getattr(environment, "replacements", None) or {}
    lines = getattr(environment, "replacements_slocs", None) or {}
    ranges = ranges_of(environment)
    found: dict[str, SourceLine | None] = {}
    for symbol, source in sources_of(environment).items():
        if getattr(replaced.get(symbol), "is_Integer", False) and symbol in lines:
            found[source] = _line_of(lines[symbol])
        elif symbol in ranges and ranges[symbol].lower == ranges[symbol].upper:
            found[source] = range_lines(environment, symbol)[1]
    return {source: line for source, line in found.items() if line is not None}


def called_lines(environment: Any, *, of_layers: bool = False) -> dict[Any, SourceLine]:
    """Return the user's lines that called torch's code which asked, as ``callers_kept`` kept them.

    By guard, by symbol and end (0 or 1) for what bounds it, and by axis for what made it a number.
    ``of_layers``: only where a layer of torch's asked.
    """
    guards = getattr(environment, "guards", None) or ()
    bounds = getattr(environment, "var_to_range_sloc", None) or {}
    numbers = getattr(environment, "replacements_slocs", None) or {}
    sources = sources_of(environment)
    asked = [
        *((guard.expr, guard.sloc) for guard in guards),
        *(((symbol, 0), of.lower) for symbol, of in bounds.items()),
        *(((symbol, 1), of.upper) for symbol, of in bounds.items()),
        *((sources[symbol], sloc) for symbol, sloc in numbers.items() if symbol in sources),
    ]
    callers = ((key, getattr(sloc, "framework_loc", None)) for key, sloc in asked)
    return {
        key: at.caller
        for key, at in callers
        if isinstance(at, _CalledFrom) and at.of_layer >= of_layers
    }


class _CalledFrom(traceback.FrameSummary):
    """A frame of torch's own code that asked for a size, with the user's line that called it."""

    def __init__(self, frame: FrameType, caller: SourceLine, *, of_layer: bool) -> None:
        super().__init__(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        self.caller, self.of_layer = caller, of_layer


@contextmanager
def callers_kept(named: Callable[[Frames], SourceLine | None]) -> Iterator[None]:
    """Keep in the block the user's line for guards of torch's own code, which torch leaves out.

    And the lines on which the user's code makes a text of a size. ``named`` returns the line to
    name of frames, from the innermost one on. Nothing is kept if torch tells places in another way.
    """
    from torch.fx.experimental import symbolic_shapes

    environment, name = symbolic_shapes.ShapeEnv, "_get_stack_summary"
    real: Any = getattr(environment, name, None)
    ignored: Any = getattr(symbolic_shapes, "uninteresting_files", None)

    def summary(self: Any, is_debug: bool = False, framework_loc: Any = None) -> Any:
        if framework_loc is None:
            framework_loc = _asking(sys._getframe(1), ignored(), named)
        return real(self, is_debug, framework_loc)

    to_text: Any = torch.SymInt.__str__

    def text_of(size: Any) -> str:
        text: str = to_text(size)
        file, line = sys._getframe(1).f_code.co_filename, sys._getframe(1).f_lineno
        if is_users(file) or is_models(file):
            vars(size.node.shape_env).setdefault(_TEXTS, {})[text] = source_line(file, line)
        return text

    if real is None or ignored is None:
        yield
        return
    with (
        mock.patch.object(environment, name, summary),
        mock.patch.object(torch.SymInt, "__str__", text_of),
    ):
        yield


def text_lines(environment: Any) -> dict[str, SourceLine]:
    """Return the user's line that made each text of a size, as ``callers_kept`` kept them."""
    return dict(getattr(environment, _TEXTS, {}))


def _asking(
    frame: FrameType | None, ignored: Collection[str], named: Callable[[Frames], SourceLine | None]
) -> traceback.FrameSummary | None:
    """Return the frame that torch would name, with its caller if it is torch's own."""
    while frame is not None and frame.f_code.co_filename in ignored:
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename
    # Dynamo reads the model's code, which is then on no stack but its own.
    read = torch._guards.TracingContext.extract_stack()
    frames = [(each.filename, each.lineno or 0) for each in reversed(read)]
    for caller, line in traceback.walk_stack(frame):
        if caller.f_code.co_filename.startswith(_OWN):
            break
        frames.append((caller.f_code.co_filename, line))
    at = None if is_users(file) or is_models(file) else named(frames)
    if at is None:
        return traceback.FrameSummary(file, frame.f_lineno, frame.f_code.co_name)
    inner = itertools.takewhile(lambda each: not (is_users(each[0]) or is_models(each[0])), frames)
    return _CalledFrom(frame, at, of_layer=any("/torch/nn/" in file for file, _ in inner))


_USER_LINE = re.compile(r"(.*)  # (.+):(\d+) in \w+", re.DOTALL)


def _line_of(sloc: Any) -> SourceLine | None:
    """Return the user's line of torch's SLoc; None for a line of torch's own."""
    frame = getattr(sloc, "framework_loc", None)
    if isinstance(frame, traceback.FrameSummary) and (
        is_users(frame.filename) or is_models(frame.filename)
    ):
        return source_line(frame.filename, frame.lineno or 0, frame.line or "")
    match = _USER_LINE.match(getattr(sloc, "maybe_user_loc", None) or "")
    if match is None:
        return None
    # torch leaves out the folders that the file shares with torch's own and the character after
    # them: of the root alone, the first one of a name.
    shared = (folder / match[2] for folder in Path(torch.__file__).parents)
    of_root = Path("/").glob(f"?{glob.escape(match[2])}")  # not looked up before it is asked for
    paths = itertools.chain(shared, of_root)
    path = next((str(path) for path in paths if path.is_file()), match[2])
    owned = is_users(path) or is_models(path)
    return source_line(path, int(match[3]), match[1]) if owned else None
