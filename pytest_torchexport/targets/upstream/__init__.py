"""Facts about other people's software, as rows of data: their refusals, load errors and defects.

A row needs no code. Its patterns are regular expressions, each about one kind of evidence; one that
is not there asks nothing. Its texts may name what the patterns found. It has a date, the versions
it was seen on, and an example, which is its test. Nobody but this file knows the format.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from pytest_torchexport.config.tested import numbers
from pytest_torchexport.results.diagnosis import CauseKind, Owner

Table = Literal["refusals", "load_errors", "known_defects"]
# The target whose program another one is made of. What is known of it, but for its runtime, holds.
MADE_OF = {"openvino": "onnx", "openvino_trace": "trace", "aoti": "export", "executorch": "export"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence that a failure gives.

    ``said``: the class and the text of each exception, or of each difference. ``line``: the user's.
    ``frames``: those that an exception came through, ``file.py:function``, one per line. ``owner``:
    of the step that is to blame, ``step``: its name. ``operators``: those that may be at fault.
    ``names``: for the texts of a row, beside what its patterns find.
    """

    target: str = ""
    said: Sequence[tuple[str, str]] = ()
    line: str = ""
    frames: str = ""
    owner: Owner | None = None
    step: str = ""
    operators: Collection[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fact about a version of another package, and the evidence by which it is known again.

    ``cause`` is one sentence, ``remedy`` what to write instead. ``date`` is the day on which it was
    last seen, on ``versions``; ``fixed_in`` the first version without it, ``onnxscript 0.8``, and
    ``issue`` the address of a thread about it: both empty if there is none.

    The evidence: ``targets``, ``operators`` (empty: any), ``owner`` and ``step`` (of a defect; the
    last words of its name), and the patterns of ``said`` (one of them is enough), ``raised`` (the
    class), ``line`` and ``frame``.

    ``returned``: it is about the value that forward returns. ``provided``: what a file lacks, which
    this process may know who provides. ``example`` is a program that shows it; ``unchecked`` says
    why the tests do not hold it to that, ``finds`` what {name} is in it. ``name`` is what tests
    call the row.
    """

    name: str = ""
    cause: str
    remedy: str
    date: dt.date
    versions: tuple[str, ...]
    example: str
    unchecked: str = ""
    finds: str = ""
    kind: CauseKind = "missing import"
    owner: Owner = "model"
    issue: str = ""
    fixed_in: str = ""
    targets: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    said: tuple[str, ...] = ("",)
    raised: str = ""
    step: str = ""
    line: str = ""
    frame: str = ""
    returned: bool = False
    provided: Literal["", "operator", "class", "module"] = ""

    def found(self, evidence: Evidence) -> dict[str, str] | None:
        """Return the names for the row's texts if all of its evidence is there, else None."""
        runs = self.owner.startswith("runtime")
        made = {evidence.target} if runs else {evidence.target, MADE_OF.get(evidence.target, "")}
        of_target = not self.targets or not made.isdisjoint(self.targets)
        of_operator = not self.operators or not {*self.operators}.isdisjoint(evidence.operators)
        at = re.search(self.line, evidence.line) if evidence.line or not self.line else None
        if not of_target or not of_operator or at is None:
            return None
        if evidence.owner not in (None, self.owner) or not evidence.step.endswith(self.step):
            return None
        if self.frame and not re.search(self.frame, evidence.frames):
            return None
        for name, text in evidence.said:
            if re.search(self.raised, name) is None:
                continue
            for pattern in self.said:
                match = re.search(pattern, text, re.MULTILINE)
                if match is not None:
                    return {**evidence.names, **at.groupdict(""), **match.groupdict("")}
        return None

    def is_fixed(self, installed: Mapping[str, str]) -> bool:
        if not self.fixed_in:
            return False
        package, first = self.fixed_in.split()
        return package in installed and numbers(installed[package]) >= numbers(first)


@functools.cache
def rows(table: Table) -> tuple[Row, ...]:
    """Return the rows of a table in their order, with the file's date and versions or their own."""
    content = _content(table)
    own = content.pop("row")

    def value(field: Any) -> Any:
        return tuple(field) if isinstance(field, list) else field

    return tuple(
        Row(**{name: value(field) for name, field in {**content, **row}.items()}) for row in own
    )


def first(
    table: Table, evidence: Evidence, installed: Mapping[str, str] = MappingProxyType({})
) -> tuple[Row, dict[str, str]] | None:
    """Return the first row of a table that fits, and the names for its texts; None if none does.

    A row that is mended in an installed version does not fit.
    """
    found = ((row, row.found(evidence)) for row in rows(table) if not row.is_fixed(installed))
    return next(((row, names) for row, names in found if names is not None), None)


@functools.cache
def onnx_optimizers() -> dict[str, tuple[str, ...]]:
    """Return the optimizers of ONNX Runtime in their order, each with its single rules if any."""
    content = _content("onnx_optimizers")
    rules: dict[str, list[str]] = content["rules"]
    return {name: tuple(rules.get(name, ())) for name in content["optimizers"]}


@dataclass(frozen=True, kw_only=True)
class LoadedBy:
    """The newest files that a version of ONNX Runtime loads, ``1.17`` with all its patches."""

    version: str
    opset: int
    ir: int

    def refusals(self, *, opset: int, ir: int) -> Sequence[str]:
        """Return what it says of a file, in its own words; nothing if it loads it."""
        of_ir = f"Unsupported model IR version: {ir}, max supported IR version: {self.ir}"
        official = f"Current official support for domain ai.onnx is till opset {self.opset}."
        found = ((ir > self.ir, of_ir), (opset > self.opset, f"Opset {opset}. {official}"))
        return [text for is_newer, text in found if is_newer]


def oldest_of(versions: SpecifierSet) -> LoadedBy | None:
    """Return what the oldest of some versions of ONNX Runtime loads; None if none is known."""
    rows = _content("onnx_versions")["onnxruntime"].items()
    patches = {version: [f"{version}.{patch}" for patch in range(10)] for version, _ in rows}
    known = (LoadedBy(version=name, **row) for name, row in rows)
    return next((row for row in known if any(map(versions.contains, patches[row.version]))), None)


def _content(table: str) -> dict[str, Any]:
    text = (Path(__file__).parent / f"{table}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
