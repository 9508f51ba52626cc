"""engine.py: which steps an item takes, and who is blamed if one of them does not end."""

from __future__ import annotations

import copy
import errno
import itertools
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchexport import SpecError, check_export, engine, register_target
from pytest_torchexport.checks import exporting, parity
from pytest_torchexport.config import names
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager import reference
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.results.failures import NotRepeatable
from pytest_torchexport.sandbox import process
from pytest_torchexport.targets import TargetTraits
from pytest_torchexport.torch_private.memory import address_of


class Frozen(nn.Module):
    """A trace keeps the branch that the example took."""

    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


class SlowOnOneValue(nn.Module):
    """Eager does not return for one value, which only the branch search finds."""

    def forward(self, x):
        if x[0, 0] == 7.25:
            time.sleep(60)
        return x * 2


CALLS = itertools.count()


class Drifts(nn.Module):
    """Counts its calls, beginning at a number of rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        y = x * 2
        if len(x) > self.rows:
            y = y + next(CALLS)
        return {"x": x + 1, "y": y}


EXAMPLE = (torch.full((2, 3), 0.5),)


@pytest.mark.parametrize(("rows", "call"), [(1, "float32[2, 3] as in the"), (2, "float32[4, 3] ")])
def test_eager_that_drifts_is_shown_with_call_output_and_line(rows, call):
    verdict = check_export(Drifts(rows), EXAMPLE, target="trace", checks="parity")
    assert verdict.failure == "NotRepeatable"
    assert "first at torch.add" in verdict.reason
    assert "y = y + next(CALLS)" in str(verdict.where)
    assert verdict.call.startswith(f"x={call}")
    assert {difference.path for difference in verdict.differences} == {"output['y']"}


def test_control_flow_alone_makes_no_drawn_calls():
    verdict = check_export(Frozen(), EXAMPLE, target="script", checks=("control_flow",))
    assert verdict.status == "passed"
    assert verdict.calls["example"] == 1
    assert verdict.calls["explored"] >= 1
    assert verdict.calls["drawn"] == verdict.calls["boundary"] == 0
    assert verdict.branch_coverage == 100.0


def test_a_hang_of_eager_is_eagers_own():
    verdict = check_export(
        SlowOnOneValue(),
        EXAMPLE,
        target="trace",
        values={"x": (0.0, 10.0)},
        time_limit=4,
        max_examples=5,
    )
    assert verdict.failure == "SpecError"
    assert "eager did not return" in verdict.reason
    assert any("7.25" in line for line in verdict.details)
    assert any(line.startswith("time: ") and "explore" in line for line in verdict.details)


def test_arguments_that_are_no_tuple_are_refused():
    with pytest.raises(SpecError, match=r"Tensor is not a tuple.*args=\(x,\)"):
        check_export(nn.Linear(8, 2), torch.randn(1, 8), target="trace")


def test_an_artifact_without_its_members_is_the_targets_fault(monkeypatch):
    class Bare:
        traits = TargetTraits()

        def unavailable(self, device):
            return None

        def export(self, module, example, spec, **options):
            return torch.jit.trace(module, example.args)

        load = None

    monkeypatch.setattr(names, "_registered", {})
    register_target("bare", Bare())
    verdict = check_export(nn.Linear(8, 2), (torch.randn(2, 8),), target="bare")
    assert verdict.failure == "ExportRefused"
    assert "target 'bare' breaks the contract" in verdict.reason
    assert "facts" in verdict.reason
    with pytest.raises(ValueError, match="is a class"):
        register_target("again", Bare)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": None}, "target: None is not the name of one target"),
        ({"target": "trace,script"}, "is not the name of one target"),
        ({"device": "cpu,cuda"}, "is not the name of one device"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"strict": "false"}, "strict: 'false' is not legal. Legal: true, false"),
        ({"follow": "torchvision"}, "follow: 'torchvision' is not a list of names"),
        ({"time_limit": 0}, "time_limit: 0 is not legal. Legal: a positive number of seconds"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(wrong, words):
    with pytest.raises(ValueError, match=words):
        check_export(nn.Linear(3, 2), EXAMPLE, **{"target": "trace", **wrong})


def test_a_skip_does_not_hide_what_the_round_trip_found(monkeypatch):
    from pytest_torchexport.checks import round_trip
    from pytest_torchexport.results.failures import LoadFailed

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    def moved(case):
        raise LoadFailed("nobody can load it")

    monkeypatch.setattr(round_trip, "_moved", moved)
    verdict = check_export(Noise(), EXAMPLE, target="onnx", max_examples=1)
    assert verdict.failure == "LoadFailed"


# -- the user's own module -------------------------------------------------------------------------


class Shared:
    """An object of the module's that copies share, and that cannot be put back."""

    def __init__(self):
        self.calls = itertools.count()

    def __deepcopy__(self, memo):
        return self


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.note = Shared()

    def forward(self, x):
        next(self.note.calls)
        return x * 2


def test_a_check_that_changed_the_users_module_says_so():
    verdict = check_export(Remembers(), (torch.randn(2, 3),), target="trace", max_examples=3)
    lines = (*verdict.ineffective, *verdict.notes)
    assert [
        line for line in lines if "checking changed the module" in line and "note.calls" in line
    ]


@pytest.mark.parametrize("target", ["script", "export"])
def test_a_large_module_lends_its_weights_and_has_them_back(monkeypatch, target):
    net = nn.Linear(2100, 2100).eval()
    address, before = net.weight.data_ptr(), copy.deepcopy(net.state_dict())
    lent = []

    def looked_at(*args, **kwargs):
        prepared = prepare(*args, **kwargs)
        lent.append(address_of(prepared.reference.pristine.module.weight) == address)
        return prepared

    prepare = exporting.prepare
    monkeypatch.setattr(exporting, "prepare", looked_at)
    verdict = check_export(net, (torch.randn(2, 2100),), target=target, max_examples=2)
    assert verdict.status == "passed"
    assert lent == [True]
    assert address_of(net.weight) == address
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.weight.data.resize_(2101, 2101).fill_(0).sum() == 0  # not while it is lent


def test_an_export_for_the_users_own_asserts_borrows_nothing():
    net = nn.Linear(2100, 2100).eval()
    x = torch.randn(2, 2100)
    made = engine.export(net, [Call((x,))], Plan(target="trace", device="cpu"))
    address = address_of(net.weight)
    with torch.no_grad():
        net.weight.fill_(0)
    assert address_of(net.weight) == address
    assert not torch.equal(made(x), net(x))


@pytest.mark.parametrize("end", [pytest.skip, pytest.exit])
@pytest.mark.parametrize("size", [2, 3], ids=["on the example", "on a boundary call"])
def test_a_forward_that_ends_the_test_ends_the_check(end, size):
    class Ends(nn.Module):
        def forward(self, x):
            if len(x) == size:
                end("not here")
            return x * 2

    with pytest.raises(end.Exception, match="not here"):
        check_export(Ends(), EXAMPLE, target="trace")


@pytest.mark.parametrize("option", ["map", "filter"])
def test_a_constraint_that_ends_the_test_ends_the_check(option):
    with pytest.raises(pytest.skip.Exception, match="not here"):
        check_export(
            Frozen(), EXAMPLE, target="trace", **{option: lambda x: pytest.skip(f"not here: {x}")}
        )


# -- the machine -----------------------------------------------------------------------------------


class NeedsWhatRanOut(nn.Module):
    """The exporter meets an error of the system; eager does not."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            raise self.error
        return x * 2


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        ("trace", OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        ("export", RuntimeError("can't start new thread"), "no further thread or process can be"),
    ],
)
def test_what_ran_out_on_the_machine_is_not_a_refusal(target, error, said):
    verdict = check_export(NeedsWhatRanOut(error), (torch.ones(2, 3),), target=target)
    assert (verdict.status, verdict.failure) == ("failed", "Ineffective"), verdict
    assert said in verdict.reason
    assert "next step" in verdict.details[0]


@pytest.mark.parametrize("broken", ["process", "thread"])
def test_a_limit_of_one_process_is_told(monkeypatch, broken):
    if broken == "process":
        monkeypatch.setattr(process.Server, "_shared", {})
        monkeypatch.setattr(process.subprocess, "Popen", _no_process)
    else:
        monkeypatch.setattr(threading.Thread, "start", _no_thread)
    verdict = check_export(nn.Linear(3, 2), (torch.ones(2, 3),), target="trace")
    assert (verdict.status, verdict.failure) == ("failed", "Ineffective"), verdict
    assert "no further thread or process can be started" in verdict.reason
    assert "ulimit -u" in verdict.details[0]


def _no_process(*arguments, **options):
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def _no_thread(thread):
    raise RuntimeError("can't start new thread")


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_counter_is_no_question_of_gradients():
    verdict = check_export(Counts(), EXAMPLE, target="script", max_examples=1)
    assert verdict.status == "passed"
    assert verdict.cautions == ()


def test_what_a_drawn_call_raises_is_raised_as_it_is(monkeypatch):
    def once(case, origin, *args, **kwargs):
        if origin == "drawn" and not raised:
            raised.append(origin)
            raise NotRepeatable("now and then")
        return trial(case, origin, *args, **kwargs)

    raised, trial = [], parity._trial
    monkeypatch.setattr(parity, "_trial", once)
    verdict = check_export(nn.Linear(3, 2), EXAMPLE, target="trace")
    assert (verdict.failure, verdict.reason) == ("NotRepeatable", "now and then")


# -- what the targets of a test share --------------------------------------------------------------

SCALE = {"all": 2.0}


class Scaled(nn.Module):
    def __init__(self, change=lambda _: None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        change(self)

    def forward(self, x):
        if self.layer.in_features == 3:
            x = self.layer(x)
        return torch.relu(x) * SCALE["all"]


class Lists(Scaled):
    def forward(self, x):
        return super().forward(x) + (len([*Path(__file__).parent.iterdir()]) > 0)


@pytest.fixture
def forwards(monkeypatch):
    """Check on a target, and return the verdict and how often eager ran alone for it."""
    counted = []

    def observed(function, *args, **kwargs):
        counted.append(function)
        return observe(function, *args, **kwargs)

    observe = reference.observe
    monkeypatch.setattr(reference, "observe", observed)

    def check(module, x=EXAMPLE[0], *, target, **options):
        counted.clear()
        return check_export(module, (x.clone(),), target=target, **options), len(counted)

    return check


def test_eager_runs_once_for_all_targets(forwards):
    first, whole = forwards(Scaled(), target="trace")
    second, few = forwards(Scaled(), target="export")
    assert (first.status, second.status) == ("passed", "passed")
    assert few < whole / 3
    assert (first.calls, first.branches) == (second.calls, second.branches)


def _in_the_environment(monkeypatch):
    monkeypatch.setenv("SCALE_OF_THE_MODEL", "3")


def _in_a_global(monkeypatch):
    monkeypatch.setitem(SCALE, "all", 3.0)


def _in_torch(monkeypatch):
    monkeypatch.setattr(torch, "relu", torch.abs)  # no digest shows it, but the example does


def _in_torch_at_other_values(monkeypatch):
    monkeypatch.setattr(torch, "relu", lambda x: x.clamp(min=0) + (x.abs() > 50) * 1.0)


@pytest.mark.parametrize(
    ("module", "change", "given"),
    [
        (Scaled, _in_torch_at_other_values, {}),
        (Scaled, None, {"x": torch.ones(2, 3)}),
        (Scaled, None, {"seed": 1}),
        (Scaled, None, {"values": {"x": (-1.0, 1.0)}}),
        (Scaled, _in_the_environment, {}),
        (Scaled, _in_a_global, {}),
        (Scaled, _in_torch, {"x": -EXAMPLE[0]}),
        (lambda: Scaled(lambda net: net.layer.weight.data.mul_(2)), None, {}),
        (lambda: Scaled(lambda net: net.register_buffer("more", torch.ones(1))), None, {}),
        (Lists, None, {}),
    ],
)
def test_nothing_is_shared_if_eager_may_do_something_else(
    forwards, monkeypatch, module, change, given
):
    first = {key: value for key, value in given.items() if change is not None}
    _, whole = forwards(Lists() if module is Lists else Scaled(), target="trace", **first)
    if change is not None:
        change(monkeypatch)
    verdict, count = forwards(module(), target="export", **given)
    assert count > whole / 2
    assert verdict.status == "passed", verdict
