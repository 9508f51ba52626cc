"""targets/formats/torchscript.py: which devices are constants, from which line, and what they do once moved."""

from __future__ import annotations

import inspect
import io

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.formats.facts import (
    NOTHING,
    RAISES,
    RETURNED,
    about_devices,
)
from pytest_torchexport.targets.formats.torchscript import TorchScriptFacts

X = torch.arange(6.0).reshape(2, 3)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def zeros(x):
    return x + torch.zeros(3, device=x.device)


def written(x):
    return x + torch.zeros(3, device="cpu")


def named(x):
    return torch.relu(x.cpu())


def elsewhere(x):
    return x, torch.zeros(3, device="cuda:0")


def branch(x):
    offset = torch.zeros(3, device="cpu")
    return x + offset if bool(x.sum() > 0) else x - offset


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")
        self.offset = torch.ones(3)

    def forward(self, x):
        return x + self.offset + torch.zeros(3, device=self.device)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x):
        return x + self.table(torch.arange(2, device=x.device) + 1)


# What a trace has as constants, and what they do; the first five follow their input in eager.
TRACED = {
    "zeros": (zeros, {("zeros", RAISES)}),
    "concatenated": (
        lambda x: torch.cat([x, torch.zeros(2, 1, device=x.device)], 1),
        {("zeros", RAISES)},
    ),
    "positions": (Positions, {("arange", RAISES)}),
    "held": (Held, {("zeros", RAISES)}),
    # An index and a tensor of no dimensions may stay on the CPU.
    "index": (lambda x: x[:, torch.arange(2).flip(0)], {("arange", NOTHING)}),
    "scalar": (lambda x: x + torch.full((), 2.0), {("full", NOTHING)}),
    "identity": (lambda x: (x, torch.eye(2, device=x.device)), {("eye", RETURNED)}),
    "moved": (lambda x: torch.relu(x.to("cpu")), {("to", RETURNED)}),
}
# Those that ``meta``, which every machine has, refuses as CUDA does.
REFUSED = ("zeros", "concatenated")


def traced(subject):
    with quiet("cpu"), suppress_output():
        return torch.jit.trace(subject, (X,), check_trace=False)


def made(name):
    subject, _ = TRACED[name]
    return subject().eval() if isinstance(subject, type) else Net(subject)


def found(program):
    return TorchScriptFacts(program=program).devices()


def effects(program):
    return {(item.op.removeprefix("aten::"), item.effect) for item in found(program)}


@pytest.mark.parametrize("name", TRACED)
def test_a_constant_device_does_what_becomes_of_its_tensors(name):
    program = traced(made(name))
    assert effects(program) == TRACED[name][1]
    assert {item.device for item in found(program)} <= {"cpu"}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (zeros, set()),
        # A script knows no dimensions.
        (written, {("zeros", NOTHING)}),
        (named, {("cpu", RETURNED)}),
        # On a machine without that device its tensors cannot even be made.
        (elsewhere, {("zeros", RAISES)}),
        # What a branch takes is not judged.
        (branch, {("zeros", NOTHING)}),
    ],
)
def test_a_script_keeps_what_eager_decides_and_what_is_written(function, expected):
    with quiet("cpu"), suppress_output():
        assert effects(torch.jit.script(function)) == expected


class Placed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        x = x + torch.ones(3, device=x.device)  # ones
        return self.lstm(x[None])[0]  # zeros


def test_the_users_line_is_named_also_of_what_torchs_modules_make():
    lines, first = inspect.getsourcelines(Placed)
    where = {item.op: str(item.where) for item in found(traced(Placed().eval()))}
    for word in ("ones", "zeros"):
        (line,) = (i for i, line in enumerate(lines) if line.endswith(f"# {word}\n"))
        assert where[f"aten::{word}"].endswith(f":{first + line}  {lines[line].strip()}")


@pytest.mark.parametrize("name", [*REFUSED, "index", "scalar", "moved"])
def test_a_moved_program_fails_in_torchs_words_if_it_does_and_a_script_does_not(name):
    def said(program):
        file = io.BytesIO()
        with suppress_output():
            torch.jit.save(program, file)
            loaded = torch.jit.load(io.BytesIO(file.getvalue()), map_location="meta")
        try:
            with torch.no_grad():
                loaded(X.to("meta"))
        except Exception as error:
            return about_devices(str(error))
        return None

    words = said(traced(made(name)))
    assert (words is not None) == (name in REFUSED)
    assert words is None or words.startswith(("Tensor on device", "Expected all tensors"))
