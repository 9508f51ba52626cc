"""Say what a person can write instead: words about a condition, and lines spelled otherwise.

A line is shown, never run. If it cannot be spelled otherwise, none is shown.
"""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from pytest_torchexport.eager.preflight import events_to
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.escaped import SHOWN, few
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path, source_line

ARTIFACTS = {
    "trace": "trace",
    "script": "script",
    "export": "program",
    "onnx": "ONNX file",
    "onnx_legacy": "ONNX file",
    "openvino": "OpenVINO model",
    "openvino_trace": "OpenVINO model",
    "aoti": "compiled package",
    "executorch": "ExecuTorch program",
}
# Conditions of which who calls the artifact does not know the side: memory and identity.
_OF_OBJECTS = re.compile(
    r"\.(?:(?:is_contiguous|stride|storage_offset|data_ptr)\(|(?:requires_grad|is_leaf)\b)"
    r"|\bis (?:not )?(?!not\b|None\b)"
)
OTHERWISE = {
    "trace": "or compile the function that has it by @torch.jit.script",
    "export": "or write torch.cond, which keeps both sides",
}
LOOPS = {
    "trace": "compile the function that has it by @torch.jit.script, or compute all steps at once",
    "export": "write torch.while_loop or torch.ops.higher_order.scan, or compute all steps at once",
}
A_TENSOR = (
    "compute it with torch's operators alone, without item(), int(), float(), tolist() or numpy()"
)


def words_of(target: str) -> str:
    """Return the product of a target, in words: ``the trace``."""
    return f"the {ARTIFACTS.get(target, 'artifact')}"


def also(lines: Iterable[SourceLine | None]) -> tuple[str, ...]:
    """Return the details of a cause that stands on these lines as well."""
    return tuple(f"also: {line}" for line in [*filter(None, dict.fromkeys(lines))][:SHOWN])


def of_a_condition(
    kind: str,
    text: str,
    *,
    where: SourceLine,
    on_values: bool,
    target: str,
    arguments: Collection[str] = (),
) -> Cause:
    """Return the cause of a failure for which a condition is to blame.

    ``kind`` and ``text`` are those of the condition; ``on_values``: values decide it, and not only
    sizes. ``arguments`` are those which are no tensors and other than in the example.
    """
    artifact = words_of(target)
    if kind in ("for", "while"):
        return Cause(
            kind="unrolled loop",
            text=f"Python runs the loop at the export, and {artifact} has its iterations one after "
            "the other",
            remedy=LOOPS.get(target, "compute all steps at once"),
            where=where,
        )
    remedy = "export once for each side, and choose between the artifacts outside"
    if _OF_OBJECTS.search(text):
        remedy = (
            "compute the same on both sides, or make the inputs alike before it, as by "
            "x.contiguous() or x.clone()"
        )
    elif not {*arguments}.isdisjoint(re.findall(r"\w+", text)):
        remedy = "export once for each value of the argument, and choose between the artifacts "
        remedy += "outside"
    elif on_values:
        otherwise = OTHERWISE.get(target, "")
        remedy = f"compute both sides and choose with torch.where, {otherwise}".rstrip(", ")
    return Cause(
        kind="frozen branch",
        text=f"Python decides {text!r} once, at the export: {artifact} has only that side",
        remedy=remedy,
        where=where,
    )


# -- lines that make a number of a size ------------------------------------------------------------

A_SIZE = "size that Python turns into a number"
_SIZE = r"([\w.]+\.(?:shape|size\(\))\[[^][]+\]|[\w.]+\.size\([^()]+\))"
# Not where Python looks something up by the number: layers[len(x)], table.get(int(x.shape[0])).
_NOT_LOOKED_UP = r"(?<![\w)\]]\[)(?<!\.get\()\b"
# math.ceil(a / b), int(a / b), with one name, size or number on each side.
_ROUNDED = re.compile(
    rf"{_NOT_LOOKED_UP}(?<!\.)(?P<by>math\.ceil|math\.floor|int)"
    r"\((?P<whole>[\w.]+(?:\[[^][]+\])?) / (?P<part>(?!\d*\.)[\w.]+(?:\[[^][]+\])?)\)"
)
_OF_A_SIZE = re.compile(
    rf"{_NOT_LOOKED_UP}(?:(?:int|float)\({_SIZE}\)|math\.sqrt\({_SIZE}\)|len\(([\w.]+)\))"
)


COMPUTED = "compute with x.shape[i] as it is: // in place of int() and math, no float() or len()"


def without_a_number(where: SourceLine, otherwise: str = COMPUTED) -> str:
    """Return the remedy for a line that makes a number of a size: the line without that.

    ``otherwise`` if it is not known how.
    """

    def size(match: re.Match[str]) -> str:
        plain, root, whole = match.groups()
        return plain or (f"{root} ** 0.5" if root else f"{whole}.shape[0]")

    def quotient(match: re.Match[str]) -> str:
        by, whole, part = match.groups()
        # Not -(-a // b): ONNX divides a negative size towards zero.
        up = f"({whole} + {part} - 1) // {part}" if by == "math.ceil" else f"{whole} // {part}"
        alone = re.fullmatch(r"\s*(?:return|\w+ =)\s*", match.string[: match.start()])
        return up if alone and match.end() == len(match.string.rstrip()) else f"({up})"

    line = where.text.partition("  # ")[0]
    as_it_is = _ROUNDED.sub(quotient, line)
    as_it_is = _OF_A_SIZE.sub(size, _OF_A_SIZE.sub(size, as_it_is))  # float(len(x)) has two
    if as_it_is != line:
        return f"leave the size as it is: {as_it_is}"
    return otherwise


# -- lines of a library ----------------------------------------------------------------------------


def in_own_code(found: Diagnosis, subject: Subject, example: Call, seed: int) -> Diagnosis:
    """Return a diagnosis whose remedy names the user's own line that calls a library's.

    As it is if the line of its first cause is the user's, or if a module of the library runs it.
    """
    at = next((n for n, cause in enumerate(found.causes) if cause.where is not None), None)
    where = found.where
    if at is None or where is None or Path(where.file).exists():
        return found
    own = _called_at(subject.copy(), example, seed, where)
    if not own:
        return found
    remedy = f"make the call before forward, and pass what it returns: {few(own, '; ')}"
    causes = [*found.causes]
    causes[at] = replace(causes[at], remedy=f"{remedy}\nor in a copy: {causes[at].remedy}")
    return replace(found, causes=tuple(causes))


def _called_at(
    subject: Subject, example: Call, seed: int, line: SourceLine
) -> Sequence[SourceLine]:
    """Return the user's lines in forward from which a function of a library gets to a line."""
    found: dict[SourceLine | None, None] = {}
    is_in = functools.cache(lambda path: short_path(path) == line.file)

    def own(frame: FrameType) -> SourceLine | None:
        for caller, number in traceback.walk_stack(frame):
            path = caller.f_code.co_filename
            if caller.f_code is run.__code__ or path.endswith("torch/nn/modules/module.py"):
                return None
            if is_users(path):
                return source_line(path, number)
        return None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not is_in(frame.f_code.co_filename):
            return None
        if event == "line" and frame.f_lineno == line.line:
            found[own(frame)] = None
        return trace

    def run(*args: Any, **kwargs: Any) -> Any:
        with events_to(trace):
            return subject.function(*args, **kwargs)

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return [each for each in found if each is not None]
