"""A row of the tables of refusals: what the exporter says, the cause in a sentence, the remedy."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Owner
from pytest_torchexport.results.source_line import SourceLine, has_owner, source_line
from pytest_torchexport.targets.formats.shape_env import refused_at

# TorchScript underlines the expression that it refuses.
_UNDERLINED = re.compile(r"\n(?P<code>[^\n]*)\n(?P<blanks> *)(?P<line>~+) <--- HERE")


BRACKETS = (("[", "]"), ("(", ")"))  # it leaves out the last one


@dataclass(frozen=True)
class Refusal:
    """An exception of an exporter, with everything that a rule may ask about it.

    ``called`` is the module or function that was to be exported, None if it is not known.
    """

    error: BaseException
    called: Callable[..., Any] | None = None

    @cached_property
    def said(self) -> tuple[tuple[str, str], ...]:
        """The class and the text of the exception and of those that it was raised from."""
        return tuple((type(cause).__name__, _whole_text(cause)) for cause in chain(self.error))

    @cached_property
    def where(self) -> SourceLine | None:
        """The user's line, None if there is none."""
        return refused_at(self.error) or condense(self.error)[1]

    @cached_property
    def returned(self) -> SourceLine | None:
        """The line of the only return statement of what was called, None if there are several."""
        return _only_return(getattr(self.called, "forward", self.called))

    @cached_property
    def frames(self) -> str:
        """The frames of the exception: ``.../torch/nn/modules/rnn.py:forward``, one per line."""
        found = [
            frame
            for cause in chain(self.error)
            for frame in traceback.extract_tb(cause.__traceback__)
        ]
        return "\n".join(f"{frame.filename}:{frame.name}" for frame in found)

    @cached_property
    def here(self) -> str:
        """The expression that TorchScript underlines, else the user's line."""
        found = next(filter(None, (_UNDERLINED.search(text) for _, text in self.said)), None)
        start = len(found["blanks"]) if found is not None else 0
        marked = found["code"][start : start + len(found["line"])] if found is not None else ""
        marked += "".join(end for begin, end in BRACKETS if marked.count(begin) > marked.count(end))
        line = self.where.text if self.where is not None else ""
        return marked if marked and marked in line else line


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A row.

    ``said`` is a regular expression that is found in the exception's text, ``raised`` one for the
    name of its class, ``line`` one for the user's line, ``frame`` one for the frames that it came
    through (``file.py:function``); an empty one asks nothing. ``cause`` and
    ``remedy`` may name groups of ``said`` and of ``line``, and ``{here}``, the expression.
    ``returned``: it is about what forward returns, of which the exception knows no line.
    """

    said: str
    kind: CauseKind
    cause: str
    remedy: str
    raised: str = ""
    line: str = ""
    frame: str = ""
    returned: bool = False
    owner: Owner = "model"

    def applied(self, refusal: Refusal) -> Cause | None:
        """Return the cause if all the evidence is there."""
        source = refusal.where.text if refusal.where is not None else ""
        at = re.search(self.line, source)
        through = not self.frame or re.search(self.frame, refusal.frames)
        if at is None or (self.line and not source) or not through:
            return None
        for name, text in refusal.said:
            told = re.search(self.raised, name) is not None
            found = re.search(self.said, text, re.MULTILINE) if told else None
            if found is not None:
                facts = {"here": refusal.here, **at.groupdict(), **found.groupdict()}
                return Cause(
                    kind=self.kind,
                    text=self.cause.format_map(facts),
                    remedy=self.remedy.format_map(facts),
                    where=refusal.returned if self.returned else refusal.where,
                )
        return None


def _only_return(function: Any) -> SourceLine | None:
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        lines, first = inspect.getsourcelines(function)
        (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or a lambda's
        return None
    found = list(_returns(definition))
    if path is None or len(found) != 1 or not has_owner(path):
        return None
    return source_line(path, first + found[0].lineno - 1)


def _returns(definition: ast.AST) -> Iterator[ast.Return]:
    """Yield the return statements of a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(definition):
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        ):
            yield from _returns(node)


def _whole_text(error: BaseException) -> str:
    """Return the text of an exception with the notes that a target added."""
    return "\n".join((text_of(error), *getattr(error, "__notes__", ())))
