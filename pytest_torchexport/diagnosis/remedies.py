"""Say what a person can write instead: words about a condition, and lines spelled otherwise.

A line is shown, never run. If it cannot be spelled otherwise, none is shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.escaped import SHOWN
from pytest_torchexport.results.source_line import SourceLine

ARTIFACTS = {
    "trace": "trace",
    "script": "script",
    "export": "program",
    "onnx": "ONNX file",
    "onnx_legacy": "ONNX file",
    "openvino": "OpenVINO model",
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

    line = where.text.partition("  # ")[0]
    as_it_is = _OF_A_SIZE.sub(size, _OF_A_SIZE.sub(size, line))  # float(len(x)) has two
    if as_it_is != line:
        return f"leave the size as it is: {as_it_is}"
    return otherwise
