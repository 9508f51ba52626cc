"""commands/asked_sizes.py: the sizes of a dim in one argument."""

from __future__ import annotations

import pytest

from pytest_torchexport.commands.asked_sizes import parse_dim
from pytest_torchexport.commands.shell import CommandError


def test_a_dim_has_its_sizes():
    assert parse_dim("batch=1..16") == ("batch", range(1, 17))
    assert parse_dim("n=8") == ("n", range(8, 9))
    for text in ("batch", "batch=", "batch=a..b", "2=1..3", "n=3..1"):
        with pytest.raises(CommandError, match=r"legal: batch=1..16|low 3 is above high 1"):
            parse_dim(text)
