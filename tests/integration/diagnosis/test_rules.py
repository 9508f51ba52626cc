"""diagnosis/rules.py: on modules, where a number comes from, and that the remedies help."""

from __future__ import annotations

from pathlib import Path

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


LIBRARY = """
def half(x):
    n = int(x.shape[0] / 2)
    return x[:n] * 2
"""


def test_of_a_line_of_a_library_the_own_call_of_it_is_named(tmp_path):
    path = tmp_path / "site-packages" / "halves.py"
    path.parent.mkdir()
    path.write_text(LIBRARY)
    library = {"__name__": "halves"}
    exec(compile(LIBRARY, str(path), "exec"), library)

    class Halves(nn.Module):
        def forward(self, x):
            return library["half"](x + 1)

    found = checked(Halves())
    assert (found.where.file, found.where.line) == ("halves.py", 3)
    (cause,) = found.diagnosis.causes
    first, second = cause.remedy.splitlines()
    assert first.startswith("make the call before forward, and pass what it returns: ")
    assert Path(__file__).name in first
    assert first.endswith('return library["half"](x + 1)')
    assert second == "or in a copy: leave the size as it is: n = x.shape[0] // 2"
