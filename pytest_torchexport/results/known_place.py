"""Name a verdict's failure as a known failure would: its place, and how bad it is.

Separate from the data, which knows no verdict.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator

from pytest_torchexport.results.entries import without_variant
from pytest_torchexport.results.failures import BranchFrozen, DimsNarrowed
from pytest_torchexport.results.known_failure import (
    FailurePlace,
    KnownFailure,
    Severity,
)
from pytest_torchexport.results.verdict import Verdict

# Of a message that is a part of the place, in characters.
MAX_MESSAGE = 120
# Kinds of a recipe's leaves whose values no seed decides: the user's own, and constants.
FIXED = ("example", "recorded", "zeros", "ones", "low", "high", "ramp")
# Of a message, so much is read: it may have the numbers of a tensor.
MAX_READ = 10_000


def entry_of(verdict: Verdict, nodeid: str, *, reason: str = "", since: str = "") -> KnownFailure:
    """Return the known failure that a verdict would be."""
    return KnownFailure(
        test=without_variant(nodeid, f"{verdict.target}-{verdict.device}"),
        target=verdict.target,
        device=verdict.device,
        subject=verdict.subject,
        failure=verdict.failure or "",
        reason=reason,
        since=since,
        place=place_of(verdict),
        partial=bool(verdict.diagnosis.not_examined),
        severity=severity_of(verdict),
    )


def place_of(verdict: Verdict) -> FailurePlace:
    """Return the names by which a verdict's failure is known."""
    found = verdict.diagnosis
    operator = found.place.operator if found.place is not None else _operator_in(verdict.reason)
    module = found.place.module.partition(" ")[0] if found.place is not None else ""
    raised = next((item.actual for item in verdict.differences if item.kind == "raised"), "")
    place = FailurePlace(
        outputs=tuple(sorted({item.path for item in verdict.differences if item.path})),
        kinds=tuple(sorted({item.kind for item in verdict.differences if item.path})),
        module=module,
        operator=operator,
        causes=tuple(sorted({cause.kind for cause in found.causes})),
        dims=tuple(sorted(_narrowed(verdict))),
        exception=_exception_in(raised or verdict.reason),
        code=_code(verdict),
    )
    named = dataclasses.replace(place, kinds=(), exception="", causes=())
    return (
        place if named != FailurePlace() else dataclasses.replace(place, message=_message(verdict))
    )


def _narrowed(verdict: Verdict) -> Iterator[str]:
    """Yield the dim that DimsNarrowed names first: ``batch (axis 0 of x): ...``."""
    if verdict.failure == DimsNarrowed.__name__:
        match = re.match(r"(\S+) \(axis \d+ of .+?\):", verdict.reason)
        yield from [match[1]] if match else (sizes.dim for sizes in verdict.diagnosis.sizes)


def _operator_in(text: str) -> str:
    """Return the first operator that a message names: ``aten.view``, ``prim.If``."""
    match = re.search(r"\b(aten|prim|torchvision|onnx)(?:\.|::)(\w+)", text)
    return f"{match[1]}.{match[2]}" if match else ""


def _exception_in(text: str) -> str:
    match = re.match(r"([A-Za-z_][\w.]*): ", text)
    return match[1] if match else ""


def _code(verdict: Verdict) -> str:
    """Return the user's line that is to blame, as ``unformatted`` writes it."""
    text = verdict.where.text if verdict.where is not None else ""
    if verdict.failure == BranchFrozen.__name__:
        wrong = (each for each in verdict.branches if "diverges" in each.status.values())
        text = next((each.statement for each in wrong), text)
    return unformatted(text)


@functools.lru_cache(maxsize=1024)
def unformatted(text: str) -> str:
    """Return a line of code as Python itself writes it, in all versions alike.

    A formatter changes quotes, blanks and brackets, and not what is written then.
    """
    for source in (text, f"{text.removeprefix('el')} pass"):  # a line may be the head of a block
        try:
            return ast.unparse(_FStrings().visit(ast.parse(source))).partition("\n")[0]
        except (SyntaxError, ValueError):
            continue
    return " ".join(text.split())


class _FStrings(ast.NodeTransformer):
    """Replace f-strings by names that are their texts: Python 3.12 writes other quotes in them."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Name:
        self.generic_visit(node)
        return ast.Name(f"f{_content(node)!r}")

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.FormattedValue:
        node.value = self.visit(node.value)
        if node.format_spec is not None:
            self.generic_visit(node.format_spec)  # a JoinedStr, which stays one
        return node


def _content(node: ast.expr | None) -> str:
    """Return what stands between the quotes of an f-string, or in a format."""
    match node:
        case ast.JoinedStr():
            return "".join(map(_content, node.values))
        case ast.Constant():
            return str(node.value).replace("{", "{{").replace("}", "}}")
        case ast.FormattedValue():
            value = ast.unparse(node.value)
            value = f" {value}" if value.startswith("{") else value
            conversion = f"!{chr(node.conversion)}" if node.conversion >= 0 else ""
            form = f":{_content(node.format_spec)}" if node.format_spec is not None else ""
            return f"{{{value}{conversion}{form}}}"
    raise TypeError(f"no part of an f-string: {node}")


def _message(verdict: Verdict) -> str:
    """Return the first line of the failure's text without what may change from run to run."""
    first = next(iter(filter(str.strip, verdict.reason.splitlines())), "")
    words = first[:MAX_READ].split()
    plain = " ".join("..." if word.count("/") > 1 else word for word in words)
    plain = re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*(e-?\d+)?", "#", plain)
    return plain[:MAX_MESSAGE]


def severity_of(verdict: Verdict) -> Severity:
    """Return how bad a verdict's failure is.

    Its error is left out for drawn values: another run may draw, or shrink to, others.
    """
    leaves = verdict.recipe["leaves"] if verdict.recipe is not None else ()
    fixed = bool(leaves) and all(leaf["kind"] in FIXED and not leaf["edits"] for leaf in leaves)
    errors = [item.in_own_errors for item in verdict.differences if fixed]
    error = max(filter(None, errors), default=None)
    return Severity(
        sizes={
            each.dim: each.pattern.as_text()
            for each in verdict.diagnosis.sizes
            if each.pattern is not None and not each.equal_to
        },
        # Two digits: more would promise that it can be measured so.
        error=float(f"{error:.1e}") if error is not None else None,
        stage=verdict.diagnosis.owner,
    )
