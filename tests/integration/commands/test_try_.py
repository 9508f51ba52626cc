"""commands/try_.py with an exporter: the verdict that a marked test has, and its status."""

from __future__ import annotations

import sys

from pytest_torchexport.commands import try_

SOURCE = """
import torch
class Frozen(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1
"""


def test_a_frozen_branch_is_found_without_a_test(tmp_path, monkeypatch, capsys):
    (tmp_path / "tried_frozen.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = [
        "tried_frozen.py:Frozen",
        "--input=torch.randn(2, 3)",
        "--shape=x=batch 3",
        "--target=trace",
    ]
    status = try_.main("try", [*arguments, "--max-examples=5"])
    out = capsys.readouterr().out
    sys.modules.pop("tried_frozen")
    assert status == 1
    assert "BranchFrozen: return x + 1 if x.sum() > 0 else x - 1 (tried_frozen.py:5)" in out
    assert "Frozen  FAILED" in out
    assert '@pytest.mark.torchexport("trace", shapes={"x": "batch 3"})' in out
