"""Known failures for tests: one with every field, and others like it."""

from __future__ import annotations

import dataclasses

from pytest_torchexport.results.verdict import KnownFailure

ENTRY = KnownFailure(
    test="tests/test_net.py::TestNet::test_it[1]",
    target="onnx",
    device="cpu",
    subject="Net",
    failure="OutputsDiffer",
    at="if x.sum() > 0:",
    reason='a "quoted" \\ reason\nin two lines \x7f ü',
    owner="@vision",
    since="2026-11-23",
    until="2027-06-30",
    when=("torch < 2.15", "onnxruntime >= 1.20, < 1.24"),
)


def other(number, **fields):
    return dataclasses.replace(ENTRY, subject=f"Net{number}", **fields)
