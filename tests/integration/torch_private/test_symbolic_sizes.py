"""torch_private/symbolic_sizes.py: guards, ranges and lines are read from a ShapeEnv."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.export import Dim

from pytest_torchexport.results.source_line import source_line
from pytest_torchexport.torch_private.symbolic_sizes import (
    frozen_lines,
    guards_of,
    shape_environment,
)


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
