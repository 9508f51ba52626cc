"""eager/watch.py: what a forward does besides returning, operator by operator."""

# ruff: noqa: ARG005, PLW0108  # forwards in one line

from __future__ import annotations

import linecache
import random
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.eager.watch import Fill, changed_at, seeded_at, streams, watch
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Raised, Returned, observe
from pytest_torchexport.outcomes.subject import Subject


def watched(thing, *args, names=None, **options):
    return watch(Subject.of(thing), Call(args), 0, names=names, **options)


def ops_at(found, text):
    return [op for op in found.ops if text in str(op.where)]


# -- torch's private dispatch mode -----------------------------------------------------------------


def test_this_torch_lets_us_watch():
    """Fails loudly when torch changes the private module that watching rests on."""
    found = watched(lambda x: torch.relu(x) + 1, torch.ones(2))
    assert [str(op.operator) for op in found.ops] == ["aten.relu.default", "aten.add.Tensor"]


def test_without_the_private_module_a_watched_run_is_a_plain_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils._python_dispatch", None)
    found = watched(lambda x: x + 1, torch.ones(2))
    assert isinstance(found.outcome, Returned)
    assert found.outcome.value.tolist() == [2, 2]
    assert found.ops == ()


# -- lines and modules -----------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x):
        y = self.lin(x)  # a line of Block
        return y * 2  # another line of Block


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x) - 1  # a line of Net


def test_each_operator_has_the_users_innermost_line_and_the_submodule_that_ran():
    found = watched(Net(), torch.ones(2, 3))
    told = [(op.in_torch, op.module, op.where.text.partition("# ")[2]) for op in found.ops]
    assert told[-3:] == [
        ("torch.addmm", "block.lin", "a line of Block"),
        ("torch.mul", "block", "another line of Block"),
        ("torch.sub", "", "a line of Net"),
    ]


def test_lines_read_as_in_every_message():
    op = ops_at(watched(Net(), torch.ones(2, 3)), "a line of Net")[0]
    assert op.where.file.endswith("test_watch.py")
    assert linecache.getline(__file__, op.where.line).strip() == op.where.text


def test_a_model_of_stock_modules_has_no_line_of_ours_or_the_tests():
    found = watched(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3))
    assert {op.where for op in found.ops} == {None}
    assert found.ops[-1].module == "1"


def test_the_stack_of_modules_survives_a_submodule_that_raises():
    class Raising(nn.Module):
        def forward(self, x):
            raise ValueError("no")

    class Catching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Raising()

        def forward(self, x):
            try:
                return self.inner(x)
            except ValueError:
                return x + 1

    found = watched(Catching(), torch.ones(2))
    assert [(op.name, op.module) for op in found.ops] == [("add", "")]


def test_no_hook_stays_behind_on_the_module_or_in_torch():
    from torch.nn.modules import module as internals

    before = len(internals._global_forward_hooks), len(internals._global_forward_pre_hooks)
    net = Net()
    watched(net, torch.ones(2, 3))
    watched(net, "no tensor")  # raises
    assert before == (
        len(internals._global_forward_hooks),
        len(internals._global_forward_pre_hooks),
    )
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_watching_leaves_the_fused_path_of_an_encoder_alone():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    names = [str(op.operator) for op in watched(encoder, torch.ones(1, 3, 8)).ops]
    assert "aten._transformer_encoder_layer_fwd.default" in names


def branching(x):
    return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


def test_a_higher_order_operator_is_watched_and_runs_clean_afterwards():
    assert isinstance(observe(branching, Call((torch.ones(2),)), seed=0), Returned)
    found = watched(branching, torch.ones(2))
    assert isinstance(found.outcome, Returned)
    assert isinstance(observe(branching, Call((torch.ones(2),)), seed=0), Returned)


def test_a_compiled_function_is_watched_as_it_was_written():
    @torch.compile(backend="eager")
    def compiled(x):
        return x.sin() + 1  # its line

    assert compiled(torch.zeros(2)).tolist() == [1, 1]
    found = watched(lambda x: compiled(x), torch.zeros(2))
    assert [str(op.operator) for op in ops_at(found, "its line")] == [
        "aten.sin.default",
        "aten.add.Tensor",
    ]
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


def test_without_operators_the_rest_is_still_seen():
    found = watched(lambda x: x * random.random() if x.sum() < 0 else x, torch.ones(2), names=["x"])
    plain = watched(
        lambda x: x * random.random() if x.sum() < 0 else x,
        torch.ones(2),
        names=["x"],
        recorded="nothing",
    )
    assert (plain.ops, plain.aliases) == ((), found.aliases)
    assert plain.aliases == (("output", StateRef("input", "x")),)


def test_what_ran_before_an_exception_is_kept():
    def function(x):
        torch.relu(x)
        raise KeyError("k")

    found = watched(function, torch.ones(2))
    assert isinstance(found.outcome, Raised)
    assert [str(op.operator) for op in found.ops] == ["aten.relu.default"]


def test_ctrl_c_passes_through():
    def function(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(function, torch.ones(2))


# -- random numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda x: x + torch.rand(2), "torch.rand"),
        (lambda x: F.dropout(x), "torch.bernoulli_"),
        (lambda x: torch.normal(x, 1.0), "torch.normal"),
        (lambda x: torch.multinomial(x, 1), "torch.multinomial"),
        (lambda x: torch.rand(2, generator=torch.Generator()), "torch.rand"),
    ],
)
def test_operators_that_draw_are_told(draw, name):
    assert [op.in_torch for op in watched(draw, torch.ones(2)).ops if op.draws] == [name]


@pytest.mark.parametrize(
    "healthy",
    [
        lambda x: F.dropout(x, training=False),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.rrelu(x, training=False),
        lambda x: torch.sort(x)[0],
    ],
)
def test_operators_that_could_draw_and_do_not_are_not_told(healthy):
    assert [op for op in watched(healthy, torch.ones(1, 2, 4)).ops if op.draws] == []


def test_the_library_function_in_between_is_told():
    assert {op.via for op in watched(lambda x: F.dropout(x), torch.ones(2)).ops} == {"dropout"}


def test_streams_outside_torch_that_moved_are_named():
    assert watched(lambda x: x * random.random(), torch.ones(2)).streams == ("Python's random",)
    assert watched(lambda x: x + 1, torch.ones(2)).streams == ()
    assert set(streams()) == {"Python's random", "numpy.random"}


# -- writes and aliases ----------------------------------------------------------------------------


class Writing(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x, y):
        self.steps += 1
        self.weight.data.mul_(0.9)
        y[0].relu_()
        (x + 1).mul_(2)
        return x


def test_writes_are_told_by_the_name_of_what_is_written_to():
    found = watched(Writing(), torch.ones(2), torch.ones(2), names=["x", "y"])
    writes = [(op.in_torch, op.writes) for op in found.ops if op.writes]
    assert writes == [
        ("torch.add_", (StateRef("buffer", "steps"),)),
        ("torch.mul_", (StateRef("parameter", "weight"),)),
        ("torch.relu_", (StateRef("input", "y"),)),
    ]


def test_a_list_of_tensors_that_is_written_to_is_looked_into():
    def function(x, y):
        torch._foreach_add_([x, y], 1.0)
        return x + y

    found = watched(function, torch.ones(2), torch.ones(2), names=["x", "y"])
    assert found.ops[0].writes == (StateRef("input", "x"), StateRef("input", "y"))


@pytest.mark.parametrize(
    "healthy",
    [
        lambda x: x.clone().add_(1),
        lambda x: x.detach_() * 2,
        lambda x: torch.zeros(2).copy_(x),
    ],
)
def test_writes_to_what_the_forward_made_are_not_told(healthy):
    assert [op.writes for op in watched(healthy, torch.ones(2)).ops if op.writes] == []


def test_outputs_that_share_memory_are_paired_with_what_they_share_it_with():
    net = Writing()
    found = watched(net, torch.ones(2), torch.ones(2), names=["x", "y"])
    assert found.aliases == (("output", StateRef("input", "x")),)
    found = watched(lambda x: {"a": x[0], "b": x + 1}, torch.ones(2, 2), names=["x"])
    assert found.aliases == (("output['a']", StateRef("input", "x")),)


def test_memory_that_was_freed_meanwhile_lends_its_name_to_nobody():
    class Rebinding(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(1000))

        def forward(self, x):
            self.state = self.state + 1
            return torch.ones(1000) * x

    for _ in range(5):
        assert watched(Rebinding(), torch.ones(1)).aliases == ()


# -- uninitialized memory and digests --------------------------------------------------------------


def test_memory_that_nobody_initialized_is_told():
    found = watched(lambda x: x.new_empty(2).copy_(x), torch.ones(2))
    assert [op.in_torch for op in found.ops if op.bare] == ["torch.new_empty"]
    assert not any(op.bare for op in watched(lambda x: torch.empty(0), torch.ones(2)).ops)
    assert not any(op.bare for op in watched(lambda x: torch.zeros(2), torch.ones(2)).ops)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.empty(3),
        lambda x: torch.empty_like(x),
        lambda x: torch.Tensor(3),
        lambda x: torch.empty_strided((3,), (1,)),
    ],
)
def test_such_memory_can_be_filled(make):
    assert watched(make, torch.ones(3), fill=Fill(7.0, 1)).outcome.value.tolist() == [7.0] * 3


def test_a_tensor_that_grows_is_filled_where_it_grew():
    def function(x):
        return x.clone().resize_(4)

    assert watched(function, torch.ones(2), fill=Fill(7.0, 1)).outcome.value.tolist() == [
        1,
        1,
        7,
        7,
    ]


def test_integers_and_booleans_have_a_filling_of_their_own():
    found = watched(
        lambda x: (torch.empty(1, dtype=torch.int64), torch.empty(1, dtype=torch.bool)),
        torch.ones(1),
        fill=Fill(float("nan"), 1),
    )
    assert [item.tolist() for item in found.outcome.value] == [[1], [True]]


def test_dropout_overwrites_its_own_filling():
    first = watched(lambda x: F.dropout(x), torch.ones(50), fill=Fill(1.0, 1))
    second = watched(lambda x: F.dropout(x), torch.ones(50), fill=Fill(float("nan"), 0))
    assert torch.equal(first.outcome.value, second.outcome.value)


def test_digests_line_two_runs_up():
    factor = [2.0]

    def function(x):
        y = x + 1
        z = y * factor[0]
        return z - 1

    one = watched(function, torch.ones(2), recorded="digests").ops
    same = watched(function, torch.ones(2), recorded="digests").ops
    factor[0] = 3.0
    other = watched(function, torch.ones(2), recorded="digests").ops
    assert [op.results for op in one] == [op.results for op in same]
    assert [a.results == b.results for a, b in zip(one, other, strict=True)] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.bool, torch.float8_e5m2])
def test_digests_read_every_dtype(dtype):
    found = watched(lambda x: x.to(dtype), torch.ones(2), recorded="digests")
    assert found.ops[-1].results != (None,)


def test_without_being_asked_nothing_is_digested():
    assert {op.results for op in watched(Net(), torch.ones(2, 3)).ops} == {(None,)}


# -- lines at which something moves ----------------------------------------------------------------

CALL = Call((torch.ones(2, 3),))


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = {"calls": []}

    def note(self, x):
        self.seen["calls"].append(len(x))
        return x

    def forward(self, x):
        y = x * 2
        return self.note(y)


def place(ref):
    subject = Subject.of(nn.Sequential(nn.ReLU(), Part()))
    return str(changed_at(subject, CALL, 0, [ref]).get(ref))


def test_the_line_that_changes_what_an_attribute_holds():
    assert ".append(len(x))" in place(StateRef("attribute", "1.seen['calls']"))


def test_an_attribute_that_no_line_changes_has_none():
    assert place(StateRef("attribute", "1.other")) == "None"
    assert place(StateRef("global", "numbers")) == "None"


def test_the_line_that_registers_a_buffer():
    class Registers(nn.Module):
        def forward(self, x):
            if not hasattr(self, "offset"):
                self.register_buffer("offset", x.mean(0))
            return x - self.offset

    offset = StateRef("buffer", "offset")
    lines = changed_at(Subject.of(Registers()), CALL, 0, [offset])
    assert "register_buffer" in str(lines[offset])


def test_the_line_that_sets_a_seed():
    def seeds(x):
        y = x * 2
        torch.manual_seed(7)
        return y + torch.rand(3)

    assert "manual_seed(7)" in str(seeded_at(Subject.of(seeds), CALL, 1))
    assert seeded_at(Subject.of(lambda x: x + torch.rand(3)), CALL, 1) is None
