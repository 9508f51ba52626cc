"""diagnosis/failing_sizes.py: the sizes at which a real artifact fails."""

from __future__ import annotations

import torch

from pytest_torchexport import check_export
from pytest_torchexport.results.text import failure_text


def sizes_of(function, *args, **options):
    found = check_export(
        function, args, target="trace", checks=["parity"], max_examples=5, **options
    )
    assert found.status == "failed", found
    assert found.diagnosis.not_examined == ()
    return found, [str(item) for item in found.diagnosis.sizes]


def test_a_frozen_size_is_the_only_one_that_passes():
    def forward(x):
        return x.reshape(int(x.shape[0]), -1) + float(x.shape[0])

    _, lines = sizes_of(forward, torch.ones(3, 4))
    assert lines == ["batch: ok only at 3, the example's (run at 1 to 6)"]


def test_two_dims_that_have_to_be_equal_are_one_line():
    def forward(x):
        return x + 1 if x.shape[1] == x.shape[2] else x - 1

    found, lines = sizes_of(forward, torch.ones(2, 3, 3), shapes={"x": "batch h w"})
    assert [line.partition(" (")[0] for line in lines] == [
        "h: ok only where equal to w",
        "w: ok only where equal to h",
    ]
    assert failure_text(found).count("ok only where") == 1


def test_two_frozen_dims_need_not_be_equal():
    def forward(x):
        return x + float(x.shape[1]) + 2.0 * float(x.shape[2])

    _, lines = sizes_of(forward, torch.ones(2, 3, 3), shapes={"x": "batch h w"})
    assert [line.partition(" (")[0] for line in lines] == [
        "h: ok only at 3, the example's",
        "w: ok only at 3, the example's",
    ]


def test_a_call_that_fails_at_every_size_has_no_sizes():
    def forward(x, flag=[]):  # noqa: B006 - what makes the artifact differ
        flag.append(0)
        return x + len(flag)

    found = check_export(forward, (torch.ones(3, 4),), target="trace", max_examples=5)
    assert found.diagnosis.sizes == ()


def test_a_range_that_torchs_own_code_narrows_is_the_remedy():
    codes = torch.linspace(-1, 1, 80).reshape(20, 4)

    def forward(x):
        return torch.cdist(x, codes)  # another method from 26 rows on

    options = {"target": "export", "checks": ["dims"], "max_examples": 5}
    found = check_export(forward, (torch.ones(20, 4),), **options)
    assert found.failure == "DimsNarrowed"
    (cause,) = found.diagnosis.causes
    assert found.diagnosis.owner == "capture"
    assert cause.remedy.endswith('dims={"batch": (1, 25)}')
    followed = check_export(forward, (torch.ones(20, 4),), dims={"batch": (1, 25)}, **options)
    assert followed.status == "passed"


def test_a_line_that_asks_for_the_size_is_the_models_and_the_range_is_its_remedy():
    def forward(x):
        return x * 2 if x.shape[0] >= 12 else x

    options = {"target": "export", "checks": ["dims", "parity"], "max_examples": 5}
    found = check_export(forward, (torch.ones(3, 4),), dims={"batch": range(1, 21)}, **options)
    assert found.failure == "DimsNarrowed"
    assert found.diagnosis.owner == "model"
    (cause,) = found.diagnosis.causes
    assert cause.where is not None
    assert cause.where.text.startswith("return x * 2 if x.shape[0] >= 12")
    assert 'dims={"batch": (1, 11)}; else export once for each answer' in cause.remedy
    followed = check_export(forward, (torch.ones(3, 4),), dims={"batch": (1, 11)}, **options)
    assert followed.status == "passed"


def test_a_size_below_torchs_lowest_is_left_out_by_the_remedy():
    def forward(x):
        return x * 2 if x.shape[0] == 1 else x + 1

    options = {"target": "export", "checks": ["dims", "parity"], "max_examples": 5}
    found = check_export(forward, (torch.ones(3, 4),), **options)
    assert found.failure == "DimsNarrowed"
    assert found.diagnosis.owner == "capture"
    (cause,) = found.diagnosis.causes
    assert "as if none were below 2" in cause.text
    assert cause.remedy.endswith('dims={"batch": (2, 6)}')
