"""targets/formats/exported_program.py: a file that is loaded for another device is moved there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import passes

from pytest_torchexport.targets.formats import exported_program


class Net(nn.Module):
    """A layer, and an output that is left on another device."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x), x.to("meta")


def saved(tmp_path, home):
    program = torch.export.export(Net().to(home), (torch.ones(2, 3, device=home),))
    path = tmp_path / "net.pt2"
    exported_program.save(program, path, {})
    return path


@pytest.mark.parametrize(
    ("home", "device", "moved"),
    [
        ("cpu", "cpu", []),
        ("cpu", "meta", ["meta"]),
        ("meta", "cpu", ["cpu"]),
        ("meta", "meta:0", []),
    ],
)
def test_a_program_is_moved_if_its_inputs_are_elsewhere(tmp_path, monkeypatch, home, device, moved):
    asked = []

    def move(program, there):
        asked.append(there)
        return program

    monkeypatch.setattr(passes, "move_to_device_pass", move)
    exported_program.load(saved(tmp_path, home), device)
    assert asked == moved


def test_a_program_that_is_there_keeps_what_it_makes_on_other_devices(tmp_path):
    here, elsewhere = exported_program.load(saved(tmp_path, "cpu"), "cpu")(torch.ones(2, 3))
    assert (here.device.type, elsewhere.device.type) == ("cpu", "meta")
