"""sandbox/cpp.py: files that are served without Python, and a program that cannot be compiled."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from in_sandbox import run
from slow import slow
from torch import Tensor, nn

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Raised,
    Returned,
    TimedOut,
    observe,
)
from pytest_torchexport.sandbox import cpp
from pytest_torchexport.sandbox.session import Source
from pytest_torchexport.targets.formats import torchscript

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)


# tests/integration/checks/test_serving.py serves some files in CI too.
pytestmark = [slow, pytest.mark.filterwarnings("ignore:.torch\\.jit\\.\\w+. is deprecated")]


@pytest.fixture
def serve(in_cpp, tmp_path):
    """Sessions in C++ on the files of TorchScript programs; ended with the test."""
    sessions = []

    def start(program, **options):
        path = tmp_path / f"{len(sessions)}.pt"
        torch.jit.save(program, str(path))
        plain = {"load": "", "read": "", "library": "torch", "device": "cpu", "memory": 4096}
        source = Source(path=path, home=tmp_path, **{**plain, **options})
        write = functools.partial(torchscript.write_arguments, program)
        sessions.append(cpp.in_cpp(in_cpp, source, write))
        return sessions[-1]

    yield start
    for session in sessions:
        session.__exit__()
        assert not session._home.exists()


def scripted(module, **options):
    return torch.jit.script(module.eval(), **options)


# -- what it takes and returns ---------------------------------------------------------------------


class Typed(nn.Module):
    def forward(
        self,
        x: Tensor,
        many: list[Tensor],
        scale: float,
        word: str = "a",
        last: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], list[int], str, Tensor | None, float]:
        total = x * scale
        for each in many:
            total = total + each
        return {"y": total, "x": x.t()}, [len(many), 2], word, last, scale


@pytest.mark.parametrize(
    "call",
    [
        Call((X, [X, X], 2)),
        Call((X, [], 0.5), {"last": X[:1]}),
        # In another order than forward has them.
        Call((), {"last": X, "scale": 3, "word": "b c\n", "many": [X], "x": X.t()}),
    ],
    ids=["an int for a float", "an empty list", "by name"],
)
def test_it_takes_and_returns_what_a_call_from_python_does(serve, call):
    if "last" in call.kwargs and not call.args:
        call.kwargs["many"] = [X.t()]
    program = scripted(Typed())
    there, here = run(serve(program), call), observe(program, call, seed=0)
    assert isinstance(there, Returned), there
    assert isinstance(here, Returned), here
    assert repr(there.value) == repr(here.value)


class Writes(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        print("a line\nthat is no answer")
        y.add_(1)
        return x + torch.rand(3)


def test_inputs_are_as_the_call_left_them_and_numbers_those_of_the_seed(serve):
    program = scripted(Writes())
    call = Call((), {"y": X, "x": X})  # one tensor: the write shows in both
    there, here = run(serve(program), call), observe(program, call, seed=0)
    assert torch.equal(there.value, here.value)
    assert [torch.equal(each, X + 1) for each in there.inputs.tensors()] == [True, True]


class Replaces(nn.Module):
    def forward(self, d: dict[str, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
        d["b"].mul_(2)
        d["a"] = d["b"] + y[1]
        return d["a"]


def test_an_entry_that_is_replaced_is_as_it_was_given(serve):
    call = Call(({"b": X, "a": X + 1}, (X + 2, X + 3)))
    program = scripted(Replaces())
    there, here = run(serve(program), call), observe(program, call, seed=0)
    assert torch.equal(there.value, here.value)
    pairs = list(zip(there.inputs.tensors(), here.inputs.tensors(), strict=True))
    assert len(pairs) == 4
    assert all(torch.equal(*pair) for pair in pairs)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x * self.n


def test_state_goes_on_or_is_that_of_the_file(serve):
    session, call = serve(scripted(Counts()), thorough=True), Call((torch.ones(1),))
    assert [run(session, call, anew=anew).value.item() for anew in (True, False, False)] == [
        1,
        2,
        3,
    ]
    assert run(session, call).value.item() == 1


class Grad(nn.Module):
    def forward(this, x: Tensor) -> bool:  # another name for self
        return torch.is_grad_enabled()


def test_gradients_are_recorded_if_they_are_asked_for(serve):
    program = scripted(Grad())
    assert [run(serve(program, gradients=on)).value for on in (True, False)] == [True, False]


def plain(x: Tensor, scale: float) -> Tensor:
    return x * scale


def test_a_function_is_served_too(serve):
    session = serve(torch.jit.script(plain))
    assert torch.equal(run(session, Call((X,), {"scale": 3})).value, X * 3)


class Halves(nn.Module):
    def half(self, x: Tensor) -> Tensor:
        return x * 0.5

    def forward(self, *both: Tensor) -> Tensor:
        return self.half(both[0]) - self.half(both[1])


def test_arguments_of_one_name_are_sent_by_their_place(serve):
    traced = torch.jit.trace(Halves(), (X, X + 1))
    assert str(traced.forward.schema).count("Tensor x") == 2
    assert torch.equal(run(serve(traced), Call((X + 1, X))).value, Halves()(X + 1, X))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1) * 2


IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
# What no test declares: C++ takes of these what Python takes, and refuses what it refuses.
ODD = {
    "float64": IMAGE.double(),
    "float16": IMAGE.half(),
    "int32": IMAGE.int(),
    "complex": IMAGE.to(torch.complex64),
    "channels last": IMAGE.contiguous(memory_format=torch.channels_last),
    "transposed": IMAGE.transpose(0, -1).contiguous().transpose(0, -1),
    "another batch": IMAGE[[0, 1, 0, 1, 0]],
    "another height": IMAGE[:, :, [*range(8), 0]],
    "other channels": IMAGE[:, :2],
    "no image": IMAGE[0],
    "none": IMAGE[:0],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("how", ["trace", "script"])
@pytest.mark.parametrize("model", [Net, Flat])
def test_other_dtypes_strides_and_sizes_are_taken_as_in_python(serve, model, how, odd):
    module = model().eval()
    program = torch.jit.trace(module, IMAGE) if how == "trace" else torch.jit.script(module)
    session, call = serve(program), Call((ODD[odd],))
    there, here = run(session, call), observe(program, call, seed=0)
    assert type(there) is type(here)
    if isinstance(here, Returned):
        assert there.value.dtype == here.value.dtype
        assert torch.equal(there.value, here.value)
    assert isinstance(run(session, Call((IMAGE,))), Returned)


# -- what does not return --------------------------------------------------------------------------


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 1:
            raise ValueError("too many rows")
        assert x.size(0) > 0, "no row"
        return x


@pytest.mark.parametrize(("rows", "said"), [(2, "too many rows"), (0, "no row")])
def test_an_exception_has_the_text_that_python_gives_it(serve, rows, said):
    program, call = scripted(Raises()), Call((torch.ones(rows, 1),))
    session = serve(program)
    there = run(session, call)
    assert isinstance(there, Raised), there
    assert said in there.message
    assert there.where.text.strip().startswith(("raise ValueError", "assert x.size"))
    # It serves on.
    assert isinstance(run(session, Call((torch.ones(1, 1),))), Returned)


class Beyond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("last words")
        lengths = torch.full([1], 1 << 38, dtype=torch.int64)
        return torch.segment_reduce(x.flatten(), "sum", lengths=lengths, unsafe=True)


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.numel() > 0):
            x = x * 1.0
        return x


def test_a_crash_has_its_signal_and_no_call_comes_after_it(serve):
    session = serve(scripted(Beyond()))
    outcome = run(session)
    assert isinstance(outcome, Crashed), outcome
    assert outcome.reason == "it was killed by SIGSEGV"
    assert not outcome.from_outside
    assert "last words" in outcome.output
    assert run(session) == outcome


def test_a_call_that_does_not_return_is_hung(serve):
    session = serve(scripted(Endless()))
    assert run(session, limit=2.0) == TimedOut(2.0)
    assert run(session) == TimedOut(2.0)


class Sparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()


def test_what_cannot_be_sent_is_no_fault_of_the_files(serve):
    session = serve(scripted(Sparse()))
    assert isinstance(run(session), NotTransferable)
    session = serve(scripted(Raises()))
    assert isinstance(run(session, Call((object(),))), NotTransferable)
    assert isinstance(run(session, Call((torch.ones(1),))), Returned)


# -- the compiler ----------------------------------------------------------------------------------


def test_it_is_compiled_once(in_cpp, monkeypatch):
    cpp._compiled.cache_clear()  # as in another process
    plain, commands = cpp._run, []
    monkeypatch.setattr(
        cpp, "_run", lambda command, **how: commands.append(command) or plain(command, **how)
    )
    before = in_cpp.stat()
    assert cpp.program() == in_cpp
    assert [command[1:] for command in commands] == [["--version"], ["/dev/null"]]  # it runs
    assert in_cpp.stat() == before


def test_another_torch_has_another_program(in_cpp, monkeypatch):
    # It leaves nothing to rename.
    monkeypatch.setattr(cpp, "_run", lambda *_, **__: SimpleNamespace(stdout="g++ 1.0"))
    monkeypatch.setattr(cpp.Path, "rename", lambda _, path: path)
    found = {in_cpp}
    for version in ("0.0", "0.1"):
        monkeypatch.setattr(torch, "__version__", version)
        cpp._compiled.cache_clear()
        found.add(cpp.program())
    cpp._compiled.cache_clear()
    assert len(found) == 3


def fails(folder, compiler="g++"):
    cpp._compiled.cache_clear()
    found = cpp._compiled(compiler, folder)
    cpp._compiled.cache_clear()
    assert isinstance(found, str), found
    return found


def test_why_there_is_no_program_is_said_with_the_next_step(in_cpp, tmp_path, monkeypatch):
    assert fails(tmp_path, "g++-of-nobody") == (
        "no C++ compiler 'g++-of-nobody'; next step: install g++, or name yours in CXX"
    )
    said = fails(tmp_path, "g++ -include no-such-file.h")
    assert said.startswith("g++ -include no-such-file.h fails on serve.cpp: ")
    assert "no-such-file.h: No such file" in said
    assert said.endswith("; next step: name another compiler in CXX")
    (tmp_path / "file").touch()
    assert fails(tmp_path / "file" / "below").endswith("in TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(cpp, "torch", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    assert "no headers of torch in" in fails(tmp_path)
    assert not list(tmp_path.glob("torchexport-serve-*[!k]"))
