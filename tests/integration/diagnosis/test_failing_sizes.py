"""diagnosis/failing_sizes.py: the sizes at which a real artifact fails, and what to declare."""

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


# -- narrowed dims ---------------------------------------------------------------------------------

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


def test_tied_dims_get_no_range():
    def forward(x):
        return x * 2 if x.shape[0] < x.shape[1] else x

    _, cause = narrowed(forward, shapes={"x": "a b"})
    assert cause.kind == "frozen branch"
    assert "dims=" not in cause.remedy
