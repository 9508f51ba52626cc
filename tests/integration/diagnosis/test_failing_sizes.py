"""diagnosis/failing_sizes.py: the sizes at which a real artifact fails, and what to declare."""

from __future__ import annotations

import torch

from pytest_torchexport import check_export

TABLE = torch.linspace(-1, 1, 48).view(12, 4)


def test_a_size_that_equal_values_hide_is_not_ok():
    def forward(ids):
        return TABLE[ids][:, torch.arange(int(ids.shape[1]))].mean(1)

    ids, options = torch.arange(12).view(2, 6), {"checks": ["parity"], "max_examples": 5}
    found = check_export(forward, (ids,), target="trace", shapes={"ids": "batch n"}, **options)
    lines = [str(item) for item in found.diagnosis.sizes]
    assert lines == ["n: ok only at 6, the example's (run at 1 to 8, 10 to 12)"]


def test_a_branch_that_values_decide_has_no_sizes():
    """At size 1 the row that decides is left out of the call."""

    class Cut(torch.nn.Module):
        def forward(self, x):
            return x / 2 if (x[1:] > 1.5).any() else x * 2

    found = check_export(Cut(), (torch.linspace(-1.4, 1.4, 12).view(3, 4),), target="trace")
    assert (found.failure, found.diagnosis.sizes) == ("BranchFrozen", ()), found


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
    assert "what this line calls" in cause.text
    assert cause.where == found.where
    assert "torch.cdist" in found.where.text
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


def test_another_line_that_narrows_as_well_is_named_beside_the_first():
    def forward(x):
        y = x * 2 if x.shape[0] > 3 else x
        return y + 1 if x.shape[0] > 9 else y

    _, cause = narrowed(forward, rows=6)
    (also,) = cause.details
    texts = {cause.where.text, also.partition("  ")[2]}
    assert texts == {"y = x * 2 if x.shape[0] > 3 else x", "return y + 1 if x.shape[0] > 9 else y"}
