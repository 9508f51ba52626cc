"""diagnosis/narrowed_dims.py: what decides by the sizes that an artifact lost, and what to declare."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport import check_export

CODES = torch.linspace(-1, 1, 80).reshape(20, 4)


def narrowed(function, *, rows=3, target="export", **options):
    found = check_export(function, (torch.ones(rows, 4),), target=target, max_examples=5, **options)
    assert found.failure == "DimsNarrowed", found
    (cause,) = found.diagnosis.causes
    return found, cause


def test_a_range_that_torchs_own_code_narrows_is_the_remedy_and_helps():
    def forward(x):
        return torch.cdist(x, CODES)  # another method from 26 rows on

    found, cause = narrowed(forward, rows=20)
    assert (found.diagnosis.owner, cause.kind) == ("capture", "guard")
    assert "no line of forward is known" in cause.text
    assert cause.remedy == 'if it stays in these sizes: dims={"batch": (1, 25)}'
    followed = check_export(
        forward, (torch.ones(20, 4),), target="export", dims={"batch": (1, 25)}, max_examples=5
    )
    assert followed.status == "passed"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("export", "if x.shape[0] > 6:"),  # the program refuses what it was not captured for
        ("onnx", "return x * 2 if x.shape[0] >= 12 else x"),
    ],
)
def test_the_condition_is_named_that_the_artifact_fails_for(target, line):
    def forward(x):
        if x.shape[0] > 6:
            x = x.clone()
        return x * 2 if x.shape[0] >= 12 else x

    found, cause = narrowed(forward, target=target, dims={"batch": range(1, 21)})
    assert (found.diagnosis.owner, cause.kind) == ("model", "frozen branch")
    assert cause.where.text == line
    assert "export once for each side" in cause.remedy


def test_tied_dims_get_no_range():
    def forward(x):
        return x * 2 if x.shape[0] < x.shape[1] else x

    _, cause = narrowed(forward, shapes={"x": "a b"})
    assert cause.kind == "frozen branch"
    assert "dims=" not in cause.remedy


@pytest.mark.parametrize(
    ("checks", "kind"),
    [(["dims"], "guard"), (["dims", "control_flow"], "frozen branch")],
)
def test_without_the_search_for_branches_the_line_of_the_program_is_named(checks, kind):
    def forward(x):
        return x * 2 if x.shape[0] >= 12 else x

    found, cause = narrowed(forward, dims={"batch": range(1, 21)}, checks=checks)
    assert (found.diagnosis.owner, cause.kind) == ("model", kind)
    assert cause.where.text.startswith("return x * 2 if x.shape[0] >= 12")


@pytest.mark.parametrize("target", ["export", "onnx"])
def test_the_line_that_makes_a_number_of_a_size_is_named_also_if_the_file_has_none(target):
    def forward(x):
        return x.new_zeros(int(x.shape[0] * 1.5), 4) + x[:1]

    found, cause = narrowed(forward, target=target)
    assert (found.diagnosis.owner, cause.kind) == ("model", "frozen size")
    assert "int(x.shape[0] * 1.5)" in found.where.text
