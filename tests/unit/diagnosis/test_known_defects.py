"""diagnosis/known_defects.py: each row says whose defect it is, and the owner is theirs."""

from __future__ import annotations

import pytest

from pytest_torchexport.config.names import BUILT_IN
from pytest_torchexport.diagnosis.defect import ISSUE
from pytest_torchexport.diagnosis.known_defects import DEFECTS

# What the packages of a repository do between eager and the artifact.
OWNERS = {
    "pytorch/pytorch": ("capture", "translation", "saving and loading"),
    "microsoft/onnxscript": ("translation", "exporter's optimizer"),
    "microsoft/onnxruntime": ("runtime", "runtime's optimizer"),
    "onnx/onnx": ("translation",),
}


@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: row.name.replace(" ", "-"))
def test_a_row_is_whole(row):
    assert row.owner in OWNERS[row.repository]
    assert set(row.targets) <= set(BUILT_IN)
    assert row.operators
    assert row.text
    assert row.remedy
    assert not row.text.endswith(".")
    if row.issue:
        assert ISSUE.fullmatch(row.issue)[1] == row.repository


def test_names_and_texts_are_unique():
    for texts in ([row.name for row in DEFECTS], [row.text for row in DEFECTS]):
        assert len(set(texts)) == len(texts)
