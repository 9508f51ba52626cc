"""Compare the state of eager with the artifact's, and name the lines that write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

Lines = Mapping[StateRef, SourceLine]


def carried_differences(
    eager: Mapping[str, Any], artifact: Mapping[str, Any], tolerance: Tolerance
) -> list[Difference]:
    """Return the differences of the tensors that both sides have under one name."""
    return [
        difference
        for name in eager
        if name in artifact
        for difference in compare_values(eager[name], artifact[name], tolerance, name)
    ]


def input_after_the_call(path: str) -> str:
    """Return the path of a difference in an input that a call changes."""
    return f"input {path} after the call"


def written_at(differences: Sequence[Difference], lines: Lines) -> SourceLine | None:
    """Return the line that writes the first place that differs.

    If only outputs differ: the line that writes the module's state, unless there are several.
    ``lines`` are those of forward's writes.
    """
    inputs = {ref: line for ref, line in lines.items() if ref.kind == "input"}
    of_module = {ref: line for ref, line in lines.items() if ref not in inputs}
    named = {str(ref): line for ref, line in of_module.items()}
    named |= {input_after_the_call(ref.path): line for ref, line in inputs.items()}
    places = [item.path for item in differences if item.path in named]
    if places:
        return named[places[0]]
    states = any(item.kind == "state" for item in differences)
    found = set() if states else set(of_module.values())
    return found.pop() if len(found) == 1 else None
