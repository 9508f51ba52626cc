"""diagnosis/reproducer.py: the script of a failure shows it in a fresh process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from fresh import fresh
from slow import EVERYTHING

import pytest_torchexport
from pytest_torchexport.config import names

# A row of each failure that a file can show.
IN_CI = (
    ("index by value", "trace", "OutputsDiffer"),
    ("half sum", "onnx", "OutputsDiffer"),
    ("tenth in double", "onnx", "OutputsDiffer"),
    ("an output missing", "onnx", "StructureDiffers"),
    ("counts in a part", "trace", "StateDiffers"),
    ("warms up", "trace", "StateDiffers"),
    ("rotary table", "export", "ArtifactRaised"),
    ("flag argument varies", "onnx_legacy", "BranchFrozen"),
    ("no rows", "export", "DimsNarrowed"),
    ("own state, dies", "trace", "ArtifactCrashed"),
    ("custom operator", "trace", "LoadFailed"),
    ("reads a file beside", "trace", "RoundTripDiffers"),
)
# Of these, CI checks the others alone.
LONG = ("an output missing", "flag argument varies", "no rows", "tenth in double", "warms up")
BY_A_FILE = {failure for _, _, failure in IN_CI} | {"ArtifactHung"}
# What no file can show: the call or the results are not made of plain tensors, or it takes another device or seed, or
# what differs is not in the results.
WITHOUT = {
    "a cache is given",
    "a cache is read",
    "quantized elsewhere",
    "quantized out",
    "seeds itself with 0",
}
QUICK = {"max_examples": 15}


def _cases() -> list[Any]:
    rows = {row.name: row for row in zoo.ZOO}
    if not EVERYTHING:
        return [
            pytest.param(rows[name], target, failure)
            for name, target, failure in IN_CI
            if name not in LONG
        ]
    return [
        pytest.param(row, target, row.truth()[target])
        for row in zoo.ZOO
        for target in zoo.TARGETS
        if row.truth()[target] in BY_A_FILE
    ]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    with fresh(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.mark.parametrize(("row", "target", "failure"), _cases())
def test_the_script_of_a_failure_shows_it(row, target, failure, elsewhere, tmp_path):
    args, kwargs = row.example()
    options = {**QUICK, "checks": _checks(failure), **row.options}
    keep = tmp_path / "kept"
    with row.under():
        verdict = pytest_torchexport.check_export(
            row.build(), args, kwargs, target=target, keep=keep, **options
        )
    assert verdict.failure == failure
    assert (keep / "verdict.json").is_file()
    if not verdict.script:
        assert row.name in WITHOUT or _of_contents(verdict), verdict.notes
        return
    assert verdict.script == str(keep / "reproduce.py")
    ran = elsewhere.run(keep / "reproduce.py")
    if failure == "ArtifactCrashed":
        assert ran.code != 0, ran.text
        return
    assert ran.code == 1, ran.text
    by_itself = failure in ("ArtifactHung", "RoundTripDiffers")
    assert "The failure is there" in ran.text or by_itself, ran.text


def test_of_an_artifact_that_does_what_eager_does_the_script_says_so(elsewhere, tmp_path):
    (row,) = (each for each in zoo.ZOO if each.name == "float of max")
    args, kwargs = row.example()
    options = {**QUICK, "checks": ("parity",), **row.options}
    pytest_torchexport.check_export(
        row.build(), args, kwargs, target="trace", keep=tmp_path / "kept", **options
    )
    torch.jit.script(row.build()).save(str(tmp_path / "kept/model.pt"))
    ran = elsewhere.run(tmp_path / "kept/reproduce.py")
    assert ran.code == 0, ran.text
    assert "The failure is not there." in ran.text


def _checks(failure: str) -> tuple[str, ...]:
    needed = failure in ("ArtifactCrashed", "ArtifactHung", "LoadFailed", "RoundTripDiffers")
    return tuple(n for n in names.checks() if needed or EVERYTHING or n != "round_trip")


def _of_contents(verdict: Any) -> bool:
    """Return True if no call shows it: the file says something else than the program, or cannot be saved."""
    return verdict.failure in ("LoadFailed", "RoundTripDiffers") and not verdict.call
