"""diagnosis/rules.py: on modules, where a number comes from, and that the remedies help."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export

X = torch.arange(12.0).reshape(4, 3)


def checked(module, *args, target="trace", **options):
    found = check_export(
        module, args or (X,), target=target, **{"checks": ["parity"], "max_examples": 5, **options}
    )
    assert found.status == "failed", found
    assert found.diagnosis.not_examined == ()
    return found


class Centered(nn.Module):
    """Two sizes become the numbers of one tensor, beside a size that is computed with as it is."""

    def forward(self, x):
        rows = float(x.shape[0] - 1) / 2
        columns = float(x.shape[1] - 1) / 2
        center = torch.tensor([rows, columns])
        return x * x.shape[1] + center.sum()


def test_of_several_numbers_those_are_named_that_make_the_difference():
    """A number that is equal to that of the artifact by chance is not."""
    x, dims = torch.arange(32.0).reshape(4, 8), {"batch": (2, 6), "time": (2, 6)}
    found = checked(Centered(), x, shapes={"x": "batch time"}, dims=dims)
    (cause,) = found.diagnosis.causes
    assert (found.diagnosis.owner, cause.kind) == ("model", "frozen size")
    named = [str(found.where), *cause.details]
    assert all("rows = float(" in each or "columns = float(" in each for each in named)
