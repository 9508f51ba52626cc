"""Known failures for tests: one with every field, others like it, and a patch of some."""

from __future__ import annotations

import dataclasses

from pytest_torchexport.results import known_patches
from pytest_torchexport.results.known_failure import FailurePlace, KnownFailure, Severity
from pytest_torchexport.results.known_files import Changes

ENTRY = KnownFailure(
    test="tests/test_net.py::TestNet::test_it[1]",
    target="onnx",
    device="cpu",
    subject="Net",
    failure="OutputsDiffer",
    reason='a "quoted" \\ reason\nin two lines \x7f ü \u2028 \u202e \U000e0001',
    place=FailurePlace(outputs=("output['a'][0]",), operator="aten.view", code="if x.sum() > 0:"),
    partial=True,
    owner="@vision",
    since="2026-11-23",
    until="2027-06-30",
    when=("torch < 2.15", "onnxruntime >= 1.20, < 1.24"),
    severity=Severity(
        sizes={"batch": "fails from 5", "time \U0001f552": "ok steps 2 1"},
        error=2.3e5,
        stage="translation",
    ),
)


def other(number, **fields):
    return dataclasses.replace(ENTRY, subject=f"Net{number}", **fields)


def patch_of(folder, **changes):
    """Return the patch of a run that proposes changes of ``folder/known``."""
    path = folder / "shard" / known_patches.PATCH
    into = folder / "shard/proposed"
    changed = Changes(**changes)
    assert known_patches.propose(folder / "known", changed, root=folder, into=into, patch=path)
    return path.read_text(encoding="utf-8")
