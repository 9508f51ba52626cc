"""The type of a row in the table of known defects.

Separate from the table, whose rows are all that changes when a defect is found or mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_torchexport.results.diagnosis import Diagnosis, Owner

Repository = Literal[
    "pytorch/pytorch", "microsoft/onnxscript", "microsoft/onnxruntime", "onnx/onnx"
]

# Called with the right operator and its arguments; returns what the defective one does.
Imitate = Callable[..., Any]

ISSUE = re.compile(r"https://github\.com/([\w-]+/[\w-]+)/(?:issues|pull)/\d+")


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A defect of another package, and the evidence for it.

    ``operators``: those of eager's that it is about, as ATen names them: ``log1p``. ``imitate``
    does what such an operator does in the artifact: the evidence is that eager then returns what
    the artifact returns, or raises what it raises. ``places``: further names that a diagnosis may
    have for the operator. ``line``: a pattern that the user's line matches, if that is evidence.
    ``targets``, ``owner``: where it was seen, and who is to blame. ``repository``: whose it is.
    ``issue``: the address of a thread about it, empty if none was found. ``seen``: the versions on
    which the zoo reproduces it. ``fixed_in``: the first version without it, ``onnxscript 0.8``;
    empty if there is none. ``text`` is one sentence; ``remedy`` is what to write instead.
    """

    name: str
    operators: tuple[str, ...]
    imitate: Imitate
    targets: tuple[str, ...]
    owner: Owner
    repository: Repository
    issue: str
    seen: tuple[str, ...]
    text: str
    remedy: str
    places: tuple[str, ...] = ()
    line: str = ""
    fixed_in: str = ""

    def fits(self, known: Diagnosis) -> bool:
        """Return True unless the owner, the operator or the line that is known is another one."""
        named = known.place.operator.rpartition(".")[2] if known.place is not None else ""
        where = known.where or (known.place.where if known.place is not None else None)
        return (
            known.owner in (None, self.owner)
            and (not named or named in (*self.operators, *self.places))
            and (not self.line or (where is not None and bool(re.search(self.line, where.text))))
        )

    def is_fixed(self, installed: Mapping[str, str]) -> bool:
        """Return True if it is mended in the installed versions."""
        if not self.fixed_in:
            return False
        package, first = self.fixed_in.split()
        return package in installed and _numbers(installed[package]) >= _numbers(first)


def _numbers(version: str) -> tuple[int, ...]:
    """Return ``(2, 13, 0)`` of ``2.13.0+cpu``."""
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))
