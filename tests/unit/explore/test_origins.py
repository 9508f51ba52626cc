"""explore/origins.py: the operators between the inputs of a run and its tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pytest_torchexport.explore.origins import Origins
from pytest_torchexport.outcomes.operators import dispatched

NUMBERS = torch.arange(12).reshape(3, 4)


def _followed(function: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Origins, Tensor]:
    origins = Origins([given])

    def saw(func, args, kwargs):
        result = func(*args, **kwargs)
        origins.saw(func, args, kwargs, result)
        return result

    with dispatched(saw):
        return origins, function(given)


def test_what_is_written_to_has_no_origin_from_before():
    def written(x: Tensor) -> Tensor:
        y = x + 1
        y[0] = 5
        return y

    origins, result = _followed(written, NUMBERS)
    assert origins.of(result) is None


def test_an_operator_that_mixes_its_numbers_otherwise_ends_the_row():
    origins, result = _followed(lambda x: x.float() @ torch.randn(4, 2), NUMBERS)
    assert origins.of(result) is None


def test_a_part_of_an_input_is_known():
    given = NUMBERS
    origins, result = _followed(lambda x: x[:, 1], given)
    assert origins.has_part(result)
    assert not origins.has_part(given + 1)


def test_no_more_is_kept_than_so_many_elements_in_all(monkeypatch):
    monkeypatch.setattr("pytest_torchexport.explore.origins.MOST_IN_ALL", 30)
    origins, result = _followed(lambda x: x + 1, NUMBERS)
    assert origins.of(result) is not None
    origins, result = _followed(lambda x: x + 1 + 1 + 1, NUMBERS)
    assert origins.of(result) is None
