"""torch_private.py: every function works with the torch that is installed.

A test that fails here means that torch renamed or dropped something private: look at the function
of that name, find what torch has instead, and keep the old way for the versions that pyproject.toml
declares.
"""

import ast
import copy
import gc
import importlib
import io
import pickletools
import sys
import warnings
import weakref
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import pytest_torchexport
from pytest_torchexport import torch_private as private
from pytest_torchexport.outcomes.texts import chain
from pytest_torchexport.results.source_line import source_line

ROOT = Path(pytest_torchexport.__file__).parent
DOOR = ROOT / "torch_private.py"
ADD = torch.ops.aten.add.Tensor


# -- tensors and modules -------------------------------------------------------------------------


def test_memory_is_shared_until_either_is_written_to():
    tensor = torch.zeros(4)
    one, other = private.shared_until_written(tensor), private.shared_until_written(tensor)
    assert len({private.address_of(each) for each in (tensor, one, other)}) == 1
    assert len({private.memory_of(each) for each in (tensor, one, other)}) == 3
    assert private.memory_of(one) == private.memory_of(one[1:].view(1, 3))
    assert private.address_of(one[2:]) == private.address_of(one) + 8
    assert (one + tensor).tolist() == [0] * 4
    assert private.address_of(one) == private.address_of(tensor)  # reading copies nothing
    one[0] = 1
    tensor.data.fill_(2)
    other.numpy()[1] = 3
    assert [each.tolist() for each in (tensor, one, other)] == [
        [2, 2, 2, 2],
        [1, 0, 0, 0],
        [0, 3, 0, 0],
    ]


def test_memory_that_is_not_torchs_own_is_copied_at_once():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(3, 3), torch.zeros(2, 3)), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer).weight.detach()
    array = torch.from_numpy(torch.zeros(3).numpy())
    for tensor in (loaded, array, torch.frombuffer(bytearray(8), dtype=torch.float32)):
        made = private.shared_until_written(tensor)
        assert private.address_of(made) != private.address_of(tensor)
        assert torch.equal(made.add_(1), tensor + 1)


class Lazily(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3).share_memory_(),
        lambda: torch.zeros(3).as_subclass(Lazily),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    ],
    ids=["shared", "subclass", "quantized"],
)
def test_a_tensor_that_cannot_be_shared_until_written_is_copied_at_once(make):
    tensor = make()
    made = private.shared_until_written(tensor)
    assert type(made) is type(tensor)
    assert private.memory_of(made) != private.memory_of(tensor)
    assert made.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize(
    "clone",
    [lambda tensor: tensor, lambda tensor: tensor[:], torch.clone, lambda _: torch.ones(4)],
    ids=["itself", "view", "clone", "another"],
)
def test_a_torch_whose_lazy_clones_behave_otherwise_makes_plain_ones(monkeypatch, clone):
    monkeypatch.setattr(torch, "_lazy_clone", clone)
    private._shares_until_written.cache_clear()
    try:
        assert not private._shares_until_written()
        tensor = torch.zeros(4)
        private.shared_until_written(tensor).add_(1)
        assert tensor.tolist() == [0] * 4
    finally:
        private._shares_until_written.cache_clear()


def test_memory_stays_shared_while_addresses_of_it_are_asked_for():
    tensor = torch.arange(6.0)
    one = torch.nn.Parameter(private.shared_until_written(tensor))
    part = one.detach()[2:].view(2, 2).t()
    with private.kept_shared([one, part, torch.ones(2), torch.ones(2).to_sparse()]):
        assert one.data_ptr() == one.untyped_storage().data_ptr() == private.address_of(tensor)
        assert part.data_ptr() == one.data_ptr() + 8
        assert one.tolist() == tensor.tolist()
        assert part.tolist() == [[2, 4], [3, 5]]
        assert one.requires_grad
    assert private.address_of(one) == private.address_of(tensor)
    with torch.no_grad():
        part.zero_()
    assert one.tolist() == [0, 1, 0, 0, 0, 0]
    assert tensor.tolist() == [0, 1, 2, 3, 4, 5]


def test_memory_is_told_to_be_a_tensors_alone():
    parameter = nn.Linear(4, 4).weight
    assert hasattr(torch._C, "_storage_Use_Count"), "torch has changed: users' modules are copied"
    assert private.has_memory_alone(parameter)
    parameter.sum().backward()
    assert private.has_memory_alone(parameter)
    other = parameter.detach()
    assert not private.has_memory_alone(parameter)
    del other
    held = parameter.detach().__dlpack__()
    assert not private.has_memory_alone(parameter)
    del held
    assert private.has_memory_alone(parameter)


def test_memory_is_nobodys_alone_if_torch_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    assert not private.has_memory_alone(torch.zeros(4))


def test_memory_that_numpy_has_too_is_copied_at_once():
    tensor = torch.zeros(4)
    array = tensor.numpy()
    made = private.shared_until_written(tensor)
    array[0] = 1
    assert made.tolist() == [0] * 4
    assert tensor.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("left", [False, True])
def test_the_end_of_sharing_moves_memory_only_if_another_has_it(left):
    tensor = torch.zeros(4)
    address = tensor.data_ptr()
    other = private.shared_until_written(tensor)
    if not left:
        del other
    private.end_sharing([tensor, torch.zeros(2).to_sparse()])
    assert (private.address_of(tensor) == address) is not left
    assert tensor.resize_(9).fill_(1).sum() == 9  # which shared memory does not survive


@pytest.mark.parametrize("name", ["_is_cow_tensor", "_data_address"])
def test_a_torch_that_does_not_tell_what_is_shared_copies_it(monkeypatch, name):
    assert hasattr(torch._C, name), "torch has changed: writers copy the weights again"
    monkeypatch.delattr(torch._C, name)
    tensor = torch.zeros(4)
    one = private.shared_until_written(tensor)
    with private.kept_shared([one]):
        assert one.data_ptr() != tensor.data_ptr()


def kernel(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def fake(x):
    return x.clone()


def test_the_functions_of_a_custom_operator_are_the_users():
    operator = torch.library.custom_op("kept_private::kernel", kernel, mutates_args=())
    operator.register_fake(fake)
    assert set(private.kernels_of(operator)) == {kernel, fake}
    assert private.kernels_of(kernel) is None


def test_the_address_is_that_of_the_first_element():
    tensor = torch.arange(10.0)
    for view in (tensor, tensor[3:], tensor.view(2, 5)[1], tensor.double()[1::2]):
        assert private.address_of(view) == view.data_ptr()


def test_a_tensor_without_memory_has_no_number():
    assert private.memory_of(torch.zeros(0)) == 0
    with pytest.raises((RuntimeError, NotImplementedError)):
        private.memory_of(torch.zeros(2).to_sparse())


def test_writes_to_a_tensor_are_counted_through_its_views():
    tensor = torch.zeros(3)
    before = private.times_written(tensor)
    tensor[1:].add_(1)
    assert (before, private.times_written(tensor)) == (0, 1)


def test_a_tensor_of_inference_mode_does_not_count_its_writes():
    with torch.inference_mode():
        tensor = torch.zeros(3)
    assert private.times_written(tensor) is None


def test_reads_while_a_tensor_is_printed_are_told_from_others(monkeypatch):
    printing: list[bool] = []

    def warned(message, category, *_):
        if category is torch.jit.TracerWarning:
            printing.append(private.is_printing(sys._getframe(1)))

    def traced(function) -> set[bool]:
        printing.clear()
        torch.jit.trace(lambda x: x * len(function(x)), torch.ones(2), check_trace=False)
        return set(printing)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", warned)
        assert traced(lambda x: x) == {False}
        assert traced(repr) == {True}


def test_the_registers_of_hooks_are_those_that_calls_run():
    net, seen = nn.Linear(2, 2), []
    net.register_forward_hook(lambda *_: seen.append("after"))
    net.register_forward_pre_hook(lambda *_: seen.append("before"))
    for register in private.hook_registers(net):
        for name in register:
            register[name] = lambda *_: seen.append("replaced")
    net(torch.ones(1, 2))
    assert seen == ["replaced", "replaced"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(2, 2)
        self.absent = None
        self.register_module("no_block", None)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("empty", None)
        self.register_parameter("weight", nn.Parameter(torch.ones(1)))
        self.own = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def test_the_registers_of_a_module_are_read_with_what_is_none():
    net = Net()
    assert list(private.buffers_of(net)) == ["steps", "empty"]
    assert list(private.parameters_of(net)) == ["weight"]
    assert list(private.children_of(net)) == ["block", "no_block"]


def test_the_hooks_of_a_module_are_seen():
    def hook(*_: Any) -> None: ...

    net = Net()
    before = private.hooks_of(net)
    net.register_forward_hook(hook)
    net.register_forward_pre_hook(hook)
    net.register_full_backward_hook(hook)
    net.register_full_backward_pre_hook(hook)
    net.register_state_dict_post_hook(hook)
    net.register_state_dict_pre_hook(hook)
    net.register_load_state_dict_post_hook(hook)
    net.register_load_state_dict_pre_hook(hook)
    assert before == ()
    assert len(private.hooks_of(net)) == 8


def test_no_field_of_a_plain_module_is_taken_for_its_authors():
    left = vars(nn.Linear(2, 2)).keys() - private.MODULE_FIELDS
    assert left == {"in_features", "out_features"}


def test_a_compiled_module_or_function_gives_back_the_one_that_was_compiled():
    def function(x):
        return x

    net = Net()
    assert private.uncompiled(torch.compile(net)) is net
    assert private.uncompiled(net) is net
    assert private.uncompiled(torch.compile(function)) is function
    assert private.uncompiled(function) is function
    assert not private.compiles_itself(net)
    net.compile()
    assert private.compiles_itself(net)
    assert not private.compiles_itself(copy.deepcopy(net))


# -- operators -----------------------------------------------------------------------------------


def test_operators_are_told_from_functions():
    assert private.is_operator(ADD)
    assert not private.is_operator(torch.add)
    assert private.is_higher_order(torch.ops.higher_order.cond)
    assert not private.is_higher_order(ADD)


def test_an_operator_has_a_schema_with_what_it_writes_to():
    schema = private.schema_of(torch.ops.aten.add_.Tensor)
    assert schema.name == "aten::add_"
    written = [
        item.name for item in schema.arguments if item.alias_info and item.alias_info.is_write
    ]
    assert written == ["self"]
    assert private.schema_of(torch.ops.higher_order.cond) is None


def test_overloads_are_listed():
    assert {"Tensor", "Scalar"} <= set(private.overloads_of("aten", "add"))
    assert private.overloads_of("aten", "no_such_operator") == []


def test_the_function_of_a_custom_operator_is_found():
    @torch.library.custom_op("torch_private_test::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert private.python_definition("torch_private_test::double").__name__ == "double"
    assert private.python_definition("torch_private_test::absent") is None


def test_the_dispatcher_says_where_an_operator_was_registered():
    path, line = private.registered_at("aten::add.Tensor")
    assert path.endswith(".cpp")
    assert line > 0


def test_an_operator_is_computed_by_simpler_ones():
    x = torch.arange(6.0)
    parts = private.decomposition_of(torch.ops.aten.mse_loss.default)
    assert parts is not None
    assert torch.equal(parts(x, x + 2), torch.tensor(4.0))
    assert private.decomposition_of(torch.ops.aten.avg_pool2d.default)(x[None, None], [1]) is (
        NotImplemented
    )


def test_a_prim_is_computed_by_an_operator():
    of_prim = private.aten_of_prim(torch.ops.prims.sum.default)
    assert of_prim is not None
    assert of_prim(torch.ones(2, 3), [1]).tolist() == [3.0, 3.0]
    assert private.aten_of_prim(ADD) is None


def test_what_an_operator_remembers_of_its_decomposition_is_forgotten():
    lstm = torch.ops.aten.lstm.input
    lstm._dispatch_cache["a key of ours"] = None
    private.forget_decompositions(lstm)
    assert not lstm._dispatch_cache


# -- modes ---------------------------------------------------------------------------------------


def test_a_dispatch_mode_sees_the_operators_of_its_block():
    seen = []

    def handle(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(str(operator))
        return operator(*args, **kwargs)

    with private.dispatch_mode(handle):
        torch.zeros(2) + 1
    assert seen == ["aten.zeros.default", "aten.add.Tensor"]


def test_the_innermost_function_mode_is_known():
    assert private.innermost_function_mode() is None
    with torch.device("cpu") as device:
        assert private.innermost_function_mode() is not None
    assert device is not None


def test_tracing_is_known():
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(private.is_tracing())
        return x + 1

    torch.jit.trace(function, torch.ones(1), check_trace=False)
    assert seen == [True]
    assert not private.is_tracing()


def test_dynamo_is_known_to_be_loaded():
    importlib.import_module("torch._dynamo")
    assert private.dynamo_is_loaded()


# -- pytrees -------------------------------------------------------------------------------------


def test_a_value_of_containers_is_flattened_named_and_made_again():
    leaves, structure = private.flatten_registered({"a": [1, 2]})
    text = private.text_of_structure(structure)
    assert private.unflatten(leaves, private.structure_of_text(text)) == {"a": [1, 2]}
    (inner,) = private.parts_of_structure(structure)
    assert len(private.parts_of_structure(inner)) == 2
    assert private.flatten_registered(3) is None


def test_a_class_that_is_registered_without_a_name_has_no_text():
    class Own:
        pass

    torch.utils._pytree.register_pytree_node(Own, lambda _: ([1], None), lambda *_: Own())
    assert private.text_of_structure(private.flatten_registered(Own())[1]) is None


def test_a_structure_of_a_class_that_is_not_registered_is_a_key_error():
    unknown = '[1, {"type": "no.such.Class", "context": "null", "children_spec": []}]'
    with pytest.raises(KeyError):
        private.structure_of_text(unknown)


def test_a_class_is_found_by_its_name_in_files():
    cls, flatten = private.class_of_files("collections.OrderedDict")
    assert cls.__name__ == "OrderedDict"
    assert callable(flatten)
    assert private.class_of_files("no.such.Class") == (None, None)


# -- TorchScript ---------------------------------------------------------------------------------


class Scripted(nn.Module):
    scale: float

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.scaled, x))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * self.scale


def test_a_script_shows_its_attributes_methods_and_code():
    script = torch.jit.script(Scripted())
    assert dict(private.script_attributes(script))["scale"] == 2.0
    assert private.script_attribute(script, "scale") == 2.0
    assert {name for name, _ in private.script_methods(script)} == {"forward", "scaled"}
    assert "scale : float" in private.script_code(script)


def test_a_module_of_eager_is_no_script():
    assert list(private.script_methods(Net())) == []
    assert private.script_code(Net()) == ""


def test_calls_are_inlined_in_the_graph_of_a_fork():
    whole = torch.jit.script(Scripted()).inlined_graph  # owns the nodes
    fork = whole.findNode("prim::fork").g("Subgraph")
    graph = private.with_calls_inlined(fork)
    assert "prim::CallMethod" in str(fork)
    assert "prim::CallMethod" not in str(graph)
    assert "aten::relu" in str(graph)


def test_a_tensors_type_is_told_from_a_numbers():
    graph = torch.jit.trace(lambda x: x + 1, torch.ones(2, 3), check_trace=False).graph
    (x,) = graph.inputs()
    number = graph.insertConstant(3)
    assert private.is_tensor_type(x.type())
    assert x.type().dim() == 2
    assert not private.is_tensor_type(number.type())


def test_the_types_of_scripts_are_forgotten():
    store = torch.jit._recursive.concrete_type_store.type_store
    torch.jit.script(Scripted())
    assert store
    private.forget_script_types()
    assert not store


# -- refusals ------------------------------------------------------------------------------------


class _Logs(nn.Module):
    def forward(self, x):
        warnings.formatwarning("called", UserWarning, "file", 1)
        return x


def test_what_a_script_was_about_to_compile_is_read_from_the_exception():
    with pytest.raises(Exception) as caught:  # torch has many classes
        torch.jit.script(_Logs())
    assert any(__file__ in place for place in private.places_of(caught.value))


def test_the_node_that_an_exporter_translated_is_read_from_the_exception():
    def translates():
        program = torch.export.export(nn.ReLU(), (torch.ones(2),))
        node = next(node for node in program.graph.nodes if node.op == "call_function")
        node.meta["stack_trace"] = "here"
        raise ValueError("no translation")

    # The function has to look like one of torch's.
    code = translates.__code__.replace(co_filename="torch/onnx/exporter.py")
    with pytest.raises(ValueError, match="no translation") as caught:
        type(translates)(code, globals())()
    assert private.places_of(caught.value) == ["here"]


@pytest.mark.skipif(not hasattr(torch.export, "draft_export"), reason="torch has no draft_export")
def test_what_a_draft_went_past_has_its_kind_and_its_line():
    class Branch(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x + 1
            return x

    with private.drafts_recorded():
        program = torch.export.draft_export(Branch(), (torch.ones(2),))
    ((kind, _, where),) = private.draft_failures(program)
    assert (kind, where.text) == ("DATA_DEPENDENT_ERROR", "if x.sum() > 0:")
    assert private.draft_failures(object()) == []


# -- sizes ---------------------------------------------------------------------------------------


class Even(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] % 2 == 0:
            return x + 1
        return x


class Narrows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 4:
            return x + 1
        return x


class Number(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = int(x.shape[0])
        return x.reshape(rows, 4, 2) + torch.ones(4, 4, 2)


def exported(module: nn.Module, dim: Any) -> Any:
    example = (torch.ones(4, 8),)
    return torch.export.export(module.eval(), example, dynamic_shapes={"x": {0: dim}})


def test_guards_have_their_lines_and_their_sources():
    environment = private.shape_environment(exported(Even(), Dim.DYNAMIC))
    ((guard, where),) = private.guards_of(environment)
    (symbol,) = guard.free_symbols
    assert [bool(guard.subs(symbol, size)) for size in (4, 5)] == [True, False]
    assert "if x.shape[0] % 2 == 0:" in where.text
    assert private.sources_of(environment) == {symbol: "L['x'].size()[0]"}


def test_a_range_has_the_line_at_which_it_was_narrowed():
    program = exported(Narrows(), Dim.DYNAMIC)
    environment = private.shape_environment(program)
    (symbol,) = program.range_constraints
    low, high = private.range_lines(environment, symbol)
    assert low is None
    assert "if x.shape[0] > 4:" in high.text
    assert symbol in private.ranges_of(environment)


def test_a_size_that_became_a_number_has_its_line():
    lines = private.frozen_lines(private.shape_environment(exported(Number(), Dim.AUTO)))
    assert list(lines) == ["L['x'].size()[0]"]
    assert ".reshape(" in str(lines) or "rows = int(x.shape[0])" in str(lines)


class Keyed(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] in {4: 1} else x


def test_a_line_that_torch_shortens_has_its_file():
    # Of a line that strict capture finds, torch leaves out the folders that it shares with torch.
    example = (torch.ones(4, 8),)
    program = torch.export.export(
        Keyed(), example, dynamic_shapes={"x": {0: Dim.AUTO}}, strict=True
    )
    (line,) = private.frozen_lines(private.shape_environment(program)).values()
    assert line == source_line(__file__, line.line)


def test_a_refusal_gives_its_environment():
    with pytest.raises(Exception, match=r"(?i)constraints violated|conflicts") as caught:
        exported(Number(), Dim("batch"))
    environment = private.environment_of(chain(caught.value))
    assert list(private.frozen_lines(environment)) == ["L['x'].size()[0]"]
    assert private.environment_of([ValueError("of another kind")]) is None


# -- no other door -------------------------------------------------------------------------------

# What is not torch's: the fields of a namedtuple, and Python's own.
NOT_TORCHS = {"_current_frames", "_exit", "_fields", "_getframe"}


def private_uses(path: Path) -> list[str]:
    """Return the uses of names with one leading underscore that the file does not define itself."""
    tree = ast.parse(path.read_text())
    own: set[str] = set()
    ours: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.ImportFrom(module=module) if str(module).startswith("pytest_torchexport"):
                ours.update(alias.asname or alias.name for alias in node.names)
    found = [name for node in ast.walk(tree) for name in _private_names(node, own, ours)]
    return [f"{path.relative_to(ROOT).as_posix()}: {name}" for name in found]


def _private_names(node: ast.AST, own: set[str], ours: set[str]) -> list[str]:
    match node:
        case ast.Attribute(attr=name, value=ast.Name(id=owner)) if owner in {"self", "cls", *ours}:
            names = []
        case ast.Attribute(attr=name):
            names = [name] if name not in own else []
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=name), *_]
        ):
            names = [str(name)]
        case ast.Import(names=aliases):
            names = [part for alias in aliases for part in alias.name.split(".")]
        case ast.ImportFrom(module=str(module), names=aliases) if module.startswith("torch"):
            names = [*module.split("."), *(alias.name for alias in aliases)]
        case _:
            names = []
    hidden = [name for name in names if name.startswith("_") and not name.startswith("__")]
    return [name for name in hidden if name not in NOT_TORCHS and name != "_thread"]


def test_no_other_file_uses_private_torch():
    found = [
        use for path in sorted(ROOT.rglob("*.py")) if path != DOOR for use in private_uses(path)
    ]
    assert found == []


def test_the_search_for_private_torch_finds_it():
    found = private_uses(DOOR)
    assert {"_schema", "_ops", "_C", "_pytree", "_python_dispatch"} <= {
        use.partition(": ")[2] for use in found
    }


def test_transforms_of_torch_func_are_known():
    seen = []
    torch.func.vmap(lambda x: seen.append(private.is_transforming()) or x)(torch.ones(2))
    assert seen == [True]
    assert not private.is_transforming()


def test_the_pickle_of_a_plain_tensor_names_what_is_known():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    for tensor in (torch.ones(2), torch.ones(2, dtype=torch.int8), parameter):
        buffer = io.BytesIO()
        torch.save({"a": tensor}, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)  # raises for a name that it does not admit
        with zipfile.ZipFile(buffer) as archive:
            (pickled,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            words = [
                str(argument).replace(" ", ".")
                for opcode, argument, _ in pickletools.genops(archive.read(pickled))
                if opcode.name == "GLOBAL"
            ]
        assert words
        assert set(words) <= private.names_in_tensors()


@pytest.mark.filterwarnings("ignore")
def test_translations_of_onnx_are_collected_once_and_are_those_of_torch():
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    def translations(registry):
        return {
            target: [meta.onnx_function for meta in found]
            for target, found in registry.functions.items()
        }

    own = ONNXRegistry.from_torchlib(20)
    with private.onnx_translations_kept():
        first, again = ONNXRegistry.from_torchlib(20), ONNXRegistry.from_torchlib(20)
        other = ONNXRegistry.from_torchlib(18)
        again.register_op(torch.ops.aten.relu.default, torch.relu)
        third = ONNXRegistry().from_torchlib(opset_version=20)
        with torch.library._scoped_library("torchexport_test", "DEF") as library:
            library.define("one_more(Tensor x) -> Tensor")
            renewed = ONNXRegistry.from_torchlib(20)
    assert translations(own) == translations(first) == translations(third) == translations(renewed)
    assert [each.opset_version for each in (first, again, other, third)] == [20, 20, 18, 20]
    assert first.functions["aten::relu"][0] is third.functions["aten::relu"][0]
    assert len(again.functions["aten::relu"]) == len(third.functions["aten::relu"]) + 1
    assert first.functions["aten::relu"][0] is not renewed.functions["aten::relu"][0]
    after = ONNXRegistry.from_torchlib(20)
    assert after.functions["aten::relu"][0] is not first.functions["aten::relu"][0]


@pytest.mark.filterwarnings("ignore")
def test_the_exporter_to_onnx_keeps_no_weights():
    pytest.importorskip("onnxscript")
    net = nn.Linear(64, 64)
    weight = weakref.ref(net.weight)
    torch.onnx.export(net, (torch.ones(2, 64),), dynamo=True, verbose=False)
    del net
    gc.collect()
    assert weight() is not None, "onnxscript forgets by itself: delete forget_onnx_matches"
    private.forget_onnx_matches()
    gc.collect()
    assert weight() is None
    torch.onnx.export(nn.Linear(2, 2), (torch.ones(2, 2),), dynamo=True, verbose=False)
