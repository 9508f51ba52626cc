"""Condense exceptions: torch's reason without its logs, and the line in the user's code.

torch wraps its reasons in pages of advice for its own developers, and TorchScript puts its whole
traceback into the message; the reader of a report wants two lines.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytest_torchexport.outcomes.errors import chain, text_of
from pytest_torchexport.results.source_line import (
    SourceLine,
    has_owner,
    is_models,
    is_users,
    source_line,
)
from pytest_torchexport.torch_private.circumstances import places_of

# Returns the number of the frame to name, of the files of frames from the innermost one on.
Pick = Callable[[Iterable[str]], int | None]
MAX_REASON = 600
MAX_OUTER = 200
_CAUSED_BY = re.compile(r'File "([^"]+)", line (\d+), in ([\w.<>]+)\s*\n\s*([^\n]*)')
# A refusal of torch.jit.script: the line, then its callers. Frames of Python go on with ", in".
_SCRIPTED = re.compile(r'File "([^"\n]+)", line (\d+)\n')
_TRACED = re.compile(r"^(\S[^\n]*?)\((\d+)\): \w+", re.MULTILINE)
_DROP = re.compile(
    r"^(The above exception|The error above|Set TORCH|For more information|For C\+\+"
    r"|User code traceback|Caused by|Arguments to call|Traceback|This is likely|To debug"
    r"|\(refer to|from user code|Failed to (export|convert the exported|decompose)"
    r"|For extended logs|If you suspect the guard|For more debugging help|For verbose|Unfortunately"
    r"|Potential framework code|\s*at async|\s+\^|Here "
    r"|- ?(Please|The model|Debug|Summary|If there|Modify|Create)"
    r"|The following call|##|<class|⬇|⬆)",
    re.IGNORECASE,
)

# Advice about torch's own switches, useless to a user who did not call torch.export.
_ADVICE = re.compile(
    r"For more information, run with TORCH_LOGS=\S+\s*-?"
    r"|If you're using mark_dynamic, either remove it or use maybe_mark_dynamic\."
    r"|If you're using Dim\.DYNAMIC, replace it with either Dim\.STATIC or Dim\.AUTO\."
)


# A tensor's numbers, which torch prints if it names a value.
_NUMBERS = re.compile(
    r"tensor\(\[.*?\](?:, (?:dtype|device|size|grad_fn|requires_grad)=[^)]*)?\)", re.DOTALL
)
# A line of them, as the legacy tracer prints a tensor.
_LINE_OF_NUMBERS = re.compile(
    r"(?:Columns \d+ to +\d+|\([\d,.]+\) =)?(?:\s*(?:[-+]?[\d.]+(?:e[-+]?\d+)?|-?inf|nan|\*))*+\s*"
)
# TorchScript lists every overload of an operator; the first one shows what did not fit.
_OVERLOADS = re.compile(
    r"(Arguments for call are not valid\.)\nThe following variants are available:\s*\n"
    r"(\s*\S[^\n]*\n[^\n]*)\n[\s\S]*?(?=The original call is:|\Z)"
)
# ONNX Runtime's number and class of an error, and the place in its own sources that raised it.
_RUNTIMES_OWN = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : (?:FAIL|RUNTIME_EXCEPTION|INVALID_ARGUMENT) : "
    r"|/\S*onnxruntime/\S+\.(?:cc|h):\d+ [^\n]*? was false\. "
)
_NODE = re.compile(
    r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: "
)
# torch.export.save puts the whole traceback of what it could not write into the message.
_ORIGINAL = re.compile(
    r"\s*Original exception Traceback \(most recent call last\):\n[\s\S]*\n"
    r"(?=\w+(?:Error|Exception): )"
)
# What torch.jit.save says of a function that stayed Python; advice and the frames come after it.
_STAYED_PYTHON = re.compile(r"\ACould not export Python function call '[^']+'")
_TORCHSCRIPT = "Traceback of TorchScript"
_LAST_WORD = re.compile(r"^(\w+(?:Error|Exception)): (.*)", re.MULTILINE | re.DOTALL)


def innermost(paths: Iterable[str]) -> int | None:
    """Return the number of the frame to name, of the files of frames from the innermost one on.

    The user's innermost; but if that one calls a module whose class is a library's, as a wrapper
    does, the innermost of the library's. Without the user's, that of a model from a library.
    """
    models: int | None = None
    is_module = False
    for number, path in enumerate(paths):
        if is_users(path):
            return models if models is not None and is_module else number
        if models is None:
            models = number if is_models(path) else None
        elif path.replace("\\", "/").endswith("torch/nn/modules/module.py"):
            is_module = True  # Module.__call__, between the frames of a module and its caller
    return models


def first_owned(paths: Iterable[str]) -> int | None:
    """Return the number of the first frame that is the user's or of a library with models."""
    return next((number for number, path in enumerate(paths) if has_owner(path)), None)


def message_and_line(error: BaseException) -> tuple[str, SourceLine | None]:
    """Return the message of an exception from running code, and the user's line that raised it.

    TorchScript puts its traceback into the message: that is taken apart.
    """
    text = text_of(error)
    unsaved = _STAYED_PYTHON.match(text)
    if unsaved is not None:
        return unsaved[0], line_of(_SCRIPTED.findall(text) + _TRACED.findall(text))
    if _TORCHSCRIPT not in text:
        return _without_its_own(text), user_frame(error)
    _, _, trace = text.partition(_TORCHSCRIPT)
    last = _LAST_WORD.search(trace)
    kind, message = last.groups() if last is not None else ("", text.splitlines()[-1])
    prefix = f"{kind}: " if kind not in ("", type(error).__name__) else ""
    # A script has the innermost line last, a trace first.
    scripted = [(path, number) for path, number, _, _ in _CAUSED_BY.findall(trace)]
    where = line_of(scripted[::-1] + _TRACED.findall(trace))
    return prefix + message.strip(), where or user_frame(error)


def _without_its_own(text: str) -> str:
    """Return ``node node_view (Reshape): ...`` of an error of ONNX Runtime; no traceback of torch.

    Other texts are returned as given.
    """
    return _RUNTIMES_OWN.sub("", _NODE.sub(r"node \2 (\1): ", _ORIGINAL.sub("; ", text)))


def line_of(frames: Sequence[Sequence[Any]], pick: Pick = innermost) -> SourceLine | None:
    """Return the line to name of frames, from the innermost one on: path, number, maybe text."""
    number = pick(path for path, *_ in frames)
    if number is None:
        return None
    path, line, *text = frames[number]
    return source_line(path, int(line), *text)


def is_about_dims(error: BaseException) -> bool:
    """Return True if torch refused the dims, not the module; both raise the same class."""
    words = ("Constraints violated", "Suggested fixes", "dynamic_shapes")
    return any(word in text_of(cause) for cause in chain(error, explicit=True) for word in words)


# The checks that torch.export puts before a program's own code; a static axis in ONNX Runtime.
_GUARD = re.compile(
    r"Guard failed: [^\n]*(size\(|\.shape\b)|Expected input at [^\n]*\.shape\["
    r"|Got invalid dimensions for input"
)


def is_guard(text: str) -> bool:
    """Return True if an artifact's exception refuses the sizes of a call."""
    return bool(_GUARD.search(text))


def refuses_its_inputs(text: str) -> bool:
    """Return True if an artifact's exception refuses a call: a size, or a constant argument."""
    return is_guard(text) or "Guard failed: " in text or "Expected input at " in text


def condense(error: BaseException) -> tuple[str, SourceLine | None]:
    """Return the first meaningful lines of the innermost cause, and the user's line.

    Then what was raised from it, of several exceptions the outermost that says more than torch's
    advice.
    """
    causes = list(chain(error, explicit=True))
    innermost = causes[-1]
    text = _telling(innermost) or (text_of(innermost) or type(innermost).__name__).splitlines()[0]
    reason = f"{type(innermost).__name__}: {text}"[:MAX_REASON]
    for outer in causes[:-1]:
        more = _telling(outer).partition(text)[0].strip()  # some repeat their cause
        if more and more not in text:
            reason += f"; then {type(outer).__name__}: {more[:MAX_OUTER]}"
            break
    # The texts, the notes that a target added, and places in frames.
    said = [
        text
        for error in causes
        for text in (text_of(error), *getattr(error, "__notes__", []), *places_of(error))
    ]
    users, models = (_said(said, belongs) for belongs in (is_users, is_models))
    return reason, users or next(filter(None, map(user_frame, causes)), None) or models


def _telling(error: BaseException) -> str:
    """Return the first lines of an exception that are no advice of torch's, as one line."""
    text = _NUMBERS.sub("tensor(...)", _without_its_own(text_of(error)))
    text = _OVERLOADS.sub(r"\1\n\2\n", text)
    kept = [
        line
        for line in map(str.strip, text.splitlines())
        # By lines, because a weight has millions of numbers. An empty one is such a line too.
        if not _LINE_OF_NUMBERS.fullmatch(line)
        and not _DROP.match(line)
        and not line.startswith("File ")
    ]
    return " ".join(_ADVICE.sub("", " ".join(kept[:6])).split())


def _said(said: list[str], belongs: Callable[[str], bool]) -> SourceLine | None:
    for text in said:
        for path, number in _SCRIPTED.findall(text):
            if belongs(path):
                return source_line(path, int(number))
    for text in said:
        # TorchScript shows a function from its first line on.
        scripted = _TORCHSCRIPT in text
        for path, number, _, source in reversed(_CAUSED_BY.findall(text)):
            if belongs(path):
                return source_line(path, int(number), None if scripted else source)
    return None


def raised_at(error: BaseException) -> SourceLine | None:
    """Return the line that raised, of the user's code or of a function of a library with models."""
    return user_frame(list(chain(error, explicit=True))[-1], first_owned)


def user_frame(error: BaseException, pick: Pick = innermost) -> SourceLine | None:
    """Return the line of the deepest frame of the user's code, else of a library's model.

    None if there is none.
    """
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    return line_of([(each.filename, each.lineno or 0, each.line or "") for each in frames], pick)
