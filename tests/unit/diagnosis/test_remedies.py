"""diagnosis/remedies.py: words about conditions, and lines without what makes a number of a tensor."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.remedies import (
    of_a_condition,
    without_a_number,
)
from pytest_torchexport.results.source_line import SourceLine


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("return x.view(int(x.shape[0]), -1) * 2", "return x.view(x.shape[0], -1) * 2"),
        ("y = x * torch.ones(len(x), 1)  # rows", "y = x * torch.ones(x.shape[0], 1)"),
        ("n = int(self.x.size(0)) if a else b", "n = self.x.size(0) if a else b"),
        ("n = int(x.size()[i + 1])", "n = x.size()[i + 1]"),
        ("return y / math.sqrt(x.shape[1])", "return y / x.shape[1] ** 0.5"),
        ("for t in range(int(x.shape[1])):", "for t in range(x.shape[1]):"),
        ("n = math.ceil(x.shape[1] / 4) * 4", "n = ((x.shape[1] + 4 - 1) // 4) * 4"),
        ("k = min(int(x.shape[1] / self.k), 3)", "k = min((x.shape[1] // self.k), 3)"),
        ("k = 3 * math.ceil(x.shape[1] / 2)", "k = 3 * ((x.shape[1] + 2 - 1) // 2)"),
        ("k = math.floor(x.shape[1] / 2)", "k = x.shape[1] // 2"),
        ("k = np.int(n / 2)", ""),
        ("k = math.floor(x.shape[1] / 2.5)", ""),  # // would make a float
        # Python looks a key up by its number.
        ("return {13: 2.0}.get(int(x.shape[1]), 1.0)", ""),
        ("return self.layers[len(x)](x)", ""),
        # Nothing that could be spelled otherwise.
        *((line, "") for line in ("return int(x.sum())", "")),
    ],
)
def test_sizes_stay_sizes(line, other):
    remedy = without_a_number(SourceLine("net.py", 3, line))
    assert (remedy == f"leave the size as it is: {other}") if other else ("as it is: //" in remedy)


USE = SourceLine("net.py", 9, "")


@pytest.mark.parametrize(
    ("kind", "text", "on_values", "kind_of_cause", "remedy"),
    [
        ("if", "x.sum() > 0", True, "frozen branch", "torch.where, or compile"),
        ("if", "x.sum() > 0", False, "frozen branch", "export once for each side"),
        ("while", "x.sum() > 0", True, "unrolled loop", "@torch.jit.script"),
        # Who calls the artifact does not know the side.
        ("if", "x.is_contiguous()", False, "frozen branch", "make the inputs alike"),
        ("if", "mask is not None", False, "frozen branch", "export once for each side"),
        ("if", 'reduction == "mean"', True, "frozen branch", "each value of the argument"),
        ("if", "k % 2 == 1", True, "frozen branch", "torch.where"),
    ],
)
def test_a_condition(kind, text, on_values, kind_of_cause, remedy):
    cause = of_a_condition(
        kind, text, where=USE, on_values=on_values, target="trace", arguments=("reduction",)
    )
    assert (cause.kind, cause.where) == (kind_of_cause, USE)
    assert remedy in cause.remedy
