"""The zoo on CUDA: the verdicts are those on the CPU. An order by checksum: any part is a fair sample."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import zoo
from gpu.trial import DEVICE, TARGETS

import pytest_torchexport

MAX_EXAMPLES = 10


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
    options = {"max_examples": MAX_EXAMPLES, **row.options}
    verdict = pytest_torchexport.check_export(
        row.build(), args, kwargs, target=target, device=DEVICE, **options
    )
    expected = row.expect[target]
    found = zoo.SKIPPED if verdict.status == "skipped" else verdict.failure
    assert found == expected, (verdict.reason, verdict.differences[:1], verdict.notes)
