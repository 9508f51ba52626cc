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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a program, by the device that it was exported on."""
    folder = tmp_path_factory.mktemp("programs")
    paths = {home: folder / f"{home}.pt2" for home in ("cpu", "meta")}
    for home, path in paths.items():
        program = torch.export.export(Net().to(home), (torch.ones(2, 3, device=home),))
        exported_program.save(program, path, {})
    return paths


@pytest.mark.parametrize(
    ("home", "device", "moved"),
    [
        ("cpu", "cpu", []),
        ("cpu", "meta", ["meta"]),
        ("meta", "cpu", ["cpu"]),
        ("meta", "meta:0", []),
    ],
)
def test_a_program_is_moved_if_its_inputs_are_elsewhere(saved, monkeypatch, home, device, moved):
    asked = []

    def move(program, there):
        asked.append(there)
        return program

    monkeypatch.setattr(passes, "move_to_device_pass", move)
    exported_program.load(saved[home], device)
    assert asked == moved


def test_a_program_that_is_there_keeps_what_it_makes_on_other_devices(saved):
    here, elsewhere = exported_program.load(saved["cpu"], "cpu")(torch.ones(2, 3))
    assert (here.device.type, elsewhere.device.type) == ("cpu", "meta")
