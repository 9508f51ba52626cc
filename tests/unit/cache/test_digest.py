"""cache/digest.py: equal contents have one digest in every process, and each change gives another."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import os
import re
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pytest_torchexport.cache.digest import Digest, NoDigest


def digest(*values):
    found = Digest()
    for value in values:
        found.add(value)
    return found.hexdigest()


SCALE = 2.0
TABLE = {"rows": [1, 2]}


def doubled(x):
    return x * SCALE


class Net(nn.Module):
    factor = 3

    def __init__(self, size=4):
        super().__init__()
        self.linear = nn.Linear(size, 2)
        self.names = {"cat", "dog", "horse"}
        self.act = torch.relu
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        return doubled(self.act(self.linear(x))) + TABLE["rows"][0] * self.factor


def net():
    torch.manual_seed(0)
    return Net()


def changed(change):
    made = net()
    change(made)
    return made


def scaled_weight(module):
    with torch.no_grad():
        module.linear.weight[0, 0] += 1e-6


CHANGES = {
    "a weight": scaled_weight,
    "a buffer": lambda module: module.mean.add_(1),
    "an attribute": lambda module: setattr(module, "act", torch.tanh),
    "a set": lambda module: module.names.add("cow"),
    "training": lambda module: module.eval(),
    "a submodule": lambda module: setattr(module, "linear", nn.Linear(4, 2, bias=False)),
    "a dtype": lambda module: module.double(),
    "a hook": lambda module: module.register_forward_hook(lambda *_: None),
    "a tie": lambda module: setattr(module, "more", module.linear),
    "a gradient": lambda module: module.linear.weight.requires_grad_(False),
    "a stride": lambda module: setattr(
        module.linear, "weight", nn.Parameter(module.linear.weight.detach().T.contiguous().T)
    ),
    "forward of the instance": lambda module: setattr(module, "forward", lambda x: x),
}


def test_equal_modules_have_one_digest():
    assert digest(net()) == digest(net())


def hooked(*, with_arguments):
    made = net()
    made.register_forward_pre_hook(doubled)
    made.register_forward_pre_hook(doubled, with_kwargs=with_arguments)
    return made


def test_hooks_count_by_their_order_and_not_by_torchs_count_of_hooks():
    assert digest(hooked(with_arguments=True)) == digest(hooked(with_arguments=True))
    assert digest(hooked(with_arguments=True)) != digest(hooked(with_arguments=False))
    assert digest(hooked(with_arguments=True)) != digest(net())


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_module_changes_the_digest(what):
    assert digest(changed(CHANGES[what])) != digest(net())


@pytest.mark.parametrize(
    ("name", "value"), [("SCALE", 2.5), ("TABLE", {"rows": [2, 2]}), ("doubled", lambda x: 2 * x)]
)
def test_a_global_that_a_test_replaces_changes_the_digest(monkeypatch, name, value):
    before = digest(net())
    monkeypatch.setitem(globals(), name, value)
    assert digest(net()) != before


def test_a_class_attribute_that_a_test_replaces_changes_the_digest(monkeypatch):
    before = digest(net())
    monkeypatch.setattr(Net, "factor", 4)
    assert digest(net()) != before


def test_what_code_names_of_a_module_counts():
    settings = types.ModuleType("settings")
    settings.__file__ = "/models/settings.py"
    settings.SIZE, settings.OTHER = 1, 1

    def sized(x):
        return x * settings.SIZE  # set above

    before = digest(sized)
    settings.OTHER = 2
    assert digest(sized) == before
    settings.SIZE = 2
    assert digest(sized) != before


def wrapped_by_torch():
    @torch.no_grad()
    def forward(self, x):
        return x * SCALE

    return forward


def given_to_an_instance():
    def other(self, x):
        return x * SCALE

    made = net()
    made.forward = types.MethodType(other, made)
    return made


@pytest.mark.parametrize("make", [wrapped_by_torch, given_to_an_instance])
def test_a_global_of_a_wrapped_or_bound_function_counts(monkeypatch, make):
    before = digest(make())
    assert digest(make()) == before
    monkeypatch.setitem(globals(), "SCALE", 2.5)
    assert digest(make()) != before


def looked_up_by_text(x):
    return x * globals()["SCALE"]


def looked_up_by_a_computed_name(x):
    return x * globals()["scale".upper()]


def looked_up_in_the_own_module(x):
    return x * getattr(sys.modules[__name__], "scale".upper())


@pytest.mark.parametrize(
    "function", [looked_up_by_text, looked_up_by_a_computed_name, looked_up_in_the_own_module]
)
def test_a_global_that_is_looked_up_by_a_text_counts(function):
    one, same, other = (
        digest(types.FunctionType(function.__code__, {"SCALE": value, "sys": sys}))
        for value in (1, 1, 2)
    )
    assert one == same != other


def dunder(value):
    return type("Made", (), {"__scale__": value})


def of_a_metaclass(value):
    return type("Meta", (type,), {"scale": value})("Made", (), {})


def property_with_more(value):
    class Held(property):
        scale = None

    made = Held(len)
    made.scale = value
    return type("Made", (), {"held": made})


@pytest.mark.parametrize("make", [dunder, of_a_metaclass, property_with_more])
def test_what_a_class_holds_counts(make):
    assert digest(make(1)) == digest(make(1))
    assert digest(make(1)) != digest(make(2))


class Forgetful:
    """An object of which a copy lacks an attribute: not of a global, which no check copies."""

    def __init__(self, scale):
        self.scale = scale

    def __getstate__(self):
        return {}


class Named(Forgetful):
    def __reduce__(self):
        return "SCALE"


class Level(enum.Enum):
    LOW = 1

    def __init__(self, value):
        self.scale = value


@pytest.mark.parametrize("cls", [Forgetful, Named])
def test_an_attribute_that_a_copy_lacks_counts(cls):
    assert digest(cls(1)) == digest(cls(1))
    assert digest(cls(1)) != digest(cls(2))


def test_an_attribute_of_a_member_of_an_enum_counts(monkeypatch):
    before = digest(Level.LOW)
    monkeypatch.setattr(Level.LOW, "scale", 2)
    assert digest(Level.LOW) != before


@pytest.mark.parametrize(
    ("owner", "name"),
    [(nn.functional, "gelu"), (nn.Linear, "forward"), (torch.Tensor, "relu")],
)
def test_what_the_user_puts_into_a_library_counts(monkeypatch, owner, name):
    def run(x):
        return nn.functional.gelu(x).relu()

    def both():
        return digest(run, net())

    before = both()
    monkeypatch.setattr(owner, name, lambda *args: args[0] * 2)
    doubled_ = both()
    monkeypatch.setattr(owner, name, lambda *args: args[0] * 3)
    assert len({before, doubled_, both()}) == 3


def test_the_name_under_which_the_user_puts_something_into_a_class_counts(monkeypatch):
    made = net()
    with monkeypatch.context() as patched:
        patched.setattr(nn.Linear, "reset_parameters", doubled)
        before = digest(made)
    monkeypatch.setattr(nn.Linear, "extra_repr", doubled)
    assert digest(made) != before


def made_of_text(body, module):
    scope = {"nn": nn, "__name__": module}
    exec(f"class Made(nn.Module):\n    def forward(self, x):\n        return {body}", scope)
    return scope["Made"]


@pytest.mark.parametrize("module", ["__main__", "of_no_file", __name__])
def test_code_that_was_made_of_a_text_counts(module):
    assert digest(made_of_text("x + 1", module)) == digest(made_of_text("x + 1", module))
    assert digest(made_of_text("x + 1", module)) != digest(made_of_text("x + 2", module))


def test_code_that_fx_has_made_counts():
    def graph():
        return torch.fx.symbolic_trace(net())

    other = graph()
    next(node for node in other.graph.nodes if node.op == "call_function").target = torch.tanh
    other.recompile()
    assert digest(graph()) == digest(graph()) != digest(other)


def adder(amount):
    return lambda x: x + amount


def test_what_a_function_closes_over_counts():
    assert digest(adder(1)) == digest(adder(1))
    assert digest(adder(1)) != digest(adder(2))
    assert digest(functools.partial(doubled, 1)) != digest(functools.partial(doubled, 2))


@dataclasses.dataclass
class Config:
    width: int
    tags: tuple = ()


class Kind(enum.Enum):
    A = 1
    B = 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Config(1), Config(2)),
        (Kind.A, Kind.B),
        (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
        (collections.deque([1]), collections.deque([2])),
        (re.compile("a"), re.compile("b")),
        (Path("a"), Path("b")),
        (torch.float32, torch.float64),
        (torch.device("cpu"), torch.device("meta")),
        (torch.ops.aten.relu.default, torch.ops.aten.tanh.default),
        (st.integers(0, 3), st.integers(0, 4)),
        (nn.LSTM(2, 2), nn.LSTM(2, 3)),
        (torch.zeros(2, device="meta"), torch.zeros(3, device="meta")),
        ([[1], 2], [1, [2]]),
        ("1", 1),
        (1, True),
        (0.0, -0.0),
    ],
)
def test_unlike_objects_have_unlike_digests(one, other):
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(width=16)
    | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(VALUES, VALUES)
def test_values_have_one_digest_if_they_are_written_alike(one, other):
    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


class Lazily(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (threading.Lock(), "an object of _thread.lock"),
        ((one for one in ()), "an object of builtins.generator"),
        (torch.ones(2).to_sparse(), "a tensor that is sparse"),
        (torch.ones(2).as_subclass(Lazily), "a tensor of the class Lazily"),
        (torch.jit.script(nn.ReLU()), "a program of TorchScript"),
        (st.builds(object()), "the strategy"),
    ],
)
def test_what_no_other_process_can_compare_has_no_digest(value, said):
    with pytest.raises(NoDigest, match=said):
        digest([value])


def test_a_list_that_holds_itself_has_a_digest():
    one, other = [1], [1]
    one.append(one)
    other.append(other)
    assert digest(one) == digest(other) != digest([1, [1]])


def test_modules_of_classes_and_functions_are_collected():
    found = Digest()
    found.add(net())
    assert {__name__, "torch.nn.modules.linear"} <= found.modules


PROCESS = """
import torch
from pytest_torchexport.cache.digest import Digest
torch.manual_seed(0)
found = Digest()
found.add([{"cat", "dog", "horse"}, frozenset("abc"), torch.nn.LSTM(2, 2), torch.relu, {"b": 1, "a": (2, 3)}])
print(found.hexdigest())
"""


def test_processes_agree():
    made = [
        subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]
    assert re.fullmatch("[0-9a-f]{64}\n", made[0])


def is_small(x):
    return x < SCALE


@torch.library.custom_op("kept_digest::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * SCALE


@pytest.mark.parametrize(
    "value",
    [
        st.floats(0, 9).filter(is_small),
        st.lists(st.integers(0, 3).map(is_small)),
        st.builds(is_small, st.integers(0, 3)),
        st.one_of(st.none(), st.integers(0, 3).filter(lambda x: x < SCALE)),
        scaled,
    ],
    ids=["filter", "map", "builds", "lambda", "operator"],
)
def test_a_global_that_a_function_of_a_strategy_or_operator_names_counts(monkeypatch, value):
    before = digest(value)
    assert digest(value) == before
    monkeypatch.setitem(globals(), "SCALE", 2.5)
    assert digest(value) != before


def test_a_strategy_has_one_digest_before_and_after_it_is_drawn_from():
    strategy = st.lists(st.integers(0, 3).map(is_small)).filter(doubled)
    before = digest(strategy)
    strategy.validate()
    assert digest(strategy) == before


@functools.lru_cache
def table(path):
    return Path(path).read_text()


def test_what_a_function_has_read_and_remembers_has_no_digest(tmp_path):
    (tmp_path / "table.txt").write_text("1")
    table.cache_clear()
    assert digest(table) == digest(table)
    table(tmp_path / "table.txt")
    with pytest.raises(NoDigest, match="what table has read and remembers"):
        digest(table)


def test_functions_of_a_module_that_registers_them_count():
    def of(scale):
        module = types.ModuleType("kernels")
        exec("def kernel(x):\n    return x * SCALE", vars(module))
        module.SCALE = scale
        found = Digest()
        found.add_functions_of(module)
        return found.hexdigest()

    assert of(1) == of(1) != of(2)
    found = Digest()
    found.add_functions_of(None)
    assert found.hexdigest() == digest()


def by_its_name(x):
    return torch.ops.kept_digest.scaled(x)


def test_code_that_calls_an_operator_by_its_name_has_a_digest():
    assert by_its_name(torch.ones(2)).tolist() == [2, 2]  # torch looks the operator up once
    assert digest(by_its_name) == digest(by_its_name)
