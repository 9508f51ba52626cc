"""Symbolic sizes of a torch.export: the ShapeEnv with its guards, ranges and lines.

Its fields have comments in torch/fx/experimental/symbolic_shapes.py. If one is missing, the answer
is empty. Separate because it is the largest private object of torch that is read here.
"""

from __future__ import annotations

import glob
import itertools
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.results.source_line import SourceLine, is_models, is_users, source_line


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
    return source_line(path, int(match[3]), match[1])
