"""Known defects of other packages: each row's example fails, and the report says what it looks like.

An example that passes is red: the defect is gone, and its row says so (``fixed_in``) or goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slow import EVERYTHING
from upstream_examples import example
from versions import INSTALLED

import pytest_torchexport
from pytest_torchexport import targets
from pytest_torchexport.targets.upstream import rows

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
DEFECTS = rows("known_defects")
# Those of CI: each target, and each owner that it has.
IN_CI = {
    "script: a power of integers is a float",
    "script: a number divided by a tensor",
    "floor_divide by way of a quotient",
    "scatter_reduce with mean does not reduce",
    "a small addend is dropped",
    "legacy: right shift of negative numbers",
}
# The newest versions that were tried: a row that is not fixed in an earlier one is open there.
NEWEST = ("torch 2.15.0", "onnxscript 0.7.2", "onnxruntime 1.32.0")


def _cases() -> Iterator[Any]:
    for row in DEFECTS:
        if EVERYTHING or row.name in IN_CI:
            for target in row.targets if EVERYTHING else row.targets[:1]:
                yield pytest.param(row, target, id=f"{row.name.replace(' ', '-')}-{target}")


def _installed(version: str) -> bool:
    """Return True if ``torch 2.13.0`` is installed."""
    name, at = version.split()
    return INSTALLED.get(name, "").partition("+")[0] == at


@pytest.mark.parametrize(("row", "target"), [*_cases()])
def test_an_example_fails_and_looks_like_its_row(row, target, tmp_path, monkeypatch):
    newest = all(map(_installed, NEWEST))
    if not newest and not all(map(_installed, row.versions)):
        pytest.skip(f"tried on {', '.join((*row.versions, *NEWEST))} only")
    if reason := targets.get(target).unavailable("cpu"):
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    module, call = example(row.example, tmp_path)
    verdict = pytest_torchexport.check_export(
        module, call, target=target, checks=["parity", "state"], max_examples=1
    )
    if row.is_fixed(INSTALLED):
        assert verdict.status == "passed", verdict
        return
    assert verdict.status == "failed", f"{row.name} is mended: say so in its row, or remove it"
    if not all(map(_installed, row.versions)):
        return  # it is open there; how its operators show it may be another way
    assert [known.text for known in verdict.diagnosis.known] == [row.cause], verdict.diagnosis
    assert verdict.diagnosis.owner == row.owner
    assert verdict.diagnosis.not_examined == ()


def test_defects_are_seen_on_the_versions_of_ci():
    text = CONSTRAINTS.read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    seen = {tuple(version.split()) for row in DEFECTS for version in row.versions}
    assert seen <= set(pins.items())


def test_the_rows_of_ci_are_in_the_table():
    assert {row.name for row in DEFECTS} >= IN_CI
