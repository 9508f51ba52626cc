"""targets/formats/missing_dependencies.py with real messages of torch and ONNX Runtime, from a clean process."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from slow import slow

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.formats.missing_dependencies import (
    Needs,
    needs,
    remedy,
)

SETTING = "torchexport_runtime_imports"

# A library of the user's: imported here, unknown to the process that loads.
SOURCE = """
import dataclasses
import typing

import torch
from torch import nn
from torch.utils import _pytree


@torch.library.custom_op("shiplib::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


double.register_fake(torch.empty_like)

library = torch.library.Library("shiplib2", "DEF")
library.define("quad.var(Tensor x) -> Tensor")
library.impl("quad.var", lambda x: x * 4, "CompositeImplicitAutograd")


@dataclasses.dataclass
class Output:
    y: torch.Tensor


torch.export.register_dataclass(Output, serialized_type_name="shiplib.Output")


class Box:
    def __init__(self, y):
        self.y = y


class Pair(typing.NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Unnamed(Box):
    pass


class Late(Box):
    pass


_pytree.register_pytree_node(
    Box, lambda box: ([box.y], None), lambda leaves, _: Box(*leaves), serialized_type_name="boxed"
)
_pytree.register_pytree_node(
    Unnamed, lambda box: ([box.y], None), lambda leaves, _: Unnamed(*leaves)
)


class Python(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 5


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x)


def module(function):
    return type("Net", (nn.Module,), {"forward": function, "__module__": __name__})().eval()


DOUBLE = module(lambda self, x: torch.ops.shiplib.double(x))
QUAD = module(lambda self, x: torch.ops.shiplib2.quad.var(x))
OUTPUT = module(lambda self, x: Output(x + 1))
BOX = module(lambda self, x: Box(x + 1))
PAIR = module(lambda self, x: Pair(x + 1, x))
UNNAMED = module(lambda self, x: Unnamed(x + 1))
PYTHON = module(lambda self, x: Python.apply(x))
INPUT = module(lambda self, given: given.y + 1)


class Scripted(nn.Module):
    def forward(self, x):
        return torch.ops.shiplib.double(x)
"""

# Loads each file in a child of its own and says what it raised, with torch's log where it wrote one.
LOADER = """
import json, os, sys, tempfile, warnings
import torch, torch._dynamo

warnings.simplefilter("ignore")
found = {}
for path in sys.argv[1:]:
    with tempfile.NamedTemporaryFile() as answer, tempfile.NamedTemporaryFile() as log:
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 2)
            said = None
            try:
                if path.endswith(".pt2"):
                    torch.export.load(path)
                else:
                    torch.jit.load(path, map_location="cpu")
            except Exception as error:
                said = [type(error).__name__, str(error)]
            with open(answer.name, "w") as file:
                json.dump(said, file)
            os._exit(0)
        os.waitpid(child, 0)
        said = json.load(open(answer.name))
        found[path] = said and [said[0], said[1] + "\\n" + open(log.name).read()]
print(json.dumps(found))
"""
EXAMPLE = (torch.ones(2, 3),)


@pytest.fixture(scope="module")
def shiplib(tmp_path_factory):
    """The user's library as this process has it."""
    directory = tmp_path_factory.mktemp("library")
    (directory / "shiplib.py").write_text(SOURCE)
    sys.path.insert(0, str(directory))
    yield importlib.import_module("shiplib")
    sys.path.remove(str(directory))


def save_trace(module, path):
    with quiet("cpu"), suppress_output():
        torch.jit.save(torch.jit.trace(module, EXAMPLE, check_trace=False), path)


def save_export(module, path, args=EXAMPLE):
    with quiet("cpu"), suppress_output():
        torch.export.save(torch.export.export(module, args), path)


def changed(source, path, change):
    """A copy of an archive with each record as ``change(name, data)`` has it; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        records = {name: old.read(name) for name in old.namelist()}
        wanted = {name: change(name, data) for name, data in records.items()}
        assert wanted != records, f"{path.name} would be as healthy as {source.name}"
        for name, data in wanted.items():
            if data is not None:
                new.writestr(name, data)


@pytest.fixture(scope="module")
def files(shiplib, tmp_path_factory):
    """The artifacts, by name."""
    home = tmp_path_factory.mktemp("artifacts")
    plain = shiplib.Plain()
    save_trace(plain, home / "good.pt")
    save_export(plain, home / "good.pt2")
    save_trace(shiplib.DOUBLE, home / "double.pt")
    save_trace(shiplib.QUAD, home / "quad.pt")
    with suppress_output():
        torch.jit.save(torch.jit.script(shiplib.Scripted()), home / "scripted.pt")
    save_export(shiplib.DOUBLE, home / "double.pt2")
    save_export(shiplib.QUAD, home / "quad.pt2")
    save_export(shiplib.OUTPUT, home / "output.pt2")
    save_export(shiplib.BOX, home / "box.pt2")
    save_export(shiplib.INPUT, home / "input.pt2", (shiplib.Output(EXAMPLE[0]),))
    torch.save(plain, home / "module.pt")
    torch.save(plain.state_dict(), home / "weights.pt2")
    for ending in ("pt", "pt2"):
        data = (home / f"good.{ending}").read_bytes()
        (home / f"half.{ending}").write_bytes(data[: len(data) // 2])
        (home / f"end.{ending}").write_bytes(data[:-30])
        (home / f"empty.{ending}").write_bytes(b"")
        (home / f"pointer.{ending}").write_text("version https://git-lfs.github.com/spec/v1\n" * 3)
    changed(
        home / "good.pt",
        home / "newer.pt",
        lambda name, data: b"99\n" if name.endswith("good/version") else data,
    )
    changed(
        home / "good.pt",
        home / "aten.pt",
        lambda _, data: data.replace(b"torch.linear(", b"torch.linnew("),
    )
    changed(
        home / "good.pt",
        home / "bound.pt",
        # The second Linear of a process is called "linear.___torch_mangle_0.Linear".
        lambda _, data: re.sub(
            rb"fc : __torch__\.[\w.]+", b"fc : __torch__.torch.classes.shiplib.Counter", data
        ),
    )
    changed(
        home / "good.pt",
        home / "hole.pt",
        lambda name, data: None if name.endswith("data/0") else data,
    )
    changed(
        home / "good.pt2",
        home / "schema.pt2",
        lambda _, data: data.replace(
            b'"schema_version": {"major": ', b'"schema_version": {"major": 9'
        ),
    )
    return home


@pytest.fixture(scope="module")
def words(files):
    """Return what a process without the library says of each file: ``{name: (type, text)}``."""
    paths = sorted(map(str, files.iterdir()))
    answer = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, *paths], capture_output=True, text=True, check=True
    )
    found = json.loads(answer.stdout.splitlines()[-1])
    return {path.rpartition("/")[2]: said for path, said in found.items()}


@slow
def test_another_version_of_the_format_of_exported_programs(words):
    assert needs(*words["schema.pt2"]).kind == "version"


def test_a_file_that_loads_misses_nothing(words):
    assert words["good.pt"] is None
    assert words["good.pt2"] is None


def test_a_pickled_class_is_missed_as_its_module_or_by_its_name(words):
    """The answer, one of two, depends on whether this torch falls back on plain pickle."""
    found = needs(*words["input.pt2"])
    assert found in (Needs("module", "shiplib"), Needs("pickle", "shiplib.Output"))
    assert f"add shiplib to {SETTING} if" in remedy(found).lines[-1]
    assert remedy(found).imports == ("shiplib",)


@pytest.mark.parametrize(
    "name", ["double.pt", "double.pt2", "quad.pt", "quad.pt2", "output.pt2", "box.pt2"]
)
def test_the_remedy_names_who_registers_it_here_and_the_setting(words, shiplib, name):
    found = remedy(needs(*words[name]))
    fact, step = found.lines
    line = int(fact.partition("shiplib.py:")[2].split()[0])
    assert any(
        word in "".join(SOURCE.splitlines()[line - 1 : line + 2])
        for word in ("custom_op", "define(", "class Output", "class Box")
    )
    assert f"add shiplib to {SETTING} if" in step
    assert found.imports == ("shiplib",)


def test_a_class_that_another_module_registers_needs_both(shiplib):
    """transformers registers its outputs in one module and takes them apart in another."""
    source = (
        "import shiplib\nfrom torch.utils import _pytree\n"
        "_pytree.register_pytree_node(shiplib.Late, lambda late: ([late.y], None), "
        "lambda leaves, _: shiplib.Late(*leaves), serialized_type_name='late')\n"
    )
    Path(shiplib.__file__).with_name("shipreg.py").write_text(source)
    importlib.import_module("shipreg")
    found = remedy(Needs("class", "late"))
    assert "shiplib.py:" in found.lines[0]
    assert found.imports == ("shiplib", "shipreg")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the file asks for")
def test_a_device_that_is_not_there(files):
    with suppress_output(), pytest.raises(RuntimeError) as caught:
        torch.jit.load(files / "good.pt", map_location="cuda")
    assert needs("RuntimeError", str(caught.value)) == Needs("device", "CUDA")


# -- ONNX Runtime ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    home = tmp_path_factory.mktemp("onnx")
    make = onnx.helper

    def model(op, *, domain="", opset=20, kind=onnx.TensorProto.FLOAT, ir=10, weights=()):
        values = [make.make_tensor_value_info(name, kind, [2, 3]) for name in "xy"]
        inputs = ["x", *(item.name for item in weights)]
        node = make.make_node(op, inputs, ["y"], domain=domain)
        graph = make.make_graph([node], "g", values[:1], values[1:], list(weights))
        opsets = [make.make_opsetid("", opset), make.make_opsetid("my.domain", 1)]
        return make.make_model(graph, opset_imports=opsets, ir_version=ir)

    import numpy as np

    weight = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    onnx.save(model("Double", domain="my.domain"), home / "custom.onnx")
    onnx.save(model("Reluu"), home / "opset.onnx")
    onnx.save(model("Round", opset=22, kind=onnx.TensorProto.BFLOAT16), home / "kernel.onnx")
    onnx.save(model("Relu", ir=99), home / "ir.onnx")
    onnx.save(model("Relu", opset=99), home / "newer.onnx")
    for name in ("alone", "short"):
        onnx.save(
            model("Add", weights=[weight]),
            home / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.onnx.data",
            size_threshold=0,
        )
    (home / "alone.onnx.data").unlink()
    (home / "short.onnx.data").write_bytes(b"12345")
    data = (home / "custom.onnx").read_bytes()
    (home / "half.onnx").write_bytes(data[: len(data) // 2])
    (home / "empty.onnx").write_bytes(b"")
    return home


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("custom", Needs("custom op", "my.domain:Double")),
        ("opset", Needs("opset", "Reluu")),
        ("kernel", Needs("ort kernel", "Round(22)")),
        ("ir", Needs("ort version", "99")),
        ("newer", Needs("ort version", "99")),
        ("alone", Needs("data", "alone.onnx.data")),
        ("short", Needs("short data", "w")),
        ("half", Needs("file")),
        ("empty", Needs("file")),
    ],
)
def test_what_onnx_runtime_misses(onnx_files, name, expected):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(
            onnx_files / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
        )
    found = needs(type(caught.value).__name__, str(caught.value))
    assert found == expected
    assert expected.name in remedy(found).lines[0]


# -- nothing else ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("double.pt", Needs("operator", "shiplib::double")),
        ("scripted.pt", Needs("operator", "shiplib::double")),
        ("double.pt2", Needs("operator", "shiplib::double")),
        ("quad.pt", Needs("operator", "shiplib2::quad")),
        ("quad.pt2", Needs("operator", "shiplib2::quad.var")),
        ("aten.pt", Needs("operator", "aten::linnew")),
        ("output.pt2", Needs("class", "shiplib.Output")),
        ("box.pt2", Needs("class", "boxed")),
        ("bound.pt", Needs("library", "shiplib.Counter")),
        ("module.pt", Needs("program", "constants.pkl")),
        ("weights.pt2", Needs("program", "archive_format")),
        ("hole.pt", Needs("record", "data/0")),
        ("newer.pt", Needs("version", "99")),
        *(
            (f"{name}.{ending}", Needs("file"))
            for name in ("half", "end", "empty", "pointer")
            for ending in ("pt", "pt2")
        ),
    ],
)
def test_what_is_missing_is_read_from_the_words_of_the_process_that_loads(words, name, expected):
    assert needs(*words[name]) == expected


def test_the_import_that_the_remedy_names_is_enough(words, files, shiplib):
    """Advice is tried: with the module imported the same files load."""
    directory = str(Path(shiplib.__file__).parent)
    paths = [str(files / name) for name in ("double.pt", "quad.pt2", "output.pt2", "box.pt2")]
    code = f"import sys; sys.path.insert(0, {directory!r})\nimport shiplib\n" + LOADER
    answer = subprocess.run(
        [sys.executable, "-I", "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert set(json.loads(answer.stdout.splitlines()[-1]).values()) == {None}


@pytest.mark.parametrize(
    ("name", "save", "expected"),
    [
        ("PYTHON", save_trace, Needs("function", "Python")),
        ("PAIR", save_export, Needs("namedtuple", "shiplib.Pair")),
        ("UNNAMED", save_export, Needs("unnamed", "shiplib.Unnamed")),
    ],
)
def test_what_cannot_be_saved_says_what_it_misses(shiplib, tmp_path, name, save, expected):
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        save(getattr(shiplib, name), tmp_path / "file")
    found = needs(type(caught.value).__name__, str(caught.value))
    assert found == expected
    assert expected.name in remedy(found).lines[0]


def test_torch_export_keeps_what_a_python_function_does(shiplib):
    """As the remedy for a trace says."""
    with quiet("cpu"), suppress_output():
        program = torch.export.export(shiplib.PYTHON, EXAMPLE)
    assert torch.equal(program.module()(*EXAMPLE), EXAMPLE[0] * 5)
