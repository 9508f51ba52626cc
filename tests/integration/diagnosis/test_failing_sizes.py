"""diagnosis/failing_sizes.py: the sizes at which a real artifact fails."""

from __future__ import annotations

import torch

from pytest_torchexport import check_export
from pytest_torchexport.results.text import failure_text

TABLE = torch.linspace(-1, 1, 48).view(12, 4)


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


def test_a_size_that_equal_values_hide_is_not_ok():
    def forward(ids):
        return TABLE[ids][:, torch.arange(int(ids.shape[1]))].mean(1)

    ids = torch.arange(12).view(2, 6)
    _, lines = sizes_of(forward, ids, shapes={"ids": "batch n"})
    assert lines == ["n: ok only at 6, the example's (run at 1 to 8, 10 to 12)"]


def test_two_dims_that_have_to_be_equal_are_one_line():
    def forward(x):
        return x + 1 if x.shape[1] == x.shape[2] else x - 1

    found, lines = sizes_of(forward, torch.ones(2, 3, 3), shapes={"x": "batch h w"})
    assert [line.partition(" (")[0] for line in lines] == [
        "h: ok only where equal to w",
        "w: ok only where equal to h",
    ]
    assert failure_text(found).count("ok only where") == 1


def test_a_failure_that_values_decide_has_no_sizes():
    def forward(x):
        return x * 2 if float(x.sum()) > 1 else x

    found = check_export(
        forward, (-torch.ones(3, 4),), target="onnx_legacy", checks=["parity"], max_examples=20
    )
    assert found.status == "failed", found
    assert found.diagnosis.sizes == ()
