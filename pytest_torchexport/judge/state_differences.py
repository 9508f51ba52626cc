"""Compare the parameters and buffers of eager with those that the artifact carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.results.verdict import Difference


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
