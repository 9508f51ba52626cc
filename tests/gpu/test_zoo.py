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
    # TorchScript's fuser computes in float32, from the second call on: nothing overflows, the sign
    # of a zero is kept, and no half loses a digit.
    ("half inside overflows", "trace"): "OutputsDiffer",
    ("half inside overflows", "script"): "OutputsDiffer",
    ("double by way of single", "trace"): "OutputsDiffer",  # on its first call only
    ("sign of zero", "trace"): "OutputsDiffer",
    ("sign of zero", "script"): "OutputsDiffer",
    ("what half precision holds", "script"): "StateDiffers",
    # Means are multiplied by a rounded reciprocal.
    ("one total by the mean", "trace"): "OutputsDiffer",
    # Its operators have kernels of their own on CUDA, which do not crash.
    ("dies, compiled", "export"): "OutputsDiffer",
    ("dies later, scripted", "script"): "StateDiffers",
    ("reads beyond, scripted", "script"): "ArtifactRaised",
    # Kernels on CUDA take the first of equal numbers.
    **{("the first place of each value", target): None for target in TARGETS},
    ("top-k by a threshold", "trace"): None,
    # A backward pass on CUDA runs in a thread of its own, which the tracer does not see: the gradients are constants.
    ("forces", "trace"): "OutputsDiffer",
    # The mean of a ramp is below zero on the CPU and not on CUDA: no branch is blamed for that call.
    ("elif", "trace"): "OutputsDiffer",
    # An index out of range is a device-side assert, which ends the process.
    ("suppresses overlaps", "trace"): "ArtifactCrashed",
    # torch.export has other guards for a pooling on CUDA.
    ("ceil pool from three", "export"): "DimsNarrowed",
}
# Eager fails on CUDA with these words: the row's forward makes a tensor on the CPU, on some calls.
NOT_ON_CUDA = ("and not on the CPU", "eager takes on the CPU only")
# Kernels on CUDA have no order of equal numbers that can be proved: a pass that says so in a caution.
UNPROVED = "differs by ties, not proved"


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
    for said in (verdict.reason, *verdict.notes):
        if any(words in said for words in NOT_ON_CUDA):
            pytest.skip(said)
    otherwise = (row.name, target) in OTHERWISE
    expected = OTHERWISE.get((row.name, target), row.truth()[target])
    found = zoo.SKIPPED if verdict.status == "skipped" else verdict.failure
    if found is None and any(UNPROVED in line for line in verdict.cautions):
        return
    assert found == expected, (verdict.reason, verdict.differences[:1], verdict.notes)
    if blame is not None and not otherwise and row.truth() == row.expect:
        named = blame.judge(verdict)
        assert set(named.values()) <= blame.legal, f"{named}\n{verdict}"
