"""torch_private/symbolic_sizes.py: guards, ranges and lines are read from a ShapeEnv."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchexport.outcomes.errors import chain
from pytest_torchexport.results.source_line import source_line
from pytest_torchexport.torch_private.symbolic_sizes import (
    environment_of,
    frozen_lines,
    guards_of,
    range_lines,
    ranges_of,
    shape_environment,
    sources_of,
)


class Even(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] % 2 == 0:
            return x + 1
        return x


def exported(module: nn.Module, dim: Any) -> Any:
    example = (torch.ones(4, 8),)
    return torch.export.export(module.eval(), example, dynamic_shapes={"x": {0: dim}})


def test_guards_have_their_lines_and_their_sources():
    environment = shape_environment(exported(Even(), Dim.DYNAMIC))
    ((guard, where),) = guards_of(environment)
    (symbol,) = guard.free_symbols
    assert [bool(guard.subs(symbol, size)) for size in (4, 5)] == [True, False]
    assert "if x.shape[0] % 2 == 0:" in where.text
    assert sources_of(environment) == {symbol: "L['x'].size()[0]"}


class Narrows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 4:
            return x + 1
        return x


def test_a_range_has_the_line_at_which_it_was_narrowed():
    program = exported(Narrows(), Dim.DYNAMIC)
    environment = shape_environment(program)
    (symbol,) = program.range_constraints
    low, high = range_lines(environment, symbol)
    assert low is None
    assert "if x.shape[0] > 4:" in high.text
    assert symbol in ranges_of(environment)


class Keyed(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] in {4: 1} else x


def test_a_line_that_torch_shortens_has_its_file():
    # Of a line that strict capture finds, torch leaves out the folders that it shares with torch.
    example = (torch.ones(4, 8),)
    program = torch.export.export(
        Keyed(), example, dynamic_shapes={"x": {0: Dim.AUTO}}, strict=True
    )
    (line,) = frozen_lines(shape_environment(program)).values()
    assert line == source_line(__file__, line.line)


class Number(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = int(x.shape[0])
        return x.reshape(rows, 4, 2) + torch.ones(4, 4, 2)


def test_a_refusal_gives_its_environment_with_the_line_at_which_a_size_became_a_number():
    with pytest.raises(Exception, match=r"(?i)constraints violated|conflicts") as caught:
        exported(Number(), Dim("batch"))
    lines = frozen_lines(environment_of(chain(caught.value)))
    assert list(lines) == ["L['x'].size()[0]"]
    assert ".reshape(" in str(lines) or "rows = int(x.shape[0])" in str(lines)
    assert environment_of([ValueError("of another kind")]) is None


def test_a_line_whose_folders_torch_left_out_has_them_again(tmp_path, monkeypatch):
    """torch keeps ``ome/me/net.py`` of a file that shares only the root with torch's own."""
    file = tmp_path / "net.py"
    file.touch()
    monkeypatch.setattr(torch, "__file__", "/elsewhere/torch/__init__.py")
    guard = SimpleNamespace(
        expr=None, sloc=SimpleNamespace(maybe_user_loc=f"x + 1  # {str(file)[2:]}:3 in forward")
    )
    ((_, where),) = guards_of(SimpleNamespace(guards=[guard]))
    assert where == source_line(str(file), 3, "x + 1")
