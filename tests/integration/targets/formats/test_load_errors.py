"""targets/formats/load_errors.py with real messages of torch and ONNX Runtime, from a clean process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.formats.load_errors import SETTING, remedy_of

# A library of the user's: imported here, unknown to the process that loads.
SOURCE = """
import dataclasses

import torch
from torch import nn
from torch.utils import _pytree


@torch.library.custom_op("shiplib::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


double.register_fake(torch.empty_like)

@dataclasses.dataclass
class Output:
    y: torch.Tensor


torch.export.register_dataclass(Output, serialized_type_name="shiplib.Output")


class Late:
    def __init__(self, y):
        self.y = y


def module(function):
    return type("Net", (nn.Module,), {"forward": function, "__module__": __name__})().eval()


DOUBLE = module(lambda self, x: torch.ops.shiplib.double(x))
OUTPUT = module(lambda self, x: Output(x + 1))
"""

# Loads each file in a child of its own and says what it raised, with torch's log where it wrote one; and once more
# with the library.
LOADER = """
import json, os, sys, tempfile, warnings
import torch, torch._dynamo

warnings.simplefilter("ignore")


def error_of(path):
    with tempfile.NamedTemporaryFile("w+") as answer, tempfile.NamedTemporaryFile("w+") as log:
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 2)
            try:
                torch.export.load(path) if path.endswith(".pt2") else torch.jit.load(path)
            except Exception as error:
                json.dump([type(error).__name__, str(error)], answer)
            answer.flush()
            os._exit(0)
        os.waitpid(child, 0)
        kind, text = json.loads(open(answer.name).read() or '[null, ""]')
        return kind and [kind, text + "\\n" + open(log.name).read()]


library, *paths = sys.argv[1:]
without = {os.path.basename(path): error_of(path) for path in paths}
sys.path.insert(0, library)
import shiplib
print(json.dumps([without, {os.path.basename(path): error_of(path) for path in paths}]))
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


def save_export(module, path):
    with quiet("cpu"), suppress_output():
        torch.export.save(torch.export.export(module, EXAMPLE), path)


@pytest.fixture(scope="module")
def files(shiplib, tmp_path_factory):
    """The artifacts, by name."""
    home = tmp_path_factory.mktemp("artifacts")
    plain = torch.nn.Linear(3, 3)
    save_trace(plain, home / "good.pt")
    save_export(plain, home / "good.pt2")
    save_trace(shiplib.DOUBLE, home / "double.pt")
    save_export(shiplib.DOUBLE, home / "double.pt2")
    save_export(shiplib.OUTPUT, home / "output.pt2")
    torch.save(plain, home / "module.pt")
    torch.save(plain.state_dict(), home / "weights.pt2")
    for ending in ("pt", "pt2"):
        data = (home / f"good.{ending}").read_bytes()
        (home / f"half.{ending}").write_bytes(data[: len(data) // 2])
    return home


@pytest.fixture(scope="module")
def loaded(files, shiplib):
    """The errors of a process without the library and with it: ``{name: (type, text)}``."""
    command = [sys.executable, "-I", "-c", LOADER, Path(shiplib.__file__).parent, *files.iterdir()]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def words(loaded):
    return loaded[0]


@pytest.mark.parametrize("name", ["double.pt", "double.pt2", "output.pt2"])
def test_the_remedy_names_who_registers_it_here_and_the_setting(words, shiplib, name):
    remedy = remedy_of(*words[name])
    fact, step = remedy.lines
    line = int(fact.partition("shiplib.py:")[2].split()[0])
    source = "".join(SOURCE.splitlines()[line - 1 : line + 2])
    assert any(word in source for word in ("custom_op", "class Output"))
    assert f"add shiplib to {SETTING} if" in step
    assert remedy.imports == ("shiplib",)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("good.pt", None),
        ("module.pt", "of another kind: it has no constants.pkl"),
        ("weights.pt2", "of another kind: it has no archive_format"),
        ("half.pt", "cut short"),
        ("half.pt2", "cut short"),
    ],
)
def test_a_file_that_is_none_is_told(words, name, part):
    assert words[name] is None if part is None else part in remedy_of(*words[name]).lines[0]


def test_the_import_that_the_remedy_names_is_enough(loaded):
    """Advice is tried: with the module imported the same files load."""
    assert [loaded[1][name] for name in ("double.pt", "double.pt2", "output.pt2")] == [None] * 3


def test_a_class_that_another_module_registers_needs_both(shiplib):
    """transformers registers its outputs in one module and takes them apart in another."""
    source = (
        "import shiplib\nfrom torch.utils import _pytree\n"
        "_pytree.register_pytree_node(shiplib.Late, lambda late: ([late.y], None), "
        "lambda leaves, _: shiplib.Late(*leaves), serialized_type_name='late')\n"
    )
    Path(shiplib.__file__).with_name("shipreg.py").write_text(source)
    importlib.import_module("shipreg")
    remedy = remedy_of("NotImplementedError", "Deserializing late in pytree is not registered.")
    assert "shiplib.py:" in remedy.lines[0]
    assert remedy.imports == ("shiplib", "shipreg")


@pytest.mark.parametrize(
    ("operator", "fact"),
    [
        ("elsewhere::thing", "is registered by no module of this process either"),
        ("quantized::linear", "(C++)"),
    ],
)
def test_an_operator_that_no_module_of_the_users_registers(operator, fact):
    remedy = remedy_of("RuntimeError", f"Unknown builtin op: {operator}.")
    assert fact in remedy.lines[0]
    assert f"add the module that brings it in to {SETTING}" in remedy.lines[1]
    assert not remedy.imports


def test_what_only_a_file_of_tests_registers_has_to_move_first():
    @torch.library.custom_op("shiptest::inside", mutates_args=())
    def inside(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    remedy = remedy_of("RuntimeError", "Unknown builtin op: shiptest::inside.")
    assert Path(__file__).name in remedy.lines[0]
    assert "move it into a module of its own" in remedy.lines[1]
    assert not remedy.imports


@pytest.mark.parametrize("name", ["custom", "ir", "alone"])
def test_what_onnx_runtime_misses(tmp_path, name):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    make = onnx.helper
    values = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(torch.ones(2).numpy(), "w")
    node = make.make_node(*("Double", ["x"]) if name == "custom" else ("Add", ["x", "w"]), ["y"])
    node.domain = "my.domain" if name == "custom" else ""
    opsets = [make.make_opsetid("", 20), make.make_opsetid("my.domain", 1)]
    graph = make.make_graph([node], "g", values[:1], values[1:], [weight])
    model = make.make_model(graph, opset_imports=opsets, ir_version=99 if name == "ir" else 10)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="alone.data", size_threshold=0)
    if name == "alone":
        (tmp_path / "alone.data").unlink()
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = {"custom": "my.domain:Double", "ir": "version 99", "alone": "alone.data"}[name]
    assert found in remedy_of(type(caught.value).__name__, str(caught.value)).lines[0]
