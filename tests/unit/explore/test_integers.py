"""explore/integers.py: numbers of the inputs for which an element of a tensor meets a condition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from followed import followed
from torch import Tensor

from pytest_torchexport.explore.integers import Among, Demand, Effort, demand_at, demands_of, met
from pytest_torchexport.explore.provenance import Combined, Compared, Reduced

NUMBERS = torch.arange(12).reshape(3, 4)
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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_number_of_an_input_gives_an_element_the_value_that_it_would_give(name):
    function = FUNCTIONS[name]
    before = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:12].reshape(3, 4)
    after = before.clone()
    after[1, 2] = 49
    origins, result = followed(function, before)
    changed = (function(after) != result).reshape(-1).nonzero().reshape(-1)[:1].tolist()
    for place in changed:
        wanted = float(function(after).reshape(-1)[place])
        demand = Demand(origins.of(result), place, "==", wanted)
        found = met([demand], {0: before}, {0: Among(0, 49)})
        # Where numbers are rounded another one may come as near.
        assert found is not None or result.is_floating_point()
        assert found is None or float(function(found[0]).reshape(-1)[place]) == wanted


def test_nothing_is_computed_beyond_what_may_be():
    origins, result = followed(lambda x: x.sum(), NUMBERS)
    effort = Effort(100)
    assert (
        met([Demand(origins.of(result), 0, "==", 7)], {0: NUMBERS}, {0: Among(0, 9)}, effort)
        is None
    )


def test_what_is_written_to_has_no_origin_from_before():
    def written(x: Tensor) -> Tensor:
        y = x + 1
        y[0] = 5
        return y

    origins, result = followed(written, NUMBERS)
    assert origins.of(result) is None


def test_no_more_is_kept_than_so_many_elements_in_all(monkeypatch):
    monkeypatch.setattr("pytest_torchexport.explore.integers.MOST_IN_ALL", 30)
    origins, result = followed(lambda x: x + 1, NUMBERS)
    assert origins.of(result) is not None
    origins, result = followed(lambda x: x + 1 + 1 + 1, NUMBERS)
    assert origins.of(result) is None


def test_the_inputs_are_known_if_no_other_tensor_took_part():
    origins, result = followed(lambda x: (x.bool() & (x > 2)).all(), NUMBERS)
    assert origins.of(result).inputs() == {0}
    weight = torch.ones(4)
    origins, result = followed(lambda x: x * weight, NUMBERS)
    assert origins.of(result).inputs() is None


def _demand(function, given, operator, number, place=0):
    origins, result = followed(function, given)
    return origins, result, Demand(origins.of(result), place, operator, number)


CONDITIONS = {
    "a shift": (lambda x: x >> 2, "==", 77),
    "a quotient": (lambda x: x // 7, "==", 11),
    "exclusive bits": (lambda x: x ^ 0x2A5, "==", 321),
    "a sum that needs many elements": (lambda x: x.sum(), "==", 3500),
    "a count": (lambda x: (x > 900).sum(), "==", 4),
    "an order": (lambda x: x.sum(), ">", 3900),
    "at least": (lambda x: x.sum(), ">=", 4000),
    "another": (lambda x: x % 2, "!=", 1),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_numbers_are_found_that_meet_a_condition(name):
    function, operator, number = CONDITIONS[name]
    given = torch.tensor([1, 3, 5, 7])
    _, _, demand = _demand(function, given, operator, number)
    found = met([demand], {0: given}, {0: Among(0, 1000)})
    assert found is not None
    assert int(found[0].min()) >= 0
    assert int(found[0].max()) <= 1000
    holds = {
        "==": torch.eq, "!=": torch.ne, ">": torch.gt, ">=": torch.ge,
    }[operator]  # fmt: skip
    assert bool(holds(function(found[0]).reshape(-1)[0], number))


def test_nothing_is_found_beyond_the_range():
    given = torch.tensor([1, 3])
    _, _, demand = _demand(lambda x: x.sum(), given, "==", 2001)
    assert met([demand], {0: given}, {0: Among(0, 1000)}) is None


def test_nothing_is_found_if_the_input_may_not_change():
    given = torch.tensor([1, 3])
    _, _, demand = _demand(lambda x: x.sum(), given, "==", 10)
    assert met([demand], {0: given}, {}) is None


def test_the_nearest_number_is_chosen():
    given = torch.tensor([400])
    _, _, demand = _demand(lambda x: x >> 2, given, "==", 77)
    found = met([demand], {0: given}, {0: Among(0, 1000)})
    assert found is not None
    assert found[0].tolist() == [311]


def test_one_of_some_numbers_is_chosen():
    given = torch.tensor([5])
    _, _, demand = _demand(lambda x: x // 10, given, "==", 3)
    found = met([demand], {0: given}, {0: Among(0, 0, (5, 20, 33))})
    assert found is not None
    assert found[0].tolist() == [33]


def test_a_grid_gets_finer_in_a_range_that_is_too_wide_to_try():
    given = torch.tensor([5])
    _, _, demand = _demand(lambda x: x // 7, given, "==", 123_456_789)
    found = met([demand], {0: given}, {0: Among(0, 2**40)})
    assert found is not None
    assert int(found[0]) // 7 == 123_456_789


def test_no_number_beyond_the_range_is_chosen_where_floats_do_not_hold_its_ends():
    given = torch.tensor([5])
    _, _, demand = _demand(lambda x: x < 0, given, "!=", 0)
    assert met([demand], {0: given}, {0: Among(0, 2**63 - 1)}) is None


def test_floats_that_are_rounded_are_found():
    given = torch.tensor([0.25])
    _, _, demand = _demand(torch.round, given, "==", 1234.0)
    found = met([demand], {0: given}, {0: Among(-60000.0, 60000.0)})
    assert found is not None
    assert float(found[0].round()) == 1234.0


def _places(provenance, wanted, origins):
    return [
        [(d.place, d.operator, d.number) for d in demands]
        for demands in demands_of(provenance, wanted, origins)
    ]


def test_the_nearest_element_is_to_meet_a_comparison_then_all():
    given = torch.tensor([8, 40, 30])
    origins, result, _ = _demand(lambda x: x >> 1, given, "==", 0)
    provenance = Reduced("any", Compared("==", result, 16))
    assert _places(provenance, True, origins) == [
        [(2, "==", 16)],
        [(2, "==", 16), (1, "==", 16), (0, "==", 16)],
    ]
    assert _places(Combined("not", (provenance,)), True, origins)[0] == [(2, "!=", 16)]


def test_conditions_that_have_to_hold_together_are_met_together():
    given = torch.tensor([8])
    origins, result, _ = _demand(lambda x: x >> 1, given, "==", 0)
    both = Combined("and", (Compared(">", result, 5), Compared("<", 9, result)))
    assert _places(both, True, origins) == [[(0, ">", 5), (0, ">", 9)]]
    assert _places(both, False, origins) == [[(0, "<=", 5)], [(0, "<=", 9)]]


def test_a_part_of_an_input_is_left_to_what_writes_there():
    given = torch.tensor([8, 9])
    origins, result, _ = _demand(lambda x: x[:1], given, "==", 0)
    assert _places(Compared("==", result, 3), True, origins) == []


def _both(first, second, given):
    """Return demands of two tensors that a function of one input returns."""
    origins, (one, other) = followed(lambda x: (first[0](x), second[0](x)), given)
    return [
        demand_at(origins.of(tensor), 0, operator, number, origins)
        for tensor, (_, operator, number) in ((one, first), (other, second))
    ]


CONJUNCTIONS = {
    "digits": ((lambda x: x % 100, "==", 34), (lambda x: x // 100, "==", 12)),
    "residues": ((lambda x: x % 97, "==", 5), (lambda x: x % 89, "==", 7)),
    "a power of two": ((lambda x: x & (x - 1), "==", 0), (lambda x: x * 1, ">", 5000)),
}


@pytest.mark.parametrize("name", CONJUNCTIONS)
def test_one_number_is_found_that_meets_several_conditions(name):
    first, second = CONJUNCTIONS[name]
    found = met(
        _both(first, second, torch.tensor([7])), {0: torch.tensor([7])}, {0: Among(0, 9999)}
    )
    assert found is not None
    holds = {"==": torch.eq, ">": torch.gt}
    for function, operator, number in (first, second):
        assert bool(holds[operator](function(found[0]), number))


def test_nothing_is_found_if_no_number_meets_both():
    given = torch.tensor([7])
    demands = _both((lambda x: x % 4, "==", 1), (lambda x: x % 6, "==", 2), given)
    assert met(demands, {0: given}, {0: Among(0, 9999)}) is None


def test_a_power_of_two_is_found_in_a_range_that_is_too_wide_to_try():
    given = torch.tensor([7])
    demands = _both((lambda x: x & (x - 1), "==", 0), (lambda x: x * 1, ">", 2**33), given)
    found = met(demands, {0: given}, {0: Among(0, 2**40)})
    assert found is not None
    assert int(found[0]) in [2**n for n in range(34, 41)]


@pytest.mark.parametrize(("number", "place"), [(2, [0]), (2.5, None), (float("nan"), None)])
def test_a_place_is_chosen_by_its_scores(number, place):
    given = torch.tensor([[3, 9, 5]])
    origins, result = followed(lambda x: (x % 100).argmax(1), given)
    demand = demand_at(origins.of(result), 0, "==", number, origins)
    found = met([demand], {0: given}, {0: Among(0, 1000)})
    assert (found and (found[0] % 100).argmax(1).tolist()) == (place and [number])


def test_a_number_is_found_for_which_two_computed_ones_are_equal():
    given = torch.tensor([7])
    origins, (one, other) = followed(lambda x: (x * 3, 5000 - x), given)
    demand = demand_at(origins.of(one), 0, "==", other, origins)
    found = met([demand], {0: given}, {0: Among(0, 9999)})
    assert found is not None
    assert found[0].tolist() == [1250]
