"""explore/recomputation.py: the operators between the inputs and a number, on other numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from followed import followed
from torch import Tensor

from pytest_torchexport.explore.recomputation import Recomputation, TooLarge

TABLE = torch.randperm(50, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
BOUNDS = torch.tensor([3, 9, 20, 31])

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": lambda x: x >> 2,
    "floor_divide": lambda x: x // 7,
    "remainder": lambda x: x % 7,
    "xor": lambda x: x ^ 21,
    "gcd": lambda x: torch.gcd(x, torch.tensor(12)),
    "float": lambda x: (x / 3).round().long(),
    "twice": lambda x: x * 2 + x,
    "with a row": lambda x: x * torch.arange(4),
    "slice": lambda x: x[:, 1:].T,
    "cat": lambda x: torch.cat([x, torch.zeros(3, 1, dtype=torch.int64), x + 1], 1),
    "roll": lambda x: x.roll(1, 1).flip(0),
    "tril": lambda x: x.tril(),
    "unbind": lambda x: x.unbind(1)[2] - 1,
    "table": lambda x: TABLE[x],
    "column": lambda x: ROWS[:, 1][x],
    "pair": lambda x: ROWS[x, x % 3],
    "embedding": lambda x: torch.nn.functional.embedding(x, ROWS),
    "index_select": lambda x: ROWS.index_select(0, x[0]),
    "take": lambda x: torch.take(TABLE, x),
    "chosen rows": lambda x: x[torch.tensor([2, 0])],
    "bucketize": lambda x: torch.bucketize(x, BOUNDS),
    "searchsorted": lambda x: torch.searchsorted(BOUNDS, x, right=True),
    "isin": lambda x: torch.isin(x, BOUNDS),
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(1, keepdim=True),
    "sum of columns": lambda x: x.sum(0),
    "mean": lambda x: x.float().mean((0, 1)),
    "count": lambda x: (x > 20).sum(-1),
    "argmax": lambda x: x.argmax(1),
    "argmax of a table": lambda x: ROWS[x].argmax(-1),
    "max": lambda x: x.max(0).values,
    "place of the largest": lambda x: x.max(0).indices,
    "any": lambda x: (x == 3).any(1),
    "cumsum": lambda x: x.cumsum(1),
    "cumsum of columns": lambda x: x.cumsum(0),
    "softmax": lambda x: (x / 9).softmax(-1),
    "product": lambda x: ROWS[:4].T.float() @ x.T.float(),
    "product with a matrix": lambda x: x.float() @ ROWS[:4],
    "squares": lambda x: x.double().T @ x.double(),
    "layer": lambda x: torch.nn.functional.linear(x.float(), ROWS.T[:, :4], ROWS[0]),
    "layer of rows": lambda x: torch.nn.functional.linear(x.float().reshape(3, 2, 2), ROWS[:, :2]),
    "chosen by a layer": lambda x: (ROWS[x] @ ROWS[:7].T).argmax(-1),
    "in place": lambda x: x.clone().add_(3).mul_(2),
    "where": lambda x: torch.where(x > 20, x, -x),
}


def _numbers(seed: int) -> Tensor:
    # Without ties: which of equal numbers is the largest, is not defined.
    return torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:12].reshape(3, 4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replay_computes_what_the_function_returns_for_other_numbers(name):
    function, given = FUNCTIONS[name], _numbers(0)
    origins, result = followed(function, given)
    origin = origins.of(result)
    assert origin is not None
    points = torch.arange(30, 50)
    for place in range(result.numel()):
        recomputation = Recomputation({0: given.reshape(-1)})
        elements = recomputation.elements(origin, place)
        for element in elements:
            found = recomputation.run(origin, place, element, points)
            for number, value in zip(points, found, strict=True):
                other = given.clone()
                other.reshape(-1)[element[1]] = number
                if len(set(other.reshape(-1).tolist())) == 12:
                    wanted = function(other).reshape(-1)[place]
                    torch.testing.assert_close(value, wanted)


def test_a_replay_names_the_elements_that_a_result_depends_on():
    origins, result = followed(lambda x: x.sum(1), _numbers(0))
    found = Recomputation({0: _numbers(0).reshape(-1)}).elements(origins.of(result), 1)
    assert found == [(0, 4), (0, 5), (0, 6), (0, 7)]


def test_a_replay_of_too_many_elements_is_refused():
    given = torch.zeros(5000, dtype=torch.int64)
    origins, result = followed(lambda x: x.sum(), given)
    with pytest.raises(TooLarge):
        Recomputation({0: given}).elements(origins.of(result), 0)
