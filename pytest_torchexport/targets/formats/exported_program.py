"""``torch.export`` files (``.pt2``): load and save them, and read what a program says of itself."""

from __future__ import annotations

import inspect
import io
import shutil
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import flatten
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.formats.branches import Branches, frames_of_fx, line_of_fx
from pytest_torchexport.targets.formats.contents import digests
from pytest_torchexport.targets.formats.devices import (
    BakedDevice,
    Operation,
    baked_devices,
    indexed,
    must_be_together,
)
from pytest_torchexport.targets.formats.facts import ProgramFacts
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions
from pytest_torchexport.torch_private.dispatcher import is_higher_order, schema_of
from pytest_torchexport.torch_private.memory import kept_shared
from pytest_torchexport.torch_private.structures import parts_of_structure

FILENAME = "model.pt2"
SCRIPT = "artifact = torch.export.load(path).module()\n"
# torch's higher-order operators that decide or repeat, by name: some are classes of private
# modules.
BRANCHES = frozenset(
    {"cond", "while_loop", "while_loop_stack_output", "scan", "associative_scan", "map", "map_impl"}
)


@dataclass(frozen=True, kw_only=True)
class ExportedProgramFacts(ProgramFacts):
    """The facts of an ExportedProgram."""

    program: torch.export.ExportedProgram

    def signature(self) -> inspect.Signature | None:
        """Return its arguments: each by position or by name, as it was in the call of the export.

        A name that the call gave by position is forward's own.
        """
        root = self.program.module_call_graph[0].signature
        names = list(getattr(root, "forward_arg_names", None) or ())
        args, kwargs = parts_of_structure(self.program.call_spec.in_spec)
        if len(names) != args.num_children + kwargs.num_children:
            return None
        by_position, by_name = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(name, by_position if number < args.num_children else by_name)
                for number, name in enumerate(names)
            ]
        )

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return what its ranges and guards make doubtful."""
        return suspicions(spec, SizeFacts.captured(self.program))

    def branches(self) -> Branches:
        """Return its ``torch.cond``, ``while_loop``, ``scan`` and ``map``.

        torch keeps only the frames of ``forward`` (unless ``strict``): a ``torch.cond`` in a helper
        function is placed at the line where a ``forward`` calls it, and one inside another's branch
        has no place.
        """
        return Branches.at(
            frames_of_fx(node.meta.get("stack_trace"))
            for graph in _graphs(self.program)
            for node in graph.nodes
            if _is_branch(node.target)
        )

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of its graphs, its constant tensors included.

        That is what they are if only ``program.module()`` is moved:
        ``torch.export.passes.move_to_device_pass`` rewrites them all.
        """
        constants = _constants(self.program)
        found: list[BakedDevice] = []
        for number, graph in enumerate(_graphs(self.program)):
            # What the operands of a branch are, only the outer graph says.
            moved = _inputs(graph, constants) if number == 0 else {}
            found += baked_devices(_operations(graph, constants), moved)
        return tuple(dict.fromkeys(found))

    def text(self) -> str:
        """Return its code, its signature and its ranges of sizes."""
        return str(self.program)

    def weights(self) -> dict[str, str]:
        """Return the digests of its parameters and buffers."""
        parameters = self.program.graph_signature.parameters
        return digests(
            (f"{'parameter' if name in parameters else 'buffer'} {name}", value)
            for name, value in self.program.state_dict.items()
        )

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return the facts of a foreign file with its sizes, as JSON."""
        sizes = {"sizes": SizeFacts.captured(self.program).as_plain()} if foreign else {}
        return {**super().as_plain(foreign=foreign), **sizes}


# -- files -----------------------------------------------------------------------------------------


class LoadedProgram:
    """An ExportedProgram that can be called."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.module = program.module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.module(*args, **kwargs)


def load(path: Path, device: str) -> LoadedProgram:
    """Load the file and move the program to the device. The file can hold code, which this runs.

    A program that is there already keeps the operations that it makes on other devices.
    """
    program = torch.export.load(path)
    if any(home != indexed(device) for home in _homes(program)):
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return LoadedProgram(program)


def _homes(program: torch.export.ExportedProgram) -> Iterator[str]:
    """Yield the devices of a program's inputs, weights included; the CPU if it has none.

    A weight on ``meta`` has no numbers that could be moved.
    """
    inputs = program.graph_signature.user_inputs
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    tensors = [(_tensor(node), node.name in inputs) for node in placeholders]
    found = [
        indexed(str(tensor.device))
        for tensor, given in tensors
        if tensor is not None and (given or not tensor.is_meta)
    ]
    yield from found or [indexed("cpu")]


def read(path: Path, loaded: LoadedProgram) -> ExportedProgramFacts:
    """Return the facts of a loaded program."""
    return ExportedProgramFacts(program=loaded.program)


def save(
    program: torch.export.ExportedProgram, path: Path, extra_files: Mapping[str, str | bytes]
) -> None:
    """Write the program by way of memory.

    Given a path, torch's C++ writer aborts the process if the disk is full.
    """
    buffer = io.BytesIO()
    tensors = (*program.state_dict.values(), *program.constants.values())
    with kept_shared(each for each in tensors if isinstance(each, torch.Tensor)):
        torch.export.save(program, buffer, extra_files=dict(extra_files))
    buffer.seek(0)
    # Not a view of the buffer: the traceback of a full disk would hold it beyond the buffer's life.
    with path.open("wb") as file:
        shutil.copyfileobj(buffer, file)


# -- graphs ----------------------------------------------------------------------------------------


def _graphs(program: Any) -> list[Any]:
    """Return the graph of a program, and those of all modules inside it."""
    root = getattr(program, "graph_module", None)
    modules = root.modules() if isinstance(root, torch.nn.Module) else ()
    return [module.graph for module in modules if isinstance(module, torch.fx.GraphModule)]


def _is_branch(target: Any) -> bool:
    operator = is_higher_order(target)
    return operator and getattr(target, "__name__", "") in BRANCHES


def _tensor(node: Any, *, lists: bool = False) -> Any:
    """Return torch's stand-in for a node's value if it is a tensor (``lists``: or several)."""
    value = node.meta.get("val")
    if lists and isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    return value if isinstance(value, torch.Tensor) else None


# -- devices ---------------------------------------------------------------------------------------


def _constants(program: Any) -> dict[str, str]:
    """Return the names of the constant tensors by the names of their placeholders."""
    signature = getattr(program, "graph_signature", None)
    return getattr(signature, "inputs_to_lifted_tensor_constants", {})


def _inputs(graph: Any, constants: Mapping[str, str]) -> dict[Hashable, int | None]:
    """Return the inputs, parameters and buffers, each with its number of dimensions.

    They move with the program.
    """
    found = [node for node in graph.nodes if node.op == "placeholder"]
    tensors = ((node, _tensor(node)) for node in found if node.name not in constants)
    return {node: tensor.dim() for node, tensor in tensors if tensor is not None}


def _operations(graph: Any, constants: Mapping[str, str]) -> Iterator[Operation]:
    """Yield the operations of a graph. A constant is one that makes a tensor on its device."""
    for node in graph.nodes:
        tensor = _tensor(node)
        outputs = ((node, tensor.dim() if tensor is not None else None),)
        if node.op == "placeholder" and node.name in constants and tensor is not None:
            yield Operation(
                op=f"constant {constants[node.name]}",
                where=next(filter(None, map(line_of_fx, node.users)), None),
                inputs=(),
                outputs=outputs,
                device=str(tensor.device),
            )
        elif node.op == "call_function":
            device = _device_argument(node)
            yield Operation(
                op=_name(node),
                where=line_of_fx(node) if device is not None else None,
                inputs=tuple(_operands(node)),
                outputs=outputs,
                device=device,
                opaque=is_higher_order(node.target),
            )
        elif node.op == "output":
            inputs = tuple(node.all_input_nodes)
            yield Operation(op="return", where=None, inputs=inputs, outputs=())


def _name(node: Any) -> str:
    """Return ``aten::zeros``, the name that TorchScript uses too."""
    schema = schema_of(node.target)
    return str(schema.name if schema is not None else getattr(node.target, "__name__", node.target))


def _operands(node: Any) -> Iterator[Any]:
    """Yield the tensors among the arguments that have to be on one device, also those in lists."""
    arguments = [*must_be_together(_name(node), node.args), *node.kwargs.values()]
    for _, leaf in flatten(arguments)[0]:
        if isinstance(leaf, torch.fx.Node) and _tensor(leaf, lists=True) is not None:
            yield leaf


def _device_argument(node: Any) -> str | None:
    leaves = [*node.args, *node.kwargs.values()]
    return next((str(leaf) for leaf in leaves if isinstance(leaf, torch.device)), None)
