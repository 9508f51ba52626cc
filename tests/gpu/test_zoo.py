"""The zoo on CUDA: the verdicts are those on the CPU. An order by checksum: any part is a fair sample."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import zoo
from gpu.trial import DEVICE, TARGETS

import pytest_torchexport

# By row and target, where the verdict on CUDA is another one.
OTHERWISE: dict[tuple[str, str], str | None] = {
    # TorchScript's fuser computes in float32 there: nothing overflows.
    ("half inside overflows", "trace"): "OutputsDiffer",
    ("half inside overflows", "script"): "OutputsDiffer",
    # Kernels on CUDA take the first of equal numbers.
    **{("the first place of each value", target): None for target in TARGETS},
}
# Eager fails on CUDA with these words: the row's forward makes a tensor on the CPU.
NOT_ON_CUDA = "and not on the CPU"


def _cases() -> list[Any]:
    pairs = [(row, target) for row in zoo.ZOO for target in TARGETS]
    found = [
        pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}".replace(" ", "-")) for pair in pairs
    ]
    return sorted(found, key=lambda case: zlib.crc32(str(case.id).encode()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("row", "target"), _cases())
def test_the_verdict_is_that_on_the_cpu(row: zoo.Row, target: str) -> None:
    args, kwargs = row.example()
    blame = row.blamed(target) if target in row.blames() else None
    options = {"diagnose": blame is not None, **row.options}
    with row.under():
        verdict = pytest_torchexport.check_export(
            row.build(), args, kwargs, target=target, device=DEVICE, **options
        )
    if verdict.failure == "SpecError" and NOT_ON_CUDA in verdict.reason:
        pytest.skip(verdict.reason)
    otherwise = (row.name, target) in OTHERWISE
    expected = OTHERWISE[row.name, target] if otherwise else row.truth()[target]
    found = zoo.SKIPPED if verdict.status == "skipped" else verdict.failure
    assert found == expected, (verdict.reason, verdict.differences[:1], verdict.notes)
    if blame is not None and not otherwise:
        named = blame.judge(verdict)
        assert set(named.values()) <= blame.legal, f"{named}\n{verdict}"
