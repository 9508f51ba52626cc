"""explore/origins.py: the operators between the inputs of a run and its tensors."""

from __future__ import annotations

import torch
from followed import followed
from torch import Tensor

NUMBERS = torch.arange(12).reshape(3, 4)


def test_what_is_written_to_has_no_origin_from_before():
    def written(x: Tensor) -> Tensor:
        y = x + 1
        y[0] = 5
        return y

    origins, result = followed(written, NUMBERS)
    assert origins.of(result) is None


def test_an_operator_that_mixes_its_numbers_otherwise_ends_the_row():
    origins, result = followed(lambda x: torch.linalg.pinv(x.double()), NUMBERS)
    assert origins.of(result) is None


def test_a_part_of_an_input_is_known():
    given = NUMBERS
    origins, result = followed(lambda x: x[:, 1], given)
    assert origins.has_part(result)
    assert not origins.has_part(given + 1)


def test_no_more_is_kept_than_so_many_elements_in_all(monkeypatch):
    monkeypatch.setattr("pytest_torchexport.explore.origins.MOST_IN_ALL", 30)
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
