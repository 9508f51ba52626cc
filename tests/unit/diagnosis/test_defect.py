"""diagnosis/defect.py: a defect is mended from the first version without it on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_torchexport.diagnosis.known_defects import DEFECTS

ROW = replace(DEFECTS[0], fixed_in="onnxscript 0.8")


@pytest.mark.parametrize(
    ("installed", "fixed"),
    [
        ({"onnxscript": "0.8.0"}, True),
        ({"onnxscript": "0.8"}, True),
        ({"onnxscript": "0.10.1+cpu"}, True),
        ({"onnxscript": "0.7.9"}, False),
        ({"torch": "2.13.0"}, False),
    ],
)
def test_it_is_fixed_from_a_version_on(installed, fixed):
    assert ROW.is_fixed(installed) == fixed


def test_without_such_a_version_it_is_not_fixed():
    assert not replace(ROW, fixed_in="").is_fixed({"onnxscript": "9.0"})
