"""Rules on numbers that are constants of the artifact: frozen sizes, baked values, guards."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pytest_torchexport.diagnosis.control import cause_of
from pytest_torchexport.diagnosis.conversions import Conversion
from pytest_torchexport.diagnosis.evidence import Evidence, Given
from pytest_torchexport.diagnosis.spelling import with_sizes, with_tensors
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.diagnosis import Cause, Structural
from pytest_torchexport.results.failures import ArtifactRaised
from pytest_torchexport.results.source_line import SourceLine

MADE = "size that Python makes a number of"
READ = "number that Python reads from a tensor"
TENSORS = (
    "compute it with torch's operators alone, without item(), int(), float(), tolist() or numpy()"
)
_GUARD = re.compile(r"Guard failed: (\w+) == (\S+)")


def frozen_size(evidence: Evidence) -> Cause | None:
    """Return that a size of the export is a constant of the trace."""
    found = evidence.structural
    if found is None or found.kind not in ("constant", "stored"):
        return None
    if not evidence.sizes or _read_at(evidence, found) is not None:
        return None
    read = [item for item in evidence.conversions if item.numbers and not item.strides]
    sizes = [item for item in read if item.where not in evidence.read_by_eager]
    if _is_a_size(evidence, found) and not _by_number(evidence, found, sizes):
        # A line may read a size and a value.
        known = _by_number(evidence, found, read)
        sizes += [item for item in known if not _is_read(evidence, found, item)]
    where = _origin(evidence, found, sizes)
    if where is None:
        return None
    return Cause(
        kind="frozen size",
        text=f"{_kept(evidence, found)}: a {MADE} is a constant of the trace",
        remedy=without_a_number(where),
        where=where,
    )


def frozen_stride(evidence: Evidence) -> Cause | None:
    """Return that a stride of the export is a constant of the trace."""
    found = evidence.structural
    if found is None or found.kind != "constant" or found.argument != "stride":
        return None
    asked = [item.where for item in evidence.conversions if item.strides]
    where = _nearest(found.where, asked) if "strided" in found.operator else None
    if where is None:
        return None
    return Cause(
        kind="frozen size",
        text=f"{_kept(evidence, found)}: x.stride() gives numbers of Python, which are constants "
        "of the trace",
        remedy="compute strides from x.shape, or do without: unfold, expand, reshape and "
        "narrow need none",
        where=where,
    )


def without_a_number(where: SourceLine) -> str:
    """Return what to do about a line that makes a number of a size."""
    line = with_sizes(where.text)
    if line:
        return f"leave the size as it is: {line}"
    return "compute with x.shape[i] as it is, without int(), float(), len() or math"


def baked_value(evidence: Evidence) -> Cause | None:
    """Return that a number or an array that Python made of a tensor is a constant of the trace."""
    found = evidence.structural
    if found is None or found.kind not in ("constant", "stored"):
        return None
    values = [
        item
        for item in evidence.conversions
        if not item.strides
        and (item.where in evidence.read_by_eager or not item.numbers)
        and frozenset(item.numbers) != evidence.read_by_eager.get(item.where)
    ]
    read_at = _read_at(evidence, found)
    where = read_at if read_at in [item.where for item in values] else None
    if where is None and _is_a_size(evidence, found):
        # A value that happens to be the example's size is not the call's size too.
        known = _by_number(evidence, found, values)
        values = [item for item in known if _is_read(evidence, found, item)]
    where = where or _origin(evidence, found, values)
    if where is None:
        return None
    return Cause(
        kind="baked value",
        text=f"{_kept(evidence, found)}: a {READ} is a constant of the trace",
        remedy=_as_a_tensor(where),
        where=where,
    )


def _as_a_tensor(where: SourceLine) -> str:
    """Return what to do about a line that makes a number of a value."""
    line = with_tensors(where.text)
    return f"keep it a tensor: {line}" if line else TENSORS


def tried_number(evidence: Evidence) -> Cause | None:
    """Return the line of a number with which, if it is the call's own, a new trace agrees."""
    found = evidence.frozen_numbers
    if not found:
        return None
    where, *others = found
    also = tuple(f"also: {line}" for line in others)
    of_value = where in evidence.read_by_eager
    if all(isinstance(number, bool) for read in found.values() for number in read):
        cause = cause_of(
            "if",
            where.text,
            where=where,
            on_values=of_value,
            target=evidence.target,
            artifact=evidence.artifact,
        )
        return replace(cause, details=also)
    kept = evidence.structural
    what = f"{_kept(evidence, kept)}: " if kept is not None and kept.kind == "constant" else ""
    own = "these numbers make" if others else "this number makes"
    return Cause(
        kind="baked value" if of_value else "frozen size",
        text=f"{what}a {READ if of_value else MADE} is a constant of the trace "
        f"(tried: {own} the difference)",
        remedy=_as_a_tensor(where) if of_value else without_a_number(where),
        details=also,
        where=where,
    )


def baked_draw(evidence: Evidence) -> Cause | None:
    """Return that a random number drawn outside torch is a constant of the artifact."""
    found = evidence.structural
    if found is None or found.kind not in ("constant", "stored") or found.where is None:
        return None
    stream = evidence.drawn_outside_torch.get(found.where)
    if stream is None:
        return None
    return Cause(
        kind="baked value",
        text=f"{_kept(evidence, found)}: it is drawn from {stream} in each call of eager, and once "
        "at the export",
        remedy="draw with torch.rand, or draw outside forward and pass a tensor",
        where=found.where,
    )


def baked_argument(evidence: Evidence) -> Cause | None:
    """Return that an argument which is no tensor is a constant of the artifact."""
    found = evidence.structural
    if found is None or found.kind != "constant" or len(found.numbers) != 2:
        return None
    for name, given in evidence.arguments.items():
        if _equals(given, found.numbers):
            return Cause(
                kind="baked value",
                text=f"{_kept(evidence, found)}: the argument {name} is {given.call!r} in the "
                f"call, and {given.example!r} of the example is a constant",
                remedy=f"pass {name} as a tensor, or export once for each value",
                where=found.where,
            )
    return None


def left_out_argument(evidence: Evidence) -> Cause | None:
    """Return that an ONNX file has no input for an argument which is no tensor."""
    if not evidence.is_onnx or not evidence.agrees_with_the_examples_arguments:
        return None
    name, given = next(iter(evidence.arguments.items()))
    return Cause(
        kind="baked value",
        text=f"{evidence.artifact} has no input for {name}, which is no tensor: it is "
        f"{given.call!r} in the call, and {given.example!r} of the example is a constant",
        remedy=f"pass {name} as a tensor, or export once for each value",
    )


def guard(evidence: Evidence) -> Cause | None:
    """Return that the program refuses another value of an argument than the example's."""
    failure = evidence.failure
    match = _GUARD.search(str(failure)) if isinstance(failure, ArtifactRaised) else None
    if match is None or is_guard(str(failure)) or match[1] not in evidence.arguments:
        return None
    return Cause(
        kind="guard",
        text=f"torch.export makes constants of arguments that are no tensors: the program takes "
        f"{match[1]}={match[2]} alone",
        remedy=f"pass {match[1]} as a tensor, or export once for each value",
    )


def _origin(
    evidence: Evidence, found: Structural, candidates: Sequence[Conversion]
) -> SourceLine | None:
    """Return the line of the constant: that of its number, of its place, or the only one.

    The only one at best among those that read more than a truth value.
    """
    counted = [item for item in candidates if not item.decides]
    by_fact = (_by_number(evidence, found, candidates), _by_place(found, candidates))
    for chosen in (*by_fact, counted, candidates):
        lines = list(dict.fromkeys(item.where for item in chosen))
        if len(lines) == 1:
            return lines[0]
    return None


def _nearest(line: SourceLine | None, others: Iterable[SourceLine]) -> SourceLine | None:
    """Return the last of these lines up to one in its file; without one, the only line."""
    found = set(others)
    above = [o for o in found if line is not None and o.file == line.file and o.line <= line.line]
    if above:
        return max(above, key=lambda each: each.line)
    return found.pop() if len(found) == 1 else None


def _read_at(evidence: Evidence, found: Structural) -> SourceLine | None:
    """Return the line at which eager reads its number from a tensor, if the trace read its own.

    If the trace read others there, it is chance that the call has eager's number there too.
    """
    here = [item for item in evidence.conversions if item.where == found.read_at]
    numbers = [number for item in here for number in item.numbers]
    known = bool(numbers and found.numbers) and not any(map(math.isnan, numbers))
    return None if known and not _by_number(evidence, found, here) else found.read_at


def _by_number(
    evidence: Evidence, found: Structural, candidates: Sequence[Conversion]
) -> list[Conversion]:
    """Return the lines that read the artifact's number at the export, and eager's in the call."""
    kept = found.numbers[1:]
    return [
        item
        for item in candidates
        if any(_is_among(number, item.numbers) for number in kept)
        and _is_among(
            found.numbers[0], evidence.read_in_the_call.get(item.where, found.numbers[:1])
        )
    ]


def _is_read(evidence: Evidence, found: Structural, item: Conversion) -> bool:
    """Return True if eager reads its own number from a tensor at this line."""
    return _is_among(found.numbers[0], evidence.read_by_eager.get(item.where, ()))


def _is_among(number: float, others: Iterable[float]) -> bool:
    return any(math.isclose(number, other) for other in others)


def _by_place(found: Structural, candidates: Sequence[Conversion]) -> list[Conversion]:
    return [item for item in candidates if item.where == found.where]


def _equals(given: Given, numbers: Sequence[float]) -> bool:
    """Return True if eager has the number of the call, and the artifact that of the example."""
    values = (given.call, given.example)
    return all(
        isinstance(value, (bool, int, float)) and math.isclose(value, number)
        for value, number in zip(values, numbers, strict=True)
    )


def _kept(evidence: Evidence, found: Structural) -> str:
    """Return what the artifact has there: ``size of aten.view is 4 in the trace, 1 in eager``."""
    if found.kind == "constant" and found.eager == found.operator:
        return f"the result of {found.operator} is a constant of {evidence.artifact}"
    names = list(_names(evidence, found))
    of = f" ({names[0]})" if len(names) == 1 else ""
    what = f"{found.argument} of {found.operator}"
    if found.eager == found.artifact:
        return f"{what} is another constant in {evidence.artifact} than in eager"
    return f"{what} is {found.artifact}{of} in {evidence.artifact}, {found.eager} in eager"


def _is_a_size(evidence: Evidence, found: Structural) -> bool:
    """Return True if the two numbers are the sizes of a dim, in the call and in the example."""
    return any(_names(evidence, found))


def _names(evidence: Evidence, found: Structural) -> Iterator[str]:
    """Yield the dims whose two sizes are the two numbers."""
    if len(found.numbers) == 2:
        for name, given in evidence.sizes.items():
            if _equals(given, found.numbers):
                yield f"the example's {name}"
