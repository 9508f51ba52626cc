"""targets/formats/devices.py: which devices are constants, from which line, and what they do once moved."""

from __future__ import annotations

import copy
import inspect
import io
import linecache

import pytest
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.formats.devices import (
    EFFECTS,
    NOTHING,
    RAISES,
    RETURNED,
    UNKNOWN,
    about_devices,
)
from pytest_torchexport.targets.formats.exported_program import ExportedProgramFacts
from pytest_torchexport.targets.formats.torchscript import TorchScriptFacts

X = torch.arange(6.0).reshape(2, 3)


def of_torchscript(program):
    return TorchScriptFacts(program=program).devices()


def of_exported(program):
    return ExportedProgramFacts(program=program).devices()


def breaks_elsewhere(load, args, kwargs):
    """torch's words where a program fails on ``meta`` because of devices."""
    moved_args, moved_kwargs = tree_map(
        lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf,
        (tuple(args), dict(kwargs)),
    )
    try:
        with torch.no_grad():
            load("meta")(*moved_args, **moved_kwargs)
    except Exception as error:
        return about_devices(str(error))
    return None


def zeros(self, x):
    return x + torch.zeros(3, device=x.device)


def rand(self, x):
    return x + torch.rand(3, device=x.device)


def steps(self, x):
    return x + torch.arange(x.shape[1], device=x.device).to(x.dtype)


def concatenated(self, x):
    return torch.cat([x, torch.zeros(2, 1, device=x.device)], 1)


def derived(self, x):
    table = torch.ones(3, 3, device=x.device).tril()
    return x.masked_fill(table[0] > 0, 0.0)


def product(self, x):
    return x @ torch.eye(3, device=x.device)


def selected(self, x):
    return torch.index_select(x, 1, torch.arange(2, device=x.device))


def like(self, x):
    return x + torch.zeros_like(x) + x.new_zeros(3)


def index(self, x):
    return x[:, torch.arange(2).flip(0)]


def numbered(self, x):
    return x[:, torch.arange(2) + 1]


def put(self, x):
    y = x.clone()
    y[torch.arange(1)] = x[:1]
    return y


def scalar(self, x):
    return x + torch.full((), 2.0)


def sized(self, x):
    return (x * x.shape[1]) + torch.zeros(3, device=x.device)


def moved_again(self, x):
    return x + torch.ones(3).to(x.device)


def identity(self, x):
    return x, torch.eye(2, device=x.device)


def moved(self, x):
    return torch.relu(x.to("cpu"))


def named(self, x):
    return torch.relu(x.cpu())


def plain(self, x):
    return x + torch.zeros(3)


def written(self, x):
    return x + torch.zeros(3, device="cpu")


def counted(self, x):
    return x[x > 0]


def chosen(self, x):
    return x * int(x.sum() > 0)


def module(function):
    return type(function.__name__, (nn.Module,), {"forward": function})().eval()


def trace(subject):
    with quiet("cpu"), suppress_output():
        return torch.jit.trace(subject, (X,), check_trace=False)


def script(subject):
    with quiet("cpu"), suppress_output():
        return torch.jit.script(subject)


def export(subject):
    with quiet("cpu"), suppress_output():
        return torch.export.export(subject, (X,))


def effects(found):
    return {(item.op, item.effect) for item in found}


def from_file(program):
    """Return what ``torch.jit.load`` makes of a program on a device."""
    buffer = io.BytesIO()
    with suppress_output():
        torch.jit.save(program, buffer)

    def load(device):
        with suppress_output():
            return torch.jit.load(io.BytesIO(buffer.getvalue()), map_location=device)

    return load


# What follows its input in eager, and raises elsewhere once it is traced or exported.
FROZEN = {
    zeros: "aten::zeros",
    rand: "aten::rand",
    steps: "aten::arange",
    concatenated: "aten::zeros",
    derived: "aten::ones",
    product: "aten::eye",
    selected: "aten::arange",
    sized: "aten::zeros",
}
# Those of them that ``meta`` refuses as CUDA does.
REFUSED = [zeros, rand, concatenated, derived, sized]
BOTH = pytest.mark.parametrize(
    "read",
    [lambda it: of_torchscript(trace(it)), lambda it: of_exported(export(it))],
    ids=["trace", "export"],
)


@BOTH
@pytest.mark.parametrize("function", FROZEN, ids=lambda function: function.__name__)
def test_what_follows_its_input_becomes_a_constant_that_meets_moved_tensors(read, function):
    found = read(module(function))
    assert (FROZEN[function], RAISES) in effects(found)
    assert {item.device for item in found} == {"cpu"}


@BOTH
@pytest.mark.parametrize("function", [index, put, scalar], ids=lambda function: function.__name__)
def test_indices_and_tensors_of_no_dimensions_do_nothing_on_the_cpu(read, function):
    found = read(module(function))
    assert found
    assert {item.effect for item in found} == {NOTHING}


@BOTH
def test_what_is_moved_again_leaves_the_last_move_to_blame(read):
    assert effects(read(module(moved_again))) == {("aten::ones", NOTHING), ("aten::to", RAISES)}


@BOTH
@pytest.mark.parametrize(
    ("function", "op"), [(identity, "aten::eye"), (moved, "aten::to"), (named, "aten::to")]
)
def test_what_is_only_returned_is_told_apart(read, function, op):
    assert (op, RETURNED) in effects(read(module(function)))


def test_an_exported_program_asserts_where_what_it_moves_was():
    """Also of a change of dtype alone."""

    def half(self, x):
        return x.half()

    found = {("aten::_assert_tensor_metadata", RAISES)}
    assert effects(of_exported(export(module(half)))) >= found
    assert effects(of_exported(export(module(moved)))) == found | {("aten::to", RETURNED)}


@BOTH
def test_what_is_made_like_its_input_is_no_constant(read):
    assert read(module(like)) == ()


@pytest.mark.parametrize(
    "function", [*FROZEN, like, moved_again, identity], ids=lambda f: f.__name__
)
def test_a_script_keeps_what_eager_decides(function):
    program = script(module(function))
    assert of_torchscript(program) == ()
    assert breaks_elsewhere(from_file(program), (X,), {}) is None


def test_a_script_keeps_what_is_written_and_knows_no_dimensions():
    assert effects(of_torchscript(script(module(written)))) == {("aten::zeros", UNKNOWN)}
    assert effects(of_torchscript(script(module(named)))) == {("aten::cpu", RETURNED)}


def test_a_number_in_a_trace_is_a_tensor_that_moves():
    """Whether that meets what stays depends on how the file is loaded: by map_location, or by to(device)."""
    subject = module(numbered)
    assert effects(of_torchscript(trace(subject))) == {("aten::arange", UNKNOWN)}
    assert effects(of_exported(export(subject))) == {("aten::arange", NOTHING)}


def test_it_raises_where_it_does_so_either_way():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 3)

        def forward(self, x):
            return x + self.table(torch.arange(2, device=x.device) + 1)

    assert effects(of_torchscript(trace(Positions()))) == {("aten::arange", RAISES)}


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, x):
        return x + torch.zeros(3, device=self.device)


@pytest.mark.parametrize("make", [trace, script])
def test_a_device_that_the_module_holds_is_a_constant(make):
    (found,) = of_torchscript(make(Held()))
    assert found.device == "cpu"
    assert found.op == "aten::zeros"


class Placed(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = torch.ones(3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        x = x + torch.ones(3, device=x.device)  # ones
        y, _ = self.lstm(x[None])  # lstm
        return y + self.offset[0]  # offset


@BOTH
def test_the_users_line_is_named_also_of_what_torchs_modules_make(read):
    lines, first = inspect.getsourcelines(Placed)
    expected = {
        word: f":{first + i}  {line.strip()}"
        for i, line in enumerate(lines)
        for word in ("ones", "lstm")
        if line.endswith(f"# {word}\n")
    }
    found = {item.op: str(item.where) for item in read(Placed().eval())}
    assert found["aten::ones"].endswith(expected["ones"])
    assert found["aten::zeros"].endswith(expected["lstm"])
    assert linecache.getline(__file__, first).startswith("class Placed")


def test_a_constant_tensor_of_an_exported_program_stays_where_it_was():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = torch.ones(3)

        def forward(self, x):
            return x + self.offset

    program = export(Offset())
    assert effects(of_exported(program)) == {("constant offset", RAISES)}
    assert of_torchscript(trace(Offset())) == ()
    assert breaks_elsewhere(from_file(trace(Offset())), (X,), {}) is None


def test_what_a_branch_takes_is_not_judged():
    class Branch(nn.Module):
        def forward(self, x):
            offset = torch.zeros(3, device=x.device)
            return torch.cond(x.sum() > 0, lambda a, b: a + b, lambda a, b: a - b, (x, offset))

    assert effects(of_exported(export(Branch()))) == {("aten::zeros", UNKNOWN)}


def test_a_device_that_may_not_exist_raises_wherever_it_is_named():
    class Cuda(nn.Module):
        def forward(self, x):
            return x, torch.zeros(3, device="cuda:0")

    (found,) = of_torchscript(script(Cuda()))
    assert (found.device, found.effect) == ("cuda:0", RAISES)


def test_functions_and_other_things_are_read_as_well():
    with quiet("cpu"), suppress_output():
        function = torch.jit.trace(lambda x: x + torch.ones(3), (X,))
    assert effects(of_torchscript(function)) == {("aten::ones", RAISES)}
    assert of_torchscript(object()) == ()
    assert of_exported(object()) == ()
    assert EFFECTS[0] == RAISES


# -- running it on meta ------------------------------------------------------------------------------


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_a_moved_program_fails_in_torchs_words_where_eager_runs(function):
    eager = module(function)
    assert breaks_elsewhere(copy.deepcopy(eager).to, (X,), {}) is None
    said = breaks_elsewhere(from_file(trace(eager)), (X,), {})
    assert said is not None
    assert said.startswith(("Tensor on device", "Expected all tensors"))
    assert {"cpu", "meta"} <= set(said.replace("!", "").replace(",", "").split())


@pytest.mark.parametrize(
    "function",
    [*FROZEN, moved, named, identity, moved_again, written, index],
    ids=lambda f: f.__name__,
)
def test_the_pass_of_torch_repairs_every_exported_program(function):
    program = export(module(function))
    load = lambda device: move_to_device_pass(copy.deepcopy(program), device).module()  # noqa: E731
    assert breaks_elsewhere(load, (X,), {}) is None


@pytest.mark.parametrize("function", [zeros, rand, moved_again], ids=lambda f: f.__name__)
def test_without_the_pass_an_exported_program_fails(function):
    program = export(module(function))
    assert breaks_elsewhere(lambda device: program.module().to(device), (X,), {}) is not None


@pytest.mark.parametrize(
    "function",
    [like, index, put, scalar, moved, named, counted, chosen, identity],
    ids=lambda f: f.__name__,
)
def test_what_only_meta_cannot_do_is_no_alarm(function):
    """Values to look at, sizes that depend on them, a copy back to the CPU."""
    assert breaks_elsewhere(from_file(trace(module(function))), (X,), {}) is None


def test_keyword_arguments_and_containers_are_moved_too():
    def run(pair, *, scale=None, names=()):
        assert all(item.device.type == "meta" for item in (*pair, scale))
        assert names == ("a", 1)
        return pair[0] * scale

    assert breaks_elsewhere(lambda _: run, ([X, X],), {"scale": X, "names": ("a", 1)}) is None


def test_eager_that_makes_tensors_on_the_cpu_fails_alike():
    assert breaks_elsewhere(module(plain).to, (X,), {}) is not None


def test_a_program_that_cannot_be_loaded_elsewhere_is_no_matter_of_devices():
    def load(device):
        raise RuntimeError("no such file")

    assert breaks_elsewhere(load, (X,), {}) is None


# -- checked against torch's own picture of a GPU -------------------------------------------------------


def on_fake_cuda(program):
    """Return what torch raises where an exported program's weights and input are on a GPU that need not exist, and
    its constants where they were.
    """
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    mode = fake.FakeTensorMode()
    constants = program.graph_signature.inputs_to_lifted_tensor_constants

    def placed(node):
        device = "cpu" if node.name in constants else "cuda:0"
        like = node.meta["val"]
        with torch.utils._mode_utils.no_dispatch():
            return fake.FakeTensor(
                mode, torch.empty(like.shape, dtype=like.dtype, device="meta"), torch.device(device)
            )

    inputs = [placed(node) for node in program.graph.nodes if node.op == "placeholder"]
    with mode:
        outputs = torch.fx.Interpreter(program.graph_module).run(*inputs)
    return {str(value.device) for value in outputs}


@pytest.mark.parametrize(
    "function",
    [
        *FROZEN,
        like,
        index,
        put,
        scalar,
        numbered,
        moved_again,
        identity,
        moved,
        named,
        plain,
        written,
    ],
    ids=lambda function: function.__name__,
)
def test_the_effects_are_those_that_torch_has_on_a_gpu(function):
    program = export(module(function))
    worst = {item.effect for item in of_exported(program)}
    if RAISES in worst:
        with pytest.raises(
            Exception, match=r"same device|device mismatch|Mismatching|two different devices"
        ):
            on_fake_cuda(program)
    else:
        assert ("cpu" in on_fake_cuda(program)) == (RETURNED in worst)
