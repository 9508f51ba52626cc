"""diagnosis/reproducer/reduced_form.py: the guilty submodule alone fails, in a process that has no source of it."""

from __future__ import annotations

import pytest
import torch
from fresh import fresh
from slow import slow
from torch import nn

import pytest_torchexport
from pytest_torchexport.diagnosis.reproducer import reduced_form, write
from pytest_torchexport.diagnosis.reproducer.reduced_form import shows
from pytest_torchexport.outcomes.fork import FORKS

SCALE = 2.0


def scaled(x):
    return x * SCALE


class Guilty(nn.Module):
    """Makes a constant of a value of its input."""

    def __init__(self, size):
        super().__init__()
        self.inside = nn.Linear(size, size)

    def forward(self, x, shift=None):
        y = scaled(self.inside(x))
        return y * (float(y.max()) + (0.0 if shift is None else shift))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.parts = nn.ModuleList([nn.ReLU(), Guilty(3)])

    def forward(self, x):
        return self.parts[1](self.first(x)).tanh()


class WithAnOption(Whole):
    def forward(self, x):
        return self.parts[1](self.first(x), shift=0.5).tanh()


class Together(nn.Module):
    """Fails only as a whole: it makes the constant, and the submodule is to multiply with it."""

    def __init__(self):
        super().__init__()
        self.times = Times()

    def forward(self, x):
        return self.times(x, float(x.max()))


class Times(nn.Module):
    def forward(self, x, factor):
        return x * factor


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    with fresh(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch):
    monkeypatch.setattr(write, "SECONDS", 300.0)


def files(model, target, keep):
    torch.manual_seed(0)
    verdict = pytest_torchexport.check_export(
        model(), (torch.randn(2, 3),), target=target, keep=keep, checks=["parity"], max_examples=5
    )
    assert verdict.failure == "OutputsDiffer"
    return {path.name for path in keep.iterdir()}


class Digits(nn.Module):
    """ONNX has no log1p, and the exporter's loses the digits of small numbers."""

    def __init__(self, size):
        super().__init__()
        self.inside = nn.Linear(size, size)

    def forward(self, x):
        return torch.log1p(self.inside(x).abs() * 1e-8) * 1e8


class WithDigits(Whole):
    def __init__(self):
        super().__init__()
        self.parts[1] = Digits(3)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (Whole, "trace"),
        pytest.param(WithAnOption, "trace", marks=slow),
        pytest.param(WithDigits, "onnx", marks=slow),
    ],
)
def test_the_guilty_submodule_alone_fails(model, target, tmp_path, elsewhere):
    found = files(model, target, tmp_path / "kept")
    assert {"reduced.py", "reduced_call.npz", "reduced_weights.npz"} <= found
    guilty = type(model().parts[1]).__name__
    # Nothing else is needed, and nothing of the rest is told.
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("reduced.py", "reduced_call.npz", "reduced_weights.npz"):
        (tmp_path / "kept" / name).rename(alone / name)
    text = (alone / "reduced.py").read_text()
    assert f"class {guilty}" in text
    assert model.__name__ not in text
    assert __name__ not in text
    ran = elsewhere.run(alone / "reduced.py")
    assert ran.code == 1
    assert "The failure is there." in ran.text


@pytest.mark.parametrize("forks", [True, False], ids=["fork", "process"])
@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("print('The failure is there.'); sys.exit(1)", True),
        ("sys.stdout.buffer.write(b'\\xff The failure is there.'); sys.exit(1)", True),
        ("print('The failure is not there.')", False),
        ("raise ImportError('The failure is there.')", False),
        ("print('The failure is there.', flush=True); time.sleep(60)", False),
    ],
)
def test_a_script_shows_its_failure_if_it_says_so_in_time(
    source, shown, forks, tmp_path, monkeypatch
):
    monkeypatch.setattr(reduced_form, "can_fork", lambda: forks and FORKS)
    script = tmp_path / "reduced.py"
    script.write_text(f"import sys, time\n{source}\n")
    assert shows(script, 2.0 if forks else 5.0) is shown


def test_a_script_with_operators_of_its_own_is_tried_without_those_of_this_process(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reduced_form, "in_fork", None)
    script = tmp_path / "reduced.py"
    script.write_text(
        "import sys\nprint('The failure is there.')  # torch.ops.own.op\nsys.exit(1)\n"
    )
    assert shows(script, 60.0)


def test_a_script_is_tried_with_torchs_own_defaults(tmp_path):
    script = tmp_path / "reduced.py"
    script.write_text(
        "import sys, torch\n"
        "print('The failure is there.' if torch.ones(1).dtype == torch.float32 else '')\n"
        "sys.exit(1)\n"
    )
    torch.set_default_dtype(torch.float64)
    try:
        assert shows(script, 60.0)
    finally:
        torch.set_default_dtype(torch.float32)


@slow
def test_a_submodule_that_does_not_fail_alone_is_not_written(tmp_path):
    found = files(Together, "trace", tmp_path / "kept")
    assert "reproduce.py" in found
    assert not [name for name in found if name.startswith("reduced")]
