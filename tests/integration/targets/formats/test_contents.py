"""targets/formats/contents.py: texts that saving and loading keep, and that a change of the program changes."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
from enum import Enum
from typing import NamedTuple, Optional

import pytest
import sympy
import torch
from specs import spec_of
from torch import nn
from torch.export import Dim
from versions import FROZEN_THAWED, INSTALLED

from pytest_torchexport import targets
from pytest_torchexport.config.options import Options
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats import contents
from pytest_torchexport.targets.formats.exported_program import ExportedProgramFacts
from pytest_torchexport.targets.formats.sizes import SizeFacts, suspicions
from pytest_torchexport.targets.formats.torchscript import TorchScriptFacts

X = torch.ones(2, 3)


def of_torchscript(program):
    return TorchScriptFacts(program=program).contents()


def of_exported(program):
    return ExportedProgramFacts(program=program).contents()


# -- TorchScript -----------------------------------------------------------------------------------


class Attributes(nn.Module):
    def __init__(self, bias=None):
        super().__init__()
        self.bias = torch.jit.Attribute(bias, Optional[torch.Tensor])  # noqa: UP045  # TorchScript's spelling
        self.names = ["cat", "dog"]
        self.weights = [torch.ones(1)]
        self.table = {"k": [1]}
        self.nothing_known = float("nan")
        self.pair = (1, "a")
        self.plain = torch.ones(3)

    def forward(self, x):
        bias = self.bias
        return x if bias is None else x + bias


class Tensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.register_parameter("absent", None)
        self.register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
        self.register_buffer("none", None)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("f16", torch.ones(3).half())
        self.register_buffer("bf16", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("c64", torch.ones(3) * 1j)
        self.register_buffer("turned", torch.arange(9.0).reshape(3, 3).t())
        self.register_buffer("wide", torch.ones(1).expand(3))
        self.register_buffer("empty", torch.ones(0, 3))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("view", self.first.weight.detach()[0])

    def forward(self, x):
        return self.tied(self.first(x)) + self.passing + self.f16 + self.turned.sum() + self.frozen


class Methods(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)

    @property
    def size(self) -> int:
        return 3

    def forward(self, x, scale: float = 0.1):
        return self.block(x) * scale

    @torch.jit.export
    def twice(self, x: torch.Tensor, times: int = 2):
        return x * times, times


class Traced(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)

    def forward(self, x):
        return self.block(x)

    def thrice(self, x):
        return self.block(x) * 3


class Color(Enum):
    RED = 1
    BLUE = 2


class Layout(str, Enum):  # noqa: UP042  # as libraries have them
    NCHW = "NCHW"
    NHWC = "NHWC"


class Painted(nn.Module):
    def __init__(self):
        super().__init__()
        self.color = Color.RED
        self.layout = Layout.NCHW

    def forward(self, x):
        return x if self.color == Color.RED else -x


class Pair(NamedTuple):
    left: torch.Tensor
    right: int


class Paired(nn.Module):
    def forward(self, x):
        return Pair(x, 3)


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)

    def forward(self, x):
        return torch.jit.wait(torch.jit.fork(self.block, x)) + torch.tensor([1.0, 2.0, 3.0])


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.eye(3).to_sparse())

    def forward(self, x):
        return x @ self.mask


def plain(x):
    return x * 2 + torch.arange(3)


def constants(x):
    return x * 2.5 + torch.tensor([1.0, 2.0, 3.0])


def with_default(x: torch.Tensor, times: int = 2):
    return {"y": x * times}


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).eval()


def script(thing):
    return torch.jit.script(thing)


def trace(thing, *args):
    return torch.jit.trace(thing, args or X)


HEALTHY = {
    "attributes": lambda: script(Attributes()),
    "optional attribute": lambda: script(Attributes(torch.ones(3))),
    "tensors": lambda: script(Tensors()),
    "tensors, traced": lambda: trace(Tensors()),
    "methods": lambda: script(Methods()),
    "methods, traced": lambda: torch.jit.trace_module(Traced(), {"forward": X, "thrice": X}),
    "enum": lambda: script(Painted()),
    "namedtuple": lambda: script(Paired()),
    "fork": lambda: script(Forked()),
    "fork, traced": lambda: trace(Forked()),
    "sparse": lambda: script(Sparse()),
    "half": lambda: script(block().half()),
    "complex": lambda: script(nn.Linear(3, 3).to(torch.complex64)),
    "channels last": lambda: trace(
        nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last), torch.ones(1, 2, 5, 5)
    ),
    "frozen": lambda: torch.jit.freeze(script(block())),
    "frozen trace": lambda: torch.jit.freeze(trace(block())),
    "frozen but for a method": lambda: torch.jit.freeze(
        script(Methods().eval()), preserved_attrs=["twice"]
    ),
    "optimized": lambda: torch.jit.optimize_for_inference(script(block())),
    "mixed modes": lambda: script(nn.Sequential(nn.Dropout().eval(), nn.BatchNorm1d(3))),
    "recurrent": lambda: script(nn.LSTM(3, 4, 2)),
    "transformer": lambda: trace(nn.TransformerEncoderLayer(4, 2).eval(), torch.ones(2, 3, 4)),
    "weight norm": lambda: trace(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
    "function": lambda: script(plain),
    "function, traced": lambda: trace(plain),
    "function with constants": lambda: trace(constants),
    "function with a default": lambda: script(with_default),
}


def reloaded(program):
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.filterwarnings("ignore")
def test_a_healthy_script_says_the_same_after_loading(name):
    program = HEALTHY[name]()
    before = of_torchscript(program)
    after = of_torchscript(reloaded(program))
    assert before == after
    assert any(key.startswith("method forward") for key in before)
    assert not [text for text in before.values() if "not readable" in text]
    assert of_torchscript(reloaded(reloaded(program))) == after


ELSEWHERE = """
import json, sys, torch
from pathlib import Path
from pytest_torchexport.targets.formats import exported_program, torchscript
formats = (torchscript, exported_program)
files = [(format, Path(path)) for format, path in zip(formats, sys.argv[1:])]
print(json.dumps([format.read(path, format.load(path, "cpu")).contents() for format, path in files]))
"""


@pytest.mark.filterwarnings("ignore")
def test_another_process_says_the_same(tmp_path):
    torch.manual_seed(0)
    module = Tensors()
    program, exported = script(module), torch.export.export(module, (X,))
    paths = [str(tmp_path / "model.pt"), str(tmp_path / "model.pt2")]
    program.save(paths[0])
    torch.export.save(exported, paths[1])
    code = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, *paths]
    answer = subprocess.run(code, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == [of_torchscript(program), as_loaded(of_exported(exported))]


def changed(before, after):
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def test_a_weight_a_mode_and_an_attribute_that_change_are_each_told_by_name():
    program = script(Attributes())
    before = of_torchscript(program)
    program.names = ["cat", "cow"]
    program.pair = (2, "a")
    program.plain += 1
    program.train(False)
    assert changed(before, of_torchscript(program)) == [
        "attribute names",
        "attribute pair",
        "attribute plain",
        "training",
    ]
    program = script(Tensors())
    before = of_torchscript(program)
    with torch.no_grad():
        program.first.weight[0, 0] += 1
    program.frozen.requires_grad_(True)
    assert changed(before, of_torchscript(program)) == [
        "buffer view",
        "parameter first.weight",
        "parameter frozen",
        "parameter tied.weight",
    ]


def test_methods_are_told_with_their_schemas():
    told = of_torchscript(script(Methods()))
    assert told["method forward"] == "(x: Tensor, scale: float = 0.1) -> Tensor"
    assert told["method twice"] == "(x: Tensor, times: int = 2) -> Tuple[Tensor, int]"
    assert told["method block.forward"] == "(input: Tensor) -> Tensor"


def test_the_weights_of_a_frozen_module_are_told_though_it_has_no_parameters():
    module = block()
    before = of_torchscript(torch.jit.freeze(script(module)))
    with torch.no_grad():
        module[0].weight += 1
    assert changed(before, of_torchscript(torch.jit.freeze(script(module)))) == [
        "constants of forward"
    ]


def test_a_long_value_is_told_by_its_digest():
    module = Attributes()
    module.names = [f"class {number}" for number in range(1000)]
    program = script(module)
    before = of_torchscript(program)
    assert len(before["attribute names"]) < 150
    program.names = [*module.names[:-1], "another"]
    assert changed(before, of_torchscript(program)) == ["attribute names"]


def test_the_device_is_not_said():
    assert "cpu" not in str(of_torchscript(script(Tensors())))


def test_what_is_no_program_at_all_says_why():
    assert of_torchscript(plain)["methods"] == "not readable: AttributeError"
    assert of_torchscript(nn.Linear(3, 3))["parameter bias"].startswith("float32[3] ")
    assert set(of_exported(plain).values()) == {"not readable: AttributeError"}


# -- torch.export ----------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("calls", torch.zeros(()))
        self.constant = torch.ones(3)

    def forward(self, x, pair, *, mask=None):
        self.calls.add_(1)
        y = self.block(self.block(x)) + self.passing + self.constant + torch.tensor([1.0, 2, 3])
        return {"y": y, "rest": [pair["q"], x.shape[0] * 2, 3, None]}


class Cond(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


class Counted(nn.Module):
    def forward(self, x):
        return x.nonzero(), x.reshape(-1)


class Number(nn.Module):
    def forward(self, x):
        return x.sum().item() * 2, x.to_sparse()


class Written(nn.Module):
    def forward(self, x):
        x.mul_(2)
        return x + 1


ROWS = {"x": {0: Dim("rows")}}
PROGRAMS = {
    "nested": lambda **options: torch.export.export(
        Nested(),
        (X, {"q": torch.ones(2)}),
        {"mask": None},
        dynamic_shapes={"x": {0: Dim("rows", max=64)}, "pair": {"q": {0: Dim.AUTO}}, "mask": None},
        **options,
    ),
    "module calls": lambda: PROGRAMS["nested"](preserve_module_call_signature=("block",)),
    "decomposed": lambda: PROGRAMS["nested"]().run_decompositions(),
    "strict": lambda: PROGRAMS["nested"](strict=True),
    "tensors": lambda: torch.export.export(Tensors(), (X,)),
    "cond": lambda: torch.export.export(Cond(), (X,)),
    "counted": lambda: torch.export.export(Counted(), (X,), dynamic_shapes=ROWS),
    "number": lambda: torch.export.export(Number(), (X,)),
    "written": lambda: torch.export.export(Written(), (X,)),
    "derived": lambda: torch.export.export(
        Counted(), (torch.ones(4, 3),), dynamic_shapes={"x": {0: 2 * Dim("half", max=8)}}
    ),
    "half": lambda: torch.export.export(nn.Linear(3, 3).half(), (X.half(),)),
    # Within a module, because torch 2.9.0 refuses an LSTM alone.
    "recurrent": lambda: torch.export.export(nn.Sequential(nn.LSTM(3, 4)), (torch.ones(5, 2, 3),)),
    "training": lambda: torch.export.export(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)), (X,)),
    "transformer": lambda: torch.export.export(
        nn.TransformerEncoderLayer(4, 2, batch_first=True).eval(),
        (torch.ones(2, 3, 4),),
        dynamic_shapes={"src": {0: Dim("batch"), 1: Dim("time")}},
    ),
}


def as_loaded(texts):
    """The texts of a program after loading it: the same, but for what this torch changes."""
    if not FROZEN_THAWED.applies(INSTALLED):
        return texts
    thawed = {
        key: f"{text} requires_grad"
        for key, text in texts.items()
        if key.startswith("parameter ") and not text.endswith(" requires_grad")
    }
    return {**texts, **thawed}


def reloaded_export(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_a_healthy_program_says_the_same_after_loading(name):
    program = PROGRAMS[name]()
    before = of_exported(program)
    loaded = reloaded_export(program)
    assert as_loaded(before) == of_exported(loaded)
    assert not [text for text in before.values() if "not readable" in text]
    assert (
        SizeFacts.captured(program).as_plain()
        == SizeFacts.captured(loaded).as_plain()
        == json.loads(json.dumps(SizeFacts.captured(program).as_plain()))
    )


def test_weights_names_and_ranges_that_change_are_told_by_name():
    program = PROGRAMS["nested"]()
    other = PROGRAMS["nested"]()
    other.state_dict.update(program.state_dict)
    other.state_dict["block.weight"] = nn.Parameter(program.state_dict["block.weight"] + 1)
    other.constants["passing"] += 1
    other.graph_signature.input_specs[0].target = "block.other"
    symbol = next(iter(other.range_constraints))
    del other.range_constraints[symbol]
    assert changed(of_exported(program), of_exported(other)) == [
        "constant passing",
        "input 0",
        "parameter block.weight",
        f"range of {symbol}",
    ]


class Narrowing(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 4 else x + 1


def test_suspicions_are_the_same_from_a_loaded_files_sizes():
    program = torch.export.export(Narrowing(), (X,), dynamic_shapes={"x": {0: Dim.DYNAMIC}})
    spec = spec_of(Narrowing().forward, X, shapes={"x": "rows 3"}, dims={"rows": (1, 64)})
    told = json.loads(json.dumps(SizeFacts.captured(reloaded_export(program)).as_plain()))
    here, there = (
        suspicions(spec, SizeFacts.captured(program)),
        suspicions(spec, SizeFacts.from_plain(told)),
    )
    assert [(item.dim, item.text) for item in there] == [(item.dim, item.text) for item in here]
    assert "4" in there[0].text


def test_branches_and_sizes_are_read_of_a_foreign_file_alone():
    program = torch.export.export(Narrowing(), (X,), dynamic_shapes={"x": {0: Dim.DYNAMIC}})
    facts = ExportedProgramFacts(program=program)
    told = {"contents", "branches", "sizes", "arguments"}
    assert set(facts.as_plain(foreign=True)) == told
    assert set(facts.as_plain(foreign=False)) == {"contents"}


def test_sizes_come_back_as_symbols_and_text_is_not_evaluated():
    facts = SizeFacts.from_plain(
        {"axes": [["s0", 3, None], None], "ranges": {"__import__('os')": [2, None]}}
    )
    assert facts.axes == ((sympy.Symbol("s0"), 3, None), None)
    assert facts.ranges == {sympy.Symbol("__import__('os')"): (2, None)}
    assert SizeFacts.from_plain(SizeFacts.captured(object()).as_plain()) == SizeFacts.from_plain(
        {"axes": [], "ranges": {}}
    )


# -- tensors ---------------------------------------------------------------------------------------


def text(tensor):
    return contents.TensorTexts().text(tensor)


def test_equal_values_have_equal_texts_whatever_their_strides(monkeypatch):
    monkeypatch.setattr(contents, "PART", 10)
    tensor = torch.randn(7, 5, 3)
    turned = tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not turned.is_contiguous()
    assert text(tensor) == text(turned)
    assert text(tensor) != text(tensor.flip(0))


def test_one_changed_element_in_any_part_changes_the_text(monkeypatch):
    monkeypatch.setattr(contents, "PART", 10)
    tensor = torch.arange(35.0).reshape(7, 5)
    for place in ((0, 0), (3, 2), (6, 4)):
        other = tensor.clone()
        other[place] = -1
        assert text(tensor) != text(other)


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers_have_texts():
    scaled = torch.quantize_per_tensor(torch.ones(3), 0.1, 2, torch.quint8)
    assert text(scaled) != text(torch.quantize_per_tensor(torch.ones(3), 0.2, 2, torch.quint8))
    channels = torch.quantize_per_channel(
        torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, torch.qint8
    )
    assert text(channels).startswith("qint8[3, 2] ")
    assert text(torch.eye(3).to_sparse()) != text((2 * torch.eye(3)).to_sparse())
    assert text(torch.ones(3, device="meta")) == "float32[3] without values"
    assert text(torch.eye(3).to_sparse_csr()).startswith("float32[3, 3] sparse_csr ")
    assert text(torch.tensor([1 + 2j]).conj()) == text(torch.tensor([1 - 2j]))


# -- files of the user's in an archive -----------------------------------------------------------------

EXTRAS = {"labels.json": '["cat", "dog"]', "deep/notes.txt": "für später"}


@pytest.mark.parametrize(
    ("target", "option"),
    [("trace", "_extra_files"), ("script", "_extra_files"), ("export", "extra_files")],
)
def test_extra_files_are_saved_and_told(target, option, tmp_path):
    example = Call((torch.randn(2, 3),))
    module = torch.nn.Linear(3, 2).eval()
    spec = build_spec(inspect.signature(module.forward), [example], Options(), {})
    with quiet("cpu"), torch.no_grad():
        artifact = targets.get(target).export(module, example, spec, **{option: EXTRAS})
        path = artifact.save(tmp_path)
    told = {key: text for key, text in artifact.facts.contents().items() if "extra" in key}
    assert list(told) == ["extra file labels.json", "extra file deep/notes.txt"]
    assert contents.extras_of(path) == told
    assert contents.given_extras(EXTRAS | {"labels.json": b"[]"}) != told


def test_an_archive_without_extra_files_has_none(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "model.pt")
    assert contents.extras_of(tmp_path / "model.pt") == {}


@pytest.mark.parametrize("function", [torch.relu, torch.nn.functional.gelu, torch.linalg.norm])
def test_traces_of_functions_without_named_arguments_stay_the_same(function, tmp_path):
    program = torch.jit.trace(function, (X,), check_trace=False)
    torch.jit.save(program, str(tmp_path / "model.pt"))
    loaded = torch.jit.load(str(tmp_path / "model.pt"))
    assert of_torchscript(loaded) == of_torchscript(program)
