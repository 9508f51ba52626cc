"""explore/observed.py: conditions are recorded, and afterwards everything is as it was."""

from __future__ import annotations

import itertools
import sys
import time

import pytest
import torch
from slow import slow
from torch import nn
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.conditions import moving
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.twins import functions_of, owner_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.observe import Raised, Returned
from pytest_torchexport.outcomes.subject import Subject


def eager_of(thing, *example):
    return Reference(
        Subject.of(thing), Plan(target="trace", device="cpu"), print, Call(example, {})
    )


def observed_of(thing, *example):
    return Observed(eager_of(thing, *example), seed=0)


def told(observed, *arguments, **named):
    """``(text, outcome, module)`` of each condition of a call; None where eager raises."""
    with observed.installed():
        path = observed.run(Call(arguments, named))
    if path is None:
        return None
    return [(observed.conditions[e.key[0]].text, e.outcome, e.key[1]) for e in path.events]


def ones(*values):
    return torch.tensor(values, dtype=torch.float32)


def positive(x):
    return x.sum() > 0


def helper(x):
    return x * 2 if positive(x) and len(x) < 3 else x


class Block(nn.Module):
    def __init__(self, limit):
        super().__init__()
        self.register_buffer("limit", torch.tensor(float(limit)))

    def forward(self, x):
        if x.max() > self.limit:
            return x - 1
        return x + 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(0), Block(5)])
        self.shared = nn.Sequential(self.blocks[0], nn.ReLU())

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return helper(self.shared(x))


# -- what is told ------------------------------------------------------------------------------------------------


def test_conditions_are_told_per_module():
    net = observed_of(Net(), ones(1, 2))
    assert told(net, ones(3)) == [
        ("self.blocks", True, ""),
        ("x.max() > self.limit", True, "blocks.0"),
        ("self.blocks", True, ""),
        ("x.max() > self.limit", False, "blocks.1"),
        ("self.blocks", False, ""),
        ("x.max() > self.limit", True, "blocks.0"),
        ("positive(x)", True, ""),
        ("len(x) < 3", True, ""),
    ]


def test_a_layer_that_asks_a_tensor_has_a_condition():
    mask = torch.full((3, 3), -torch.inf).triu(1)
    layer = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1).eval()
    given = torch.randn(1, 3, 4), torch.randn(1, 2, 4), mask
    found = observed_of(layer, *given)
    assert told(found, *given)
    asked = [condition for condition in found.conditions.values() if "causal" in condition.text]
    assert asked
    assert all(condition.coarse for condition in asked)
    assert {condition.file.rpartition("/")[2] for condition in asked} == {"transformer.py"}


def test_code_without_source_is_told_by_the_truths_of_tensors():
    names = {"torch": torch}
    exec("def f(x):\n    if x.sum() > 0:\n        return x\n    return -x\n", names)
    found = observed_of(names["f"], ones(1))
    assert found.code.unread == ("f",)
    assert told(found, ones(2)) == [("a tensor's truth", True, "")]
    assert told(found, ones(-2)) == [("a tensor's truth", False, "")]
    (condition,) = found.conditions.values()
    assert condition.coarse
    assert condition.line == 2


def test_each_call_begins_where_the_first_began():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return x if self.seen > 1 else -x

    found = observed_of(Counts(), ones(1))
    for _ in range(3):
        assert told(found, ones(1)) == [("self.seen > 1", False, "")]


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        calls = self.calls
        if calls > 3:
            x = x + 1
        if calls > 0:
            x = x + 1
        return x * 2 if len(x) > 5 else x


def test_in_a_row_each_call_begins_where_the_one_before_ended():
    net = observed_of(Counts(), ones(1, 2))
    still = []

    def goes_on(paths):
        still.append(sorted(net.conditions[key[0]].text for key in moving(paths)))
        return True

    with net.installed():
        paths = net.in_a_row(Call((ones(1, 2),)), 5, goes_on)
    assert [path.decisions()[0][1] for path in paths] == [False, False, False, True, True]
    # Above 0 for good, and further with every call; after the fourth call above 3 too.
    assert still == [[], [], ["calls > 3"], ["calls > 3"], []]
    assert told(net, ones(1, 2))[0] == ("calls > 3", False, "")


# -- afterwards --------------------------------------------------------------------------------------------------


def state_of_the_world(net):
    found, _ = functions_of(Subject.of(net), owner_of(Subject.of(net)))
    functions = [item for item in found if item.__code__.co_filename == __file__]
    return (
        {item: item.__code__ for item in functions},
        dict(torch_module._global_forward_hooks),
        dict(torch_module._global_forward_pre_hooks),
        list(_get_current_function_mode_stack()),
        torch.is_grad_enabled(),
        sys.gettrace(),
    )


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_as_it_was_however_the_block_ends(error):
    net = Net()
    found, before = observed_of(net, ones(1)), state_of_the_world(net)

    def watched():
        with found.installed():
            assert state_of_the_world(net)[0] != before[0]
            raise error

    with pytest.raises(error):
        watched()
    assert state_of_the_world(net) == before


# -- what does not end -------------------------------------------------------------------------------------------


def halved(x):
    while x.norm() > 1:
        x = x / 2
    return x


def counted(x):
    import itertools

    for _ in itertools.count():
        if x.norm() <= 1:
            break
        x = x / 2
    return x


@pytest.mark.parametrize("function", [counted, pytest.param(halved, marks=slow)])
def test_an_endless_loop_is_cut_and_never_comes_to_clean_eager(function):
    eager = eager_of(function, ones(4))
    found = Observed(eager, seed=0)
    example, endless = Call((ones(4),), {}), Call((ones(float("inf")),), {})
    found.learn(example)
    assert found.loops()
    assert found.ends(example)
    assert not found.ends(endless)
    with found.installed():
        assert found.run(endless) is None
        assert found.run(example) is not None
    eager.guard(found.loops, found.ends)
    outcome = eager.on_cpu(endless)
    assert isinstance(outcome, Raised)
    assert outcome.type == "Endless"
    assert isinstance(eager.on_cpu(example), Returned)


@pytest.mark.parametrize(("clock", "ends"), [("perf_counter", True), ("thread_time", False)])
def test_a_call_is_endless_by_the_processors_time_alone(monkeypatch, clock, ends):
    found = observed_of(halved, ones(4))
    found.learn(Call((ones(4),), {}))
    seconds = itertools.count(step=1000)
    monkeypatch.setattr(time, clock, lambda: next(seconds))
    assert found.ends(Call((ones(4),), {})) is ends


# -- probes ------------------------------------------------------------------------------------------------------


def until(seconds):
    """The time so many seconds from now, as the recorder reads the clock."""
    return time.perf_counter() + seconds


def probed(observed, call, position, wanted):
    with observed.installed():
        return observed.probe(call, position, wanted, until(60))


def test_a_probe_knows_what_is_missing_and_where_it_comes_from():
    def f(x, y):
        if x[0] > 0:
            x = x * 3
        return x if (x * y).sum() > 100 else y

    call = Call((ones(2, 1), ones(1, 5)), {})
    probe = probed(observed_of(f, *call.args), call, 1, True)
    assert probe.missing == 100 - 3 * (2 + 5)
    assert probe.demands[0].gradients[0].tolist() == [-3.0, -15.0]
    assert probe.demands[0].gradients[1].tolist() == [-6.0, -3.0]
    (kept,) = probe.earlier()
    assert kept.gradients[0].tolist() == [-1.0, 0.0]
    assert kept.missing == -2.0


def test_a_probe_does_not_touch_the_call_the_module_or_grad_mode():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(ones(2, 3))
            self.frozen = nn.Parameter(ones(1, 1), requires_grad=False)

        def forward(self, x):
            x.mul_(2)
            return x if (x * self.weight * self.frozen).sum() > 0 else -x

    call = Call((ones(1, 1),), {})
    found = observed_of(Learned(), *call.args)
    probe = probed(found, call, 0, False)
    assert probe.demands[0].gradients[0].tolist() == [4.0, 6.0]
    assert call.args[0].tolist() == [1.0, 1.0]
    assert found.module.weight.requires_grad
    assert not found.module.frozen.requires_grad
    assert found.module.weight.grad is None
    assert found.recorder.listener is None


class Unsloped(torch.autograd.Function):
    """A function whose backward is broken."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(*_):
        raise ValueError


def test_a_probe_survives_a_backward_that_is_broken():
    table = torch.randn(5, 3)

    def f(ids):
        rows = nn.functional.embedding(ids, table)
        return ids if Unsloped.apply(rows).sum() > 1000 else ids + 1

    call = Call((torch.tensor([1, 4]),), {})
    probe = probed(observed_of(f, *call.args), call, 0, True)
    assert probe.missing > 0
    assert not probe.swaps()


def test_code_that_is_the_same_in_two_files_is_told_by_its_own_file(tmp_path):
    text = "def pick(x):\n    return x if x.sum() > 0 else -x\n"
    parts = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(text)
        names = {}
        exec(compile(text, str(tmp_path / name), "exec"), names)
        parts.append(names["pick"])
    assert parts[0].__code__ == parts[1].__code__

    def both(x):
        return parts[0](x) + parts[1](-x)

    found = observed_of(both, ones(1))
    with found.installed():
        path = found.run(Call((ones(1),), {}))
    files = [found.conditions[event.key[0]].file.rpartition("/")[2] for event in path.events]
    assert files == ["one.py", "two.py"]


class Sleepy(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            time.sleep(60)
        return x


@pytest.mark.parametrize("way", ["run", "probe"])
def test_the_time_of_the_item_ends_an_observed_call(way):
    observed = observed_of(Sleepy(), ones(1, 2))
    call = Call((ones(1, 2),))
    go = {"run": observed.run, "probe": lambda call: observed.probe(call, 5, True, until(60))}[way]
    with observed.installed(), pytest.raises(TimeLimitExceeded), interrupted_after(0.2):
        go(call)
